"""The diagnostics of a result: against the truth of a simulation, and against loops in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the simulation's structure comes from cctbx")
pytest.importorskip("dials.array_family.flex", reason="the simulation as arrays needs the tables of DIALS")

from dials_postrefine.numerics.robust import robust_ratio, slope_through_origin
from dials_postrefine.report.stills import diagnostics
from dials_postrefine.report.stills.diagnostics import (
    Recorded,
    collect_diagnostics,
    excitation_ratios,
    histogram,
    partiality_curve,
    ranked_lattices,
)
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import StillsOptions, model_partiality, simulate_stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.partiality import PROFILES, Profile
from dials_postrefine.stills.reference import FitReference

pytestmark = pytest.mark.dials


def d_star_sq_of(sim) -> np.ndarray:
    return np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)


@pytest.fixture(scope="module")
def gaussian():
    """60 stills of the Gaussian profile, fitted with it to the true intensities: simulation, stills, result."""
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=2.5, seed=3, profile="gaussian", useless_fraction=0.05))
    stills = as_stills(sim)
    settings = DatasetSettings(fit=FitSettings(profile="gaussian"))
    return sim, stills, postrefine(stills, settings, FitReference(sim.reference_intensity))


@pytest.fixture(scope="module")
def merged():
    """The same kind of stills, some intensities wild, against their own mean."""
    sim = simulate_stills(StillsOptions(n_lattices=60, d_min=3.0, seed=4, wild_fraction=0.01))
    stills = as_stills(sim)
    return sim, stills, postrefine(stills, DatasetSettings())


@pytest.fixture(scope="module")
def collected(merged):
    sim, stills, result = merged
    return collect_diagnostics(stills, result, None, d_star_sq_of(sim), named=[5, 5])


# r_h/r_s


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_of_the_ratio_is_the_partiality_of_the_result(profile):
    sim = simulate_stills(StillsOptions(n_lattices=6, d_min=3.0, seed=2, cell_spread=0.0005))
    stills = as_stills(sim)
    fit = FitSettings(profile=profile, radius="mosaic", unit_cell="scale")
    result = postrefine(stills, DatasetSettings(fit=fit), FitReference(sim.reference_intensity))
    assert np.abs(result.x[:, 2:4]).max() > 1e-4 and np.abs(result.x[:, 6]).max() > 1e-5  # turned and scaled
    ratio = excitation_ratios(stills, result)
    np.testing.assert_allclose(model_partiality(profile, ratio, 1.0), result.partiality, atol=1e-9)
    assert (ratio < 0.0).any() and (ratio > 0.0).any()


def test_the_ratio_is_the_true_one(gaussian):
    sim, stills, result = gaussian
    lattice = stills.lattice()
    q = np.einsum("mij,mj->mi", sim.a_true[lattice], sim.h)
    true = (np.linalg.norm(q + sim.s0[lattice], axis=1) - 1.0 / sim.wavelength[lattice]) / sim.radius[lattice]
    good = result.accepted[lattice]
    found = excitation_ratios(stills, result)
    assert good.sum() > 5000
    assert np.median(np.abs(found - true)[good]) < 0.02


# Partiality


def test_observed_partiality_is_the_true_one_within_its_errors(gaussian):
    """Bins of the result against the simulation's partialities of the same observations, weighted alike."""
    sim, stills, result = gaussian
    curve = collect_diagnostics(stills, result, sim.reference_intensity, d_star_sq_of(sim)).partiality
    assert len(curve.bins) == diagnostics.MOST_BINS
    ratio = excitation_ratios(stills, result)
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
    assert len(curve.bins) == len(curve.bins_before) == diagnostics.MOST_BINS
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
    few = observations(n=diagnostics.FEWEST_IN_BIN - 1)
    curve = partiality_curve(few, few, Profile("gaussian"))
    assert curve.bins == curve.bins_before == curve.rows == []


def test_rows_hold_the_same_observations_before_and_after_by_the_same_limits():
    before, after = observations(seed=7), observations(seed=8, width=1.0)
    rows = partiality_curve(after, before, Profile("gaussian")).rows
    assert len(rows) == diagnostics.MOST_ROWS
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


def test_before_is_the_geometry_as_indexed_and_after_the_refined_one():
    """
    Lattices that are turned by 0.05 degrees: before, what is observed follows the simulation's partialities at the
    distances as indexed, far from the prediction; after, it is on it.
    """
    options = StillsOptions(n_lattices=60, d_min=2.5, seed=3, profile="gaussian", misorientation=0.05)
    sim = simulate_stills(options)
    stills = as_stills(sim)
    settings = DatasetSettings(fit=FitSettings(profile="gaussian"))
    result = postrefine(stills, settings, FitReference(sim.reference_intensity))
    curve = collect_diagnostics(stills, result, sim.reference_intensity, d_star_sq_of(sim)).partiality
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


