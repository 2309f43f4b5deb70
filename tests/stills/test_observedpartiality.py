"""Observed and predicted partialities: against the truth of a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.robust import robust_ratio, slope_through_origin
from dials_postrefine.simulate.stills import StillsOptions, model_partiality, simulate_stills
from dials_postrefine.stills import observedpartiality
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.observedpartiality import Recorded, observe_partiality, partiality_curve
from dials_postrefine.stills.partiality import PROFILES, Profile
from dials_postrefine.stills.reference import FitReference


def ratios(stills, result):
    return observe_partiality(stills, result, FitReference()).ratio


@pytest.fixture(scope="module")
def gaussian(as_stills):
    """60 stills of the Gaussian profile, fitted with it to the true intensities: simulation, stills, result."""
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, seed=3, profile="gaussian", useless_fraction=0.05))
    stills = as_stills(sim)
    settings = DatasetSettings(fit=FitSettings(profile="gaussian"))
    return sim, stills, postrefine(stills, settings, FitReference(sim.reference_intensity))


# r_h/r_s


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_of_the_ratio_is_the_partiality_of_the_result(profile, as_stills):
    sim = simulate_stills(StillsOptions(n_lattices=6, d_min=3.0, seed=2, cell_spread=0.0005))
    stills = as_stills(sim)
    fit = FitSettings(profile=profile, radius="mosaic", unit_cell="scale")
    result = postrefine(stills, DatasetSettings(fit=fit), FitReference(sim.reference_intensity))
    assert np.abs(result.x[:, 2:4]).max() > 1e-4 and np.abs(result.x[:, 6]).max() > 1e-5  # turned and scaled
    ratio = ratios(stills, result)
    np.testing.assert_allclose(model_partiality(profile, ratio, 1.0), result.partiality, atol=1e-9)
    assert (ratio < 0.0).any() and (ratio > 0.0).any()


def test_the_ratio_is_the_true_one(gaussian):
    sim, stills, result = gaussian
    lattice = stills.lattice()
    q = np.einsum("mij,mj->mi", sim.a_true[lattice], sim.h)
    true = (np.linalg.norm(q + sim.s0[lattice], axis=1) - 1.0 / sim.wavelength[lattice]) / sim.radius[lattice]
    good = result.accepted[lattice]
    found = ratios(stills, result)
    assert good.sum() > 5000
    assert np.median(np.abs(found - true)[good]) < 0.02


# Partiality


def test_observed_partiality_is_the_true_one_within_its_errors(gaussian):
    """Bins of the result against the simulation's partialities of the same observations, weighted alike."""
    sim, stills, result = gaussian
    curve = observe_partiality(stills, result, FitReference(sim.reference_intensity)).curve
    assert len(curve.bins) == observedpartiality.MOST_BINS
    ratio = ratios(stills, result)
    used = result.accepted[stills.lattice()] & ~result.outlier
    order = np.flatnonzero(used)[np.argsort(ratio[used], kind="stable")]
    pulls = []
    for one, rows in zip(curve.bins, np.array_split(order, len(curve.bins))):
        assert one.n == len(rows)
        assert one.ratio == pytest.approx(np.mean(ratio[rows]))
        true = np.sum(sim.partiality[rows] * sim.i_full[rows]) / np.sum(sim.i_full[rows])
        pulls.append((one.observed - true) / one.observed_esd)
        assert one.observed == pytest.approx(true, abs=0.03)
        assert one.predicted == pytest.approx(true, abs=0.03)
    assert np.max(np.abs(pulls)) < 4.0
    assert np.sqrt(np.mean(np.square(pulls))) < 1.6
    observed = [one.observed for one in curve.bins]
    assert max(observed) > 0.9 and min(observed) < 0.3  # the curve is really there


def observations(n=20_000, seed=6, noise=0.0, wild=0.0, width=0.7):
    """Observations of a Gaussian whose r_s is wider by 1/width than thought."""
    rng = np.random.default_rng(seed)
    ratio = rng.uniform(-2.0, 2.0, n)
    true = 1000.0 * rng.exponential(size=n)
    full = true * model_partiality("gaussian", width * ratio, 1.0) + 30.0 * rng.normal(size=n)
    full[rng.random(n) < wild] *= 50.0
    i_ref = true * (1.0 + noise * rng.normal(size=n))
    return Recorded(ratio, full, i_ref, model_partiality("gaussian", ratio, 1.0))


