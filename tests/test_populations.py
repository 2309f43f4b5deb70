"""Populations: wavelengths that form groups, cells of two groups, bases of one lattice."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.populations import cell_of, change_cells, find_bases, group_values, main_value, metric_of


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


def test_bases_of_a_reduced_cell_lead_to_the_other_and_keep_the_volume():
    cell = np.array([40.0, 50.0, 61.0, 82.0, 76.0, 71.0])
    assert cell_of(metric_of(cell)) == pytest.approx(cell)
    basis = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    target = change_cells(cell[None], basis)[0]
    found = find_bases(cell, target, 1e-6, 1e-4)
    assert any(np.array_equal(one, basis) for one in found)
    assert all(round(np.linalg.det(one)) == 1 for one in found)
