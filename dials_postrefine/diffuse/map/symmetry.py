"""
Symmetry operations on voxels.

A rotation R of the point group takes fractional indices h to R h; on voxel coordinates x = K h (grid.py) it acts as
K R K^-1, which has to be a matrix of integers for voxels to have symmetry equivalents.  The intensity of diffuse
scattering has the symmetry of the Laue class, without Friedel's law nothing is assumed:

    laue      the rotations of the point group, and their products with the inversion
    friedel   identity and inversion
    p1        identity
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.map.grid import Grid

# How far from an integer an element of K R K^-1 may be: a refined cell obeys its symmetry only so well.
TOLERANCE = 1e-3


def operations(grid: Grid, rotations: np.ndarray, symmetry: str) -> np.ndarray:
    """
    The operations on voxel coordinates, K R K^-1.

    Parameters
    ----------
    grid : Grid
    rotations : ndarray (m, 3, 3)
        Those of the point group, on indices.
    symmetry : str
        "laue", "friedel" or "p1".

    Returns
    -------
    ndarray (n, 3, 3) of int64
        The identity first.

    Raises
    ------
    ValueError
        For a grid without the symmetry.
    """
    identity = np.eye(3)
    if symmetry == "p1":
        wanted = [identity]
    elif symmetry == "friedel":
        wanted = [identity, -identity]
    else:
        wanted = [*np.asarray(rotations, float), *(-np.asarray(rotations, float))]
    on_voxels = grid.to_voxel @ np.array(wanted) @ np.linalg.inv(grid.to_voxel)
    rounded = np.rint(on_voxels)
    if np.abs(on_voxels - rounded).max() > TOLERANCE:
        raise ValueError("an operation takes voxels to places between voxels")
    unique = {tuple(matrix.ravel()): matrix for matrix in rounded.astype(np.int64)}
    # in an order of their own, so that sums over equivalents do not depend on how the group was made
    return np.array([identity, *(unique[key] for key in sorted(unique) if key != tuple(identity.ravel()))], np.int64)
