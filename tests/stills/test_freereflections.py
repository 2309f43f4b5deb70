"""Reflections that no fit has seen: which they are, that no fit sees them, and the lattices that they send back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import StillsOptions, model_partiality, simulate_stills
from dials_postrefine.stills.dataset import select_lattices
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.freereflections import SIGNIFICANCE, compare, free_set
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.model import B_FACTOR, LN_RADIUS, LN_SCALE, THETA_X, THETA_Y
from dials_postrefine.stills.reference import FitReference, make_reference
from dials_postrefine.stills.selection import EXPONENTS, Candidates, choose_model

FRACTION = 0.1
MISLED = np.arange(5, 60, 10)
TURN = np.radians(0.1)


def amplitude(intensity):
    return np.sign(intensity) * np.sqrt(np.abs(intensity))


def unrefined_partiality(sim, stills, k, radius, theta_x=0.0):
    """r_h of the indexed lattice k, turned about x, and p of the Lorentzian; the radius RMS(r_h) where it is None."""
    c, s = np.cos(theta_x), np.sin(theta_x)
    q = stills.h[stills.rows(k)] @ (np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ sim.a_indexed[k]).T
    r_h = np.linalg.norm(q + sim.s0[k], axis=1) - np.linalg.norm(sim.s0[k])
    return model_partiality("lorentzian", r_h, np.sqrt(np.mean(r_h**2)) if radius is None else radius)


def true_gain(sim, stills, factor):
    """By how much each lattice's p G e (n,) describes the noise-free intensities better than no refinement does."""
    expected = amplitude(sim.expected / sim.polarisation)
    gain = np.empty(stills.n_lattices)
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        before = amplitude(unrefined_partiality(sim, stills, k, None) * sim.i_full[rows])
        after = amplitude(factor[rows] * sim.i_full[rows])
        gain[k] = correlation(expected[rows], after) - correlation(expected[rows], before)
    return gain


@pytest.fixture(scope="module")
def indices():
    h = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return h[1:]


def test_a_fraction_of_the_indices_is_free_whatever_their_parity_and_the_seed_changes_which(indices):
    free, other = free_set(indices, FRACTION, seed=0), free_set(indices, FRACTION, seed=1)
    spread = np.sqrt(FRACTION * (1 - FRACTION) / len(indices))
    assert abs(free.mean() - FRACTION) < 4 * spread and abs(other.mean() - FRACTION) < 4 * spread
    assert abs((free & other).mean() - FRACTION**2) < 4 * np.sqrt(FRACTION**2 / len(indices))
    parity = indices % 2 @ [4, 2, 1]
    for kind in range(8):
        assert abs(free[parity == kind].mean() - FRACTION) < 4 * spread * np.sqrt(8)
    assert np.all(free_set(indices, 0.2)[free])


def test_an_index_is_free_or_not_whatever_else_is_there(indices):
    free = free_set(indices, FRACTION, seed=3)
    chosen = np.random.default_rng(0).permutation(len(indices))[:5000]
    assert np.array_equal(free_set(indices[chosen], FRACTION, seed=3), free[chosen])
    assert np.array_equal(free_set(indices[chosen].astype(np.int32), FRACTION, seed=3), free[chosen])


def test_whole_orbits_are_free(indices):
    sgtbx = pytest.importorskip("cctbx.sgtbx", reason="the symmetry is cctbx's")
    from dials_postrefine.files.dials.symmetry import number_unique

    group = sgtbx.space_group_info("P43212").group()
    h = np.random.default_rng(1).permutation(indices)[:2000]
    rotations = [np.array(op.r().as_double()).reshape(3, 3) for op in group.all_ops()]
    orbits = np.array([sign * np.rint(h @ r).astype(int) for r in rotations for sign in (1, -1)])
    unique, h_unique, _ = number_unique(orbits.reshape(-1, 3), group)
    free = free_set(h_unique, FRACTION)[unique].reshape(len(orbits), -1)
    assert free.any() and np.array_equal(free, np.broadcast_to(free[0], free.shape))
    assert len(np.unique(np.sort(unique.reshape(len(orbits), -1), axis=0), axis=1)) == len(orbits)


