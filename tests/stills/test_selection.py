"""The profile that made the data is the one that is chosen, by reflections that no fit has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.report.stills.text import candidates_table
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.model import RADII, UNIT_CELLS
from dials_postrefine.stills.partiality import PROFILES
from dials_postrefine.stills.reference import FitReference, make_reference
from dials_postrefine.stills.selection import MARGIN, Candidate, Candidates, Decision, choose_model, decide


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("external", [True, False])
def test_the_true_profile_is_chosen(as_stills, profile, external):
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, profile=profile, seed=6))
    reference = sim.reference_intensity if external else None
    candidates = Candidates(list(PROFILES), ["constant"], ["fixed"])
    settings, tried = choose_model(as_stills(sim), DatasetSettings(), candidates, make_reference(reference))
    assert settings.fit.profile == profile
    assert [candidate.profile for candidate in tried] == list(PROFILES)
    assert max(candidate.correlation for candidate in tried) > 0.9


def test_the_mosaic_radius_is_chosen_for_mosaic_crystals_and_only_for_them(as_stills):
    mosaic = as_stills(simulate_stills(StillsOptions.unlike_model(n_lattices=80, seed=4)))
    plain = as_stills(simulate_stills(StillsOptions(n_lattices=80, d_min=2.5, profile="gaussian", seed=4)))
    chosen = [
        choose_model(stills, DatasetSettings(), Candidates(["gaussian"], RADII, ["fixed"]))[0].fit.radius
        for stills in (mosaic, plain)
    ]
    assert chosen == ["mosaic", "constant"]


def test_nothing_is_tried_where_there_is_no_choice(as_stills):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=4.0)))
    settings, candidates = choose_model(stills, DatasetSettings(), Candidates(["gaussian"], ["mosaic"], ["fixed"]))
    assert candidates == [] and (settings.fit.profile, settings.fit.radius) == ("gaussian", "mosaic")


def test_what_is_held_out_has_no_part_in_any_fit(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=20, d_min=3.0, seed=8))
    stills = as_stills(sim)
    held_out = np.random.default_rng(0).random(stills.n_unique) < 0.25
    wild = replace(stills, intensity=np.where(held_out[stills.unique], -1e6, stills.intensity))
    one, other = (
        postrefine(s, DatasetSettings(), FitReference(sim.reference_intensity, held_out)) for s in (stills, wild)
    )
    assert np.array_equal(one.x, other.x)
    assert np.median(one.free.cc_after) > 0.95
    assert np.all(np.isnan(postrefine(stills, DatasetSettings(), FitReference(sim.reference_intensity)).free.cc_after))


@pytest.mark.parametrize(("spread", "expected"), [(1e-3, "scale"), (0.0, "fixed")])
def test_the_cell_is_refined_where_it_was_indexed_wrongly(as_stills, spread, expected):
    options = StillsOptions(n_lattices=40, d_min=2.5, profile="gaussian", cell_spread=spread)
    stills = as_stills(simulate_stills(options))
    settings, tried = choose_model(stills, DatasetSettings(), Candidates(["gaussian"], ["constant"], UNIT_CELLS))
    assert settings.fit.unit_cell == expected
    assert [candidate.unit_cell for candidate in tried] == list(UNIT_CELLS)


def test_the_default_stays_where_nothing_can_be_told(as_stills):
    """What the one lattice is fitted to, the other does not know: they share no reflection."""
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=2.5, profile="gaussian")))
    apart = replace(
        stills,
        unique=stills.unique + stills.lattice() * stills.n_unique,
        absent=np.concatenate([stills.absent] * 2),
        prior=None,
    )
    fit, tried = choose_model(apart, DatasetSettings(), Candidates(list(PROFILES), RADII, UNIT_CELLS))
    assert len(tried) == 12
    assert (fit.fit.profile, fit.fit.radius, fit.fit.unit_cell) == ("lorentzian", "constant", "fixed")


def candidates_with(values: dict[tuple[str, str], list[float]]) -> tuple[list[Candidate], np.ndarray]:
    """Candidates with these correlations of each lattice."""
    named = [Candidate("lorentzian", radius, cell, np.mean(cc), len(cc)) for (radius, cell), cc in values.items()]
    return named, np.array(list(values.values()))


def test_the_default_wins_against_a_candidate_that_is_lower_though_most_lattices_prefer_it():
    """Seven of eight lattices gain a hair, one loses ten times that: as a vote it would win, as a mean it loses."""
    default = np.linspace(0.5, 0.9, 8)
    other = default + np.where(np.arange(8) < 7, 0.01, -0.09)
    candidates, found = candidates_with({("constant", "fixed"): default, ("mosaic", "fixed"): other})
    assert decide(candidates, found, 0) == 0
    assert candidates[1].difference == pytest.approx(-0.02 / 8 - MARGIN)
    assert [candidate.decision for candidate in candidates] == [Decision.DEFAULT_STAYS, Decision.NOT_BETTER]


def test_the_default_loses_by_the_margin_and_the_esd_and_not_before():
    """Differences with the mean m and the esd 0.01: the limit is 0.01 above what the parameters more cost."""
    apart = 0.01 * np.sqrt(7.0) * np.tile([1.0, -1.0], 4)  # of eight values std/sqrt(8), with n - 1, is 0.01
    default = np.full(8, 0.6)
    for cell, n_more in (("fixed", 0), ("scale", 1)):
        for above, chosen in ((-1e-4, 0), (1e-4, 1)):
            other = default + apart + 0.01 + MARGIN * (1 + n_more) + above
            candidates, found = candidates_with({("constant", "fixed"): default, ("mosaic", cell): other})
            assert decide(candidates, found, 0) == chosen
            assert candidates[1].difference == pytest.approx(0.01 + above)
            assert candidates[1].difference_esd == pytest.approx(0.01)
            # and the other way round: what costs more has to be better by it, default or not
    assert decide(*candidates_with({("mosaic", "fixed"): default, ("constant", "fixed"): default}), 0) == 1


def test_the_best_of_several_that_are_better_is_chosen():
    default = np.linspace(0.4, 0.5, 20)
    candidates, found = candidates_with(
        {("constant", "fixed"): default, ("mosaic", "fixed"): default + 0.05, ("constant", "scale"): default + 0.03}
    )
    assert decide(candidates, found, 0) == 1
    assert [candidate.decision for candidate in candidates] == [
        Decision.DEFAULT_LOSES,
        Decision.CHOSEN,
        Decision.SECOND,
    ]


def test_what_was_tried_says_why(as_stills):
    """The figures of the table are those of the decision, and the log has them."""
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=40, d_min=2.5, profile="gaussian", seed=4)))
    settings, tried = choose_model(stills, DatasetSettings(), Candidates(list(PROFILES), ["constant"], ["fixed"]))
    chosen = [candidate for candidate in tried if candidate.decision in (Decision.CHOSEN, Decision.DEFAULT_STAYS)]
    assert [candidate.profile for candidate in chosen] == [settings.fit.profile] == ["gaussian"]
    assert chosen[0].difference == max(candidate.difference for candidate in tried) > chosen[0].difference_esd > 0.0
    usual = next(candidate for candidate in tried if candidate.profile == "lorentzian")
    for candidate in tried:
        assert candidate.difference == pytest.approx(candidate.correlation - usual.correlation)
    line = next(line for line in candidates_table(tried, wide=True).splitlines() if line.startswith("| gaussian"))
    assert [float(word) for word in line.split("|")[5:7]] == [
        pytest.approx(value, abs=5e-5) for value in (chosen[0].difference, chosen[0].difference_esd)
    ]
