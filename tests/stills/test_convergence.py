"""Cycles that converge, cycles that would not, and which one is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills import loop
from dials_postrefine.stills.convergence import (
    ChosenBy,
    Cycle,
    Ended,
    Verdicts,
    change_in_esds,
    choose_cycle,
    damped_mean,
    slows_down,
)
from dials_postrefine.stills.crossvalidation import refine_half_sets
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.freereflections import free_set
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.refinement import refine
from dials_postrefine.stills.scaling import WeightedMean
from dials_postrefine.stills.selection import Candidates
from dials_postrefine.stills.statistics import ResolutionShells

N_SPARSE = 24


def make_mean(values, weights=None) -> WeightedMean:
    """A mean of one observation an index."""
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    reference = np.where(weights > 0.0, values, np.nan)
    no = np.zeros(len(values), dtype=bool)
    return WeightedMean(weights, weights * values, no, weights.copy(), weights * values, reference, ErrorModel())


def test_changes_in_esds_are_those_of_values_on_one_scale():
    old = np.append(np.arange(1.0, 20.0), np.nan)
    new = 3.0 * old
    new[4] += 6.0
    assert change_in_esds(old, new, np.full(20, 2.0)) == pytest.approx(3.0 / 19, rel=0.02)
    assert np.isnan(change_in_esds(old, np.full(20, np.nan), np.ones(20)))


@pytest.mark.parametrize("eigenvalue", [-0.999, -1.0, -1.05])
def test_a_two_cycle_settles_once_it_is_damped(eigenvalue):
    """F(m) = f + eigenvalue (m - f): by itself it never comes to f, damped it is there in a few cycles."""
    fixed, mean = np.array([100.0, 50.0]), make_mean([110.0, 45.0])
    cycles = []
    for _ in range(8):
        new = make_mean(fixed + eigenvalue * (mean.reference - fixed))
        cycles.append(Cycle(1, 1.0, float(np.abs(new.reference - mean.reference).sum() / np.abs(new.reference).sum())))
        damped = len(cycles) > 1 and (cycles[-1].damped or slows_down(cycles))
        cycles[-1].damped = damped
        mean = damped_mean(mean, new) if damped else new
    assert mean.reference == pytest.approx(fixed, rel=1e-6)


def test_a_damped_mean_keeps_the_weights_that_each_lattice_takes_off():
    one, other = make_mean([10.0, 20.0, 0.0], [1.0, 3.0, 0.0]), make_mean([14.0, 0.0, 8.0], [3.0, 0.0, 1.0])
    both = damped_mean(one, other)
    assert both.reference == pytest.approx([(10.0 + 3 * 14.0) / 4, 20.0, 8.0])
    assert both.sum_w == pytest.approx(both.weight) and both.sum_wi == pytest.approx(both.weighted)


def test_a_lattice_whose_verdict_turns_in_circles_stays_out(make_fit):
    verdicts, found = Verdicts(3), []
    for wanted in ("orr", "oor", "orr", "ooo", "oor", "ooo"):
        fits = [make_fit(None if letter == "o" else Reason.CORRELATION) for letter in wanted]
        verdicts.settle(fits)
        found.append("".join("o" if fit.reason is None else "r" for fit in fits))
    # the second is rejected, accepted, rejected and stays out; the third came back once, and fell once more
    assert found == ["orr", "oor", "orr", "oro", "orr", "orr"]
    assert fits[1].reason is Reason.CORRELATION


@pytest.fixture
def make_fit():
    class Fit:
        def __init__(self, reason):
            self.reason = reason

    return Fit


def test_the_best_cycle_is_that_of_the_best_agreement_or_of_the_most_lattices():
    cycles = [Cycle(n, 0.5, change) for n, change in ((14, 0.1), (15, 0.3), (14, 0.05), (15, 0.2))]
    assert choose_cycle(cycles, False) == (4, ChosenBy.CHANGE)
    for cycle, agreement in zip(cycles, (0.3, np.nan, 0.2, 0.1)):
        cycle.agreement = agreement
    assert choose_cycle(cycles, False) == (4, ChosenBy.CHANGE), "what is not known of all cannot be compared"
    cycles[1].agreement = 0.25
    assert choose_cycle(cycles, False) == (1, ChosenBy.HALF_SETS)
    assert choose_cycle(cycles, True) == (1, ChosenBy.FREE)


@pytest.fixture(scope="module")
def sparse(as_stills):
    """Lattices with few reflections in common, and errors of 40 %: their cycles do not settle by themselves."""
    sim = simulate_stills(StillsOptions(n_lattices=N_SPARSE, d_min=2.6, seed=5))
    stills = as_stills(sim)
    noise = np.random.default_rng(3).normal(size=len(stills.intensity))
    noisy = stills.intensity * (1.0 + 0.4 * noise)
    stills = replace(stills, intensity=noisy, variance=stills.variance + (0.4 * stills.intensity) ** 2)
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    return sim, stills, d_star_sq


SETTINGS = DatasetSettings(fit=FitSettings(min_correlation=-1.0), n_cycles=12, convergence=1e-4, requires_gain=False)


def whole(sparse, settings=SETTINGS, **more):
    _, stills, d_star_sq = sparse
    model = Candidates(settings.fit.profile, [settings.fit.radius], [settings.fit.unit_cell])
    return refine(stills, settings, model, ResolutionShells(d_star_sq, d_star_sq), **more)


def test_the_cycle_that_is_taken_is_that_of_so_many_cycles(sparse):
    """The numbers are those of a run that ends there, and the honest ones those of half sets that end there."""
    _, stills, d_star_sq = sparse
    found = whole(sparse)
    course, cycles = found.result.course, found.result.cycles
    assert course.ended is Ended.MOST and course.chosen_by is ChosenBy.HALF_SETS
    assert course.taken < len(cycles) == 12
    agreement = [cycle.agreement for cycle in cycles]
    assert course.taken == 1 + int(np.argmax(agreement))
    short = replace(SETTINGS, n_cycles=course.taken, takes_best=False)
    there = postrefine(stills, short)
    assert np.array_equal(found.result.x, there.x) and found.result.reasons == there.reasons
    assert np.array_equal(found.result.mean, there.mean, equal_nan=True)
    assert found.result.error_model == there.error_model
    halves = refine_half_sets(stills, short, d_star_sq).merged
    both = np.isfinite(halves[0].intensity) & np.isfinite(halves[1].intensity)
    honest = correlation(halves[0].intensity[both], halves[1].intensity[both])
    assert found.statistics.after[-1].cc_half_honest == pytest.approx(honest, abs=1e-9)
    assert agreement[course.taken - 1] == pytest.approx(honest, abs=1e-9)


def test_more_cycles_are_no_worse(sparse):
    """Against the truth: as many cycles as one likes, and the result is that of the best."""
    sim, stills, _ = sparse

    def to_truth(result):
        known = np.isfinite(result.mean)
        return correlation(result.mean[known], sim.reference_intensity[known])

    few, many = (whole(sparse, replace(SETTINGS, n_cycles=n)).result for n in (4, 16))
    assert to_truth(many) > to_truth(few) - 0.02


def test_held_out_reflections_choose_where_there_are_some(sparse):
    sim, stills, _ = sparse
    result = whole(sparse, reference=FitReference(free=free_set(sim.reference_h, 0.1)), half_sets=False).result
    agreement = [cycle.agreement for cycle in result.cycles]
    assert np.isfinite(agreement).all()
    assert result.course.chosen_by is ChosenBy.FREE and result.course.taken == 1 + int(np.argmax(agreement))


def test_cycles_that_converge_end_there_and_say_so(as_stills):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=60, d_min=3.5, seed=11)))
    result = postrefine(stills, DatasetSettings(n_cycles=30), agreement=[0.9, 0.1])
    assert result.course.ended is Ended.CONVERGED and result.course.chosen_by is ChosenBy.LAST
    assert result.course.taken == len(result.cycles) < 30
    assert result.cycles[-1].change < 0.005 <= result.cycles[-2].change


def test_a_taken_back_cycle_is_said(as_stills, monkeypatch):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=30, d_min=3.5, seed=11)))
    rejecting, cycles = loop.reject_lattices, []

    def reject_all_from_the_third_on(fits, settings):
        cycles.append(rejecting(fits, settings))
        for fit in fits if len(cycles) > 2 else ():
            fit.reason = Reason.AT_BOUND

    monkeypatch.setattr(loop, "reject_lattices", reject_all_from_the_third_on)
    result = postrefine(stills, DatasetSettings(n_cycles=5, convergence=0.0))
    assert result.course.ended is Ended.NO_LATTICE and result.course.taken == 2
