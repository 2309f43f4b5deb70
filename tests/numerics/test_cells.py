"""Unit cells: metric tensors against cctbx, groups with and without others among them, bases of one lattice."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx

from dials_postrefine.numerics.cells import (
    cell_of,
    cells_agree,
    change_cells,
    find_bases,
    find_main_cells,
    metric_of,
    separate_cells,
    spread_of_cells,
)

TRICLINIC = np.array([40.0, 50.0, 61.0, 82.0, 76.0, 71.0])


def scattered(cell: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n cells (n, 6) about one, by 0.2 % of the lengths and 0.1 degrees."""
    return cell + np.concatenate([0.002 * cell[:3], np.full(3, 0.1)]) * rng.normal(size=(n, 6))


def test_the_metric_is_that_of_cctbx_and_leads_back():
    g11, g22, g33, g12, g13, g23 = uctbx.unit_cell(tuple(TRICLINIC)).metrical_matrix()
    expected = np.array([[g11, g12, g13], [g12, g22, g23], [g13, g23, g33]])
    assert metric_of(TRICLINIC) == pytest.approx(expected)
    assert cell_of(expected) == pytest.approx(TRICLINIC)
    both = np.array([TRICLINIC, [10.0, 20.0, 30.0, 90.0, 90.0, 120.0]])
    assert cell_of(metric_of(both)) == pytest.approx(both)


def test_bases_of_a_reduced_cell_lead_to_the_other_and_keep_the_volume():
    cell = np.array([40.0, 50.0, 61.0, 82.0, 76.0, 71.0])
    assert cell_of(metric_of(cell)) == pytest.approx(cell)
    basis = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    target = change_cells(cell[None], basis)[0]
    found = find_bases(cell, target, 1e-6, 1e-4)
    assert any(np.array_equal(one, basis) for one in found)
    assert all(round(np.linalg.det(one)) == 1 for one in found)


def test_cells_agree_within_a_fraction_of_the_lengths_and_degrees():
    others = TRICLINIC + np.array(
        [[0.39, 0, 0, 0, 0, 0], [0.41, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.9, 0], [0, 0, 0, 1.1, 0, 0]]
    )
    assert cells_agree(others, TRICLINIC, 0.01, 1.0).tolist() == [True, False, True, False]


def test_the_main_group_is_the_larger_of_two_and_holds_no_unknown_cell():
    rng = np.random.default_rng(0)
    cells = np.concatenate(
        [scattered(1.1 * TRICLINIC, 20, rng), scattered(TRICLINIC, 50, rng), np.full((2, 6), np.nan)]
    )
    assert np.array_equal(find_main_cells(cells, 0.01, 1.0), np.repeat([False, True, False], [20, 50, 2]))
    assert not find_main_cells(np.full((3, 6), np.nan), 0.01, 1.0).any()


def test_the_main_group_grows_as_far_as_its_own_spread():
    rng = np.random.default_rng(1)
    cells = scattered(TRICLINIC, 200, rng)
    near = cells_agree(cells, np.median(cells, axis=0), 0.004, 0.2).mean()  # two standard deviations of each
    assert near < 0.85 and find_main_cells(cells, 0.004, 0.2).mean() > 0.98
    assert spread_of_cells(cells) == pytest.approx([0.08, 0.1, 0.122, 0.1, 0.1, 0.1], rel=0.25)


def test_cells_given_in_two_bases_are_told_apart_where_they_differ_by_more_than_their_spread():
    rng = np.random.default_rng(2)
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    turned = np.arange(60) % 3 == 0
    apart = np.array([50.0, 52.0, 70.0, 90.0, 90.0, 90.0])
    cells = scattered(apart, 60, rng)
    cells[turned] = change_cells(cells[turned], swap)
    chosen = separate_cells(np.array([cells, change_cells(cells, swap)]))
    assert len(set(chosen[turned])) == len(set(chosen[~turned])) == 1 and chosen[0] != chosen[1]
    alike = np.array([50.0, 50.01, 70.0, 90.0, 90.0, 90.0])  # the axes differ by less than is known of them
    cells = scattered(alike, 60, rng)
    assert not separate_cells(np.array([cells, change_cells(cells, swap)])).any()
