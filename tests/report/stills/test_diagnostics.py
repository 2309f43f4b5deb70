"""The diagnostics of a result: against the truth of a simulation, and against loops in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the simulation's structure comes from cctbx")
pytest.importorskip("dials.array_family.flex", reason="the simulation as arrays needs the tables of DIALS")

from dials_postrefine.report.stills import diagnostics
from dials_postrefine.report.stills.diagnostics import (
    collect_diagnostics,
    histogram,
    ranked_lattices,
)
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.observedpartiality import observe_partiality
from dials_postrefine.stills.reference import FitReference

pytestmark = pytest.mark.dials


def d_star_sq_of(sim) -> np.ndarray:
    return np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)


def collect(sim, stills, result, reference=FitReference(), named=()):
    observed = observe_partiality(stills, result, reference)
    return collect_diagnostics(stills, result, observed, d_star_sq_of(sim), named)


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
    return collect(sim, stills, result, named=[5, 5])


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
    whole = collect(sim, stills, result).lattice_plots[0]
    monkeypatch.setattr(diagnostics, "MOST_POINTS", 20)
    thin = collect(sim, stills, result).lattice_plots[0]
    assert thin.n == whole.n > 40
    assert 10 <= len(thin.ratio) <= 20
    step = -(-whole.n // 20)
    assert thin.ratio == whole.ratio[::step]


def test_a_lattice_without_a_fit_is_empty(gaussian):
    sim, stills, result = gaussian
    x = result.x.copy()
    x[3] = np.nan
    plots = collect(sim, stills, replace(result, x=x), FitReference(sim.reference_intensity), [3])
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
