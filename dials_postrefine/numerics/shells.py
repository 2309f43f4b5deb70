"""
Shells of resolution: where they begin and end, and which one a reflection is in.

Of n_shells shells there are n_shells + 1 edges, from low to high resolution, in d*^2 = 1/d^2 (1/Angstrom^2), or in
|s| = 1/d (1/Angstrom) where it says so.  A shell holds low <= d*^2 < high.

    equal_volume_edges    equal volumes of reciprocal space: equal steps of d*^3    statistics of merged data
    equal_number_edges    equal numbers of reflections: quantiles of d*^2           where every shell must tell enough
    equal_width_edges     equal steps of |s|                                        profiles of images and maps
"""

from __future__ import annotations

import numpy as np

ROOM = 1e-9  # the outermost edges lie so much beyond the outermost reflections


def equal_volume_edges(d_star_sq: np.ndarray, n_shells: int) -> np.ndarray:
    """
    The edges of shells of equal volume of reciprocal space.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n,), n > 0
        1/Angstrom^2; the shells just hold them all.
    n_shells : int

    Returns
    -------
    ndarray, shape (n_shells + 1,)
        1/Angstrom^2.
    """
    low, high = d_star_sq.min() ** 1.5, d_star_sq.max() ** 1.5
    edges = np.linspace(low, high, n_shells + 1) ** (2.0 / 3.0)
    edges[0] *= 1.0 - ROOM
    edges[-1] *= 1.0 + ROOM
    return edges


def equal_number_edges(d_star_sq: np.ndarray, n_shells: int, min_in_shell: int) -> np.ndarray:
    """
    The edges of shells of equal numbers of reflections.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n,), n > 0
        1/Angstrom^2; the shells just hold them all.
    n_shells : int
        At most: there are fewer where they would hold fewer than min_in_shell reflections, and one at least.
    min_in_shell : int

    Returns
    -------
    ndarray, shape (n_found + 1,)
        1/Angstrom^2.
    """
    n_shells = max(1, min(n_shells, len(d_star_sq) // min_in_shell))
    edges = np.quantile(d_star_sq, np.linspace(0.0, 1.0, n_shells + 1))
    edges[0], edges[-1] = edges[0] * (1.0 - ROOM), edges[-1] * (1.0 + ROOM)
    return edges


def equal_width_edges(d_max: float, d_min: float, n_shells: int) -> np.ndarray:
    """
    The edges, in |s|, of shells of equal width.

    Parameters
    ----------
    d_max, d_min : float
        The limits of resolution, Angstrom; d_max may be infinite.
    n_shells : int

    Returns
    -------
    ndarray, shape (n_shells + 1,)
        1/Angstrom.
    """
    return np.linspace(1.0 / d_max, 1.0 / d_min, n_shells + 1)


def shell_of(d_star_sq: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """
    The number of the shell of each reflection.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n,)
    edges : ndarray, shape (n_shells + 1,)
        Ascending, in the same unit.

    Returns
    -------
    ndarray of int, shape (n,)
        0 to n_shells - 1; the nearest shell of what lies outside.
    """
    return np.clip(np.searchsorted(edges, d_star_sq, side="right") - 1, 0, len(edges) - 2)


def shells_of_equal_numbers(d_star_sq: np.ndarray, n_shells: int) -> np.ndarray:
    """
    The number of the shell of each observation, of shells of equal numbers that keep observations of one d*^2 together.

    Many observations share a d*^2, and quantiles are such values: what is at an edge belongs to the shell below.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n,), n > 0
        In any unit.
    n_shells : int

    Returns
    -------
    ndarray of int, shape (n,)
        0 to n_shells - 1.
    """
    edges = np.quantile(d_star_sq, np.linspace(0.0, 1.0, n_shells + 1)[1:-1])
    return np.searchsorted(edges, d_star_sq)


def resolution_range(low: float, high: float) -> tuple[float, float]:
    """
    The d_max and d_min of a shell.

    Parameters
    ----------
    low, high : float
        Its edges in d*^2, 1/Angstrom^2.

    Returns
    -------
    d_max, d_min : float
        Angstrom; d_max is infinite where low is not above zero.
    """
    return float(low**-0.5) if low > 0.0 else np.inf, float(high**-0.5)
