"""The cycles over a whole data set, on stills unlike the model and on stills that obey it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills import cycles as cycles_module
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason
from dials_postrefine.stills.loop import DatasetSettings, population, postrefine
from dials_postrefine.stills.merging import merge, r_to_truth
from dials_postrefine.stills.model import B_FACTOR, LN_RADIUS, LN_SCALE, THETA_X, THETA_Y
from dials_postrefine.stills.reference import Reference
from dials_postrefine.stills.scaling import WeightedMean, linear_scales, mean_of_others, relative_change
from dials_postrefine.stills.statistics import collect_statistics


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
    widths = [1.4826 * np.median(np.abs(some)) for some in deciles]
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


@pytest.fixture(scope="module")
def obedient(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=80, d_min=3.0, seed=2))
    return sim, as_stills(sim)


def test_an_external_reference_takes_one_cycle_and_gives_its_scale(obedient):
    sim, stills = obedient
    settings = DatasetSettings(fit=FitSettings(model_error=0.0), restraints=False)
    result = postrefine(stills, settings, Reference(sim.reference_intensity))
    assert len(result.cycles) == 1 and result.accepted.all()
    assert len(postrefine(stills, replace(settings, restraints=True), Reference(sim.reference_intensity)).cycles) == 2
    assert np.exp(result.x[:, LN_SCALE]) == pytest.approx(sim.scale, rel=0.05)
    kept = result.kept
    value, variance = result.merging_values(stills, kept)
    merged = merge(value, variance, stills.unique[kept], stills.n_unique)
    seen = merged.n > 2
    pulls = (merged.intensity - sim.reference_intensity)[seen] / merged.sigma[seen]
    assert np.median(np.abs(pulls)) / 0.6745 == pytest.approx(1.0, abs=0.25)


def test_without_a_reference_the_medians_of_scale_and_b_are_zero(obedient):
    _, stills = obedient
    result = postrefine(stills, DatasetSettings(n_cycles=2))
    assert len(result.cycles) == 2
    assert np.median(result.x[result.accepted][:, [LN_SCALE, B_FACTOR]], axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_result_does_not_depend_on_the_number_of_processes(obedient):
    _, stills = obedient
    one, two = (postrefine(stills, DatasetSettings(n_cycles=2), nproc=nproc) for nproc in (1, 2))
    assert np.array_equal(one.x, two.x) and np.array_equal(one.partiality, two.partiality)
    assert np.array_equal(one.reference, two.reference, equal_nan=True)


def test_the_scale_of_the_input_cancels(obedient):
    sim, stills = obedient
    large = replace(stills, intensity=1e6 * stills.intensity, variance=1e12 * stills.variance)
    one, other = (postrefine(s, DatasetSettings(n_cycles=1)) for s in (stills, large))
    assert np.array_equal(one.kept, other.kept)
    assert other.x == pytest.approx(one.x, abs=1e-5)


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
        part = replace(
            stills,
            a_matrix=stills.a_matrix[k : k + 1],
            s0=stills.s0[k : k + 1],
            offsets=np.array([0, rows.stop - rows.start]),
            unique=stills.unique[rows],
        )
        left = lattice != k
        expected = merge(stills.intensity[left], 1.0 / weight[left], stills.unique[left], stills.n_unique).intensity
        others = mean_of_others(part, rows, mean)
        assert others == pytest.approx(expected[stills.unique[rows]], rel=1e-6, nan_ok=True)
        assert np.isnan(others).any() and np.isfinite(others).any()


def test_linear_scales_are_the_true_ones_where_all_spots_are_full(obedient):
    sim, stills = obedient
    full = replace(stills, intensity=sim.scale[stills.lattice()] * sim.i_full)
    assert linear_scales(full, sim.reference_intensity) == pytest.approx(sim.scale)
    without = linear_scales(full, None)
    assert without / sim.scale == pytest.approx(np.full(80, (without / sim.scale).mean()), rel=0.05)


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


def test_the_width_of_the_population_is_that_of_the_truth_and_not_of_the_errors():
    rng = np.random.default_rng(6)
    truth, esd = np.array([0.0, 1.0, 0.0, 0.0, 0.3, 0.2, 1e-3]), np.array([0.1, 2.0, 1e-3, 1e-3, 0.1, 0.3, 1e-3])
    x = truth * rng.normal(size=(4000, 7)) + esd * rng.normal(size=(4000, 7))
    fits = [LatticeFit(one, np.diag(esd**2), np.zeros(0), refined=True) for one in x]
    # 4000 values determine a median absolute deviation to 2 %, the largest of the errors here is thrice what is left
    assert population(fits).width[[1, 4, 5, 6]] == pytest.approx(truth[[1, 4, 5, 6]], rel=0.3)
    # drawn to the median as far as a restraint of that width draws them
    share = truth**2 / (truth**2 + esd**2)
    drawn = [LatticeFit(share * fit.x, np.diag(share * esd**2), np.zeros(0), refined=True) for fit in fits]
    assert population(drawn, restrained=True).width[[1, 4, 5, 6]] == pytest.approx(truth[[1, 4, 5, 6]], rel=0.1)


def test_the_population_is_the_medians_of_the_refined_lattices(obedient):
    sim, stills = obedient
    result = postrefine(stills, DatasetSettings(restraints=False), Reference(sim.reference_intensity))
    for fit in result.fits[:10]:
        fit.refined = False
    x = result.x[10:]
    restraint = population(result.fits)
    assert restraint.mean[[B_FACTOR, LN_RADIUS]] == pytest.approx(np.median(x[:, [B_FACTOR, LN_RADIUS]], axis=0))
    assert np.all(restraint.mean[[THETA_X, THETA_Y]] == 0.0)
    # misorientations of 0.05 degrees about each axis, 70 of them: their spread is known to 10 %
    assert np.degrees(restraint.width[[THETA_X, THETA_Y]]) == pytest.approx([0.05, 0.05], rel=0.35)
    assert np.isinf(restraint.width[LN_SCALE])
    assert population(result.fits[:20]) is None  # ten of them are too few to tell


def test_restraints_hold_lattices_of_few_reflections_together(obedient):
    sim, stills = obedient
    sparse = np.arange(len(stills.unique)) % 4 == 0
    few = replace(
        stills,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(stills.lattice()[sparse], minlength=80))]),
        **{name: getattr(stills, name)[sparse] for name in ("h", "unique", "intensity", "variance")},
    )
    free, held = (
        postrefine(few, DatasetSettings(restraints=on, n_cycles=2), Reference(sim.reference_intensity))
        for on in (False, True)
    )
    both = free.accepted & held.accepted & np.array([one.refined for one in free.fits])
    assert np.count_nonzero(both) > 20
    truth = np.log(sim.radius[both])
    errors = [np.std(result.x[both, LN_RADIUS] - truth) for result in (free, held)]
    assert errors[1] < errors[0]


def test_relative_change_ignores_an_overall_scale():
    old = np.array([1.0, 2.0, 3.0, np.nan])
    assert relative_change(old, 7.0 * old) == pytest.approx(0.0, abs=1e-12)
    assert relative_change(old, old + [0.3, 0.0, 0.0, 0.0]) == pytest.approx(0.3 / 6.3, rel=0.5)
    assert np.isnan(relative_change(old, np.full(4, np.nan)))


def test_statistics_are_better_after_than_before_and_agree_with_the_truth(obedient):
    sim, stills = obedient
    result = postrefine(stills, DatasetSettings(), Reference(sim.reference_intensity))
    d_star_sq = d_star_sq_of(sim)
    statistics = collect_statistics(stills, result, sim.reference_intensity, d_star_sq, d_star_sq, n_shells=5)
    before, after = statistics.before[-1], statistics.after[-1]
    assert after.cc_half > before.cc_half and after.r_split < before.r_split
    assert after.cc_reference > 0.99 > before.cc_reference
    assert after.n_observations == np.count_nonzero(result.kept & ~result.outlier)
    assert sum(shell.n_observations for shell in statistics.after[:-1]) == after.n_observations
    assert sum(shell.n_unique for shell in statistics.before[:-1]) == before.n_unique


def test_a_cycle_that_accepts_no_lattice_any_more_is_taken_back(obedient, monkeypatch):
    _, stills = obedient
    two = postrefine(stills, DatasetSettings(n_cycles=2))
    rejecting, cycles = cycles_module.reject_lattices, []

    def reject_all_from_the_third_on(fits, settings):
        cycles.append(rejecting(fits, settings))
        for fit in fits if len(cycles) > 2 else ():
            fit.reason = Reason.AT_BOUND

    monkeypatch.setattr(cycles_module, "reject_lattices", reject_all_from_the_third_on)
    result = postrefine(stills, DatasetSettings(n_cycles=5))
    assert len(cycles) == 3 and len(result.cycles) == 2
    assert np.array_equal(result.x, two.x) and result.reasons == two.reasons
    assert np.array_equal(result.mean, two.mean, equal_nan=True)


def test_one_lattice_without_a_correlation_does_not_void_the_mean(as_stills):
    """Two reflections in common with the reference give a scale, but no correlation."""
    sim = simulate_stills(StillsOptions(n_lattices=12, d_min=3.0, seed=3))
    stills = as_stills(sim)
    rows = stills.rows(0)
    own, others = stills.unique[rows], np.delete(stills.unique, np.arange(rows.start, rows.stop))
    common = np.intersect1d(own, others)
    reference = sim.reference_intensity.astype(float).copy()
    strong = common[np.argsort(-reference[common])][:2]
    reference[np.setdiff1d(own, strong)] = np.nan
    settings = DatasetSettings(fit=FitSettings(min_reflections=5, partiality_threshold=0.01), n_cycles=1)
    result = postrefine(stills, settings, reference)
    found = np.array([fit.correlation_after for fit in result.fits])
    assert result.accepted[0] and np.isnan(found[0]) and np.isfinite(found[1:]).all()
    assert result.cycles[-1].correlation == pytest.approx(found[1:][result.accepted[1:]].mean())
