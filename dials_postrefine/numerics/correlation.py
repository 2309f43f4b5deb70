"""
Pearson's linear correlation: of two arrays, of sums, of groups, and given controls.

    r = sum (x - <x>)(y - <y>) / sqrt(sum (x - <x>)^2 sum (y - <y>)^2)

It exists for FEWEST pairs or more, of which neither x nor y are all the same; else it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dials_postrefine.numerics.grouped import grouped_mean

FEWEST = 3
# Of partial_correlation: the rests are clipped at so many times their mean size, and so little of the variance of
# something is rounding.
CLIP = 2.5
NOTHING_LEFT = 1e-12


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """
    r of two arrays.

    Parameters
    ----------
    x, y : ndarray, shape (n,)

    Returns
    -------
    float
        NaN of fewer than FEWEST pairs or without spread.
    """
    if len(x) < FEWEST:
        return np.nan
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0.0 else np.nan


def is_lower(r: float, other: float, n: int) -> bool:
    """
    Whether a correlation is lower than another one of as many pairs by more than chance, the esd (1 - r^2)/sqrt(n).

    Parameters
    ----------
    r, other : float
        NaN: it is not.
    n : int
        Pairs.

    Returns
    -------
    bool
    """
    return bool(r < other - (1.0 - other**2) / np.sqrt(max(n, 1)))


def correlation_from_covariance(x: np.ndarray, y: np.ndarray) -> float:
    """
    r of two arrays as numpy.corrcoef rounds it: the covariance over one standard deviation, and then over the other.

    The same as `correlation` to the last digits, and within -1 and 1 whatever the rounding; kept apart because the
    figures of dials.reference_intensities are made by it.

    Parameters
    ----------
    x, y : ndarray, shape (n,)

    Returns
    -------
    float
        NaN of fewer than FEWEST pairs or where one does not vary.
    """
    if len(x) < FEWEST or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


def correlation_from_sums(sums: np.ndarray) -> float | None:
    """
    r from sums over the pairs, for what is too much to be held as arrays.

    Parameters
    ----------
    sums : ndarray, shape (6,)
        n and the sums of x, y, x^2, y^2 and x y; digits are lost where means are large beside the spread.

    Returns
    -------
    float or None
        None of fewer than FEWEST pairs or without spread.
    """
    n, x, y, xx, yy, xy = (float(value) for value in sums)
    if n < FEWEST:
        return None
    variances = (xx - x * x / n) * (yy - y * y / n)
    return (xy - x * y / n) / math.sqrt(variances) if variances > 0.0 else None


def grouped_correlation(x: np.ndarray, y: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    r of the pairs of each group.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
    group : ndarray of int, shape (n,)
        From 0 to n_groups - 1.
    n_groups : int

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN of fewer than FEWEST pairs or without spread.
    """
    n = np.bincount(group, minlength=n_groups)
    x, y = (one - grouped_mean(one, group, n_groups)[group] for one in (x, y))
    xx, yy, xy = (np.bincount(group, product, n_groups) for product in (x * x, y * y, x * y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n >= FEWEST, xy / np.sqrt(xx * yy), np.nan)


def partial_correlation(x: np.ndarray, y: np.ndarray, controls: Sequence[np.ndarray]) -> float:
    """
    r of what is left of x and y once their regressions on 1 and the controls are taken off and the rests are clipped.

    The controls are taken off one after the other (Gram and Schmidt); rests are clipped at CLIP times their mean size,
    lest one wild value make or unmake a relation.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
    controls : sequence of m ndarray, shape (n,)
        One that is a combination of those before it controls nothing.

    Returns
    -------
    float
        NaN of fewer than m + 4 values, or where nothing but rounding is left of x or y.
    """
    if len(x) < len(controls) + 4:
        return np.nan
    values = np.array([x, y, *controls])
    rounding = NOTHING_LEFT * np.einsum("ij,ij->i", values, values)
    values -= values.mean(axis=1, keepdims=True)
    for k in range(2, len(values)):  # from x, y and the controls that follow
        norm = values[k] @ values[k]
        if norm > rounding[k]:
            values -= np.outer(values @ values[k] / norm, values[k])
    rests = values[:2]
    if (np.einsum("ij,ij->i", rests, rests) <= rounding[:2]).any():
        return np.nan
    limit = CLIP * np.abs(rests).mean(axis=1, keepdims=True)
    return correlation(*np.clip(rests, -limit, limit))
