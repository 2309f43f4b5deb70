"""The model that made the data is the one that is chosen, by reflections that no fit has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills import selection
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.model import RADII, UNIT_CELLS
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.reference import FitReference, make_reference
from dials_postrefine.stills.selection import (
    EXPONENTS,
    USUAL,
    USUAL_WIDTH,
    Candidates,
    Decision,
    Scores,
    choose_model,
    find_exponent,
)

EVERYTHING = Candidates(None, RADII, UNIT_CELLS)
GAUSSIAN = Profile("gaussian")
U = 1.0 / np.array(EXPONENTS)


# Several exponents are tried where each fit has its own noise; so the truth is asked for within three esds, and 0.04
# for the parabola through three of them: its minimum is up to that far from the truth in 1/m, at 1/m = 0.5 (m by 0.15).
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("exponent", [1.3, 2.0, 3.5])
def test_the_exponent_that_made_the_data_is_found(as_stills, exponent, external):
    options = StillsOptions(n_lattices=60, d_min=2.5, profile="pearson_vii", exponent=exponent, seed=6)
    sim = simulate_stills(options)
    reference = make_reference(sim.reference_intensity if external else None)
    found = choose_model(as_stills(sim), DatasetSettings(), Candidates(None, ["constant"], ["fixed"]), reference)
    assert found.settings.fit.profile == Profile("pearson_vii", found.exponent.value)
    assert abs(1.0 / found.exponent.value - 1.0 / exponent) < 3.0 * found.exponent.inverse_esd + 0.04
    assert found.exponent.inverse_esd < 0.1


@pytest.mark.parametrize(("profile", "low", "high"), [("lorentzian", 1.0, 1.15), ("gaussian", 12.0, 50.0)])
def test_the_ends_of_the_family_are_found(as_stills, profile, low, high):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, profile=profile, seed=6)))
    found = choose_model(stills, DatasetSettings(), Candidates(None, ["constant"], ["fixed"]))
    assert low <= found.exponent.value <= high


def test_the_radius_is_mosaic_unless_the_constant_one_is_better(as_stills):
    mosaic = as_stills(simulate_stills(StillsOptions.unlike_model(n_lattices=80, seed=4)))
    plain = as_stills(simulate_stills(StillsOptions(n_lattices=80, d_min=2.5, profile="gaussian", seed=4)))
    for stills in (mosaic, plain):
        found = choose_model(stills, DatasetSettings(), Candidates(GAUSSIAN, RADII, ["fixed"]))
        first, other = found.tried
        assert (first.radius, other.radius) == ("mosaic", "constant")
        better = other.difference > other.difference_esd
        assert found.settings.fit.radius == ("constant" if better else "mosaic")
        if stills is mosaic:
            assert other.difference < -5.0 * other.difference_esd
        else:  # the mosaic radius has the constant one as its limit: hardly a difference an observation
            assert better and other.difference < 0.02 * other.n


@pytest.mark.parametrize(("spread", "expected"), [(1e-3, "scale"), (0.0, "fixed")])
def test_the_cell_is_refined_where_it_was_indexed_wrongly(as_stills, spread, expected):
    options = StillsOptions(n_lattices=40, d_min=2.5, profile="gaussian", cell_spread=spread)
    stills = as_stills(simulate_stills(options))
    found = choose_model(stills, DatasetSettings(), Candidates(GAUSSIAN, ["constant"], UNIT_CELLS))
    assert found.settings.fit.unit_cell == expected
    assert [candidate.unit_cell for candidate in found.tried] == list(UNIT_CELLS)


def test_nothing_is_tried_where_there_is_no_choice(as_stills):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=4.0)))
    found = choose_model(stills, DatasetSettings(), Candidates(GAUSSIAN, ["mosaic"], ["fixed"]))
    assert found.tried == [] and found.gain is None and found.exponent is None
    assert (found.settings.fit.profile, found.settings.fit.radius) == (GAUSSIAN, "mosaic")


def test_what_is_held_out_has_no_part_in_any_fit(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=20, d_min=3.0, seed=8))
    stills = as_stills(sim)
    held_out = np.random.default_rng(0).random(stills.n_unique) < 0.25
    wild = replace(stills, intensity=np.where(held_out[stills.unique], -1e6, stills.intensity))
    results = [
        postrefine(data, DatasetSettings(), FitReference(sim.reference_intensity, held_out)) for data in (stills, wild)
    ]
    assert np.array_equal(results[0].x, results[1].x)
    assert np.array_equal(results[0].free.predicted, results[1].free.predicted, equal_nan=True)
    assert np.median(results[0].free.cc_after) > 0.95


def test_the_usual_model_stays_where_nothing_can_be_told(as_stills):
    """What the one lattice is fitted to, the other does not know: they share no reflection."""
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=2.5, profile="gaussian")))
    apart = replace(
        stills,
        unique=stills.unique + stills.lattice() * stills.n_unique,
        absent=np.concatenate([stills.absent] * 2),
        prior=None,
    )
    found = choose_model(apart, DatasetSettings(), EVERYTHING, tests_gain=True)
    fit = found.settings.fit
    assert (fit.radius, fit.unit_cell) == ("mosaic", "fixed")
    assert fit.profile.name == "pearson_vii" and fit.profile.exponent == pytest.approx(2.0)
    assert found.exponent.inverse_esd == pytest.approx(USUAL_WIDTH)
    assert found.gain.n == 0 and not found.gain.is_there


def test_what_was_tried_says_why(as_stills):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=40, d_min=2.5, profile="gaussian", seed=4)))
    found = choose_model(stills, DatasetSettings(), EVERYTHING, tests_gain=True)
    chosen = [one for one in found.tried if one.decision in (Decision.CHOSEN, Decision.NEAREST)]
    assert len(found.tried) == len(EXPONENTS) + 2 and len(chosen) == 1
    fit = found.settings.fit
    assert (chosen[0].radius, chosen[0].unit_cell) == (fit.radius, fit.unit_cell)
    assert (chosen[0].decision is Decision.CHOSEN) == (chosen[0].profile == fit.profile)
    assert found.gain.is_there and found.gain.difference > 10.0 * found.gain.difference_esd


@pytest.mark.parametrize(
    ("difference", "esd", "n_lattices", "decision"),
    [
        (12.0, 10.0, 40, Decision.CHOSEN),
        (9.0, 10.0, 40, Decision.ALIKE),
        (-9.0, 10.0, 40, Decision.ALIKE),
        (-12.0, 10.0, 40, Decision.WORSE),
        (12.0, 10.0, 9, Decision.UNTOLD),
        (np.nan, np.nan, 40, Decision.UNTOLD),
    ],
)
def test_a_candidate_is_called_worse_where_it_is(as_stills, monkeypatch, difference, esd, n_lattices, decision):
    """What is not better by more than chance is not worse for that, and of few lattices nothing is known."""
    monkeypatch.setattr(selection._Search, "_join", lambda search, *_: np.ones(len(search.sample.unique)))
    monkeypatch.setattr(selection.Scores, "difference", lambda *_: (difference, esd, 100))
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=n_lattices, d_min=4.0, seed=4)))
    candidates = Candidates(Profile("gaussian"), ("mosaic",), ("fixed", "scale"))
    found = choose_model(stills, DatasetSettings(), candidates)
    before, other = found.tried
    assert other.decision is decision
    assert before.decision is (Decision.WORSE if decision is Decision.CHOSEN else Decision.CHOSEN)


# The arithmetic of the scores


class FewStills:
    """What Scores takes of stills: five lattices of one hundred observations each."""

    n_lattices = 5
    intensity = np.full(500, 1000.0)
    variance = np.full(500, 100.0)

    def lattice(self):
        return np.repeat(np.arange(5), 100)


def test_a_score_is_the_likelihood_of_students_t_with_the_width_of_the_best():
    rng = np.random.default_rng(1)
    scores = Scores(FewStills(), np.arange(500), model_error=0.1)
    near, far = 1000.0 + 20.0 * rng.normal(size=500), 1000.0 + 60.0 * rng.normal(size=500)
    far[7] = np.nan
    numbers = [scores.add(near), scores.add(far)]
    difference, esd, n = scores.difference(*numbers)
    known = np.isfinite(far)
    sigma = np.sqrt(100.0 + (0.1 * 0.5 * (near + far)) ** 2)
    z = [(1000.0 - predicted) / sigma for predicted in (near, far)]
    width = 1.4826 * np.median(np.abs(z[0][known]))
    rho = [0.5 * LOSSES["student_t"]((one / width) ** 2).rho for one in z]
    by_lattice = [np.nansum((rho[1] - rho[0])[k * 100 : k * 100 + 100]) for k in range(5)]
    assert n == 499 and difference == pytest.approx(sum(by_lattice))
    assert esd == pytest.approx(np.std(by_lattice, ddof=1) * np.sqrt(5.0))
    assert scores.difference(*numbers[::-1])[0] == pytest.approx(-difference)


def test_an_exact_prediction_is_better_than_one_that_is_off():
    """Of data without noise: its residuals have no width."""
    scores = Scores(FewStills(), np.arange(500), model_error=0.1)
    exact, off = scores.add(np.full(500, 1000.0)), scores.add(np.full(500, 1200.0))
    difference, esd, n = scores.difference(exact, off)
    assert n == 500 and difference > 0.0 and esd == pytest.approx(0.0, abs=1e-9)


def test_the_exponent_is_the_minimum_of_the_parabola_averaged_with_the_usual_one():
    """Scores that are parabolas in 1/m, whose minima scatter: the esd is that of their mean."""
    centres = np.random.default_rng(2).normal(0.35, 0.3, size=40)
    scores = np.array([200.0 * (u - centres) ** 2 for u in U])
    found = find_exponent(U, scores)
    esd = centres.std(ddof=1) / np.sqrt(40)
    weights = np.array([esd**-2, USUAL_WIDTH**-2])
    assert 1.0 / found.value == pytest.approx((weights @ [centres.mean(), USUAL]) / weights.sum())
    assert found.inverse_esd == pytest.approx(weights.sum() ** -0.5)
    assert found.esd == pytest.approx(found.value**2 * found.inverse_esd)


def test_few_lattices_have_the_usual_exponent():
    found = find_exponent(U, np.array([np.full(9, 200.0 * (u - 0.1) ** 2) for u in U]))
    assert 1.0 / found.value == pytest.approx(USUAL) and found.inverse_esd == pytest.approx(USUAL_WIDTH)


def test_the_exponent_stays_within_its_ends():
    scatter = np.random.default_rng(3).normal(0.0, 0.05, size=50)
    for centre, exponent in ((1.6, EXPONENTS[0]), (-0.4, EXPONENTS[-1])):
        assert find_exponent(U, np.array([2000.0 * (u - centre + scatter) ** 2 for u in U])).value == pytest.approx(
            exponent
        )


def test_without_a_word_of_the_data_the_exponent_is_the_usual_one():
    found = find_exponent(U, np.zeros((len(U), 3)))
    assert found.value == pytest.approx(1.0 / USUAL) and found.inverse_esd == pytest.approx(USUAL_WIDTH)
