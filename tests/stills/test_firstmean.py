"""The mean that the first cycle starts from, on stills whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.stills import model_partiality
from dials_postrefine.stills.dataset import EarlierFit, select_lattices
from dials_postrefine.stills.firstmean import first_mean, start_partialities
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.scaling import linear_scales

SETTINGS = FitSettings()


def test_start_partialities_are_those_of_the_rms_distance_from_the_sphere(obedient):
    sim, stills = obedient
    p, shape = start_partialities(replace(stills, rejected={3: Reason.CELL}), SETTINGS)
    for k in (0, 3, 17):
        rows = stills.rows(k)
        r_h = np.linalg.norm(sim.h[rows] @ sim.a_indexed[k].T + sim.s0[k], axis=1) - np.linalg.norm(sim.s0[k])
        expected = model_partiality(SETTINGS.profile.name, r_h, np.sqrt(np.mean(r_h**2)))
        assert p[rows] == pytest.approx(0.0 * expected if k == 3 else expected, rel=1e-8, abs=1e-12)
    assert shape == pytest.approx(np.ones(len(shape)), rel=1e-14)  # of B = 0 and a constant radius


def test_the_first_mean_is_nearer_to_the_truth_than_scaled_observations_alone(obedient):
    sim, stills = obedient
    scale = linear_scales(stills, None)
    mean = first_mean(stills, SETTINGS, 6.0, scale, {}, 1.0)
    plain = np.bincount(stills.unique, stills.intensity / scale[stills.lattice()], stills.n_unique)
    plain /= np.maximum(np.bincount(stills.unique, minlength=stills.n_unique), 1)
    known = np.isfinite(mean.reference)
    assert np.count_nonzero(known) > 0.9 * len(np.unique(stills.unique))
    truth = sim.reference_intensity[known]
    assert correlation(mean.reference[known], truth) > correlation(plain[known], truth) + 0.02


def test_where_all_lattices_have_an_earlier_fit_it_is_the_mean_that_their_run_ended_with(obedient):
    _, stills = obedient
    result = postrefine(stills, DatasetSettings())
    accepted = select_lattices(stills, result.accepted)
    fits = [fit for fit in result.fits if fit.reason is None]
    model = SETTINGS.profile.name, SETTINGS.radius, SETTINGS.unit_cell
    earlier = {k: EarlierFit(fit.x, fit.covariance, fit.refined, *model) for k, fit in enumerate(fits)}
    unknown = np.full(accepted.n_lattices, np.nan)
    mean = first_mean(accepted, SETTINGS, 6.0, unknown, earlier, result.variance_slope, fits_model=True)
    both = np.isfinite(mean.reference) & np.isfinite(result.mean)
    assert np.array_equal(np.isfinite(mean.reference), np.isfinite(result.mean))
    off = np.abs(mean.reference - result.mean)[both] / mean.sigma[both]
    assert off.max() < 0.01  # esds: the error model is fitted from another start
