"""Unmerged sums scaled by equivalents: known disturbances are found, clean data and symmetric signals left alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

from dials_postrefine.diffuse.map import fitting_terms
from dials_postrefine.diffuse.map.fitting_terms import UnmergedRecords
from dials_postrefine.diffuse.map.places import Places
from dials_postrefine.diffuse.map.terms import make_terms

N_IMAGES, PHOTONS = 40, 1600.0


def make_records(n_orbits=3000, each=5, spread=1.0, seed=3):
    """
    Places of records of orbits with strongly varying intensity; spread: 1 for equivalents anywhere on the detector, 0
    for all of an orbit at one place and on one image.
    """
    rng = np.random.default_rng(seed)
    orbit = np.repeat(np.arange(n_orbits), each)
    s = rng.uniform(0.1, 0.5, n_orbits)[orbit]
    azimuth = rng.uniform(-np.pi, np.pi, n_orbits)[orbit] + spread * rng.uniform(-np.pi, np.pi, len(orbit))
    z = np.where(spread > 0.0, rng.uniform(0, N_IMAGES - 1, len(orbit)), rng.uniform(0, N_IMAGES - 1, n_orbits)[orbit])
    tangent = np.tan(2.0 * np.arcsin(0.5 * s))
    zeros = np.zeros(len(orbit), np.int32)
    places = Places(
        s, tangent * np.cos(azimuth), tangent * np.sin(azimuth), zeros, zeros, z, zeros, np.array([N_IMAGES]), 1, 1
    )
    return SimpleNamespace(orbit=orbit, places=places, rng=rng, intensity=rng.gamma(16.0, 1.0 / 16.0, n_orbits)[orbit])


def observe(records, factor=1.0, offset=0.0, intensity=None):
    """UnmergedRecords with noise of PHOTONS at y = 1."""
    true = factor * (records.intensity if intensity is None else intensity) + offset
    y = records.rng.poisson(np.maximum(true, 0.0) * PHOTONS) / PHOTONS
    group = records.orbit // 8
    ones = np.ones_like(y)
    return UnmergedRecords(y, np.maximum(true, 0.01) / PHOTONS, records.orbit, group, ones)


def fitted_state(observed, records):
    kept, tried = fitting_terms.fit(observed, records.places, make_terms(records.places))
    return {one.term.name: one for one in kept}, tried, fitting_terms.evaluate(kept, records.places, observed.level)


def test_a_gradient_over_the_detector_is_found_within_its_esd():
    records = make_records()
    reach = np.hypot(records.places.u, records.places.v).max()
    observed = observe(records, np.exp(0.08 * records.places.v / reach - 0.03 * records.places.u / reach))
    kept, _, (factor, _) = fitted_state(observed, records)
    found, esd = kept["gradient"].coefficients, np.sqrt(np.diag(kept["gradient"].covariance))
    assert (np.abs(found - [-0.03, 0.08, 0.0, 0.0, 0.0])[:2] < 3.5 * esd[:2]).all()
    assert 1e-4 < esd[1] < 0.01
    true = np.exp((0.08 * records.places.v - 0.03 * records.places.u) / reach)
    assert np.std(factor / true) / np.mean(factor / true) < 0.004


def disturbances(records):
    """By name: factor and offset, of a size that spoils a map."""
    places, turn = records.places, 2.0 * np.pi * records.places.z / N_IMAGES
    reach = np.hypot(places.u, places.v).max()
    u, v, azimuth = places.u / reach, places.v / reach, np.arctan2(places.v, places.u)
    ring = np.exp(-0.5 * ((places.s - 0.3) / 0.08) ** 2)
    return {
        "scale": (np.exp(0.6 * np.sin(turn)), 0.0),
        "tilt": (np.exp(0.9 * v - 0.4 * u), 0.0),
        "flat field": (np.exp(0.6 * np.cos(4.0 * u) * np.sin(4.0 * v)), 0.0),
        "absorption": (np.exp(0.8 * u * np.sin(turn) + 0.8 * v * np.cos(turn)), 0.0),
        "background": (1.0, 0.8 * (1.0 + np.cos(turn)) * ring),
        "wind shield": (1.0, 0.8 * (1.0 + np.cos(azimuth)) * ring),
        "all": (
            np.exp(0.3 * np.sin(turn) + 0.4 * v + 0.4 * u * np.sin(turn)),
            0.5 * (1.0 + np.cos(turn)) * ring + 0.5 * (1.0 + np.cos(azimuth)) * ring,
        ),
    }


def anisotropic_cc(observed, records, state):
    """Between the merged intensities and the truth, less the means of shells."""
    factor, offset = (np.broadcast_to(part, observed.y.shape) for part in state)
    merged = np.bincount(records.orbit, observed.y - offset) / np.bincount(records.orbit, factor)
    s, true = (
        np.bincount(records.orbit, x) / np.bincount(records.orbit) for x in (records.places.s, records.intensity)
    )
    shell = (s * 60.0).astype(int)
    merged, true = (x - (np.bincount(shell, x) / np.maximum(np.bincount(shell), 1))[shell] for x in (merged, true))
    return np.corrcoef(merged, true)[0, 1]


@pytest.mark.parametrize(
    "name",
    [
        "scale",
        "tilt",
        "flat field",
        "absorption",
        "background",
        "wind shield",
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def test_a_disturbance_is_taken_out(name):
    records = make_records(n_orbits=2000, each=4)
    disturbance = disturbances(records)[name]
    observed = observe(records, *disturbance)
    kept, _, state = fitted_state(observed, records)
    before = anisotropic_cc(observed, records, (1.0, 0.0))
    assert before < 0.85
    best = anisotropic_cc(observed, records, disturbance)
    found = anisotropic_cc(observed, records, state)
    assert best > 0.995 and found > 0.99, (name, before, best, found, kept.keys())


def test_noise_alone_is_left_alone():
    for seed in (1, 2):
        records = make_records(n_orbits=2500, seed=seed)
        kept, tried, (factor, offset) = fitted_state(observe(records), records)
        assert len(tried) == 6  # one panel needs no factor of its own
        assert not kept and (factor == 1.0).all() and (offset == 0.0).all()


def test_what_equivalents_can_not_tell_is_not_fitted():
    """All of an orbit at one place: any pattern over the detector may be the crystal's."""
    records = make_records(spread=0.0)
    pattern = np.exp(0.3 * np.sin(3.0 * records.places.u) + 0.3 * records.places.v)
    kept, tried, (factor, _) = fitted_state(observe(records, pattern), records)
    assert not kept and (factor == 1.0).all()
    assert all(one.n_seen == 0 for one in tried)


def test_a_strong_signal_that_obeys_the_symmetry_moves_no_coefficient():
    """The same noise on two crystals, one of them with twice the intensity on one side of the detector."""
    found = []
    for strong in (False, True):
        records = make_records(spread=0.3)
        middle = np.bincount(records.orbit, records.places.v)[records.orbit]
        intensity = np.where(strong & (middle > 0.0), 2.0, 1.0)
        rng = np.random.default_rng(7)
        y = intensity * (1.0 + 0.02 * rng.standard_normal(len(records.orbit)))
        observed = UnmergedRecords(y, (0.02 * intensity) ** 2, records.orbit, records.orbit // 8, np.ones_like(y))
        terms = [term for term in make_terms(records.places) if term.name == "gradient"]
        state = np.ones_like(y), np.zeros_like(y)
        found.append(fitting_terms._fit_term(observed, terms[0].design(records.places), terms[0], state))
    esd = np.sqrt(np.diag(found[0][1]))
    assert (np.abs(found[0][0]) < 4.0 * esd + 1e-12).all()
    assert (np.abs(found[1][0]) < 4.0 * esd + 1e-12).all()