@pytest.fixture(scope="module")
def simulated(as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=3.0, seed=21))
    return sim, as_stills(sim), free_set(sim.reference_h, FRACTION)


@pytest.mark.parametrize("external", [True, False])
def test_free_reflections_change_no_fit_bit_by_bit(simulated, external):
    sim, stills, held_out = simulated
    free = held_out[stills.unique]
    wild = replace(
        stills, intensity=np.where(free, -1e6, stills.intensity), variance=np.where(free, 1.0, stills.variance)
    )
    reference = sim.reference_intensity if external else None
    one, other = (postrefine(s, DatasetSettings(), make_reference(reference, held_out)) for s in (stills, wild))
    assert not one.free.reverted.any() and not other.free.reverted.any()
    assert np.array_equal(one.x, other.x) and np.array_equal(one.covariance, other.covariance)
    changes = [[cycle.change for cycle in result.cycles] for result in (one, other)]
    assert np.array_equal(*changes, equal_nan=True)
    assert one.reasons == other.reasons
    assert np.median(one.free.cc_after) > 0.95 and np.all(np.isnan(other.free.cc_after))


@pytest.mark.parametrize("external", [True, False])
def test_free_reflections_have_no_part_in_the_choice_of_a_profile(simulated, external):
    sim, stills, held_out = simulated
    stills = select_lattices(stills, np.arange(60) < 20)
    wild = replace(stills, intensity=np.where(held_out[stills.unique], 1e9, stills.intensity))
    reference = sim.reference_intensity if external else None
    choices, known = Candidates(None, ["constant"], ["fixed"]), make_reference(reference, held_out)
    found = [choose_model(data, DatasetSettings(), choices, known, tests_gain=not external) for data in (stills, wild)]
    assert len(found[0].tried) == len(EXPONENTS) and found[0] == found[1]


def test_free_reflections_are_merged(simulated):
    _, stills, held_out = simulated
    result = postrefine(stills, DatasetSettings(n_cycles=2), FitReference(free=held_out))
    free = held_out[stills.unique]
    assert result.kept[free].mean() == pytest.approx(result.kept[~free].mean(), abs=0.05)
    assert np.isfinite(result.mean[stills.unique[result.kept & ~result.outlier]]).all()
    assert result.outlier[free].mean() == pytest.approx(result.outlier[~free].mean(), abs=0.01)


def test_one_cycle_without_a_reference_has_free_agreement_too(simulated):
    _, stills, held_out = simulated
    result = postrefine(stills, DatasetSettings(n_cycles=1), FitReference(free=held_out))
    assert np.median(result.free.cc_after) > np.median(result.free.cc_before) > 0.8


def test_nothing_is_free_where_nothing_was_held_out(simulated):
    sim, stills, _ = simulated
    free = postrefine(stills, DatasetSettings(), FitReference(sim.reference_intensity)).free
    assert not free.n.any() and not free.reverted.any()
    for values in (free.cc_before, free.cc_after, free.r_before, free.r_after):
        assert values.shape == (60,) and np.isnan(values).all()


def test_a_lattice_has_the_same_free_agreement_whichever_others_are_there(simulated):
    sim, stills, held_out = simulated
    settings = DatasetSettings(engine="lstbx", restraints=False)
    chosen = np.arange(60) % 7 == 0
    whole = postrefine(stills, settings, FitReference(sim.reference_intensity, held_out)).free
    part = postrefine(select_lattices(stills, chosen), settings, FitReference(sim.reference_intensity, held_out)).free
    for name in ("n", "cc_before", "cc_after", "r_before", "r_after", "worse", "reverted"):
        assert np.array_equal(getattr(whole, name)[chosen], getattr(part, name)), name


