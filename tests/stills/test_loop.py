"""The cycles over a whole data set, on stills unlike the model and on stills that obey it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.executors.processes import make_run
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills import loop
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.model import LN_SCALE
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import linear_scales


def d_star_sq_of(sim) -> np.ndarray:
    return np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)


BEST = FitSettings(profile="gaussian", radius="mosaic", unit_cell="scale")


@pytest.fixture(scope="module")
def unlike(as_stills):
    """
    Mosaic spread, bandwidth, cell and B variation, 3 % useless lattices, 0.4 % wild intensities: simulated by sampling.

    400 such stills self-merged with the model that suits them.
    """
    sim = simulate_stills(StillsOptions.unlike_model(n_lattices=400, seed=0))
    stills = as_stills(sim)
    return sim, stills, postrefine(stills, DatasetSettings(fit=BEST))


def merged_by(stills, result):
    kept = result.kept & ~result.outlier
    return merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique)


@pytest.mark.slow
def test_amplitudes_are_within_3_percent_of_the_truth(unlike):
    sim, stills, result = unlike
    truth, d_star_sq = sim.reference_intensity, d_star_sq_of(sim)
    scale = linear_scales(stills, None)[stills.lattice()]
    monte_carlo = merge(stills.intensity / scale, np.ones(len(scale)), stills.unique, stills.n_unique)
    merged = merged_by(stills, result).intensity
    assert np.count_nonzero(np.isfinite(merged)) > 0.99 * np.count_nonzero(monte_carlo.n)
    assert r_to_truth(monte_carlo.intensity, truth, d_star_sq)[0] > 0.2
    assert r_to_truth(merged, truth, d_star_sq)[0] <= 0.030


@pytest.mark.slow
def test_good_lattices_are_kept_and_useless_ones_rejected(unlike):
    sim, _, result = unlike
    rejected = ~result.accepted
    assert np.count_nonzero(sim.useless) > 10
    assert np.count_nonzero(rejected & ~sim.useless) <= 0.02 * np.count_nonzero(~sim.useless)
    assert np.count_nonzero(rejected & sim.useless) >= 0.95 * np.count_nonzero(sim.useless)
    assert all(isinstance(result.reasons[k], Reason) for k in np.flatnonzero(rejected))


@pytest.mark.slow
def test_residuals_have_unit_width_in_every_decile_of_the_intensity(unlike):
    """Against the truth, which the error model has not seen; that of merged values tells of their sigmas, too."""
    sim, stills, result = unlike
    truth, d_star_sq = sim.reference_intensity, d_star_sq_of(sim)
    merged = merged_by(stills, result)
    _, f = r_to_truth(merged.intensity, truth, d_star_sq)
    # neither the overall scale nor the overall B is determined
    to_truth = np.where(merged.intensity > 0.0, f**2 / merged.intensity, np.nan)
    kept = result.kept & ~result.outlier
    value, variance = result.merging_values(stills, kept)
    unique = stills.unique[kept]
    z = (value * to_truth[unique] - truth[unique]) / (np.sqrt(variance) * to_truth[unique])
    z, strength = z[np.isfinite(z)], truth[unique][np.isfinite(z)]
    deciles = np.array_split(z[np.argsort(strength)], 10)
    widths = [1.4826 * np.median(np.abs(tenth)) for tenth in deciles]
    assert widths == pytest.approx(np.ones(10), abs=0.15)
    assert result.error_model.widths == pytest.approx(np.ones(10), abs=0.1)


@pytest.mark.slow
def test_merged_intensities_stop_changing(unlike):
    _, _, result = unlike
    changes = [cycle.change for cycle in result.cycles]
    assert len(changes) < 8
    assert changes[-1] < 0.005 < changes[-2]


@pytest.mark.slow
def test_wild_intensities_are_flagged_where_others_tell(unlike):
    sim, stills, result = unlike
    enough = merge(np.ones(len(sim.wild)), np.ones(len(sim.wild)), stills.unique, stills.n_unique).n >= 5
    told = sim.wild & result.kept & enough[stills.unique]
    assert np.count_nonzero(told) > 50
    assert np.count_nonzero(told & result.outlier) > 0.9 * np.count_nonzero(told)
    assert np.count_nonzero(result.outlier) < 0.02 * len(sim.wild)


def test_an_external_reference_takes_one_cycle_and_gives_its_scale(obedient):
    sim, stills = obedient
    settings = DatasetSettings(fit=FitSettings(model_error=0.0), restraints=False)
    result = postrefine(stills, settings, FitReference(sim.reference_intensity))
    assert len(result.cycles) == 1 and result.accepted.all()
    assert (
        len(postrefine(stills, replace(settings, restraints=True), FitReference(sim.reference_intensity)).cycles) == 2
    )
    assert np.exp(result.x[:, LN_SCALE]) == pytest.approx(sim.scale, rel=0.05)
    kept = result.kept
    value, variance = result.merging_values(stills, kept)
    merged = merge(value, variance, stills.unique[kept], stills.n_unique)
    several = merged.n > 2
    pulls = (merged.intensity - sim.reference_intensity)[several] / merged.sigma[several]
    assert np.median(np.abs(pulls)) / 0.6745 == pytest.approx(1.0, abs=0.25)


def test_the_result_does_not_depend_on_the_number_of_processes(obedient):
    _, stills = obedient
    one, two = (postrefine(stills, DatasetSettings(n_cycles=2), run=make_run(nproc)) for nproc in (1, 2))
    assert np.array_equal(one.x, two.x) and np.array_equal(one.partiality, two.partiality)
    assert np.array_equal(one.reference, two.reference, equal_nan=True)


def test_the_scale_of_the_input_cancels(obedient):
    sim, stills = obedient
    large = replace(stills, intensity=1e6 * stills.intensity, variance=1e12 * stills.variance)
    one, other = (postrefine(s, DatasetSettings(n_cycles=1)) for s in (stills, large))
    assert np.array_equal(one.kept, other.kept)
    assert other.x == pytest.approx(one.x, abs=1e-5)


def test_a_lattice_marked_beforehand_keeps_its_reason_and_takes_no_part(obedient):
    _, stills = obedient
    marked = replace(stills, rejected={3: Reason.CELL})
    result = postrefine(marked, DatasetSettings(n_cycles=1))
    assert result.reasons[3] is Reason.CELL
    assert not result.kept[stills.rows(3)].any()


def test_an_empty_lattice_is_rejected_alone(obedient):
    _, stills = obedient
    offsets = np.insert(stills.offsets, 5, stills.offsets[5])
    empty = replace(
        stills,
        a_matrix=np.insert(stills.a_matrix, 5, stills.a_matrix[5], axis=0),
        s0=np.insert(stills.s0, 5, stills.s0[5], axis=0),
        offsets=offsets,
        half=np.insert(stills.half, 5, False),
    )
    result = postrefine(empty, DatasetSettings(n_cycles=1))
    assert [k for k, reason in enumerate(result.reasons) if reason] == [5]
    assert result.reasons[5] is Reason.NO_REFLECTIONS


def test_a_cycle_that_accepts_no_lattice_any_more_is_taken_back(obedient, monkeypatch):
    _, stills = obedient
    two = postrefine(stills, DatasetSettings(n_cycles=2))
    rejecting, cycles = loop.reject_lattices, []

    def reject_all_from_the_third_on(fits, settings):
        cycles.append(rejecting(fits, settings))
        for fit in fits if len(cycles) > 2 else ():
            fit.reason = Reason.AT_BOUND

    monkeypatch.setattr(loop, "reject_lattices", reject_all_from_the_third_on)
    result = postrefine(stills, DatasetSettings(n_cycles=5))
    assert len(cycles) == 3 and len(result.cycles) == 2
    assert np.array_equal(result.x, two.x) and result.reasons == two.reasons
    assert np.array_equal(result.mean, two.mean, equal_nan=True)


def test_one_lattice_without_a_correlation_does_not_void_the_mean(as_stills):
    """Two reflections in common with the reference give a scale, but no correlation."""
    sim = simulate_stills(StillsOptions(n_lattices=12, d_min=3.0, seed=3))
    stills = as_stills(sim)
    rows = stills.rows(0)
    observed, others = stills.unique[rows], np.delete(stills.unique, np.arange(rows.start, rows.stop))
    common = np.intersect1d(observed, others)
    reference = sim.reference_intensity.astype(float).copy()
    strong = common[np.argsort(-reference[common])][:2]
    reference[np.setdiff1d(observed, strong)] = np.nan
    settings = DatasetSettings(fit=FitSettings(min_reflections=5, partiality_threshold=0.01), n_cycles=1)
    result = postrefine(stills, settings, FitReference(reference))
    found = np.array([fit.correlation_after for fit in result.fits])
    assert result.accepted[0] and np.isnan(found[0]) and np.isfinite(found[1:]).all()
    assert result.cycles[-1].correlation == pytest.approx(found[1:][result.accepted[1:]].mean())
