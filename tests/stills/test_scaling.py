"""Scales and means of observations whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.stills.errormodel import ErrorModel, expected_counts
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.scaling import (
    Scaled,
    WeightedMean,
    corrected_values,
    linear_scales,
    mean_of_others,
    merging_values,
    relative_change,
)


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


def test_what_is_written_is_not_divided_and_multiplied_back_by_scales(obedient):
    """I/p, with v/p^2 and the variance of 1/p in the error model about the mean as the lattice has it."""
    _, stills = obedient
    rng = np.random.default_rng(1)
    n = len(stills.unique)
    stills = replace(stills, inverse_variance=rng.uniform(0.0, 0.1, n))
    p, scale, relative = rng.uniform(0.1, 1.0, n), rng.uniform(0.5, 2.0, n), rng.uniform(0.0, 0.2, n)
    mean = rng.exponential(100.0, stills.n_unique)
    mean[::7] = np.nan
    model, slope = ErrorModel(1.2, 0.05, 0.8), 1.3
    scaled = Scaled(p, scale, relative, np.ones(n, dtype=bool), slope)
    value, variance = corrected_values(stills, scaled, mean, model)
    assert value == pytest.approx(stills.intensity / p, rel=1e-15)
    of_lattice = np.where(np.isfinite(mean[stills.unique]), scale * mean[stills.unique], value)
    counts = stills.variance / p**2 + stills.intensity**2 * stills.inverse_variance
    counts = expected_counts(counts, value, slope / p, of_lattice)
    expected = model.a**2 * (counts + of_lattice**2 * (model.b**2 + model.c**2 * relative))
    assert variance == pytest.approx(expected, rel=1e-13)
    merged = merging_values(stills, scaled, mean, model, slice(None))
    assert merged[0] * scale == pytest.approx(value, rel=1e-14)
    assert merged[1] * scale**2 == pytest.approx(variance, rel=1e-12)
    # no digit is lost, nor any range: squares of these scales are zero
    tiny = replace(scaled, scale=np.full(n, 1e-170))
    again = corrected_values(stills, tiny, mean, None)
    assert np.array_equal(again[0], value) and np.isfinite(again[1]).all()


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
