"""Correlations against numpy, scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from dials_postrefine.numerics.correlation import (
    correlation,
    correlation_from_covariance,
    correlation_from_sums,
    grouped_correlation,
    is_lower,
    partial_correlation,
)


def sums_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def all_of(x: np.ndarray, y: np.ndarray) -> list[float | None]:
    """The correlation of the same pairs by each function."""
    group = np.zeros(len(x), dtype=int)
    return [
        correlation(x, y),
        correlation_from_covariance(x, y),
        correlation_from_sums(sums_of(x, y)),
        grouped_correlation(x, y, group, 1)[0],
    ]


def test_known_values():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert all_of(x, 5.0 - 2.0 * x) == pytest.approx([-1.0] * 4)
    # sums of products about the means: xx = 5, yy = 3, xy = 3
    assert all_of(x, np.array([0.0, 0.0, 2.0, 1.0]) + 7.0) == pytest.approx([2.5 / np.sqrt(5.0 * 2.75)] * 4)


@pytest.mark.parametrize("relation", [0.0, 0.1, 1.0, -3.0])
def test_all_agree_with_scipy(relation):
    rng = np.random.default_rng(1)
    x = rng.exponential(size=200)
    y = relation * x + rng.normal(size=200)
    assert all_of(x, y) == pytest.approx([pearsonr(x, y)[0]] * 4, abs=1e-12)


@pytest.mark.parametrize(("r", "expected"), [(0.58, False), (0.5, True), (0.9, False), (np.nan, False)])
def test_lower_by_more_than_chance(r, expected):
    """(1 - 0.6^2)/sqrt(100) = 0.064."""
    assert is_lower(r, 0.6, 100) is expected
    assert is_lower(0.6, np.nan, 100) is False


def test_there_is_none_of_two_pairs_or_without_spread():
    a, same = np.array([1.0, 2.0, 4.0]), np.ones(3)
    *found, of_sums, of_groups = all_of(a[:2], a[1:])
    assert np.isnan([*found, of_groups]).all() and of_sums is None
    for x, y in ((a, same), (same, a)):
        first, second, of_sums, of_groups = all_of(x, y)
        assert np.isnan([first, second, of_groups]).all() and of_sums is None
    assert np.isfinite(all_of(a, a)).all()


def test_groups_are_those_of_a_loop_and_empty_ones_have_none():
    rng = np.random.default_rng(2)
    group = rng.integers(0, 6, 100)
    group[group == 4] = 3
    x, y = rng.normal(size=(2, 100)) + 10.0 * group
    found = grouped_correlation(x, y, group, 6)
    assert np.isnan(found[4])
    for k in (0, 1, 2, 3, 5):
        assert found[k] == pytest.approx(pearsonr(x[group == k], y[group == k])[0], abs=1e-12)


def test_the_partial_correlation_is_that_of_the_precision_matrix():
    """Of any four variables it is -P_ab/sqrt(P_aa P_bb), P the inverse of their covariance matrix."""
    rng = np.random.default_rng(3)
    controls = rng.standard_normal((2, 400))
    rests = rng.choice([-1.0, 1.0], (2, 400))  # nothing to be clipped
    rests[1, :150] = rests[0, :150]
    values = np.concatenate([rests + rng.normal(0.0, 3.0, (2, 2)) @ controls, controls]) + 5.0
    precision = np.linalg.inv(np.cov(values))
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert 0.2 < expected < 0.6
    assert partial_correlation(values[0], values[1], values[2:]) == pytest.approx(expected, abs=1e-9)


def test_wild_values_do_not_make_a_relation_disappear():
    rng = np.random.default_rng(8)
    control, signal, noise = rng.standard_normal((3, 300))
    a, b = control + signal + 0.5 * noise, control + signal
    tame = partial_correlation(a, b, [control])
    a[[5, 100]] += 100.0
    assert np.corrcoef(a, b)[0, 1] < 0.3
    assert partial_correlation(a, b, [control]) > 0.6 > 0.6 * tame


def test_the_partial_correlation_takes_off_what_only_the_controls_have_in_common():
    rng = np.random.default_rng(4)
    control = rng.uniform(0.0, 10.0, 5000)
    a, b = control + rng.standard_normal(5000), 3.0 * control + rng.standard_normal(5000)
    assert np.corrcoef(a, b)[0, 1] > 0.9
    assert abs(partial_correlation(a, b, [control])) < 4.0 / np.sqrt(5000.0)


def test_a_control_without_spread_controls_nothing_and_values_without_spread_have_no_correlation():
    rng = np.random.default_rng(5)
    a, control = rng.standard_normal((2, 30))
    b = a + rng.standard_normal(30)
    alone = partial_correlation(a, b, [control])
    assert partial_correlation(a, b, [control, np.full(30, 0.1)]) == pytest.approx(alone, abs=1e-12)
    assert partial_correlation(a, b, [control, 2.0 * control]) == pytest.approx(alone, abs=1e-9)
    assert np.isnan(partial_correlation(a, np.full(30, 0.3), [control]))
    assert np.isnan(partial_correlation(a[:5], b[:5], [control[:5], control[:5] ** 2]))
