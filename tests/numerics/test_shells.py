"""Shells: equal volumes, numbers and widths, and every reflection in one."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.shells import (
    equal_number_edges,
    equal_volume_edges,
    equal_width_edges,
    resolution_range,
    shell_of,
    shells_of_equal_numbers,
)


def test_shells_have_equal_volume_and_hold_everything():
    d_star_sq = np.random.default_rng(2).uniform(0.001, 0.25, size=1000)
    edges = equal_volume_edges(d_star_sq, 7)
    assert edges[0] < d_star_sq.min() and edges[-1] > d_star_sq.max()
    assert np.diff(edges**1.5) == pytest.approx(np.full(7, np.diff(edges**1.5).mean()), rel=1e-6)


def test_points_spread_evenly_over_reciprocal_space_are_shared_evenly_by_shells_of_equal_volume():
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (60_000, 3))
    d_star_sq = np.sum(points**2, axis=1)
    inside = d_star_sq[d_star_sq < 1.0]
    n = np.bincount(shell_of(inside, equal_volume_edges(inside, 6)), minlength=6)
    assert n == pytest.approx(np.full(6, len(inside) / 6), rel=0.05)


def test_shells_of_equal_numbers_of_reflections_hold_everything_and_are_fewer_where_there_are_few():
    d_star_sq = np.random.default_rng(1).exponential(0.05, size=1000)
    edges = equal_number_edges(d_star_sq, 8, 25)
    assert np.bincount(shell_of(d_star_sq, edges), minlength=8).tolist() == [125] * 8
    assert edges[0] < d_star_sq.min() and edges[-1] > d_star_sq.max()
    assert len(equal_number_edges(d_star_sq[:80], 8, 25)) - 1 == 3
    assert len(equal_number_edges(d_star_sq[:3], 8, 25)) - 1 == 1


def test_edges_of_equal_width_are_even_in_1_over_d():
    assert equal_width_edges(np.inf, 2.0, 5) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert equal_width_edges(10.0, 2.0, 2) == pytest.approx([0.1, 0.3, 0.5])


def test_a_shell_holds_its_lower_edge_and_not_its_upper_one_and_the_nearest_takes_what_is_outside():
    edges = np.array([1.0, 2.0, 4.0])
    assert shell_of(np.array([0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 9.0]), edges).tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_observations_of_one_resolution_stay_together():
    values = np.repeat([3.0, 1.0, 2.0, 4.0], [10, 10, 10, 10])
    assert shells_of_equal_numbers(values, 4)[::10].tolist() == [2, 0, 1, 3]
    lopsided = np.repeat([1.0, 2.0], [90, 10])  # nine tenths are of one resolution
    found = shells_of_equal_numbers(lopsided, 5)
    assert len(set(found[:90])) == len(set(found[90:])) == 1 and found[0] < found[-1]
    even = np.random.default_rng(2).permutation(1000.0 + np.arange(1000))
    assert np.bincount(shells_of_equal_numbers(even, 20)).tolist() == [50] * 20


def test_the_resolution_of_a_shell():
    assert resolution_range(0.01, 0.25) == (10.0, 2.0)
    assert resolution_range(0.0, 0.25) == (np.inf, 2.0)
