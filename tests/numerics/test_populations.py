"""Populations: wavelengths that form groups, and those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.populations import describe_groups, group_values, main_value


@pytest.mark.parametrize(
    "groups",
    [
        [(1.0, 30, 0.0), (1.3, 30, 0.0)],
        [(1.0, 100, 1e-5), (1.003, 100, 1e-5)],
        [(0.97926, 40, 1e-6), (0.97950, 8, 1e-6), (0.95, 60, 1e-6)],
        [(1.0, 300, 0.005), (1.1, 60, 0.005)],
        [(1.0, 500, 1e-4), (1.02, 12, 1e-4)],
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_wavelengths_fall_into_their_groups_and_the_main_one_is_that_of_the_largest(groups, seed):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(groups)), [n for _, n, _ in groups])
    values = np.concatenate([w * (1.0 + s * rng.standard_normal(n)) for w, n, s in groups])
    order = rng.permutation(len(values))
    found = group_values(values[order])
    assert len(found) == len(groups)
    assert all(len(set(label[order][group])) == 1 for group in found)
    assert sum(map(len, found)) >= 0.9 * len(values)
    wavelength, n, spread = max(groups, key=lambda group: group[1])
    largest = [w for w, m, _ in groups if m == n]
    assert min(abs(main_value(values[order]) / w - 1.0) for w in largest) <= 5.0 * spread / np.sqrt(n)


@pytest.mark.parametrize("n", [1, 2, 6, 12, 30, 200])
def test_jitter_of_half_a_percent_is_one_group(n):
    rng = np.random.default_rng(7)
    several = sum(len(group_values(1.3 * (1.0 + 0.005 * rng.standard_normal(n)))) > 1 for _ in range(200))
    assert several <= 1


def test_a_stray_wavelength_is_no_group():
    values = np.concatenate([np.full(30, 1.0), [1.3, 0.7]])
    assert len(group_values(values)) == 1


def test_groups_are_described_by_median_and_number_and_nan_is_none():
    values = np.concatenate([np.full(7, 1.3), np.full(30, 1.0), [np.nan]])
    assert describe_groups(values) == [(1.0, 30), (1.3, 7)]
    assert describe_groups(np.full(3, np.nan)) == []
