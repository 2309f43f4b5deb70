"""
Statistics of groups, in one pass over all values instead of one for each group.

With n values in m groups a loop over `group == k` takes n m steps: hours for ten thousand lattices of a hundred
reflections.  Sorted or counted once they are n log n, or n.

Every function takes values (n,) and the number of the group of each, group (n,), from 0 to n_groups - 1, and says
something of the groups (n_groups,) or of each value (n,).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def rows_of_groups(group: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """
    The rows of each group.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Rows with other numbers than 0 to n_groups - 1 belong to no group.
    n_groups : int

    Returns
    -------
    list of n_groups ndarray of int
        The rows where group is the number, in ascending order.
    """
    group = np.asarray(group)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(n_groups + 1))
    return [order[first:last] for first, last in zip(bounds[:-1], bounds[1:])]


def grouped_mean(values: np.ndarray, group: np.ndarray, n_groups: int, empty: float = np.nan) -> np.ndarray:
    """
    The mean of the values of each group.

    Parameters
    ----------
    values : ndarray, shape (n,)
    group : ndarray of int, shape (n,)
    n_groups : int
    empty : float
        What is said of a group without values.

    Returns
    -------
    ndarray, shape (n_groups,)
    """
    n = np.bincount(group, minlength=n_groups)
    return np.divide(np.bincount(group, values, n_groups), n, out=np.full(n_groups, empty), where=n > 0)


def grouped_median(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    The median of the values of each group, by scipy; where numba is there anyway, loops.medians_of_groups is faster.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite values.
    group : ndarray of int, shape (n,)
    n_groups : int

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN of an empty group.
    """
    median, present = np.full(n_groups, np.nan), np.flatnonzero(np.bincount(group, minlength=n_groups))
    if len(present):
        median[present] = ndimage.median(values, group, present)
    return median


def sum_of_others(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    For each value the sum of the other values of its group: sum_j x_j - x_i.

    Parameters
    ----------
    values : ndarray, shape (n,)
    group : ndarray of int, shape (n,)
    n_groups : int

    Returns
    -------
    ndarray, shape (n,)
        Exactly zero of a value that is alone.
    """
    return np.bincount(group, values, n_groups)[group] - values


def standard_scores(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    (x - mean)/sd of each value within its group, sd^2 being the mean square of x - mean.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
    group : ndarray of int, shape (n,)
    n_groups : int

    Returns
    -------
    ndarray, shape (n,)
        Zero where all values of the group are the same.
    """
    off = values - grouped_mean(values, group, n_groups)[group]
    spread = np.sqrt(grouped_mean(off**2, group, n_groups)[group])
    return np.divide(off, spread, out=np.zeros_like(off), where=spread > 0.0)


def even_groups(values: np.ndarray, n_groups: int) -> np.ndarray:
    """
    Groups of equal numbers by rising value: of equal values some may be in one group and some in the next.

    Parameters
    ----------
    values : ndarray, shape (n,)
    n_groups : int

    Returns
    -------
    ndarray of int, shape (n,)
        The number of the group of each value, 0 to n_groups - 1.
    """
    place = np.empty(len(values), dtype=np.int64)
    place[np.argsort(values, kind="stable")] = np.arange(len(values))
    return place * n_groups // max(len(values), 1)


def rank(values: np.ndarray) -> np.ndarray:
    """
    The rank of each value, from 0 of the lowest to 1 of the highest.

    Parameters
    ----------
    values : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
        Of equal values the earlier one is lower.
    """
    return even_groups(values, len(values)) / max(len(values) - 1, 1)
