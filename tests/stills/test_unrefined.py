"""Scaling alone, as the measure of postrefinement and as the result where that is no better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.loop import DatasetSettings
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.refinement import refine
from dials_postrefine.stills.scaling import linear_scales
from dials_postrefine.stills.selection import Candidates, Gain
from dials_postrefine.stills.statistics import ResolutionShells
from dials_postrefine.stills.unrefined import predict_by_scale, scale_alone

MODEL = Candidates(Profile("gaussian"), ["constant"], ["fixed"])


def refined(sim, stills, reference=None, **more):
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    settings = DatasetSettings(fit=FitSettings(min_correlation=-1.0), **more)
    return refine(stills, settings, MODEL, ResolutionShells(d_star_sq, d_star_sq), reference)


@pytest.fixture(scope="module")
def full(as_stills):
    """Lattices of full reflections, with errors of a tenth: there is nothing to postrefine."""
    sim = simulate_stills(StillsOptions(n_lattices=12, d_min=3.0, profile="gaussian", seed=3))
    stills = as_stills(sim)
    rng = np.random.default_rng(5)
    scale = np.exp(0.5 * rng.normal(size=stills.n_lattices))[stills.lattice()]
    truth = sim.reference_intensity[stills.unique]
    intensity = scale * truth * (1.0 + 0.1 * rng.normal(size=len(truth)))
    return sim, replace(stills, intensity=intensity, variance=(0.1 * scale * truth) ** 2 + 1.0)


def test_partial_reflections_are_postrefined(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=30, d_min=2.6, profile="gaussian", seed=3))
    found = refined(sim, as_stills(sim))
    scaled, postrefined, n = found.half_sets
    assert found.choice.gain.is_there and not found.result.scaled_only
    assert n > 50 and postrefined > scaled + 0.05


@pytest.mark.parametrize(("n_lattices", "told"), [(4, False), (6, True)])
def test_half_sets_of_two_lattices_with_little_in_common_do_not_tell(as_stills, n_lattices, told):
    """Unseen reflections are predicted better, but they are of those that the few lattices share."""
    sim = simulate_stills(StillsOptions(n_lattices=n_lattices, d_min=2.6, profile="gaussian", seed=3))
    found = refined(sim, as_stills(sim))
    assert found.choice.gain.is_there and found.half_sets[2] < 50
    assert found.untold is found.result.scaled_only is not told


def test_full_reflections_are_scaled_alone(full):
    sim, stills = full
    found = refined(sim, stills)
    result = found.result
    assert result.scaled_only and result.accepted.all() and not any(fit.refined for fit in result.fits)
    assert np.all(result.partiality == 1.0)
    assert np.all(result.x[:, 1:4] == 0.0) and np.all(result.x[:, 6] == 0.0)  # B, angles and the cell's scale
    linear = linear_scales(stills, None)
    assert result.scale == pytest.approx(linear[stills.lattice()])
    assert np.exp(result.x[:, 0]) == pytest.approx(linear)
    known = np.isfinite(result.mean)
    assert correlation(result.mean[known], sim.reference_intensity[known]) > 0.98


def test_full_reflections_are_scaled_alone_against_a_reference_too(full):
    sim, stills = full
    noise = 1.0 + 0.3 * np.random.default_rng(6).normal(size=len(stills.intensity))
    stills = replace(stills, intensity=stills.intensity * noise, variance=10.0 * stills.variance)
    reference = FitReference(sim.reference_intensity)
    found = refined(sim, stills, reference)
    result, gain = found.result, found.choice.gain
    assert result.scaled_only and result.accepted.all() and np.all(result.partiality == 1.0)
    assert gain.n_merged > 300 and gain.cc_scaled > 0.9
    assert result.scale == pytest.approx(linear_scales(stills, sim.reference_intensity)[stills.lattice()])
    assert result.reference == pytest.approx(sim.reference_intensity)
    known = np.isfinite(result.mean)  # on the scale of the reference
    assert np.sum(result.mean[known]) == pytest.approx(np.sum(sim.reference_intensity[known]), rel=0.05)
    assert not refined(sim, stills, reference, requires_gain=False).result.scaled_only


@pytest.mark.parametrize("n_lattices", [1, 3, 30])
def test_partial_reflections_are_postrefined_against_a_reference(as_stills, n_lattices):
    """Of a single still there is no spread between lattices; its unseen reflections tell all the same."""
    sim = simulate_stills(StillsOptions(n_lattices=n_lattices, d_min=2.6, profile="gaussian", seed=3))
    found = refined(sim, as_stills(sim), FitReference(sim.reference_intensity))
    gain = found.choice.gain
    assert gain.is_there and not found.result.scaled_only
    assert gain.cc_refined > gain.cc_scaled + 0.03


GAIN = {"difference": 100.0, "difference_esd": 10.0, "n": 500, "n_lattices": 30}
MERGED = {"cc_scaled": 0.8, "n_merged": 400}  # (1 - 0.8^2)/sqrt(400) = 0.018


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"difference": 19.0}, False),
        ({"n": 49}, False),
        ({"difference_esd": 30.0}, True),  # 3.3 esds of 30 lattices
        ({"difference_esd": 30.0, "n_lattices": 3}, False),  # 4.5 it takes of three, by the table of Student's t
        ({"difference_esd": 21.0, "n_lattices": 3}, True),
        ({"difference": np.nan, "difference_esd": np.nan, "n": 0}, False),
        ({**MERGED, "cc_refined": 0.79}, True),
        ({**MERGED, "cc_refined": 0.77}, False),
        ({**MERGED, "cc_refined": 0.82, "difference": 5.0}, True),
        ({**MERGED, "cc_refined": 0.82, "difference": -5.0}, False),
        ({"difference": 1.0, "difference_esd": np.nan, "n_lattices": 1}, False),  # without a reference
        ({"difference": 1.0, "difference_esd": np.nan, "n_lattices": 1, **MERGED, "cc_refined": 0.82}, True),
    ],
)
def test_what_is_worth_it(changed, expected):
    assert Gain(**(GAIN | changed)).is_there is expected


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["thermolysin_xfel_3_abismal", "thermolysin_xfel_4"])
def test_a_few_real_stills_are_no_worse_than_scaled_against_their_model(shared_data, name):
    """Three or four stills with few reflections each: CC to the model over the same reflections."""
    from dials_postrefine.files.reference.alignment import align, read_reference
    from dials_postrefine.programs.algorithm_settings import dataset_settings, model_candidates
    from dials_postrefine.programs.stills_input import read_stills
    from dials_postrefine.settings.postrefine import PostrefineRequest

    files = read_stills(*([str(shared_data / name / f"stills.{end}")] for end in ("expt", "refl")))
    path = shared_data / "models" / "2tli_icalc_93.4_131.1_1.6A.mtz"
    truth = align(files.h_unique, *read_reference(str(path), files.space_group, files.cell))
    stills, request, shells = files.stills, PostrefineRequest(), ResolutionShells(files.d_star_sq, files.complete)
    settings, candidates = dataset_settings(request), model_candidates(request)
    found = refine(stills, settings, candidates, shells, FitReference(truth))
    scale = found.result.linear_scale[stills.lattice()]
    used = np.isfinite(scale)
    value = stills.intensity[used] / scale[used]
    plain = merge(value, np.ones(len(value)), stills.unique[used], stills.n_unique).intensity
    merged = found.statistics.merged.intensity
    both = np.isfinite(plain) & np.isfinite(merged) & np.isfinite(truth)
    assert correlation(merged[both], truth[both]) >= correlation(plain[both], truth[both]) - 1e-3


@pytest.mark.parametrize("n_lattices", [3, 8])
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_it_is_no_worse_than_the_linear_scaled_mean(as_stills, n_lattices, seed):
    """Partial spots and wild ones, against the truth; the linear-scaled mean has the weights of the counts."""
    options = replace(StillsOptions.unlike_model(n_lattices=n_lattices, seed=seed), useless_fraction=0.0)
    sim = simulate_stills(options)
    stills, truth = as_stills(sim), sim.reference_intensity
    linear = linear_scales(stills, None)
    scale = linear[stills.lattice()]
    plain = merge(stills.intensity / scale, stills.variance / scale**2, stills.unique, stills.n_unique).intensity
    _, mean = scale_alone(stills, DatasetSettings(), linear)
    known = np.isfinite(plain) & np.isfinite(mean.reference)
    assert correlation(mean.reference[known], truth[known]) >= correlation(plain[known], truth[known]) - 1e-3


def test_who_does_not_want_that_gets_what_was_postrefined(full):
    result = refined(*full, requires_gain=False)
    assert result.choice.gain is None and not result.result.scaled_only


def test_a_lattice_without_a_scale_and_one_that_was_rejected_stay_out(full):
    sim, stills = full
    intensity = stills.intensity.copy()
    intensity[stills.rows(4)] = 0.0
    found = refined(sim, replace(stills, intensity=intensity, rejected={2: Reason.CELL})).result
    assert found.scaled_only
    assert [found.reasons[k] for k in (2, 4)] == [Reason.CELL, Reason.NO_SCALE]
    assert found.accepted.sum() == stills.n_lattices - 2
    for k in (2, 4):
        assert not found.kept[stills.rows(k)].any()


def test_what_is_free_has_no_part_in_the_prediction(full):
    _, stills = full
    free = np.random.default_rng(0).random(stills.n_unique) < 0.25
    rows = free[stills.unique]
    settings, reference = DatasetSettings(), FitReference(free=free)
    predicted, _ = predict_by_scale(stills, settings, reference)
    known = np.flatnonzero(rows & np.isfinite(predicted))
    assert len(known) > 100 and correlation(predicted[known], stills.intensity[known]) > 0.9
    one = known[0]
    changed = stills.intensity.copy()
    changed[one] *= 1.5
    again, _ = predict_by_scale(replace(stills, intensity=changed), settings, reference)
    assert again[one] == pytest.approx(predicted[one], rel=0.02)  # of the others, with weights that all tell