# Residuals


def residuals_by_loop(stills, result):
    """z of each observation that was merged, and is compared with the others of its index, by a loop over indices."""
    kept = np.flatnonzero(result.kept)
    p, scale = result.partiality[kept], result.scale[kept]
    value, variance = stills.intensity[kept] / (p * scale), stills.variance[kept] / (p * scale) ** 2
    mean, a = result.mean[stills.unique[kept]], result.error_model
    # of the counts to be expected of the mean
    variance = np.maximum(variance + result.variance_slope / (p * scale) * (mean - value), 0.2 * variance)
    variance = a.a**2 * (variance + mean**2 * (a.b**2 + a.c**2 * result.relative_variance[kept]))
    good = ~result.outlier[kept]
    z = np.full(len(kept), np.nan)
    for number in np.unique(stills.unique[kept]):
        own = np.flatnonzero(stills.unique[kept] == number)
        for i in own:
            others = own[good[own] & (own != i)]
            if len(others):
                weight = 1.0 / variance[others]
                average = np.sum(weight * value[others]) / np.sum(weight)
                z[i] = (value[i] - average) / np.sqrt(variance[i] + 1.0 / np.sum(weight))
    return z, mean, p, d_star_sq_of_rows(stills, kept)


def d_star_sq_of_rows(stills, rows):
    a = stills.a_matrix[stills.lattice()[rows]]
    return np.sum(np.einsum("nij,nj->ni", a, stills.h[rows]) ** 2, axis=1)


def test_the_histogram_of_residuals_is_that_of_a_loop(merged, collected):
    _, stills, result = merged
    z = residuals_by_loop(stills, result)[0]
    known = z[np.isfinite(z)]
    found = collected.residuals
    assert result.outlier.any() and len(known) > 2000
    assert (found.n, found.n_alone) == (len(known), np.count_nonzero(np.isnan(z)))
    assert found.counts == [np.count_nonzero((known >= a) & (known < a + 0.25)) for a in np.arange(-6.0, 6.0, 0.25)]
    assert (found.below, found.above) == (np.count_nonzero(known < -6.0), np.count_nonzero(known > 6.0))
    assert found.above > 0  # the wild ones
    assert sum(found.counts) + found.below + found.above == found.n
    assert found.width == pytest.approx(1.4826 * np.median(np.abs(known)))


@pytest.mark.parametrize(("key", "column"), [("by_intensity", 1), ("by_partiality", 2), ("by_resolution", 3)])
def test_widths_are_those_of_tenths(merged, collected, key, column):
    _, stills, result = merged
    columns = residuals_by_loop(stills, result)
    known = np.isfinite(columns[0])
    z, by = columns[0][known], columns[column][known]
    groups = getattr(collected.residuals, key)
    assert len(groups) == 10 and sum(group.n for group in groups) == len(z)
    assert max(group.n for group in groups) - min(group.n for group in groups) <= 1
    for group in groups:
        # ties at an edge may fall to either side: equal indices of intensity and resolution
        inside = z[(by > group.low * (1.0 - 1e-9)) & (by < group.high * (1.0 + 1e-9))]
        assert abs(len(inside) - group.n) < 40
        assert group.width == pytest.approx(1.4826 * np.median(np.abs(inside)), rel=0.1)
        assert group.width_esd == pytest.approx(1.17 * group.width / group.n**0.5)
        assert 0.6 < group.width < 1.5  # as is right for these


# Lattices


