"""A model as a prior: weights by the errors that were put in, and stills that end no worse for a wrong model."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx computes the structure factors")
pytest.importorskip("dxtbx", reason="dxtbx makes arrays of cctbx's")

from cctbx import miller
from cctbx.array_family import flex
from cctbx.development import random_structure
from dxtbx import flumpy

from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.scattering.form_factors import choose_form_factors
from dials_postrefine.scattering.prior import ModelPrior, combine
from dials_postrefine.scattering.structure_factors import calculate_f_calc
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.dataset import select_lattices
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import Scaled, add_prior, mean_of_kept, mean_of_others

pytestmark = pytest.mark.cctbx

N = 4000


def truth_and_errors(seed, model_error, sigma):
    """A model of Wilson's kind, acentric, the truth that is its F + delta, and data that are wrong by sigma."""
    rng = np.random.default_rng(seed)
    f = (rng.standard_normal(N) + 1j * rng.standard_normal(N)) / np.sqrt(2.0)
    delta = (rng.standard_normal(N) + 1j * rng.standard_normal(N)) / np.sqrt(2.0)
    truth = np.abs(f + model_error * delta) ** 2
    observed = truth + sigma * rng.standard_normal(N)
    return truth, np.abs(f) ** 2, observed, rng.uniform(0.01, 0.2, N)


def combined(truth, model, observed, d_star_sq, sigma):
    ones = np.ones(N)
    return combine(model, observed, sigma * ones, d_star_sq, ones, np.zeros(N, dtype=bool))


@pytest.mark.parametrize("model_error, sigma", [(0.1, 0.3), (0.3, 0.3), (0.5, 0.4), (0.6, 0.6)])
def test_both_together_are_better_than_either_and_near_the_best_weights(model_error, sigma):
    """The best weights are those of the variances that were put in: 2 I e^2 + e^4 of the model (Rice), sigma^2."""
    truth, model, observed, d_star_sq = truth_and_errors(0, model_error, sigma)
    result = combined(truth, model, observed, d_star_sq, sigma)
    variance = 2.0 * model * model_error**2 + model_error**4
    weight = variance / (variance + sigma**2)
    best = weight * observed + (1.0 - weight) * (model + model_error**2)
    error, ideal, of_model, of_data = (np.mean((x - truth) ** 2) for x in (result.intensity, best, model, observed))
    assert error < 0.95 * min(of_model, of_data)
    assert error < 1.12 * ideal


def test_the_share_follows_the_errors():
    shares = []
    for model_error in (0.02, 0.2, 0.8):
        truth, model, observed, d_star_sq = truth_and_errors(1, model_error, 0.1)
        result = combined(truth, model, observed, d_star_sq, 0.1)
        shares.append(result.share.mean())
        assert ((0.0 <= result.share) & (result.share <= 1.0)).all()
        assert result.share_by_shell(d_star_sq) == pytest.approx(np.full(10, shares[-1]), abs=0.11)
    assert shares[0] < 0.2 < 0.6 < shares[1] < shares[2]


def test_what_only_one_knows_is_taken_from_it_on_the_scale_of_the_data():
    truth, model, observed, d_star_sq = truth_and_errors(2, 0.2, 0.1)
    model[:100], observed[100:200] = np.nan, np.nan
    model[200], observed[200] = np.nan, np.nan
    model *= 7.0 * np.exp(-3.0 * d_star_sq)
    result = combined(truth, model, observed, d_star_sq, 0.1)
    assert result.intensity[:100].tolist() == observed[:100].tolist() and (result.share[:100] == 1.0).all()
    expected = model[100:200] * np.exp(3.0 * d_star_sq[100:200]) / 7.0
    assert result.intensity[100:200] == pytest.approx(expected, rel=0.1)
    assert (result.share[100:200] == 0.0).all()
    assert np.isnan(result.intensity[200])


@pytest.fixture(scope="module")
def simulated():
    """Stills of the accuracy benchmark, fewer of them, and the structure behind them."""
    structures = []
    make = random_structure.xray_structure

    def keep(*args, **kwargs):
        structures.append(make(*args, **kwargs))
        return structures[-1]

    with mock.patch.object(random_structure, "xray_structure", keep):
        sim = simulate_stills(StillsOptions.unlike_model(200, 3))
    return sim, structures[0]


