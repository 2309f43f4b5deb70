"""Friedel pairs kept apart: what lattices are fitted to, the prior of the differences, and what a run makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the structure that is simulated is cctbx's")

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import StillsOptions, reference_intensities, simulate_stills
from dials_postrefine.stills import friedel
from dials_postrefine.stills.crossvalidation import merge_half_sets, relative_scale
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.friedel import DifferencePrior, FriedelPairs, about_centre, prior_variance, with_other
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.reference import make_reference
from dials_postrefine.stills.scaling import WeightedMean, mean_of_others
from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics

pytestmark = pytest.mark.dials

SETTINGS = DatasetSettings(fit=FitSettings(profile="gaussian"))
# 62 reflections a lattice, which the model describes
OPTIONS = StillsOptions(
    n_lattices=300,
    d_min=2.65,
    unit_cell=(50.0, 50.0, 38.0, 90.0, 90.0, 90.0),
    profile="gaussian",
    misorientation=0.03,
    window=0.00075,
    background=2.0,
    bijvoet_ratio=0.05,
)


@pytest.fixture(scope="module")
def simulated(as_stills):
    sim = simulate_stills(OPTIONS)
    return sim, as_stills(sim)


def merged_pairs(stills):
    """The stills as they are with Friedel pairs as one."""
    return replace(stills, unique=stills.friedel.one_of_pair()[stills.unique], friedel=None)


def differences(sim, stills, result) -> tuple[np.ndarray, np.ndarray]:
    """D found and true of the pairs that are complete, on one scale; stills have pairs apart."""
    truth, kept = sim.reference_intensity, result.kept & ~result.outlier
    merged = merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique).intensity
    found = stills.friedel.differences(merged * relative_scale(truth, merged, stills.prior.d_star_sq))
    known = np.isfinite(found)
    return found[known], stills.friedel.differences(truth)[known]


def slope_and_cc(found, true) -> tuple[float, float]:
    return found @ true / (true @ true), correlation(found, true)


@pytest.fixture(scope="module")
def alone(simulated):
    """Self-merged results with pairs as one and apart."""
    _, stills = simulated
    return postrefine(merged_pairs(stills), SETTINGS), postrefine(stills, SETTINGS)


@pytest.fixture(scope="module")
def whole(simulated):
    """The slope where the lattices are fitted to the truth, so that nothing is taken off: one but for the noise."""
    sim, stills = simulated
    slope, _ = slope_and_cc(
        *differences(sim, stills, postrefine(stills, SETTINGS, make_reference(sim.reference_intensity)))
    )
    assert slope == pytest.approx(1.0, abs=0.04)
    return slope


def test_the_simulated_structure_has_the_bijvoet_ratio_that_was_asked_for():
    _, intensity, array = reference_intensities(OPTIONS)
    acentric = array.select(~array.centric_flags().data())
    d = np.abs(np.array(acentric.anomalous_differences().data()))
    assert d.mean() / np.array(acentric.data()).mean() == pytest.approx(0.05, rel=0.01)
    plain = reference_intensities(replace(OPTIONS, bijvoet_ratio=0.0))[1]
    assert len(plain) < len(intensity)
    assert intensity.mean() == pytest.approx(plain.mean(), rel=1e-9)


def test_fits_to_pairs_apart_keep_what_fits_to_their_mean_take_off(as_stills):
    found = []
    for seed in range(3):
        sim = simulate_stills(replace(OPTIONS, seed=seed))
        stills = as_stills(sim)
        to_truth = postrefine(stills, SETTINGS, make_reference(sim.reference_intensity))
        results = to_truth, postrefine(merged_pairs(stills), SETTINGS), postrefine(stills, SETTINGS)
        found.append([slope_and_cc(*differences(sim, stills, result)) for result in results])
    (whole, _), (as_one, cc_as_one), (apart, cc_apart) = np.mean(found, axis=0)
    assert whole == pytest.approx(1.0, abs=0.03)
    assert as_one < 0.95 * whole < 0.97 * whole < apart < 1.03 * whole
    assert cc_apart > cc_as_one - 0.003  # it varies by 0.015 between the seeds


def test_a_reference_that_tells_pairs_apart_gives_them_whole(simulated, alone, whole):
    sim, stills = simulated
    result = postrefine(stills, SETTINGS, make_reference(sim.reference_intensity))
    assert len(result.cycles) == 2
    ccs = [slope_and_cc(*differences(sim, stills, one))[1] for one in (result, alone[1])]
    assert ccs[0] > ccs[1]


def test_a_reference_with_pairs_merged_gets_its_differences_from_the_data(simulated, whole):
    sim, stills = simulated
    both = stills.friedel.one_of_pair()
    mean = (np.bincount(both, sim.reference_intensity) / np.maximum(np.bincount(both), 1))[both]
    found = {}
    for merged in (False, True):
        result = postrefine(stills, SETTINGS, make_reference(mean, friedel_merged=merged))
        found[merged] = slope_and_cc(*differences(sim, stills, result))
        assert np.array_equal(result.reference, mean)  # what was given is what is reported
        assert len(result.cycles) == (3 if merged else 2)
    assert found[False][0] < 0.95 * whole < 0.97 * whole < found[True][0] < 1.03 * whole
    assert found[True][1] > found[False][1] - 0.005


def test_cc_anom_of_half_sets_is_what_the_truth_implies(simulated, alone):
    sim, stills = simulated
    d_star_sq = stills.prior.d_star_sq
    halves = merge_half_sets(stills, SETTINGS, d_star_sq)
    acentric = stills.friedel.pairs()[0]
    shells = ResolutionShells(d_star_sq, d_star_sq, 5, d_star_sq[acentric])
    statistics = collect_statistics(stills, alone[1], shells, independent=halves)
    overall = statistics.after[-1]
    true = stills.friedel.differences(sim.reference_intensity)
    found = [stills.friedel.differences(half.intensity) for half in halves]
    both = np.isfinite(found[0]) & np.isfinite(found[1])
    assert overall.cc_anom_honest == pytest.approx(correlation(found[0][both], found[1][both]), abs=1e-12)
    # the errors of the half sets are independent of one another: CC of the two is the product of those to the truth
    implied = correlation(found[0][both], true[both]) * correlation(found[1][both], true[both])
    assert overall.cc_anom_honest == pytest.approx(implied, abs=3.0 / np.sqrt(np.count_nonzero(both)))
    assert overall.cc_anom > overall.cc_anom_honest
    # the others are counted and averaged by hand
    complete = np.isfinite(stills.friedel.differences(statistics.merged.intensity))
    plus, minus = stills.friedel.pairs()
    assert overall.n_pairs == np.count_nonzero(complete) == sum(shell.n_pairs for shell in statistics.after[:-1])
    assert overall.anom_completeness == overall.n_pairs / len(acentric)
    sigma = np.hypot(statistics.merged.sigma[plus], statistics.merged.sigma[minus])
    d = stills.friedel.differences(statistics.merged.intensity)
    assert overall.dano_over_sigma == pytest.approx(np.mean(np.abs(d / sigma)[complete]))


def test_the_prior_is_the_spread_of_the_differences_by_shell():
    rng = np.random.default_rng(0)
    n, strength = 40000, np.array([2.0, 0.5])
    d_star_sq = np.sort(rng.uniform(0.0, 1.0, n))
    s = np.where(d_star_sq < 0.5, *strength)
    mean = rng.exponential(100.0, n) + 20.0
    half = 0.5 * rng.standard_normal(n) * np.sqrt(2.0 * s * mean)
    sigma = 0.05 * mean + 3.0
    observed = [i + sigma * rng.standard_normal(n) for i in (mean + half, mean - half)]
    mates = FriedelPairs(np.concatenate([np.arange(n) + n, np.arange(n)]), np.arange(2 * n) >= n)
    found = prior_variance(mates, np.tile(sigma**-2.0, 2), np.concatenate(observed), np.tile(d_star_sq, 2))
    assert np.array_equal(found[:n], found[n:])
    expected = friedel.WIDER * 2.0 * s * mean
    for part in (d_star_sq < 0.45, d_star_sq > 0.55):
        assert found[:n][part].sum() == pytest.approx(expected[part].sum(), rel=0.1)
    # of noise alone there is next to nothing
    noise = np.concatenate([mean + sigma * rng.standard_normal(n) for _ in range(2)])
    nothing = prior_variance(mates, np.tile(sigma**-2.0, 2), noise, np.tile(d_star_sq, 2))
    assert nothing.sum() < 0.02 * found.sum()


def test_the_mate_is_one_observation_more():
    own, mate = (np.array([2.0, 2.0, 0.0]), np.array([20.0, 20.0, 0.0])), (np.array([4.0] * 3), np.array([48.0] * 3))
    weight, weighted = with_other(own, mate, np.array([0.0, 0.75, 0.75]))
    assert weight == pytest.approx([6.0, 3.0, 1.0])  # 1/(1/4 + 3/4)
    assert weighted / weight == pytest.approx([68.0 / 6.0, 32.0 / 3.0, 12.0])
    # I+ = 10 +- 1/sqrt 2, I- = 12 +- 1/2, t = 3/4: the share of D is t/(t + 1/2 + 1/4) = 1/2
    found = about_centre(np.array([100.0, 100.0, np.nan]), own, mate, np.full(3, 0.75))
    assert found[:2] == pytest.approx(100.0 - 0.5 * 0.5 * 2.0)
    assert np.isnan(found[2])


def test_a_lattice_is_left_out_of_both_hands(simulated):
    _, stills = simulated
    rng = np.random.default_rng(1)
    n = len(stills.unique)
    weight = rng.uniform(0.5, 2.0, n) * (rng.random(n) < 0.9)
    weighted = weight * rng.normal(100.0, 10.0, n)
    sums = [np.bincount(stills.unique, values, stills.n_unique) for values in (weight, weighted)]
    reference = np.divide(sums[1], sums[0], out=np.full(stills.n_unique, np.nan), where=sums[0] > 0.0)
    variance = rng.uniform(0.1, 1.0, stills.n_unique)
    none = np.zeros(n, dtype=bool)
    mean = WeightedMean(weight, weighted, none, *sums, reference, ErrorModel(), DifferencePrior(variance))
    found = mean_of_others(stills, mean)
    lattice, mates = stills.lattice(), stills.friedel.other
    seen_both = [i for i in range(n) if np.any((lattice == lattice[i]) & (stills.unique == mates[stills.unique[i]]))]
    assert seen_both  # a lattice that has both of a pair
    for i in [*seen_both[:20], *rng.choice(n, 60, replace=False)]:
        u, others = stills.unique[i], lattice != lattice[i]
        own = others & (stills.unique == u)
        mate = others & (stills.unique == mates[u]) & (mates[u] >= 0)
        total, value = weight[own].sum(), weighted[own].sum()
        if weight[mate].sum() > 0.0:
            more = 1.0 / (1.0 / weight[mate].sum() + variance[u])
            total, value = total + more, value + more * weighted[mate].sum() / weight[mate].sum()
        assert found[i] == pytest.approx(value / total if total > 0.0 else np.nan, nan_ok=True)


def test_centric_reflections_and_centric_groups_are_as_without(simulated, as_stills):
    _, stills = simulated
    centric = stills.prior.centric
    assert centric.any() and np.all(stills.friedel.other[centric] == -1) and not stills.friedel.minus[centric].any()
    # in a group with inversion there is no pair, and the run is that of pairs merged
    options = StillsOptions(
        n_lattices=30, seed=3, d_min=2.8, space_group="P-1", unit_cell=(22.0, 24.0, 27.0, 85.0, 95.0, 100.0)
    )
    as_one = as_stills(simulate_stills(options))
    nothing = FriedelPairs(np.full(as_one.n_unique, -1), np.zeros(as_one.n_unique, dtype=bool))
    results = [postrefine(replace(as_one, friedel=mates), SETTINGS) for mates in (None, nothing)]
    assert np.array_equal(*(result.mean for result in results), equal_nan=True)
    assert np.array_equal(*(result.x for result in results), equal_nan=True)
