"""Statistics of groups are those that a loop over the groups finds."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.grouped import (
    even_groups,
    grouped_mean,
    grouped_median,
    rank,
    rows_of_groups,
    standard_scores,
    sum_of_others,
)

N_GROUPS = 8
EMPTY = 5


@pytest.fixture(scope="module")
def grouped():
    """Values and their groups, of which one is empty and one has a single value."""
    rng = np.random.default_rng(3)
    group = rng.integers(0, N_GROUPS - 1, 101)
    group[group == EMPTY] = 4
    group[40] = N_GROUPS - 1
    return rng.normal(size=101), group


def by_loop(function, values, group):
    return [function(values[group == k]) if (group == k).any() else np.nan for k in range(N_GROUPS)]


@pytest.mark.parametrize("n, n_groups", [(0, 0), (0, 3), (1, 1), (1000, 1), (1000, 7), (50, 1000)])
def test_rows_are_those_of_a_loop(n, n_groups):
    number = np.random.default_rng(1).integers(-1, n_groups + 1, n)  # some belong to no group
    found = rows_of_groups(number, n_groups)
    assert len(found) == n_groups
    for k, rows in enumerate(found):
        np.testing.assert_array_equal(rows, np.flatnonzero(number == k))


def test_means_and_medians_are_those_of_a_loop(grouped):
    values, group = grouped
    assert grouped_mean(*grouped, N_GROUPS) == pytest.approx(by_loop(np.mean, *grouped), nan_ok=True)
    assert grouped_mean(*grouped, N_GROUPS, empty=0.0)[EMPTY] == 0.0
    assert np.array_equal(grouped_median(*grouped, N_GROUPS), by_loop(np.median, *grouped), equal_nan=True)
    assert np.isnan(grouped_median(*grouped, N_GROUPS)[EMPTY])


@pytest.mark.parametrize("n", [0, 1, 6, 7])
def test_the_median_of_one_group_is_that_of_several(n):
    values = np.random.default_rng(1).normal(size=n)
    one, first = (grouped_median(values, np.zeros(n, dtype=int), n_groups)[0] for n_groups in (1, 2))
    assert one == first or (np.isnan(one) and np.isnan(first))


def test_the_sum_of_the_others_is_that_of_a_loop(grouped):
    values, group = grouped
    found = sum_of_others(*grouped, N_GROUPS)
    for i in range(len(values)):
        own = group == group[i]
        own[i] = False
        assert found[i] == pytest.approx(values[own].sum(), abs=1e-13)
    assert found[40] == 0.0  # which is alone


def test_scores_have_mean_zero_and_spread_one_within_their_group(grouped):
    values, group = grouped
    scores = standard_scores(*grouped, N_GROUPS)
    for k in range(N_GROUPS - 1):
        if k != EMPTY:
            own = values[group == k]
            assert scores[group == k] == pytest.approx((own - own.mean()) / own.std(), abs=1e-12)
    assert scores[40] == 0.0
    assert standard_scores(np.full(4, 7.0), np.zeros(4, dtype=int), 1).tolist() == [0.0] * 4


def test_groups_of_equal_numbers_follow_one_another(grouped):
    values, _ = grouped
    parts = even_groups(values, 4)
    assert sorted(np.bincount(parts)) == [25, 25, 25, 26]
    assert all(values[parts == k].max() <= values[parts == k + 1].min() for k in range(3))
    assert rank(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