def model_of(sim, structure, shift: float) -> np.ndarray:
    """The intensities of the structure, its atoms moved by a rms shift (Angstrom) in random directions."""
    moved = structure.deep_copy_scatterers()
    rng = np.random.default_rng(0)
    sites = np.array(moved.sites_cart()) + rng.normal(0.0, shift / np.sqrt(3.0), (moved.scatterers().size(), 3))
    moved.set_sites_cart(flex.vec3_double(sites.tolist()))
    factors = choose_form_factors({scatterer.scattering_type for scatterer in moved.scatterers()})
    indices = miller.set(moved, to_flex_miller(sim.reference_h), anomalous_flag=False)
    return np.abs(flumpy.to_numpy(calculate_f_calc(moved, factors, indices).data())) ** 2


def r_and_resolution(sim, stills, result):
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    kept = result.kept & ~result.outlier
    merged = merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique)
    return r_to_truth(merged.intensity, sim.reference_intensity, d_star_sq)[0], d_star_sq


@pytest.mark.slow
def test_a_model_wrong_by_a_third_of_an_angstrom_does_no_harm_as_a_prior(simulated):
    sim, structure = simulated
    stills, n = as_stills(sim), len(sim.reference_h)
    settings = DatasetSettings(fit=FitSettings(profile="gaussian", radius="mosaic", unit_cell="scale"))
    r_self, d_star_sq = r_and_resolution(sim, stills, postrefine(stills, settings))

    def refine_with(model):
        prior = ModelPrior(model, d_star_sq, np.ones(n), np.zeros(n, dtype=bool))
        result = postrefine(stills, settings, FitReference(model, prior=prior))
        assert len(result.cycles) == 3
        return r_and_resolution(sim, stills, result)[0], prior.last.share[prior.last.both].mean()

    model = model_of(sim, structure, 0.3)
    assert r_to_truth(model, sim.reference_intensity, d_star_sq)[0] > 0.15
    r_alone, _ = r_and_resolution(sim, stills, postrefine(stills, replace(settings, n_cycles=1), FitReference(model)))
    r_prior, share = refine_with(model)
    assert r_prior <= 1.002 * r_self < r_alone  # no worse than R is known: half sets of seeds differ by 3 %
    assert share > 0.7  # little of the agreement comes from such a model
    # and the true structure is nearly all of the reference, and as good
    r_true, share = refine_with(model_of(sim, structure, 0.0))
    assert r_true < r_self and share < 0.3


def test_a_lattice_is_not_fitted_to_itself_where_a_model_is_the_prior(simulated):
    """What each observation is fitted to: the model and the observations of other lattices, summed here one by one."""
    sim, _ = simulated
    stills = select_lattices(as_stills(sim), np.arange(len(sim.identifiers)) < 6)
    n = len(stills.unique)
    ones = np.ones(n)
    scaled = Scaled(ones, ones, 0.01 * ones, np.ones(n, dtype=bool), 1.0)
    mean = mean_of_kept(stills, scaled, ErrorModel(), 6.0, fits_model=False)
    model, variance = sim.reference_intensity.copy(), 0.1 * sim.reference_intensity**2
    model[::7], variance[3::7] = np.nan, np.inf  # where it says nothing
    found = mean_of_others(stills, add_prior(mean, model, variance))
    lattice = stills.lattice()
    n_seen = 0
    for i in range(n):
        others = (stills.unique == stills.unique[i]) & (lattice != lattice[i])
        sum_w, sum_wi = mean.weight[others].sum(), mean.weighted[others].sum()
        u = stills.unique[i]
        if np.isfinite(model[u]) and np.isfinite(variance[u]):
            sum_w, sum_wi = sum_w + 1.0 / variance[u], sum_wi + model[u] / variance[u]
        if sum_w == 0.0:
            assert np.isnan(found[i])
        else:
            assert found[i] == pytest.approx(sum_wi / sum_w, rel=1e-6)
        n_seen += others.any()
    assert 10 < n_seen < n
