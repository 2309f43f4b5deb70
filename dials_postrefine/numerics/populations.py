"""
Populations: which of many values (wavelengths, detector distances) belong together, so that no mean is taken across
two of them.

A median of values that are of two kinds is of neither kind.  Sorted values fall into groups where two neighbours are
further apart than GAP (1 + FEW/n) s of the groups on both sides, of n values and the standard deviation s (which few
values may give too small by chance), and than MIN_GAP (MIN_GAP_DISTANCE) of the value, with MIN_SIZE values or more in
a group, and at most MAX_STRAY of all values in none.  Of all such partitions that with the most groups, up to
MAX_GROUPS, is taken: the jitter of a source is one group, whatever its width, and so are a few values.

Values in any unit, above zero.
"""

from __future__ import annotations

import numpy as np

# Wavelengths.  With these, of 1000 normal or even distributions of 10 to 60 values each at most 2 fall into groups, and
# none of 200 of 300 values.
GAP = 4.0
FEW = 6.0
MIN_GAP = 1e-4  # of the wavelength, 1.3 eV at the edge of selenium, whose peak and inflection are some 3 eV apart
MIN_GAP_DISTANCE = 1e-3  # of the distance: the cells would be off by as much, and so much no refinement scatters
MIN_SIZE = 5
MAX_STRAY = 0.1
MAX_GROUPS = 6


def group_values(values: np.ndarray, min_gap: float = MIN_GAP) -> list[np.ndarray]:
    """
    The groups that values fall into (module docstring).

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite and positive, in any unit.
    min_gap : float
        The least gap between two groups, a fraction of the value.

    Returns
    -------
    list of ndarray of int
        The numbers of the members of each group, both by rising value.  A single group holds all; of several, strays
        are in none.
    """
    order = np.argsort(values, kind="stable")
    x = values[order]
    gaps = np.diff(x)
    best = [order]
    thresholds = np.unique(gaps[gaps > min_gap * x[:-1]])[::-1]
    for threshold in thresholds[: MAX_GROUPS + int(MAX_STRAY * len(x))]:
        parts = np.split(np.arange(len(x)), np.flatnonzero(gaps >= threshold) + 1)
        groups = [part for part in parts if len(part) >= MIN_SIZE]
        if len(groups) > MAX_GROUPS or sum(map(len, groups)) < (1.0 - MAX_STRAY) * len(x):
            continue
        width = [GAP * (1.0 + FEW / len(part)) * np.std(x[part]) for part in groups]
        apart = all(
            x[right[0]] - x[left[-1]] > max(s, t) for left, right, s, t in zip(groups, groups[1:], width, width[1:])
        )
        if apart and len(groups) > len(best):
            best = [order[part] for part in groups]
    return best


def main_value(values: np.ndarray) -> float:
    """
    The median of the largest group of values.

    Parameters
    ----------
    values : ndarray, shape (n,), n > 0
        Finite and positive.

    Returns
    -------
    float
        In the unit of the values; of two groups of one size that of the lower values.
    """
    return float(np.median(values[max(group_values(values), key=len)]))


def describe_groups(values: np.ndarray, min_gap: float = MIN_GAP) -> list[tuple[float, int]]:
    """
    The groups of values as a person is told of them.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Positive; NaN is left out.
    min_gap : float
        As of group_values.

    Returns
    -------
    list of (float, int)
        The median of each group and the number of its members, by value; empty of nothing.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return []
    return [(float(np.median(values[group])), len(group)) for group in group_values(values, min_gap)]
