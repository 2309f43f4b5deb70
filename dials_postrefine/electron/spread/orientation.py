"""
How the crystal stood in the beam: misorientations between images, low-index zone axes, and directions for a map.

    R_ab = A_b M^T A_a^-1,     theta_ab = min over the rotations M of the lattice of the angle of R_ab

    2 cos(theta) + 1 = trace R_ab,    2 sin(theta) = |(R_32 - R_23, R_13 - R_31, R_21 - R_12)|

The beam in the crystal's frame is the unit vector along A^-1 s0 in units of the direct lattice, A^-1 having the
axes a, b and c as rows; the zone axis [uvw] is the direction u a + v b + w c, and its angle to the beam, of either
sense, is that to an axis.  Setting matrices A (n, 3, 3) and beams s0 (n, 3) in 1/Angstrom, angles in radians.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def misorientations(a_matrix: np.ndarray, a: np.ndarray, b: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """
    Angles between the orientations of the crystal on two images (module docstring).

    Parameters
    ----------
    a_matrix : ndarray, shape (n, 3, 3)
        Setting matrices (1/Angstrom).
    a, b : ndarray of int, shape (n_pairs,)
        Which images.
    lattice : ndarray, shape (k, 3, 3)
        The rotations M of the lattice.

    Returns
    -------
    ndarray, shape (n_pairs,)
        theta (radians).
    """
    inverse = np.linalg.inv(a_matrix)
    product_ = inverse[a] @ a_matrix[b]  # trace A_b M^T A_a^-1 = sum of M_ij (A_a^-1 A_b)_ij
    best = np.argmax(np.tensordot(product_, lattice, axes=([1, 2], [1, 2])), axis=1)
    rotation = a_matrix[b] @ np.swapaxes(lattice[best], 1, 2) @ inverse[a]
    axis = np.stack([rotation[:, k - 1, k - 2] - rotation[:, k - 2, k - 1] for k in range(3)], axis=1)
    trace = np.trace(rotation, axis1=1, axis2=2)
    return np.arctan2(np.linalg.norm(axis, axis=1), trace - 1.0)


def zone_axes(largest: int) -> np.ndarray:
    """
    The zone axes of low indices, of one sense each.

    Parameters
    ----------
    largest : int
        The largest index.

    Returns
    -------
    ndarray of int, shape (n, 3)
        [uvw] without common factors, in the order of |u| + |v| + |w|.
    """
    every = np.array(list(product(range(-largest, largest + 1), repeat=3)))
    every = every[np.gcd.reduce(every, axis=1) == 1]
    first = every[np.arange(len(every)), np.argmax(every != 0, axis=1)]
    axes = every[first > 0]
    return axes[np.lexsort((*axes.T[::-1], np.abs(axes).sum(axis=1)))]


def nearest_zone_axes(a_matrix: np.ndarray, s0: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The zone axis that is nearest to the beam.

    Parameters
    ----------
    a_matrix : ndarray, shape (n, 3, 3)
        Setting matrices (1/Angstrom).
    s0 : ndarray, shape (n, 3)
        Beams (1/Angstrom).
    axes : ndarray of int, shape (k, 3)
        [uvw].

    Returns
    -------
    angle : ndarray, shape (n,)
        Radians.
    nearest : ndarray of int, shape (n,)
        Which of the axes.
    """
    directions = axes @ np.linalg.inv(a_matrix)  # (n, k, 3)
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    beam = s0 / np.linalg.norm(s0, axis=1, keepdims=True)
    cosine = np.abs(np.einsum("nkj,nj->nk", directions, beam))
    nearest = np.argmax(cosine, axis=1)
    return np.arccos(np.minimum(cosine[np.arange(len(s0)), nearest], 1.0)), nearest


def crystal_frame(a_matrix: np.ndarray) -> np.ndarray:
    """
    The frame of the crystal with x along a* and z along c (that of Busing and Levy 1967, Acta Cryst. 22, 457).

    Parameters
    ----------
    a_matrix : ndarray, shape (n, 3, 3)
        Setting matrices (1/Angstrom).

    Returns
    -------
    ndarray, shape (n, 3, 3)
        The orthogonal matrix U of each, A = U B with B upper triangular and positive.
    """
    q, r = np.linalg.qr(a_matrix)
    sign = np.sign(np.diagonal(r, axis1=1, axis2=2))
    return q * sign[:, None, :]


def beam_directions(a_matrix: np.ndarray, s0: np.ndarray) -> np.ndarray:
    """
    The directions of the beam in the frame of the crystal (crystal_frame).

    Parameters
    ----------
    a_matrix : ndarray, shape (n, 3, 3)
        Setting matrices (1/Angstrom).
    s0 : ndarray, shape (n, 3)
        Beams (1/Angstrom).

    Returns
    -------
    ndarray, shape (n, 3)
        Unit vectors.
    """
    beam = s0 / np.linalg.norm(s0, axis=1, keepdims=True)
    return np.einsum("nji,nj->ni", crystal_frame(a_matrix), beam)


def stereographic(directions: np.ndarray) -> np.ndarray:
    """
    The stereographic projection along z.

    Parameters
    ----------
    directions : ndarray, shape (n, 3)
        Unit vectors; of either sense, the one with z > 0 is drawn.

    Returns
    -------
    ndarray, shape (n, 2)
        Inside the unit circle.
    """
    up = directions * np.where(directions[:, 2] < 0.0, -1.0, 1.0)[:, None]
    return up[:, :2] / (1.0 + up[:, 2:])


def excitation_error(a_matrix: np.ndarray, s0: np.ndarray, h: np.ndarray) -> np.ndarray:
    """
    The excitation error s_g = (K^2 - |K + g|^2)/(2 K), g = A h: positive inside the Ewald sphere.

    Parameters
    ----------
    a_matrix : ndarray, shape (n, 3, 3)
        The setting matrix of each index (1/Angstrom).
    s0 : ndarray, shape (n, 3)
        The beam K of each (1/Angstrom).
    h : ndarray of int, shape (n, 3)

    Returns
    -------
    ndarray, shape (n,)
        1/Angstrom.
    """
    k = np.linalg.norm(s0, axis=1)
    g = np.einsum("nij,nj->ni", a_matrix, h)
    return (k**2 - np.sum((s0 + g) ** 2, axis=1)) / (2.0 * k)
