"""
The overall anisotropic B of a crystal: what its system leaves free, and what it does to each index.

    B_cart = sum_j b_j T_j,    h^T B* h = sum_j b_j q_j(h),    q_j = h^T T*_j h

B_cart and T (p, 6) in cctbx's Cartesian frame, 11 22 33 12 13 23 in Angstrom^2; B* = A^-1 B_cart A^-T.
"""

from __future__ import annotations

import numpy as np

from cctbx import adptbx, sgtbx


def tensor_basis(scale: str, unit_cell, space_group, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The tensors that B_cart may be made of.

    Parameters
    ----------
    scale : str
        ``none`` (p = 0), ``isotropic`` (p = 1), ``anisotropic`` (what the crystal system allows, orthonormal but for
        the first).
    unit_cell : cctbx.uctbx.unit_cell
    space_group : cctbx.sgtbx.space_group
    h : ndarray of int, shape (n, 3)

    Returns
    -------
    basis : ndarray, shape (p, 6)
        T.
    q : ndarray, shape (n, p)
        Of the indices (bulk_solvent.Parts).
    """
    if scale == "none":
        return np.empty((0, 6)), np.empty((len(h), 0))
    isotropic = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    basis = [isotropic]
    if scale == "anisotropic":
        constraints = sgtbx.tensor_rank_2_constraints(space_group=space_group, reciprocal_space=True)
        n = constraints.n_independent_params()
        for unit in np.eye(n):
            star = constraints.all_params(independent_params=list(unit))
            tensor = np.array(adptbx.u_star_as_u_cart(unit_cell, star))
            for other in basis:
                tensor = tensor - other * (tensor @ other) / (other @ other)
            size = np.linalg.norm(tensor)
            if len(basis) < n and size > 1e-8 * np.linalg.norm(adptbx.u_star_as_u_cart(unit_cell, star)):
                basis.append(tensor / size)
    h = h.astype(float)
    q = []
    for tensor in basis:
        s11, s22, s33, s12, s13, s23 = adptbx.u_cart_as_u_star(unit_cell, tuple(tensor))
        q.append(
            s11 * h[:, 0] ** 2
            + s22 * h[:, 1] ** 2
            + s33 * h[:, 2] ** 2
            + 2.0 * (s12 * h[:, 0] * h[:, 1] + s13 * h[:, 0] * h[:, 2] + s23 * h[:, 1] * h[:, 2])
        )
    return np.array(basis), np.array(q).T
