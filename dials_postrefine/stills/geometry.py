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
    """q = A h for Miller indices h (n, 3) and the reciprocal setting matrix A (3, 3): shape (n, 3), 1/Angstrom."""
    return h @ a_matrix.T


def excitation(q_ref: np.ndarray, q_sq: np.ndarray, s0: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """
    r_h of every reflection, shape (n,), 1/Angstrom.

    q_ref (n, 3) and q_sq = |q_ref|^2 (n,) before the rotation R (3, 3); s0 (3,).
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
    r_h (n,) in 1/Angstrom, dr_h/dtheta_x, dr_h/dtheta_y (n,) in 1/(Angstrom radian), dr_h/depsilon (n,) in 1/Angstrom.

    s0 is |s0|, cell_scale is k, and turned holds the rows R^T s0, (dR/dtheta_x)^T s0 and (dR/dtheta_y)^T s0: numbers
    and (3, 3) for reflections of one lattice, (n,) and (n, 3, 3) for reflections of many.
    """
    along, along_x, along_y = turned @ q_ref.T if turned.ndim == 2 else np.einsum("nkj,nj->kn", turned, q_ref)
    squared = cell_scale * q_sq
    numerator = cell_scale * (squared + 2.0 * along)
    length = np.sqrt(np.maximum(numerator + s0 * s0, 0.0))
    inverse = 1.0 / length
    turn = cell_scale * inverse
    return numerator / (length + s0), turn * along_x, turn * along_y, (squared + along) * inverse