def test_figures_are_those_of_the_plain_formulas(simulated):
    """With Pearson's r and the t-test of scipy.stats, lattice by lattice, on a model that is worse for every second."""
    sim, stills, held_out = simulated
    rng = np.random.default_rng(4)
    reference = np.where(rng.random(len(stills.unique)) < 0.1, np.nan, sim.reference_intensity[stills.unique])
    factor = stills.intensity / sim.reference_intensity[stills.unique]
    spoilt = np.repeat(np.where(np.arange(60) % 2, 0.3, 1.5), np.diff(stills.offsets))
    refined = factor * reference * rng.lognormal(0.0, spoilt)
    refined[stills.rows(7)] = np.nan
    found = compare(stills, FitSettings(), held_out, reference, refined)
    decisions = []
    for k in range(60):
        rows = stills.rows(k)
        known = np.isfinite(reference[rows])
        free = known & held_out[stills.unique[rows]]
        a = amplitude(stills.intensity[rows])
        b = amplitude(unrefined_partiality(sim, stills, k, None) * reference[rows])
        working = known & ~free
        b *= np.sum(a[working] * b[working]) / np.sum(b[working] ** 2)
        a, b, c = a[free], b[free], amplitude(refined[rows])[free]
        assert found.n[k] == len(a) >= 3
        assert found.cc_before[k] == pytest.approx(stats.pearsonr(a, b)[0], rel=1e-9)
        assert found.r_before[k] == pytest.approx(sum(map(abs, a - b)) / sum(map(abs, a)), rel=1e-9)
        if k == 7:
            assert np.isnan(found.cc_after[k]) and np.isnan(found.r_after[k]) and not found.worse[k]
            continue
        assert found.cc_after[k] == pytest.approx(stats.pearsonr(a, c)[0], rel=1e-9)
        assert found.r_after[k] == pytest.approx(sum(map(abs, a - c)) / sum(map(abs, a)), rel=1e-9)
        rise = stats.ttest_rel(np.abs(a - c), np.abs(a - b), alternative="greater").pvalue
        assert found.worse[k] == (found.cc_after[k] < found.cc_before[k] and rise < SIGNIFICANCE)
        decisions.append(found.worse[k])
    assert 5 < sum(decisions) < 45


def test_too_few_free_reflections_give_no_verdict(simulated):
    sim, stills, _ = simulated
    reference = sim.reference_intensity[stills.unique]
    held_out = np.zeros(stills.n_unique, dtype=bool)
    once, n = np.unique(stills.unique[stills.rows(0)], return_counts=True)
    held_out[once[n == 1][:2]] = True
    found = compare(stills, FitSettings(), held_out, reference, np.ones(len(reference)))
    assert found.n[0] == 2 and np.isfinite(found.r_before[0])
    assert np.isnan(found.cc_after[0]) and not found.worse.any()


@pytest.fixture(scope="module")
def misled(as_stills):
    """
    Misoriented lattices, but for some: those are where they were indexed, and have working reflections that look
    turned by TURN about x.  Their free reflections are true.
    """
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, seed=22))
    stills, held_out = as_stills(sim), free_set(sim.reference_h, 0.2)
    stills.intensity = stills.intensity.copy()
    for k in MISLED:
        rows = stills.rows(k)
        full = sim.scale[k] * sim.i_full[rows]
        noise = stills.intensity[rows] - sim.expected[rows] / sim.polarisation[rows]
        true, turned = (full * unrefined_partiality(sim, stills, k, sim.radius[k], turn) for turn in (0.0, TURN))
        stills.intensity[rows] = np.where(held_out[stills.unique[rows]], true, turned) + noise
    return sim, stills, held_out


