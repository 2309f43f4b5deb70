"""Compiled loops say what numpy says of the same arrays."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics import loops
from dials_postrefine.numerics.compiled import compiler
from dials_postrefine.numerics.correlation import correlation, partial_correlation
from dials_postrefine.numerics.grouped import grouped_median, rows_of_groups
from dials_postrefine.numerics.robust import slope_through_origin

jit = compiler("dials_postrefine.numerics.loops", error_model="numpy")


@jit
def median_of(values):
    return loops.part_median(values, len(values))


@jit
def correlation_of(x, y):
    return loops.part_correlation(x, y, len(x))


@jit
def partial_correlation_of(values):
    return loops.part_partial_correlation(values, values.shape[1])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 101, 300])
def test_medians_are_those_of_numpy(n):
    rng = np.random.default_rng(n)
    for values in (rng.normal(size=n), rng.integers(0, 3, n).astype(float), np.arange(n, 0.0, -1.0), np.ones(n)):
        assert median_of(values.copy()) == np.median(values)


def test_a_value_that_is_no_number_ends_no_search():
    """The place of what can't be compared is anywhere, but the loop comes to its end within the array."""
    rng = np.random.default_rng(0)
    for n in range(1, 40):
        values = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
        given = np.sort(values)
        median_of(values)
        assert np.array_equal(np.sort(values), given, equal_nan=True)


@pytest.mark.parametrize("lower", [False, True])
def test_medians_of_groups_are_those_of_sorted_values(lower):
    rng = np.random.default_rng(1)
    group = rng.integers(0, 400, 3000)
    group[group == 17] = 18  # an empty one
    values = np.round(rng.normal(size=3000), 1)
    found = loops.medians_of_groups(values, group, 400, lower)
    ordered = [np.sort(values[rows]) for rows in rows_of_groups(group, 400)]
    low = [own[(len(own) - 1) // 2] if len(own) else np.nan for own in ordered]
    assert np.array_equal(found, low if lower else grouped_median(values, group, 400), equal_nan=True)
    assert np.isnan(found[17])


def test_slopes_of_groups_are_those_of_each_group():
    rng = np.random.default_rng(2)
    first = np.array([0, 0, 1, 3, 50, 350, 360])
    x = rng.normal(size=360)
    y = 3.0 * x + rng.standard_t(2, size=360)
    x[rng.random(360) < 0.2], x[350:] = np.nan, 0.0
    for found, a, b in zip(loops.slopes_of_groups(y, x, first), first[:-1], first[1:]):
        known = np.isfinite(x[a:b])
        expected = slope_through_origin(y[a:b][known], x[a:b][known])
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_what_a_group_added_itself_is_taken_off():
    unique = np.array([0, 1, 1, 0, 2, 1])
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    total = np.bincount(unique, values)
    found = loops.without_own_group(total, values, unique, np.array([0, 3, 3, 6]))
    assert found.tolist() == [8.0, 32.0, 32.0, 1.0, 0.0, 6.0]


@pytest.mark.parametrize("n", [2, 3, 5, 6, 20, 300])
def test_correlations_are_those_of_numpy(n):
    rng = np.random.default_rng(n)
    x, y, one, two = 5.0 + rng.standard_t(2, size=(4, n))
    y += x
    assert correlation_of(x, y) == pytest.approx(correlation(x, y), rel=1e-12, nan_ok=True)
    assert np.isnan(correlation_of(x, np.ones(n)))
    for controls in ([one, two], [one, one + 1.0], [x, two]):
        found = partial_correlation_of(np.array([x, y, *controls]))
        assert found == pytest.approx(partial_correlation(x, y, controls), rel=1e-9, nan_ok=True)
