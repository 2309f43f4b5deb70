"""
Compiled loops over groups and short arrays, for what is done once a lattice or once a unique index: there the calls of
numpy take longer than its arithmetic.

The part_ functions are for other compiled loops.  They say what robust.slope_through_origin, numpy's median,
correlation.correlation and correlation.partial_correlation say, to rounding; the tests hold them to it.
"""

from __future__ import annotations

import numba
import numpy as np

from dials_postrefine.numerics.compiled import PART, compiler
from dials_postrefine.numerics.correlation import CLIP, FEWEST, NOTHING_LEFT
from dials_postrefine.numerics.robust import HUBER_K, MEDIAN_OF_NORMAL, SLOPE_ROUNDS

jit = compiler("dials_postrefine.numerics.correlation", "dials_postrefine.numerics.robust", error_model="numpy")
part = numba.njit(error_model="numpy", **PART)


@part
def part_select(values, n, k):
    """
    The k-th of the first n values by rising value, which are brought into another order (Hoare's FIND).

    Parameters
    ----------
    values : ndarray, shape (n,) or longer
        Finite values, changed in place.
    n : int
    k : int
        From 0 to n - 1.

    Returns
    -------
    float
    """
    low, high = 0, n - 1
    while low < high:
        pivot = values[k]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < k:
            low = i
        if k < i:
            high = j
    return values[k]


