"""
Values in groups: the median of each, groups of equal numbers, ranks.

Values and groups are (m,), what is said of the groups (n_groups,).
"""

from __future__ import annotations

import numpy as np


def grouped_median(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """The median of the values (m,) of each group (m,), NaN of an empty one."""
    if n_groups == 1:
        return np.array([np.median(values) if len(values) else np.nan])
    order = np.argsort(values)
    order = order[np.argsort(group[order], kind="stable")]
    n = np.bincount(group, minlength=n_groups)
    start, some = np.cumsum(n) - n, n > 0
    median = np.full(n_groups, np.nan)
    low, high = (start + (n - 1) // 2)[some], (start + n // 2)[some]
    median[some] = 0.5 * (values[order[low]] + values[order[high]])
    return median


def even_groups(values: np.ndarray, n_groups: int) -> np.ndarray:
    """Groups 0 .. n_groups - 1 (m,) of equal numbers, by rising value (m,)."""
    place = np.empty(len(values), dtype=np.int64)
    place[np.argsort(values, kind="stable")] = np.arange(len(values))
    return place * n_groups // max(len(values), 1)


def rank(values: np.ndarray) -> np.ndarray:
    """The rank of each value (n,) from 0 to 1."""
    return even_groups(values, len(values)) / max(len(values) - 1, 1)
