"""Covariances of groups that are inferred: the sum over pairs, finite differences, known truth, the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pair_sums import CELLS, P1, P212121, copies, isotropic, make_atoms, make_voxels, pair_sum, scattering, slopes

from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.fitting import Problem, fit
from dials_postrefine.diffuse.model.group_covariance import GroupCovariance


def close(found, wanted, tolerance):
    assert np.abs(found - wanted).max() < tolerance * np.sqrt((wanted**2).mean())


def make_model(atoms, voxels, rank, **more):
    n = np.bincount(atoms.residue)
    places = np.stack([np.bincount(atoms.residue, x) / n for x in atoms.xyz.T], axis=1)
    return GroupCovariance(GroupPairs(atoms, atoms.residue, voxels), places, voxels, rank, **more)


def by_pairs(atoms, voxels, v_groups):
    """The intensity of atoms whose residues have these covariances, displacements being the file's."""
    v = v_groups[np.ix_(atoms.residue, atoms.residue)].copy()
    f, total = scattering(atoms, voxels.q), 0.0
    for xyz, u in copies(atoms):
        np.fill_diagonal(v, u[:, 0, 0])
        total = total + pair_sum(xyz, f, voxels.q, isotropic(v))
    return total


@pytest.mark.parametrize(("cell", "group"), [("triclinic", P1), ("orthorhombic", P212121)])
def test_it_is_the_sum_over_pairs(cell, group):
    atoms = make_atoms(CELLS[cell], group)
    voxels = make_voxels(atoms)
    model = make_model(atoms, voxels, 2)
    values = 0.2 * np.random.default_rng(2).normal(size=len(model.parameters))
    intensity, derivatives = model.evaluate(values)
    close(intensity, by_pairs(atoms, voxels, model.covariance(values)), 1e-5)
    for found, wanted in zip(derivatives, slopes(model, values)):
        close(found, wanted, 1e-5)


def known(n_groups, places):
    """Two motions: of all together, and of the ends against each other."""
    along = places[:, 0] - places[:, 0].mean()
    factor = np.stack([np.full(n_groups, 0.22), 0.25 * along / np.abs(along).max()], axis=1)
    return factor @ factor.T


def observed(atoms, voxels, v, noise):
    true = by_pairs(atoms, voxels, v)
    sigma = np.full(len(voxels), noise * true.mean())
    seen = 2.0 * true + 50.0 + 2.0 * sigma * np.random.default_rng(4).normal(size=len(true))
    return replace(voxels, intensity=seen, sigma=2.0 * sigma)


@pytest.fixture(scope="module")
def case():
    atoms = make_atoms(n=18)
    voxels = make_voxels(atoms, n=3000)
    n = np.bincount(atoms.residue)
    places = np.stack([np.bincount(atoms.residue, x) / n for x in atoms.xyz.T], axis=1)
    return atoms, voxels, known(len(n), places)


def fitted(case, noise, rank, **more):
    atoms, voxels, v = case
    voxels = observed(atoms, voxels, v, noise)
    model = make_model(atoms, voxels, rank, **more)
    functions = background_functions(voxels.s, "smooth", 4)
    found = fit(model, Problem(voxels, functions, np.ones(len(voxels), bool)))
    return model, found


@pytest.mark.parametrize("rank", [2, 3])
def test_a_known_covariance_is_found(case, rank):
    model, found = fitted(case, 0.02, rank)
    v, inferred = case[2], model.covariance(found.values)
    assert np.linalg.eigvalsh(inferred).min() > -1e-12
    assert np.corrcoef(v.ravel(), inferred.ravel())[0, 1] > 0.95
    assert np.polyfit(v.ravel(), inferred.ravel(), 1)[0] == pytest.approx(1.0, abs=0.15)
    assert found.chi_sq == pytest.approx(1.0, abs=0.08)


def test_a_prior_holds_what_is_not_seen(case):
    """With little signal a strong prior makes V small, and a long kernel makes groups move alike."""
    free, held = (fitted(case, 0.3, 2, strength=one) for one in (1.0, 300.0))
    assert np.trace(held[0].covariance(held[1].values)) < 0.3 * np.trace(free[0].covariance(free[1].values))
    model, found = fitted(case, 0.3, 2, length=1e4)
    v = model.covariance(found.values)
    assert np.ptp(v) < 0.1 * v.mean()


def test_standard_deviations_of_v_are_those_of_repeated_experiments(case):
    atoms, voxels, v = case
    voxels = observed(atoms, voxels, v, 0.05)
    true = voxels.intensity - voxels.sigma * np.random.default_rng(4).normal(size=len(voxels))
    model, functions = make_model(atoms, voxels, 2), background_functions(voxels.s, "smooth", 4)
    random, found, esds, start = np.random.default_rng(5), [], [], None
    for _ in range(12):
        data = replace(voxels, intensity=true + voxels.sigma * random.normal(size=len(true)))
        one = fit(model, Problem(data, functions, np.ones(len(data), bool)), start)
        start = one.values
        n = len(one.values)
        found.append(model.covariance(one.values))
        esds.append(model.low_rank.esds(one.values, one.correlations[:n, :n] * np.outer(one.esds, one.esds)))
    ratio = np.std(found, axis=0, ddof=1) / np.mean(esds, axis=0)
    assert 0.6 < np.median(ratio) < 1.4
    np.testing.assert_allclose(esds[0], esds[0].T, rtol=1e-9)


def test_a_model_grows_by_a_motion(case):
    atoms, voxels, v = case
    one, two = (make_model(atoms, voxels, rank) for rank in (1, 2))
    values = 0.2 * np.random.default_rng(1).normal(size=len(one.parameters))
    grown = two.grown(values)
    assert len(grown) == len(two.parameters) == 2 * len(values)
    np.testing.assert_allclose(np.reshape(grown, (-1, 2))[:, 0], values)
    assert 0.0 < np.abs(np.reshape(grown, (-1, 2))[:, 1]).max() <= two.spread
