"""
Distance of a reciprocal-lattice point from the Ewald sphere, and its derivatives by the two misorientation angles.

    q = R q_ref,  q_ref = A_ref h,  S = q + s0,  r_h = |S| - |s0|     (positive outside the sphere)

with s0 the incident beam (|s0| = 1/lambda) and R = R_y(theta_y) R_x(theta_x) from `dials_postrefine.rotations`.
A rotation leaves |q| alone, so that |S|^2 = |q_ref|^2 + 2 q_ref . (R^T s0) + |s0|^2 and, with dR any derivative of R,

    r_h       = (|q_ref|^2 + 2 q_ref . (R^T s0)) / (|S| + |s0|)
    dr_h/dtheta = S . dq/dtheta / |S| = q_ref . (dR^T s0) / |S|        (q . dq = 0).

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
    q_ref: np.ndarray, q_sq: np.ndarray, k: np.ndarray | float, turned: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    r_h (n,) in 1/Angstrom, and dr_h/dtheta_x, dr_h/dtheta_y (n,) in 1/(Angstrom radian).

    k = |s0|, and turned holds the rows R^T s0, (dR/dtheta_x)^T s0 and (dR/dtheta_y)^T s0: (3, 3) for reflections of one
    lattice, (n, 3, 3) with k (n,) for reflections of many.
    """
    along, along_x, along_y = turned @ q_ref.T if turned.ndim == 2 else np.einsum("nkj,nj->kn", turned, q_ref)
    numerator = q_sq + 2.0 * along
    length = np.sqrt(np.maximum(numerator + k * k, 0.0))
    return numerator / (length + k), along_x / length, along_y / length
