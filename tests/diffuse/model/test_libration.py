"""Libration against the sum over all pairs, an average over drawn displacements, finite differences, known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pair_sums import CELLS, P1, P3, P212121, copies, make_atoms, make_voxels, pair_sum, scattering, slopes

from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.fitting import Problem, fit
from dials_postrefine.diffuse.model.fluctuations import describe_fluctuations
from dials_postrefine.diffuse.model.libration import LibratingBody
from dials_postrefine.diffuse.model.rigid_body import RigidBody


def close(found, wanted, tolerance):
    assert np.abs(found - wanted).max() < tolerance * np.sqrt((wanted**2).mean())


def crosses(xyz):
    """A_i (n, 3, 3): lambda x rho = A lambda, element by element."""
    x, y, z = (xyz - xyz.mean(axis=0)).T
    o = np.zeros(len(xyz))
    return np.array([[o, z, -y], [-z, o, x], [y, -x, o]]).transpose(2, 0, 1)


def covariances(xyz, t, angle):
    a = crosses(xyz)
    return t + np.radians(angle) ** 2 * np.einsum("iab,jcb->ijac", a, a)


def with_own(v, u):
    v = v.copy()
    v[np.arange(len(v)), np.arange(len(v))] = u
    return v


@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize(("cell", "group"), [("triclinic", P1), ("orthorhombic", P212121), ("hexagonal", P3)])
def test_it_is_the_sum_over_pairs(cell, group, anisotropic):
    atoms = make_atoms(CELLS[cell], group, anisotropic=anisotropic)
    voxels = make_voxels(atoms)
    model, values = LibratingBody([atoms], voxels), np.array([0.2, 4.0])
    f = scattering(atoms, voxels.q)
    wanted = sum(
        pair_sum(xyz, f, voxels.q, with_own(covariances(xyz, 0.04 * np.eye(3), 4.0), u)) for xyz, u in copies(atoms)
    )
    intensity, derivatives = model.evaluate(values)
    close(intensity, wanted, 1e-6)
    close(derivatives[0], slopes(model, values)[0], 1e-6)
    close(derivatives[1], slopes(model, values)[1], 1e-6)


def test_with_a_tensor_and_bodies_of_their_own():
    atoms = make_atoms(CELLS["hexagonal"], P3)
    voxels = make_voxels(atoms)
    values = np.array([0.1, 0.05, 0.2, 0.02, -0.03, 0.01, 5.0])
    tensor = np.array([[0.1, 0.02, -0.03], [0.02, 0.05, 0.01], [-0.03, 0.01, 0.2]])
    model = LibratingBody([atoms.select(atoms.chain == name) for name in "AB"], voxels, tensor=True)
    f, wanted = scattering(atoms, voxels.q), 0.0
    for (xyz, u), rotation in zip(copies(atoms), atoms.rotations):
        turn = atoms.orthogonal @ rotation @ np.linalg.inv(atoms.orthogonal)
        for name in "AB":
            one = atoms.chain == name
            v = with_own(covariances(xyz[one], turn @ tensor @ turn.T, 5.0), u[one])
            wanted = wanted + pair_sum(xyz[one], f[one], voxels.q, v)
    intensity, derivatives = model.evaluate(values)
    close(intensity, wanted, 1e-6)
    for found, slope in zip(derivatives, slopes(model, values)):
        close(found, slope, 1e-6)


def draw_intensity(atoms, q, sigma, angle, n):
    """<|F|^2> - |<F>|^2 over n drawn t and lambda, what atoms do alone averaged by their own Debye-Waller factors."""
    random = np.random.default_rng(5)
    u = np.array([one - v for one, v in zip(atoms.u, diagonal(covariances(atoms.xyz, sigma**2 * np.eye(3), angle)))])
    assert np.linalg.eigvalsh(u).min() > 0.0
    f = scattering(atoms, q).T
    own = np.exp(-0.5 * np.einsum("na,iab,nb->ni", q, u, q))
    arms = crosses(atoms.xyz)
    mean, square = np.zeros(len(q), complex), np.zeros(len(q))
    for _ in range(n // 2):
        t, turn = sigma * random.normal(size=3), np.radians(angle) * random.normal(size=3)
        for sign in (1.0, -1.0):
            phase = (atoms.xyz + sign * (t + arms @ turn)) @ q.T
            total = (f * own * np.exp(1j * phase.T)).sum(axis=1)
            mean, square = mean + total / n, square + np.abs(total) ** 2 / n
    return square - np.abs(mean) ** 2 + (f**2 * (1.0 - own**2)).sum(axis=1)


def diagonal(v):
    return v[np.arange(len(v)), np.arange(len(v))]


def test_an_average_over_drawn_displacements():
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=40)
    sigma, angle, n = 0.2, 3.0, 40000
    found = LibratingBody([total_motion(atoms, sigma, angle)], voxels).evaluate(np.array([sigma, angle]))[0]
    drawn = draw_intensity(total_motion(atoms, sigma, angle), voxels.q, sigma, angle, n)
    # the error of a voxel is 1/sqrt(n) = 5e-3, that of the scale between the two less
    assert abs((found @ drawn) / (found @ found) - 1.0) < 2e-3
    assert np.sqrt(((found - drawn) ** 2).mean() / (found**2).mean()) < 0.01


def total_motion(atoms, sigma, angle, own=0.06):
    """The same atoms with own motion, translation and libration in their displacements."""
    v = diagonal(covariances(atoms.xyz, sigma**2 * np.eye(3), angle))
    return replace(atoms, u=v + own * np.eye(3))


def test_limits():
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    body = RigidBody([atoms], voxels).evaluate(np.array([0.3]))[0]
    close(LibratingBody([atoms], voxels).evaluate(np.array([0.3, 0.0]))[0], body, 1e-5)
    nothing = LibratingBody([atoms], voxels).evaluate(np.array([1e-6, 1e-6]))[0]
    close(nothing, RigidBody([atoms], voxels).evaluate(np.array([1e-6]))[0], 1e-5)


@pytest.mark.parametrize(("sigma", "angle"), [(0.15, 4.0), (0.3, 2.0)])
def test_known_libration_is_found(sigma, angle):
    atoms = total_motion(make_atoms(n=25), sigma, angle)
    voxels = make_voxels(atoms, n=6000)
    # what pairs of atoms give, from the independent formula, in blocks of voxels
    v, f = covariances(atoms.xyz, sigma**2 * np.eye(3), angle), scattering(atoms, voxels.q)
    truth = np.zeros(len(voxels))
    for i in range(len(atoms)):
        for j in range(i + 1):
            w = np.einsum("na,iab,nb->in", voxels.q, np.array([v[i, i], v[j, j], v[i, j]]), voxels.q)
            own = 0.06 * voxels.q_sq * (i != j)
            pair = f[i] * f[j] * np.cos(voxels.q @ (atoms.xyz[i] - atoms.xyz[j]))
            moved = np.exp(-0.5 * (w[0] + w[1]) - own) * np.expm1(w[2])
            truth += (2.0 if i > j else 1.0) * pair * moved
        truth += f[i] ** 2 * np.exp(-v_own(v, i, voxels.q)) * -np.expm1(-0.06 * voxels.q_sq)
    sigmas = 0.03 * np.full(len(voxels), truth.mean())
    intensity = 3.0 * truth + 40.0 + 3.0 * sigmas * np.random.default_rng(8).normal(size=len(voxels))
    voxels = replace(voxels, intensity=intensity, sigma=3.0 * sigmas)
    problem = Problem(voxels, background_functions(voxels.s, "smooth", 4), ~voxels.held_out)
    found = fit(LibratingBody([atoms], voxels), problem)
    assert found.names == ["sigma", "libration"] and found.units[1] == "deg" and not found.undetermined
    for value, esd, true in zip(found.values, found.esds, (sigma, angle)):
        assert abs(value - true) < 3.0 * esd and abs(value - true) < 0.03 * true
    assert abs(found.chi_sq - 1.0) < 0.06


def v_own(v, i, q):
    return np.einsum("na,ab,nb->n", q, v[i, i], q)


def test_covariances_by_atom():
    atoms = make_atoms()
    given = {"sigma": 0.2, "libration": 3.0}
    found = describe_fluctuations("rigid_body", {"unit": "molecule"}, given, atoms)
    wanted = np.trace(covariances(atoms.xyz, 0.04 * np.eye(3), 3.0), axis1=2, axis2=3) / 3.0
    np.testing.assert_allclose(found.collective, np.diag(wanted), rtol=1e-10)
    off = ~np.eye(len(atoms), dtype=bool)
    np.testing.assert_allclose(found.v[off], wanted[off], rtol=1e-10)
