"""T, L and S of rigid bodies: the sum over pairs, drawn motions, finite differences, limits, known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pair_sums import CELLS, P1, P3, P212121, copies, make_atoms, make_voxels, pair_sum, scattering, slopes

from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.bodies import SeparateParts
from dials_postrefine.diffuse.model.fitting import Problem, fit
from dials_postrefine.diffuse.model.fluctuations import describe_fluctuations
from dials_postrefine.diffuse.model.libration import LibratingBody
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.tls import SCREW, TLSBody, is_covariance, tensors_of
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated


def close(found, wanted, tolerance):
    assert np.abs(found - wanted).max() < tolerance * np.sqrt((wanted**2).mean())


def a_motion(seed=3, size_t=0.3, size_l=4.0):
    """The 6 x 6 covariance of t (A) and lambda (rad) of a motion, and its T, L and S as parameters."""
    root = np.random.default_rng(seed).normal(size=(6, 6)) / np.sqrt(6.0)
    root[:3] *= size_t
    root[3:] *= np.radians(size_l)
    whole = root @ root.T
    t, libration, s = whole[:3, :3], np.degrees(np.degrees(whole[3:, 3:])), np.degrees(whole[3:, :3])
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    traceless = s - np.trace(s) / 3.0 * np.eye(3)
    values = [t[p] for p in pairs] + [libration[p] for p in pairs] + [traceless[p] for p in SCREW]
    return whole, np.array(values)


def covariances(xyz, whole):
    """V (n, n, 3, 3) of u = t + lambda x rho, from the covariance of t and lambda, atom by atom."""
    rho = xyz - xyz.mean(axis=0)
    arms = np.zeros((len(rho), 3, 6))
    for arm, (x, y, z) in zip(arms, rho):
        arm[:, :3] = np.eye(3)
        arm[:, 3:] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
    return np.einsum("iab,bc,jdc->ijad", arms, whole, arms)


@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize(("cell", "group"), [("triclinic", P1), ("orthorhombic", P212121), ("hexagonal", P3)])
def test_it_is_the_sum_over_pairs(cell, group, anisotropic):
    """With a trace of S, which has no effect, in the sum over pairs."""
    atoms = make_atoms(CELLS[cell], group, anisotropic=anisotropic)
    voxels = make_voxels(atoms)
    whole, values = a_motion()
    model, f, wanted = TLSBody([atoms], voxels), scattering(atoms, voxels.q), 0.0
    v = covariances(atoms.xyz, whole)
    for (xyz, u), rotation in zip(copies(atoms), atoms.rotations):
        turn = atoms.orthogonal @ rotation @ np.linalg.inv(atoms.orthogonal)
        turned = np.einsum("ab,ijbc,dc->ijad", turn, v, turn)
        turned[np.arange(12), np.arange(12)] = u
        wanted = wanted + pair_sum(xyz, f, voxels.q, turned)
    intensity, derivatives = model.evaluate(values)
    close(intensity, wanted, 1e-6)
    for found, slope in zip(derivatives, slopes(model, values)):
        close(found, slope, 2e-6)


def test_an_average_over_drawn_motions():
    """<|F|^2> - |<F>|^2 of bodies that are moved by drawn t and lambda, what atoms do alone averaged by itself."""
    whole, values = a_motion(size_t=0.15, size_l=2.5)
    atoms = make_atoms()
    own = covariances(atoms.xyz, whole)[np.arange(12), np.arange(12)]
    atoms = replace(atoms, u=own + 0.06 * np.eye(3))
    voxels, random, n = make_voxels(atoms, n=40), np.random.default_rng(5), 60000
    f, q_sq = scattering(atoms, voxels.q), voxels.q_sq
    damped = f * np.exp(-0.03 * q_sq)
    root, rho = np.linalg.cholesky(whole), atoms.xyz - atoms.xyz.mean(axis=0)
    mean, square = np.zeros(len(q_sq), complex), np.zeros(len(q_sq))
    for _ in range(n // 4000):
        drawn = random.normal(size=(2000, 6)) @ root.T
        for sign in (1.0, -1.0):
            moved = sign * (drawn[:, None, :3] + np.cross(drawn[:, None, 3:], rho[None]))
            phases = np.exp(1j * np.einsum("nik,mk->nim", atoms.xyz + moved, voxels.q))
            total = np.einsum("im,nim->nm", damped, phases)
            mean, square = mean + total.sum(axis=0) / n, square + (np.abs(total) ** 2).sum(axis=0) / n
    drawn = square - np.abs(mean) ** 2 + (f**2 - damped**2).sum(axis=0)
    found = TLSBody([atoms], voxels).evaluate(values)[0]
    assert abs((found @ drawn) / (found @ found) - 1.0) < 1e-3
    assert np.sqrt(((found - drawn) ** 2).mean() / (found**2).mean()) < 0.01


def test_limits():
    """An isotropic L without S is libration.py's, none a rigid body's."""
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    values = np.zeros(20)
    values[:3], values[6:9] = 0.04, 16.0
    bodies = [atoms.select(atoms.chain == name) for name in "AB"]
    close(TLSBody(bodies, voxels).evaluate(values)[0], LibratingBody(bodies, voxels).evaluate([0.2, 4.0])[0], 1e-6)
    values[6:9] = 0.0
    close(TLSBody([atoms], voxels).evaluate(values)[0], RigidBody([atoms], voxels).evaluate(np.array([0.2]))[0], 1e-5)


def test_what_is_a_covariance():
    whole, values = a_motion()
    assert is_covariance(values)
    t, libration, s = tensors_of(values)
    np.testing.assert_allclose(t, whole[:3, :3])
    np.testing.assert_allclose(libration, whole[3:, 3:])
    np.testing.assert_allclose(s, whole[3:, :3] - np.trace(whole[3:, :3]) / 3.0 * np.eye(3))
    for k in (0, 7, 3, 10, 14):  # a negative mean square, or a covariance that is larger than its variances
        wrong = values.copy()
        wrong[k] = -abs(values[k]) if k in (0, 7) else 1.5 * np.sqrt(max(values[:3]) * max(values[6:9]))
        wrong[k] = wrong[k] if k != 10 else 2.0 * max(values[6:9])
        assert not is_covariance(wrong)


def test_known_tensors_are_found():
    whole, values = a_motion(7, 0.2, 4.0)
    atoms = make_atoms(n=25)
    own = covariances(atoms.xyz, whole)[np.arange(25), np.arange(25)]
    atoms = replace(atoms, u=own + 0.06 * np.eye(3))
    voxels = make_voxels(atoms, n=6000)
    truth = TLSBody([atoms], voxels).evaluate(values)[0]
    sigma = np.full(len(truth), 0.02 * truth.mean())
    seen = 2.0 * truth + 30.0 + 2.0 * sigma * np.random.default_rng(8).normal(size=len(truth))
    voxels = replace(voxels, intensity=seen, sigma=2.0 * sigma)
    functions = background_functions(voxels.s, "smooth", 4)
    found = fit(TLSBody([atoms], voxels), Problem(voxels, functions, ~voxels.held_out))
    assert found.converged and found.names[0] == "t11" and found.names[-1] == "s32" and found.units[-1] == "A deg"
    assert (np.abs(found.values - values) < 4.0 * found.esds).all()
    assert np.abs(found.values - values)[:3].max() < 0.01 and np.abs(found.values - values)[6:9].max() < 1.0
    assert abs(found.chi_sq - 1.0) < 0.06


def test_bodies_with_parameters_of_their_own():
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    bodies = [atoms.select(slice(0, 5)), atoms.select(slice(5, 9))]
    others = atoms.select(slice(9, 12))
    model = SeparateParts([RigidBody([one], voxels) for one in bodies], others, voxels)
    assert [one.name for one in model.parameters] == ["sigma_1", "sigma_2"] and model.name == "rigid_body"
    values, f, wanted = np.array([0.3, 0.2]), scattering(atoms, voxels.q), 0.0
    v = np.zeros((12, 12))
    v[:5, :5], v[5:9, 5:9] = 0.09, 0.04
    for xyz, u in copies(atoms):
        whole = v[:, :, None, None] * np.eye(3)
        whole[np.arange(12), np.arange(12)] = u
        wanted = wanted + pair_sum(xyz, f, voxels.q, whole)
    close(model.evaluate(values)[0], wanted, 1e-5)
    close(model.calculate(values), wanted, 1e-5)
    close(model.evaluate(values)[1], slopes(model, values), 1e-6)
    alone = SeparateParts([RigidBody(bodies, voxels)], others, voxels)
    assert [one.name for one in alone.parameters] == ["sigma"]
    close(
        SeparateParts([RigidBody([atoms], voxels)], others, voxels).alone, Uncorrelated(others, voxels).intensity, 1e-9
    )


def test_what_atoms_do():
    atoms = make_atoms()
    whole, values = a_motion()
    names = [one.name for one in TLSBody([atoms], make_voxels(atoms, n=10)).parameters]
    v = covariances(atoms.xyz, whole)
    given = dict(zip(names, values))
    found = describe_fluctuations("rigid_body", {"unit": "molecule"}, given, atoms)
    off = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(found.v[off], (np.trace(v, axis1=2, axis2=3) / 3.0)[off], rtol=1e-9, atol=1e-12)
    bodies = [np.arange(12) < 5, (np.arange(12) >= 5) & (np.arange(12) < 9)]
    given = {"sigma_1": 0.3, "libration_1": 2.0, "sigma_2": 0.2, "libration_2": 0.0}
    found = describe_fluctuations("rigid_body", {"unit": "selection"}, given, atoms, bodies=bodies)
    np.testing.assert_allclose(found.collective[5:], [0.04] * 4 + [0.0] * 3)
    np.testing.assert_allclose(np.trace(found.tensors, axis1=1, axis2=2) / 3.0, found.collective)
    assert (found.collective[:5] > 0.09).all() and not found.v[:5, 5:].any()
