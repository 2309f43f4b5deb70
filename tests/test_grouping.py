"""The rows of each group are those that a loop over the groups finds."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.grouping import rows_of_groups


@pytest.mark.parametrize("n, n_groups", [(0, 0), (0, 3), (1, 1), (1000, 1), (1000, 7), (50, 1000)])
def test_rows_are_those_of_a_loop(n, n_groups):
    number = np.random.default_rng(1).integers(-1, n_groups + 1, n)  # some belong to no group
    found = rows_of_groups(number, n_groups)
    assert len(found) == n_groups
    for k, rows in enumerate(found):
        np.testing.assert_array_equal(rows, np.flatnonzero(number == k))