@part
def part_median(values, n):
    """
    The median of the first n values, one at least, which are brought into another order.

    Parameters
    ----------
    values : ndarray, shape (n,) or longer
        Finite values, changed in place.
    n : int

    Returns
    -------
    float
    """
    high = part_select(values, n, n // 2)
    if n % 2:
        return high
    low = values[0]  # those before the middle are no larger
    for i in range(1, n // 2):
        low = max(low, values[i])
    return 0.5 * (low + high)


@part
def part_slope(y, x, n, work):
    """
    The robust slope of the first n of y on x (robust.slope_through_origin).

    Parameters
    ----------
    y, x : ndarray, shape (n,) or longer
        Finite values.
    n : int
    work : ndarray, shape (n,) or longer
        Overwritten.

    Returns
    -------
    float
        NaN where no x differs from zero.
    """
    xx, xy = 0.0, 0.0
    for i in range(n):
        xx += x[i] * x[i]
        xy += x[i] * y[i]
    if not xx > 0.0:
        return np.nan
    slope = xy / xx
    for _ in range(SLOPE_ROUNDS):
        for i in range(n):
            work[i] = abs(y[i] - slope * x[i])
        limit = HUBER_K * part_select(work, n, n // 2) / MEDIAN_OF_NORMAL
        if not limit > 0.0:
            break
        xx, xy = 0.0, 0.0
        for i in range(n):
            weighted = x[i] / max(abs(y[i] - slope * x[i]) / limit, 1.0)
            xx += weighted * x[i]
            xy += weighted * y[i]
        slope = xy / xx
    return slope


@part
def part_correlation(x, y, n):
    """
    Pearson's correlation of the first n.

    Parameters
    ----------
    x, y : ndarray, shape (n,) or longer
    n : int

    Returns
    -------
    float
        NaN of fewer than FEWEST or without spread.
    """
    if n < FEWEST:
        return np.nan
    mean_x, mean_y = 0.0, 0.0
    for i in range(n):
        mean_x += x[i]
        mean_y += y[i]
    mean_x /= n
    mean_y /= n
    xx, xy, yy = 0.0, 0.0, 0.0
    for i in range(n):
        a, b = x[i] - mean_x, y[i] - mean_y
        xx += a * a
        xy += a * b
        yy += b * b
    norm = np.sqrt(xx * yy)
    return xy / norm if norm > 0.0 else np.nan


@part
def part_partial_correlation(values, n):
    """
    What is left of the correlation of values[0] and values[1] given the others (correlation.partial_correlation).

    Parameters
    ----------
    values : ndarray, shape (m + 2, n) or with longer rows
        The rows change.
    n : int

    Returns
    -------
    float
        NaN of fewer than m + 4 columns, or where nothing is left of one of the two.
    """
    n_rows = len(values)
    if n < n_rows + 2:
        return np.nan
    rounding = np.zeros(n_rows)
    for k in range(n_rows):
        mean = 0.0
        for i in range(n):
            rounding[k] += values[k, i] * values[k, i]
            mean += values[k, i]
        mean /= n
        for i in range(n):
            values[k, i] -= mean
        rounding[k] *= NOTHING_LEFT
    for k in range(2, n_rows):
        norm = 0.0
        for i in range(n):
            norm += values[k, i] * values[k, i]
        if not norm > rounding[k]:
            continue
        for j in range(n_rows):
            if j == k or 2 <= j < k:
                continue
            product = 0.0
            for i in range(n):
                product += values[j, i] * values[k, i]
            for i in range(n):
                values[j, i] -= product / norm * values[k, i]
    for k in range(2):
        total, size = 0.0, 0.0
        for i in range(n):
            total += values[k, i] * values[k, i]
            size += abs(values[k, i])
        if total <= rounding[k]:
            return np.nan
        limit = CLIP * size / n
        for i in range(n):
            values[k, i] = min(max(values[k, i], -limit), limit)
    return part_correlation(values[0], values[1], n)


@jit
def medians_of_groups(values, group, n_groups, lower):
    """
    The median of the values of each group.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite values.
    group : ndarray of int, shape (n,)
        From 0 to n_groups - 1.
    n_groups : int
    lower : bool
        Of an even number of values the lower one of the two in the middle, and not their mean.

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN of an empty group.
    """
    first = np.zeros(n_groups + 1, np.int64)
    for i in range(len(values)):
        first[group[i] + 1] += 1
    for k in range(n_groups):
        first[k + 1] += first[k]
    place, ordered = first.copy(), np.empty(len(values))
    for i in range(len(values)):
        ordered[place[group[i]]] = values[i]
        place[group[i]] += 1
    median = np.full(n_groups, np.nan)
    for k in range(n_groups):
        n = first[k + 1] - first[k]
        if n and lower:
            median[k] = part_select(ordered[first[k] : first[k + 1]], n, (n - 1) // 2)
        elif n:
            median[k] = part_median(ordered[first[k] : first[k + 1]], n)
    return median


@jit
def slopes_of_groups(y, x, first):
    """
    The robust slope through the origin of the rows of each group, of those with a finite x.

    Parameters
    ----------
    y, x : ndarray, shape (n,)
        NaN of x is left out.
    first : ndarray of int, shape (n_groups + 1,)
        Group k has the rows first[k] to first[k + 1].

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN where all x are zero, or none is known.
    """
    slope = np.empty(len(first) - 1)
    for k in range(len(slope)):
        n_rows = first[k + 1] - first[k]
        rows, n = np.empty((3, n_rows)), np.int64(0)
        for i in range(first[k], first[k + 1]):
            if np.isfinite(x[i]):
                rows[0, n], rows[1, n] = y[i], x[i]
                n += 1
        slope[k] = part_slope(rows[0], rows[1], n, rows[2])
    return slope


@jit
def without_own_group(total, values, unique, first):
    """
    The total of each observation's unique index less what its own group has added to it.

    Parameters
    ----------
    total : ndarray, shape (n_unique,)
    values : ndarray, shape (n,)
        What each observation added.
    unique : ndarray of int, shape (n,)
    first : ndarray of int, shape (n_groups + 1,)
        Group k has the rows first[k] to first[k + 1].

    Returns
    -------
    ndarray, shape (n,)
    """
    of_group, left = np.zeros(len(total)), np.empty(len(values))
    for k in range(len(first) - 1):
        for i in range(first[k], first[k + 1]):
            of_group[unique[i]] += values[i]
        for i in range(first[k], first[k + 1]):
            left[i] = total[unique[i]] - of_group[unique[i]]
        for i in range(first[k], first[k + 1]):
            of_group[unique[i]] = 0.0
    return left
