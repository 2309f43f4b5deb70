"""
The rows of each group, in one pass over all rows instead of one for each group.

With n rows in m groups, a loop over `number == k` takes n m steps: hours for ten thousand lattices of a hundred
reflections.  Sorted once they are n log n.
"""

from __future__ import annotations

import numpy as np


def rows_of_groups(number: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """
    For each group 0 ... n_groups - 1 the rows, in ascending order, where number (n,) is the group's.

    Rows with other numbers belong to no group.
    """
    number = np.asarray(number)
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(n_groups + 1))
    return [order[first:last] for first, last in zip(bounds[:-1], bounds[1:])]
