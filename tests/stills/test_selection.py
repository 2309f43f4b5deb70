"""The profile that made the data is the one that is chosen, by reflections that no fit has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.simulate import StillsOptions, simulate_stills
from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.model import RADII, UNIT_CELLS
from dials_postrefine.stills.partiality import PROFILES
from dials_postrefine.stills.selection import choose_model


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("external", [True, False])
def test_the_true_profile_is_chosen(as_stills, profile, external):
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, profile=profile, seed=6))
    reference = sim.reference_intensity if external else None
    settings, candidates = choose_model(
        as_stills(sim), DatasetSettings(), list(PROFILES), ["constant"], ["fixed"], reference
    )
    assert settings.fit.profile == profile
    assert [one.profile for one in candidates] == list(PROFILES)
    assert max(one.correlation for one in candidates) > 0.9


def test_the_mosaic_radius_is_chosen_for_mosaic_crystals_and_only_for_them(as_stills):
    mosaic = as_stills(simulate_stills(StillsOptions.unlike_model(n_lattices=80, seed=4)))
    plain = as_stills(simulate_stills(StillsOptions(n_lattices=80, d_min=2.5, profile="gaussian", seed=4)))
    chosen = [
        choose_model(stills, DatasetSettings(), ["gaussian"], RADII, ["fixed"])[0].fit.radius
        for stills in (mosaic, plain)
    ]
    assert chosen == ["mosaic", "constant"]


def test_nothing_is_tried_where_there_is_no_choice(as_stills):
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=4.0)))
    settings, candidates = choose_model(stills, DatasetSettings(), ["gaussian"], ["mosaic"], ["fixed"])
    assert candidates == [] and (settings.fit.profile, settings.fit.radius) == ("gaussian", "mosaic")


def test_what_is_held_out_has_no_part_in_any_fit(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=20, d_min=3.0, seed=8))
    stills = as_stills(sim)
    held_out = np.random.default_rng(0).random(stills.n_unique) < 0.25
    wild = replace(stills, intensity=np.where(held_out[stills.unique], -1e6, stills.intensity))
    one, other = (postrefine(s, DatasetSettings(), sim.reference_intensity, held_out=held_out) for s in (stills, wild))
    assert np.array_equal(one.x, other.x)
    assert np.median(one.free.cc_after) > 0.95
    assert np.all(np.isnan(postrefine(stills, DatasetSettings(), sim.reference_intensity).free.cc_after))


@pytest.mark.parametrize(("spread", "expected"), [(1e-3, "scale"), (0.0, "fixed")])
def test_the_cell_is_refined_where_it_was_indexed_wrongly(as_stills, spread, expected):
    options = StillsOptions(n_lattices=40, d_min=2.5, profile="gaussian", cell_spread=spread)
    stills = as_stills(simulate_stills(options))
    settings, tried = choose_model(stills, DatasetSettings(), ["gaussian"], ["constant"], UNIT_CELLS)
    assert settings.fit.unit_cell == expected
    assert [one.unit_cell for one in tried] == list(UNIT_CELLS)


def test_the_default_stays_where_nothing_can_be_told(as_stills):
    """What the one lattice is fitted to, the other does not know: they share no reflection."""
    stills = as_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=2.5, profile="gaussian")))
    apart = replace(
        stills,
        unique=stills.unique + stills.lattice() * stills.n_unique,
        absent=np.concatenate([stills.absent] * 2),
        prior=None,
    )
    fit, tried = choose_model(apart, DatasetSettings(), list(PROFILES), RADII, UNIT_CELLS)
    assert len(tried) == 12
    assert (fit.fit.profile, fit.fit.radius, fit.fit.unit_cell) == ("lorentzian", "constant", "fixed")
