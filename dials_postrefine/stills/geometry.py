"""
Distance of a reciprocal-lattice point from the Ewald sphere, and its derivatives by the misorientation angles and the
scale of the cell.

    q = k R q_ref,  q_ref = A_ref h,  S = q + s0,  r_h = |S| - |s0|     (positive outside the sphere)

with s0 the incident beam (|s0| = 1/lambda), R = R_y(theta_y) R_x(theta_x) (numerics/rotations.py), and
k = 1 + epsilon the isotropic scale of the reciprocal cell.  A rotation leaves |q| alone, so that
|S|^2 = k^2 |q_ref|^2 + 2 k q_ref . (R^T s0) + |s0|^2 and, with dR any derivative of R,

    r_h             = (k^2 |q_ref|^2 + 2 k q_ref . (R^T s0)) / (|S| + |s0|)
    dr_h/dtheta     = S . dq/dtheta / |S| = k q_ref . (dR^T s0) / |S|        (q . dq = 0)
    dr_h/depsilon   = S . R q_ref / |S| = (k |q_ref|^2 + q_ref . (R^T s0)) / |S|.

One product of q_ref (n, 3) with three vectors gives everything, and the quotient keeps the digits that |S| - |s0|
loses. Lengths in reciprocal Angstrom, angles in radians.  Source: postrefinement.md, Model.
"""

from __future__ import annotations

import numpy as np


def scattering_vectors(a_matrix: np.ndarray, h: np.ndarray) -> np.ndarray:
    """
    The scattering vectors q = A h of one lattice.

    Parameters
    ----------
    a_matrix : ndarray, shape (3, 3)
        Reciprocal setting matrix in 1/Angstrom.
    h : ndarray, shape (n, 3)
        Miller indices.

    Returns
    -------
    ndarray, shape (n, 3)
        In 1/Angstrom.
    """
    return h @ a_matrix.T


def vectors_of_lattices(a_matrix: np.ndarray, h: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The scattering vectors of the observations of many lattices.

    Parameters
    ----------
    a_matrix : ndarray, shape (L, 3, 3)
        Reciprocal setting matrices in 1/Angstrom.
    h : ndarray, shape (n, 3)
        Miller indices, sorted by lattice.
    offsets : ndarray, shape (L + 1,)
        Lattice k owns rows offsets[k]:offsets[k + 1].

    Returns
    -------
    q : ndarray, shape (n, 3)
        A h in 1/Angstrom.
    q_sq : ndarray, shape (n,)
        d*^2 = |q|^2 in 1/Angstrom^2.
    """
    n, q = np.diff(offsets), np.zeros((len(h), 3))
    for i in range(3):  # by column, lest a matrix be held of each observation
        for j in range(3):
            q[:, i] += np.repeat(a_matrix[:, i, j], n) * h[:, j]
    return q, np.einsum("ij,ij->i", q, q)


def excitation(q_ref: np.ndarray, q_sq: np.ndarray, s0: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """
    The distance r_h of every reflection from the Ewald sphere (module docstring).

    Parameters
    ----------
    q_ref : ndarray, shape (n, 3)
        Scattering vectors before the rotation, in 1/Angstrom.
    q_sq : ndarray, shape (n,)
        |q_ref|^2.
    s0 : ndarray, shape (3,)
        The beam, in 1/Angstrom.
    rotation : ndarray, shape (3, 3)
        R.

    Returns
    -------
    ndarray, shape (n,)
        In 1/Angstrom, positive outside the sphere.
    """
    k = np.sqrt(s0 @ s0)
    numerator = q_sq + 2.0 * (q_ref @ (s0 @ rotation))
    return numerator / (np.sqrt(np.maximum(numerator + k * k, 0.0)) + k)


def excitation_with_derivatives(
    q_ref: np.ndarray,
    q_sq: np.ndarray,
    s0: np.ndarray | float,
    turned: np.ndarray,
    cell_scale: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    r_h and its derivatives (module docstring).

    Parameters
    ----------
    q_ref : ndarray, shape (n, 3)
        Scattering vectors before the rotation, in 1/Angstrom.
    q_sq : ndarray, shape (n,)
        |q_ref|^2.
    s0 : float, or ndarray of shape (n,) for reflections of many lattices
        |s0| in 1/Angstrom.
    turned : ndarray, shape (3, 3) or (n, 3, 3)
        The rows R^T s0, (dR/dtheta_x)^T s0 and (dR/dtheta_y)^T s0.
    cell_scale : float or ndarray of shape (n,)
        k.

    Returns
    -------
    r_h : ndarray, shape (n,)
        In 1/Angstrom.
    dr_h/dtheta_x, dr_h/dtheta_y : ndarray, shape (n,)
        In 1/(Angstrom radian).
    dr_h/depsilon : ndarray, shape (n,)
        In 1/Angstrom.
    """
    along, along_x, along_y = turned @ q_ref.T if turned.ndim == 2 else np.einsum("nkj,nj->kn", turned, q_ref)
    squared = cell_scale * q_sq
    numerator = cell_scale * (squared + 2.0 * along)
    length = np.sqrt(np.maximum(numerator + s0 * s0, 0.0))
    inverse = 1.0 / length
    turn = cell_scale * inverse
    return numerator / (length + s0), turn * along_x, turn * along_y, (squared + along) * inverse