@pytest.mark.parametrize("external", [True, False])
def test_a_lattice_whose_geometry_is_wrong_goes_back_and_no_good_one_does(misled, external):
    sim, stills, held_out = misled
    reference = sim.reference_intensity if external else None
    settings = DatasetSettings(fit=FitSettings(min_correlation=0.0))
    refined = postrefine(stills, settings, make_reference(reference))
    result = postrefine(stills, settings, make_reference(reference, held_out))
    assert np.all(np.abs(refined.x[MISLED, THETA_X]) > 0.7 * TURN), "without free reflections they are led astray"
    reverted = result.free.reverted
    good = np.setdiff1d(np.arange(60), MISLED)
    # a test at 5 % may send one of twenty back where there is nothing to gain; here there is
    assert reverted[MISLED].all() and np.count_nonzero(reverted[good]) <= SIGNIFICANCE * len(good)
    assert np.all(result.free.cc_after[MISLED] < result.free.cc_before[MISLED])
    assert np.all(result.free.r_after[MISLED] > result.free.r_before[MISLED])
    for k in np.flatnonzero(reverted):
        rows = stills.rows(k)
        assert np.all(result.x[k, [B_FACTOR, THETA_X, THETA_Y]] == 0.0) and not result.fits[k].refined
        p = unrefined_partiality(sim, stills, k, np.exp(result.x[k, LN_RADIUS]))
        assert result.partiality[rows] == pytest.approx(p, rel=1e-9)
        assert result.scale[rows] == pytest.approx(np.exp(result.x[k, LN_SCALE]), rel=1e-12)
        assert result.covariance[k, LN_SCALE, LN_SCALE] > 0.0
        assert np.count_nonzero(result.covariance[k]) == 1
    turned = np.hypot(sim.theta_x, sim.theta_y) > np.radians(0.02)
    kept = good[turned[good] & ~reverted[good]]
    assert result.x[kept, THETA_X] == pytest.approx(sim.theta_x[kept], abs=np.radians(0.01))


def test_a_lattice_that_went_back_is_judged_as_any_other(misled):
    sim, stills, held_out = misled
    settings = DatasetSettings(fit=FitSettings(min_correlation=0.95))
    result = postrefine(stills, settings, FitReference(sim.reference_intensity, held_out))
    assert postrefine(stills, settings, FitReference(sim.reference_intensity)).accepted.all(), (
        "all pass the limit refined"
    )
    assert result.free.reverted[MISLED].all()
    assert all(result.reasons[k] is Reason.CORRELATION for k in MISLED)
    assert not result.kept[np.isin(stills.lattice(), MISLED)].any()


def test_overfitted_lattices_go_back_and_truly_improved_ones_stay(as_stills):
    """
    Stills of some 35 weak reflections, already where they were indexed: five parameters make many of them worse.

    Which ones, the noise-free intensities tell.
    """
    options = replace(StillsOptions.unlike_model(400, seed=1), misorientation=0.0, cell_spread=0.0, b_spread=0.3)
    sim = simulate_stills(replace(options, background=2000.0, useless_fraction=0.0))
    observed = np.random.default_rng(3).random(len(sim.lattice)) < 0.12
    names = ("lattice", "h", "asu", "i_full", "polarisation", "expected", "intensity", "variance")
    sim = replace(sim, **{name: getattr(sim, name)[observed] for name in names})
    stills, held_out = as_stills(sim), free_set(sim.reference_h, 0.2)
    settings = DatasetSettings(fit=FitSettings(min_correlation=0.0), restraints=False)
    # without the free reflections, as the fits saw them, but nobody is sent back
    known = np.where(held_out, np.nan, sim.reference_intensity)
    refined = postrefine(stills, settings, FitReference(known))
    gain = true_gain(sim, stills, refined.partiality * refined.scale)
    judged = np.array([fit.refined and fit.reason is None for fit in refined.fits])
    reverted = postrefine(stills, settings, FitReference(sim.reference_intensity, held_out)).free.reverted
    worse, better = judged & (gain < -0.005), judged & (gain > 0.005)
    assert np.count_nonzero(worse) > 20 and np.count_nonzero(better) > 100
    assert reverted[better].mean() < SIGNIFICANCE
    assert reverted[worse].mean() > 3.0 * reverted[better].mean()


def test_a_lattice_that_calculates_nothing_any_more_is_worse(simulated):
    """What is the same for all free reflections has no correlation, which is less than any."""
    sim, stills, held_out = simulated
    reference = sim.reference_intensity[stills.unique]
    refined = stills.intensity.copy()
    refined[stills.rows(3)] = 0.0
    found = compare(stills, FitSettings(), held_out, reference, refined)
    assert np.isnan(found.cc_after[3]) and found.cc_before[3] > 0.5 and found.r_after[3] == 1.0
    assert np.flatnonzero(found.worse).tolist() == [3]