@pytest.mark.parametrize(("noise", "wild"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.01)], ids=["clean", "reference", "wild"])
def test_a_profile_that_is_too_narrow_is_seen(noise, wild):
    seen, fits = observations(noise=noise, wild=wild), observations(width=1.0)
    curve = partiality_curve(fits, seen, Profile("gaussian"))
    assert len(curve.bins) == len(curve.bins_before) == observedpartiality.MOST_BINS
    for one in curve.bins:
        assert one.observed == pytest.approx(one.predicted, abs=4.5 * one.observed_esd + 0.01)
    for one in curve.bins_before:
        true = model_partiality("gaussian", 0.7 * one.ratio, 1.0)
        assert one.observed == pytest.approx(true, abs=4.5 * one.observed_esd + 0.01)
        assert one.observed_esd < 0.02
        assert one.predicted == pytest.approx(model_partiality("gaussian", one.ratio, 1.0), abs=0.02)
    far = [one for one in curve.bins_before if 0.7 < abs(one.ratio) < 1.5]
    assert len(far) >= 8 and all(one.observed > one.predicted + 0.15 for one in far)


def test_the_drawn_curve_is_the_profile():
    curve = partiality_curve(observations(), observations(), Profile("lorentzian"))
    ratio = np.array(curve.curve_ratio)
    np.testing.assert_allclose(curve.curve_p, 1.0 / (1.0 + 2.0 * ratio**2), rtol=1e-12)
    assert ratio.min() < min(one.ratio for one in curve.bins) and ratio.max() > max(one.ratio for one in curve.bins)


def test_too_few_observations_make_no_bins():
    few = observations(n=observedpartiality.FEWEST_IN_BIN - 1)
    curve = partiality_curve(few, few, Profile("gaussian"))
    assert curve.bins == curve.bins_before == curve.rows == []


def test_rows_hold_the_same_observations_before_and_after_by_the_same_limits():
    before, after = observations(seed=7), observations(seed=8, width=1.0)
    rows = partiality_curve(after, before, Profile("gaussian")).rows
    assert len(rows) == observedpartiality.MOST_ROWS
    assert np.isnan(rows[0].low) and np.isnan(rows[-1].high)
    assert [one.high for one in rows[:-1]] == [one.low for one in rows[1:]]
    for recorded, name in ((before, "before"), (after, "after")):
        parts = [getattr(one, name) for one in rows]
        assert sum(part.n for part in parts) == len(recorded.ratio)
        for one, part in zip(rows, parts):
            low, high = (x if np.isfinite(x) else s * np.inf for x, s in ((one.low, -1), (one.high, 1)))
            inside = (recorded.ratio >= low) & (recorded.ratio < high)
            assert part.n == np.count_nonzero(inside)
            full, i_ref = recorded.full[inside], recorded.i_ref[inside]
            assert part.observed == pytest.approx(full.sum() / i_ref.sum(), abs=3.0 * part.observed_esd)  # not wild
            assert part.predicted == pytest.approx(recorded.predicted[inside] @ i_ref / i_ref.sum(), rel=1e-12)
    assert max(one.after.n for one in rows) - min(one.after.n for one in rows) <= 1


def test_before_is_the_geometry_as_indexed_and_after_the_refined_one(as_stills):
    """
    Lattices that are turned by 0.05 degrees: before, what is observed follows the simulation's partialities at the
    distances as indexed, far from the prediction; after, it is on it.
    """
    options = StillsOptions(n_lattices=60, d_min=2.5, seed=3, profile="gaussian", misorientation=0.05)
    sim = simulate_stills(options)
    stills = as_stills(sim)
    settings = DatasetSettings(fit=FitSettings(profile="gaussian"))
    result = postrefine(stills, settings, FitReference(sim.reference_intensity))
    curve = observe_partiality(stills, result, FitReference(sim.reference_intensity)).curve
    lattice = stills.lattice()
    q = np.einsum("mij,mj->mi", sim.a_indexed[lattice], sim.h)
    r_h = np.linalg.norm(q + sim.s0[lattice], axis=1) - 1.0 / sim.wavelength[lattice]
    used = result.accepted[lattice] & ~result.outlier
    ratio = np.empty(len(r_h))
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        rms = np.sqrt(np.mean(r_h[rows] ** 2))
        ratio[rows] = r_h[rows] / (rms * Profile("gaussian").start_radius)
    order = np.flatnonzero(used)[np.argsort(ratio[used], kind="stable")]
    gain = np.empty(stills.n_lattices)  # what each lattice's scale at its start is of the true one
    p = model_partiality("gaussian", ratio, 1.0)
    for k in range(stills.n_lattices):
        rows = np.arange(len(ratio))[stills.rows(k)]
        model, true = p[rows] * sim.i_full[rows], sim.partiality[rows] * sim.i_full[rows]
        gain[k] = slope_through_origin(true, model)
    for one, rows in zip(curve.bins_before, np.array_split(order, len(curve.bins_before)), strict=True):
        assert one.ratio == pytest.approx(np.mean(ratio[rows]), abs=1e-3)
        true, _ = robust_ratio((sim.partiality * sim.i_full / gain[lattice])[rows], sim.i_full[rows])
        assert one.observed == pytest.approx(true, abs=0.05)

    def distance(bins) -> float:
        return float(np.sqrt(np.mean([(one.observed - one.predicted) ** 2 for one in bins])))

    assert distance(curve.bins) < 0.01
    assert distance(curve.bins_before) > 0.03
