"""Each model against the sum over all pairs, an average over drawn displacements, limits, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from pair_sums import (
    CELLS,
    P1,
    P3,
    P212121,
    copies,
    isotropic,
    make_atoms,
    make_voxels,
    pair_sum,
    scattering,
    slopes,
)

from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.given_covariance import GivenCovariance
from dials_postrefine.diffuse.model.liquid_like import LiquidLike, split_factors
from dials_postrefine.diffuse.model.mixture import Mixture
from dials_postrefine.diffuse.model.own_displacements import OwnDisplacements, RefinedDisplacements
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated

GROUPS = [("orthorhombic", P1), ("triclinic", P1), ("orthorhombic", P212121), ("hexagonal", P3)]


def distances(xyz):
    return np.linalg.norm(xyz[:, None] - xyz[None], axis=2)


def close(found, wanted, tolerance):
    assert np.abs(found - wanted).max() < tolerance * np.sqrt((wanted**2).mean())


@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize(("cell", "group"), GROUPS)
def test_a_rigid_body_is_the_sum_over_pairs(cell, group, anisotropic):
    atoms = make_atoms(CELLS[cell], group, anisotropic=anisotropic)
    voxels = make_voxels(atoms, cells=(2, 2, 1) if cell == "hexagonal" else (3, 1, 2))
    model, sigma = RigidBody([atoms], voxels), 0.31
    wanted = 0.0
    for xyz, u in copies(atoms):
        v = isotropic(np.full((len(atoms), len(atoms)), sigma**2))
        v[np.arange(len(atoms)), np.arange(len(atoms))] = u
        wanted = wanted + pair_sum(xyz, scattering(atoms, voxels.q), voxels.q, v)
    intensity, derivatives = model.evaluate(np.array([sigma]))
    close(intensity, wanted, 1e-5)
    close(derivatives, slopes(model, [sigma]), 1e-6)


def test_a_tensor_turns_with_the_copies():
    atoms = make_atoms(CELLS["hexagonal"], P3)
    voxels = make_voxels(atoms)
    values = np.array([0.1, 0.05, 0.2, 0.02, -0.03, 0.01])
    tensor = np.array([[0.1, 0.02, -0.03], [0.02, 0.05, 0.01], [-0.03, 0.01, 0.2]])
    model = RigidBody([atoms], voxels, tensor=True)
    wanted = 0.0
    for (xyz, u), rotation in zip(copies(atoms), atoms.rotations):
        turn = atoms.orthogonal @ rotation @ np.linalg.inv(atoms.orthogonal)
        v = np.broadcast_to(turn @ tensor @ turn.T, (len(atoms), len(atoms), 3, 3)).copy()
        v[np.arange(len(atoms)), np.arange(len(atoms))] = u
        wanted = wanted + pair_sum(xyz, scattering(atoms, voxels.q), voxels.q, v)
    intensity, derivatives = model.evaluate(values)
    close(intensity, wanted, 1e-5)
    close(derivatives, slopes(model, values), 1e-6)


def test_bodies_and_cells_move_each_on_its_own():
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    both = RigidBody([atoms.select(atoms.chain == name) for name in "AB"], voxels).evaluate(np.array([0.3]))[0]
    parts = [RigidBody([atoms.select(atoms.chain == name)], voxels).evaluate(np.array([0.3]))[0] for name in "AB"]
    close(both, parts[0] + parts[1], 1e-9)
    xyz = np.concatenate([one for one, _ in copies(atoms)])
    v = isotropic(np.full((len(xyz), len(xyz)), 0.09))
    v[np.arange(len(xyz)), np.arange(len(xyz))] = np.concatenate([u for _, u in copies(atoms)])
    f = np.tile(scattering(atoms, voxels.q), (4, 1))
    close(RigidBody([atoms.expanded()], voxels).evaluate(np.array([0.3]))[0], pair_sum(xyz, f, voxels.q, v), 1e-5)


@pytest.mark.parametrize("kernel", ["exponential", "gaussian"])
@pytest.mark.parametrize(("cell", "group"), GROUPS)
def test_liquid_like_motions_are_the_sum_over_pairs(cell, group, kernel):
    atoms = make_atoms(CELLS[cell], group)
    voxels = make_voxels(atoms)
    sigma, gamma = 0.4, 4.0
    model = LiquidLike(atoms, voxels, "molecule", kernel)
    wanted = 0.0
    for xyz, u in copies(atoms):
        r = distances(xyz)
        v = sigma**2 * (np.exp(-r / gamma) if kernel == "exponential" else np.exp(-0.5 * (r / gamma) ** 2))
        np.fill_diagonal(v, u[:, 0, 0])
        wanted = wanted + pair_sum(xyz, scattering(atoms, voxels.q), voxels.q, isotropic(v))
    intensity, derivatives = model.evaluate(np.array([sigma, gamma]))
    close(intensity, wanted, 1e-2)
    close(derivatives, slopes(model, [sigma, gamma], 1e-3), 2e-3)


def test_liquid_like_motions_of_a_cell():
    atoms = make_atoms(group=P212121, n=8)
    voxels = make_voxels(atoms, n=150)
    xyz = np.concatenate([one for one, _ in copies(atoms)])
    v = 0.16 * np.exp(-distances(xyz) / 4.0)
    np.fill_diagonal(v, np.tile(atoms.u_iso, 4))
    wanted = pair_sum(xyz, np.tile(scattering(atoms, voxels.q), (4, 1)), voxels.q, isotropic(v))
    close(LiquidLike(atoms, voxels, "cell").evaluate(np.array([0.4, 4.0]))[0], wanted, 1e-2)


@pytest.mark.parametrize("order", [1, 2])
def test_liquid_like_motions_to_an_order(order):
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=150)
    f, q_sq = scattering(atoms, voxels.q), voxels.q_sq
    wanted = (f**2 * -np.expm1(-q_sq * atoms.u_iso[:, None])).sum(axis=0)
    for i in range(len(atoms)):
        for j in range(i):
            r = atoms.xyz[i] - atoms.xyz[j]
            x = q_sq * 0.16 * np.exp(-np.linalg.norm(r) / 4.0)
            damping = np.exp(-0.5 * q_sq * (atoms.u_iso[i] + atoms.u_iso[j]))
            wanted += 2.0 * f[i] * f[j] * np.cos(voxels.q @ r) * damping * (x + 0.5 * x**2 * (order == 2))
    model = LiquidLike(atoms, voxels, "molecule", "exponential", order)
    close(model.evaluate(np.array([0.4, 4.0]))[0], wanted, 1e-2)
    close(model.evaluate(np.array([0.4, 4.0]))[1], slopes(model, [0.4, 4.0], 1e-3), 2e-3)
    every = LiquidLike(atoms, voxels, "molecule").evaluate(np.array([0.4, 4.0]))[0]
    many = LiquidLike(atoms, voxels, "molecule", "exponential", 14).evaluate(np.array([0.4, 4.0]))[0]
    close(many, every, 1e-5)
    assert np.abs(wanted - every).max() > (0.1, 0.02)[order - 1] * np.sqrt((every**2).mean())


@pytest.mark.parametrize("cells", [(1, 1, 1), (2, 2, 2)])
def test_liquid_like_motions_of_a_crystal(cells):
    """The pairs of a cell with those of all cells near it; the grid of voxels is that of the box of cells."""
    atoms = make_atoms(n=8)
    voxels = make_voxels(atoms, cells=cells, n=100)
    sigma, gamma, reach = 0.35, 2.0, 2
    f, u = scattering(atoms, voxels.q), atoms.u_iso
    q_sq = voxels.q_sq
    wanted = np.zeros(len(voxels))
    for shift in np.ndindex(*(2 * reach + 1,) * 3):
        away = atoms.orthogonal @ (np.array(shift) - reach)
        for i in range(len(atoms)):
            for j in range(len(atoms)):
                r = atoms.xyz[i] - atoms.xyz[j] - away
                own = i == j and not away.any()
                v = u[i] if own else sigma**2 * np.exp(-np.linalg.norm(r) / gamma)
                damping = np.exp(-0.5 * q_sq * (u[i] + u[j]))
                wanted += f[i] * f[j] * np.cos(voxels.q @ r) * damping * np.expm1(q_sq * v)
    found = LiquidLike(atoms, voxels, "crystal").evaluate(np.array([sigma, gamma]))[0]
    close(found, wanted, 1e-2)


def test_a_mixture():
    """V_ij = s^2 + sigma^2 Gamma inside a molecule; that of a crystal goes over into it where cells are far apart."""
    atoms = make_atoms()
    voxels = make_voxels(atoms)
    values = np.array([0.3, 4.0, 0.25])
    v = 0.09 * np.exp(-distances(atoms.xyz) / 4.0) + 0.25**2
    np.fill_diagonal(v, atoms.u_iso)
    model = Mixture(atoms, voxels, "molecule", "exponential")
    intensity, derivatives = model.evaluate(values)
    close(intensity, pair_sum(atoms.xyz, scattering(atoms, voxels.q), voxels.q, isotropic(v)), 1e-2)
    close(derivatives, slopes(model, values, 1e-3), 2e-3)
    crystal = Mixture(atoms, voxels, "crystal", "exponential").evaluate(np.array([0.3, 0.7, 0.25]))[0]
    close(crystal, model.evaluate(np.array([0.3, 0.7, 0.25]))[0], 1e-2)


def test_limits():
    """sigma -> 0: only what atoms do alone; gamma -> infinity: a rigid body; gamma -> 0: nothing that interferes."""
    atoms = make_atoms()
    voxels = make_voxels(atoms)
    liquid, rigid = LiquidLike(atoms, voxels), RigidBody([atoms], voxels)
    alone = Uncorrelated(atoms, voxels).evaluate(np.zeros(0))[0]
    close(liquid.evaluate(np.array([1e-6, 5.0]))[0], alone, 1e-6)
    close(rigid.evaluate(np.array([1e-6]))[0], alone, 1e-6)
    close(liquid.evaluate(np.array([0.3, 1e7]))[0], rigid.evaluate(np.array([0.3]))[0], 2e-3)
    close(liquid.evaluate(np.array([0.3, 0.05]))[0], alone, 2e-3)


def test_own_displacements():
    """(1 - exp(-q^2 sigma^2)) |F|^2 of a rigid body without any B, and V_ii = sigma^2 of liquid-like motions."""
    atoms = make_atoms()
    voxels, still = make_voxels(atoms), atoms.with_u(0.0)
    f = scattering(atoms, voxels.q)
    amplitude = (f * np.exp(1j * atoms.xyz @ voxels.q.T)).sum(axis=0)
    rigid = OwnDisplacements(RigidBody([still], voxels), atoms, voxels)
    wanted = (1.0 - np.exp(-voxels.q_sq * 0.09)) * np.abs(amplitude) ** 2
    close(rigid.evaluate(np.array([0.3]))[0], wanted, 1e-5)
    close(rigid.evaluate(np.array([0.3]))[1], slopes(rigid, [0.3]), 1e-6)
    liquid = OwnDisplacements(LiquidLike(still, voxels), atoms, voxels)
    wanted = pair_sum(atoms.xyz, f, voxels.q, isotropic(0.16 * np.exp(-distances(atoms.xyz) / 4.0)))
    close(liquid.evaluate(np.array([0.4, 4.0]))[0], wanted, 1e-2)
    close(liquid.evaluate(np.array([0.4, 4.0]))[1], slopes(liquid, [0.4, 4.0], 1e-3), 2e-3)


def test_refined_displacements():
    """b_extra is what it would be to have it in the B of all atoms."""
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    model = RefinedDisplacements(RigidBody([atoms], voxels), atoms, voxels)
    more = RigidBody([atoms.with_u(atoms.u_iso + 5.0 / (8.0 * np.pi**2))], voxels).evaluate(np.array([0.3]))[0]
    close(model.evaluate(np.array([0.3, 5.0]))[0], more, 1e-6)
    close(model.evaluate(np.array([0.3, 5.0]))[1], slopes(model, [0.3, 5.0]), 1e-6)


def test_form_factors_are_few_functions():
    atoms = make_atoms()
    s = np.linspace(0.0, 0.5, 200)
    coefficients, functions = split_factors(atoms, s)
    curves = scattering(atoms, 2.0 * np.pi * s[:, None] * [[1.0, 0, 0]]) * np.exp(
        -2.0 * np.pi**2 * atoms.u_iso[:, None] * s**2
    )
    assert np.abs(coefficients.T @ functions - curves).max() < 2e-3 * np.sqrt((curves**2).sum(axis=0)).max()


def test_an_average_over_drawn_displacements():
    """No formula: <|F|^2> - |<F>|^2 of displacements that are drawn from V."""
    atoms = make_atoms(n=6)
    voxels = make_voxels(atoms, n=40)
    v = 0.1 * np.exp(-distances(atoms.xyz) / 3.0) + 0.05 * np.eye(6)
    root = np.linalg.cholesky(v)
    random = np.random.default_rng(5)
    f = scattering(atoms, voxels.q)
    first, square, n = 0.0, 0.0, 0
    for _ in range(20):
        moved = np.einsum("ij,njk->nik", root, random.normal(size=(4000, 6, 3))) + atoms.xyz
        amplitude = np.einsum("im,nim->nm", f, np.exp(1j * np.einsum("nik,mk->nim", moved, voxels.q)))
        first, square, n = first + amplitude.sum(axis=0), square + (np.abs(amplitude) ** 2).sum(axis=0), n + 4000
    drawn = square / n - np.abs(first / n) ** 2
    found = GivenCovariance(atoms, voxels, v).evaluate(np.array([1.0]))[0]
    assert abs(np.polyfit(drawn, found, 1)[0] - 1.0) < 0.01
    assert np.corrcoef(drawn, found)[0, 1] > 0.9995


@pytest.mark.parametrize(("cell", "group"), GROUPS)
def test_covariances_are_the_sum_over_pairs(cell, group):
    atoms = make_atoms(CELLS[cell], group)
    voxels = make_voxels(atoms, n=120)
    random = np.random.default_rng(3)
    root = random.normal(size=(36, 36)) * 0.08
    v = root @ root.T
    f = scattering(atoms, voxels.q)
    wanted = 0.0
    for (xyz, _), rotation in zip(copies(atoms), atoms.rotations):
        turn = atoms.orthogonal @ rotation @ np.linalg.inv(atoms.orthogonal)
        blocks = v.reshape(12, 3, 12, 3).transpose(0, 2, 1, 3)
        wanted = wanted + pair_sum(xyz, f, voxels.q, np.einsum("ab,ijbc,dc->ijad", turn, blocks, turn))
    model = GivenCovariance(atoms, voxels, v)
    close(model.calculate(np.array([1.0])), wanted, 1e-8)
    close(model.evaluate(np.array([1.0]))[0], wanted, 1e-8)
    close(model.evaluate(np.array([0.7]))[1], slopes(model, [0.7]), 1e-6)
    scalar = v[::3, ::3]
    wanted = sum(pair_sum(xyz, f, voxels.q, isotropic(scalar)) for xyz, _ in copies(atoms))
    model = GivenCovariance(atoms, voxels, scalar)
    close(model.evaluate(np.array([1.0]))[0], wanted, 1e-5)
    close(model.evaluate(np.array([0.7]))[1], slopes(model, [0.7], 1e-2), 1e-3)


def test_groups_of_atoms():
    """Residues that move alike: V of their atoms is that of the groups, but for what an atom has with itself."""
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms, n=120)
    pairs = GroupPairs(atoms, atoms.residue, voxels)
    random = np.random.default_rng(4)
    root = random.normal(size=(4, 4)) * 0.2
    v = root @ root.T
    whole = v[np.ix_(atoms.residue, atoms.residue)].copy()
    np.fill_diagonal(whole, atoms.u_iso)
    wanted = sum(pair_sum(xyz, scattering(atoms, voxels.q), voxels.q, isotropic(whole)) for xyz, _ in copies(atoms))
    close(pairs.interpolated(v, np.zeros_like(v))[0], wanted, 1e-4)
