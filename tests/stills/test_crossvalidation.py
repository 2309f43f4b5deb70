"""Independently refined half sets do not agree by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.crossvalidation import merge_half_sets, relative_scale
from dials_postrefine.stills.dataset import select_lattices
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics


@pytest.fixture(scope="module")
def simulated(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=3.5, seed=11))
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    return sim, as_stills(sim), d_star_sq


def test_selected_lattices_are_postrefined_as_if_they_were_alone(simulated):
    _, stills, _ = simulated
    selection = np.arange(60) % 3 == 0
    part = select_lattices(replace(stills, rejected={3: Reason.CELL, 4: Reason.CELL}), selection)
    assert part.n_lattices == 20 and part.rejected == {1: Reason.CELL}
    for k, original in enumerate(np.flatnonzero(selection)):
        assert np.array_equal(part.h[part.rows(k)], stills.h[stills.rows(original)])
        assert np.array_equal(part.intensity[part.rows(k)], stills.intensity[stills.rows(original)])


def test_a_half_set_does_not_know_the_other(simulated):
    _, stills, d_star_sq = simulated
    rng = np.random.default_rng(0)
    changed = replace(stills, intensity=stills.intensity.copy())
    other = stills.half[stills.lattice()]
    changed.intensity[other] = rng.permutation(changed.intensity[other])
    settings = DatasetSettings(fit=FitSettings(min_correlation=-1.0), n_cycles=2)
    first, _ = merge_half_sets(stills, settings, d_star_sq)
    again, _ = merge_half_sets(changed, settings, d_star_sq)
    assert np.array_equal(first.sum_wi, again.sum_wi)


def test_halves_of_good_data_agree_on_one_scale(simulated):
    sim, stills, d_star_sq = simulated
    first, second = merge_half_sets(stills, DatasetSettings(), d_star_sq)
    both = np.isfinite(first.intensity) & np.isfinite(second.intensity)
    assert correlation(first.intensity[both], second.intensity[both]) > 0.99
    assert np.median(second.intensity[both] / first.intensity[both]) == pytest.approx(1.0, abs=0.03)
    assert correlation(first.intensity[both], sim.reference_intensity[both]) > 0.98


def test_noise_agrees_with_itself_by_the_conventional_measure_and_not_by_the_honest_one(simulated):
    _, stills, d_star_sq = simulated
    rng = np.random.default_rng(1)
    noise = replace(
        stills, intensity=100.0 * rng.exponential(size=len(stills.unique)), variance=0 * stills.variance + 9
    )
    settings = DatasetSettings(fit=FitSettings(min_correlation=-1.0), excludes_self=False)
    result = postrefine(noise, settings)
    independent = merge_half_sets(noise, settings, d_star_sq)
    shells = ResolutionShells(d_star_sq, d_star_sq)
    overall = collect_statistics(noise, result, shells, independent=independent).after[-1]
    assert overall.cc_half > 0.15
    assert abs(overall.cc_half_honest) < 0.1
    assert overall.r_split_honest > overall.r_split


def test_relative_scale_is_that_of_scale_and_b():
    rng = np.random.default_rng(2)
    d_star_sq = rng.uniform(0.01, 0.2, size=2000)
    first = rng.exponential(1000.0, size=2000)
    factor = 3.0 * np.exp(-2.0 * 1.5 * d_star_sq)
    second = np.where(np.arange(2000) % 5, first / factor, np.nan)
    assert relative_scale(first, second, d_star_sq) == pytest.approx(factor, rel=0.02)
    assert np.all(relative_scale(first, np.full(2000, np.nan), d_star_sq) == 1.0)


def test_a_half_without_lattices_is_no_half(simulated):
    _, stills, d_star_sq = simulated
    assert merge_half_sets(replace(stills, half=np.zeros(60, dtype=bool)), DatasetSettings(), d_star_sq) is None