def test_best_median_and_worst_are_by_the_correlation_with_the_model(merged):
    _, stills, result = merged
    order = sorted(
        (k for k in range(stills.n_lattices) if result.reasons[k] is None and result.fits[k].refined),
        key=lambda k: result.fits[k].model_correlation,
    )
    middle = {order[len(order) // 2], order[(len(order) - 1) // 2]}
    ranked = {rank: k for k, rank in ranked_lattices(result).items()}
    assert list(ranked) == ["best", "median", "worst"]
    assert (ranked["best"], ranked["worst"]) == (order[-1], order[0]) and ranked["median"] in middle


@pytest.mark.parametrize(("n", "ranks"), [(0, []), (1, ["best"]), (2, ["best", "worst"])])
def test_of_few_lattices_each_has_one_rank(merged, n, ranks):
    result = merged[2]
    few = replace(result, fits=result.fits[:n], reasons=result.reasons[:n])
    assert few.accepted.all()
    assert list(ranked_lattices(few).values()) == ranks


def test_a_lattice_is_drawn_as_it_was_observed(merged, collected):
    sim, stills, result = merged
    plots = {plot.rank: plot for plot in collected.lattice_plots}
    assert list(plots) == ["best", "median", "worst", "named"] and len(collected.lattice_plots) == 4
    plot = plots["named"]
    assert plot.number == 5
    rows = np.arange(stills.offsets[5], stills.offsets[6])
    assert 30 < plot.n == len(plot.i_obs) <= len(rows)
    assert plot.ratio == sorted(plot.ratio)
    for i, (intensity, d) in enumerate(zip(plot.i_obs, plot.d)):
        off = np.hypot((stills.intensity[rows] - intensity) / 1000.0, sim.d[rows] - d)
        row = rows[np.argmin(off)]
        assert off.min() < 1e-3 and np.count_nonzero(off < 1e-3) == 1
        assert plot.p_predicted[i] == pytest.approx(result.partiality[row], rel=1e-4)
        assert d == pytest.approx(sim.d[row], rel=1e-4)
        if np.isfinite(plot.p_observed[i]):
            assert plot.i_calc[i] * plot.p_observed[i] == pytest.approx(intensity * plot.p_predicted[i], rel=1e-3)
    # G is defined up to the scale of all: what is drawn lies about the diagonal
    strong = np.array(plot.i_calc) > np.median(plot.i_calc)
    quotient = np.array(plot.i_obs)[strong] / np.array(plot.i_calc)[strong]
    assert np.median(quotient) == pytest.approx(1.0, abs=0.1)


def test_a_large_lattice_is_thinned_evenly(merged, monkeypatch):
    sim, stills, result = merged
    whole = collect_diagnostics(stills, result, None, d_star_sq_of(sim)).lattice_plots[0]
    monkeypatch.setattr(diagnostics, "MOST_POINTS", 20)
    thin = collect_diagnostics(stills, result, None, d_star_sq_of(sim)).lattice_plots[0]
    assert thin.n == whole.n > 40
    assert 10 <= len(thin.ratio) <= 20
    step = -(-whole.n // 20)
    assert thin.ratio == whole.ratio[::step]


def test_a_lattice_without_a_fit_is_empty(gaussian):
    sim, stills, result = gaussian
    x = result.x.copy()
    x[3] = np.nan
    plots = collect_diagnostics(stills, replace(result, x=x), sim.reference_intensity, d_star_sq_of(sim), [3])
    assert [(plot.n, plot.i_obs) for plot in plots.lattice_plots if plot.number == 3] == [(0, [])]


# Histograms


def test_a_histogram_counts_every_lattice_once():
    rng = np.random.default_rng(1)
    values, esds = rng.normal(size=500), rng.uniform(0.1, 0.3, 500)
    values[:3] = 50.0, -80.0, np.nan
    accepted = np.arange(500) % 5 != 4
    data = histogram(values, esds, accepted)
    own = values[accepted & np.isfinite(values)]
    assert data.n == len(own) == 399
    assert sum(data.counts) + data.below + data.above == 399
    assert data.below >= 1 and data.above >= 1 and data.below + data.above <= 8
    inside = (values[~accepted] >= data.edges[0]) & (values[~accepted] <= data.edges[-1])
    assert sum(data.counts_rejected) == np.count_nonzero(inside) > 80
    for low, high, count in list(zip(data.edges, data.edges[1:], data.counts))[:-1]:
        assert count == np.count_nonzero((own >= low) & (own < high))
    assert data.median == pytest.approx(np.median(own))
    assert data.spread == pytest.approx(1.4826 * np.median(np.abs(own - np.median(own))))
    assert data.median_esd == pytest.approx(np.median(esds[accepted & np.isfinite(values)]))
    assert sum(data.esd_counts) + data.esd_above == 399


def test_a_logarithmic_histogram_has_even_bins_in_the_logarithm():
    values = np.exp(np.random.default_rng(2).normal(size=60))
    data = histogram(values, values, np.ones(60, dtype=bool), logarithmic=True)
    np.testing.assert_allclose(np.diff(np.log(data.edges)), np.diff(np.log(data.edges))[0], rtol=1e-9)
    assert sum(data.counts) == 60


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_equal_values_have_a_histogram(value):
    data = histogram(np.full(4, value), np.zeros(4), np.ones(4, dtype=bool))
    assert sum(data.counts) == 4 and data.edges[0] < value < data.edges[-1]


def test_nothing_accepted_has_none():
    assert histogram(np.ones(3), np.ones(3), np.zeros(3, dtype=bool)) is None
