"""Tensors that a fit keeps positive semidefinite: derivatives, and what noise makes of one that is hardly there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pair_sums import make_atoms, make_voxels

from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.fitting import Problem, fit
from dials_postrefine.diffuse.model.positive_tensors import PositiveTensors
from dials_postrefine.diffuse.model.rigid_body import ELEMENTS, TENSOR, RigidBody
from dials_postrefine.diffuse.model.tls import TLSBody


def matrix(elements):
    found = np.zeros((3, 3))
    for (i, j), one in zip(ELEMENTS, elements):
        found[i, j] = found[j, i] = one
    return found


def test_elements_and_derivatives():
    atoms = make_atoms()
    form = PositiveTensors(TLSBody([atoms], make_voxels(atoms, n=20)).parameters)
    assert [(one.start, one.stop) for one in form.slices] == [(0, 6), (6, 12)]
    random = np.random.default_rng(1)
    moved = random.normal(size=20) * np.minimum(form.upper, 0.3) * 0.5
    values = form.values(moved)
    c = np.array([[moved[0], 0, 0], [moved[3], moved[1], 0], [moved[4], moved[5], moved[2]]])
    np.testing.assert_allclose(matrix(values[:6]), c @ c.T, atol=1e-15)
    np.testing.assert_array_equal(values[12:], moved[12:])
    np.testing.assert_allclose(form.values(form.moved(values))[:12], values[:12], atol=1e-7)
    step = 1e-6
    for k in range(20):
        up, down = (form.values(moved + sign * step * (np.arange(20) == k)) for sign in (1, -1))
        np.testing.assert_allclose(form.slopes(moved)[:, k], (up - down) / (2 * step), atol=1e-8)


def test_a_tensor_stays_a_covariance_and_its_elements_have_standard_deviations():
    """One whose third axis is 0: repeated experiments scatter by the standard deviations, and none is below 0."""
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=3000)
    model, random = RigidBody([atoms], voxels, tensor=True), np.random.default_rng(2)
    u = np.array([0.12, 0.06, 0.0, 0.03, 0.0, 0.0])
    functions, used = background_functions(voxels.s, "smooth", 6), np.ones(len(voxels), bool)
    true = model.evaluate(u)[0] + 800.0 * np.exp(-2.0 * voxels.s)
    values, esds = [], []
    for _ in range(30):
        sigma = 0.05 * np.sqrt(true * true.mean())
        data = replace(voxels, intensity=true + sigma * random.normal(size=len(true)), sigma=sigma)
        found = fit(model, Problem(data, functions, used, scale=1.0))
        assert found.names == [one.name for one in TENSOR] and found.converged
        assert np.linalg.eigvalsh(matrix(found.values)).min() > -1e-12
        values.append(found.values)
        esds.append(found.esds)
    pulls = (np.array(values) - u) / np.array(esds)
    inside = [0, 1, 3]
    assert (np.abs(pulls[:, inside].mean(axis=0)) < 3.0 / np.sqrt(30) + 0.3).all()
    assert (np.abs(pulls[:, inside].std(axis=0) - 1.0) < 0.45).all()
    # that at the edge is above 0 by what noise does, as often at it as not
    assert 0.0 <= pulls[:, 2].min() and pulls[:, 2].mean() < 1.5 and (pulls[:, 2] < 0.2).mean() > 0.2
