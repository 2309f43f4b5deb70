"""Scales and means of observations whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.scaling import WeightedMean, linear_scales, mean_of_others, relative_change


def test_the_mean_of_others_is_the_merge_without_the_lattice(obedient):
    _, stills = obedient
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2.0, size=len(stills.unique))
    merged = merge(stills.intensity, 1.0 / weight, stills.unique, stills.n_unique)
    mean = WeightedMean(
        weight,
        weight * stills.intensity,
        np.zeros(len(weight), dtype=bool),
        merged.sum_w,
        merged.sum_wi,
        merged.intensity,
        ErrorModel(),
    )
    lattice = stills.lattice()
    for k in (0, 41):
        rows = stills.rows(k)
        left = lattice != k
        expected = merge(stills.intensity[left], 1.0 / weight[left], stills.unique[left], stills.n_unique).intensity
        others = mean_of_others(stills, mean, k, k + 1)
        assert others == pytest.approx(expected[stills.unique[rows]], rel=1e-6, nan_ok=True)
        assert np.isnan(others).any() and np.isfinite(others).any()
        assert np.array_equal(others, mean_of_others(stills, mean)[rows], equal_nan=True)


def test_linear_scales_are_the_true_ones_where_all_spots_are_full(obedient):
    sim, stills = obedient
    full = replace(stills, intensity=sim.scale[stills.lattice()] * sim.i_full)
    assert linear_scales(full, sim.reference_intensity) == pytest.approx(sim.scale)
    without = linear_scales(full, None)
    assert without / sim.scale == pytest.approx(np.full(80, (without / sim.scale).mean()), rel=0.05)


def test_relative_change_ignores_an_overall_scale():
    old = np.array([1.0, 2.0, 3.0, np.nan])
    assert relative_change(old, 7.0 * old) == pytest.approx(0.0, abs=1e-12)
    assert relative_change(old, old + [0.3, 0.0, 0.0, 0.0]) == pytest.approx(0.3 / 6.3, rel=0.5)
    assert np.isnan(relative_change(old, np.full(4, np.nan)))
