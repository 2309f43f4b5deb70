"""Elastic networks: pairs, drawn displacements, supercells, finite differences, known truth."""

from __future__ import annotations

from dataclasses import replace

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

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.elastic import AnisotropicElastic, Elastic, Network, NetworkChoice, find_network
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.springs import WAVES, Response, find_springs, nodes_of
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated
from dials_postrefine.diffuse.model.voxels import Voxels


def close(found, wanted, tolerance):
    assert np.abs(found - wanted).max() < tolerance * np.sqrt((wanted**2).mean())


def stiffness(xyz, cutoff, width, tensor, bonds=1.0):
    """K of nodes, pair by pair (n, n, 3, 3) or (n, n, 1, 1)."""
    n = len(xyz)
    k = np.zeros((n, n, 3, 3) if tensor else (n, n, 1, 1))
    for i in range(n):
        for j in range(n):
            d = xyz[j] - xyz[i]
            r = np.linalg.norm(d)
            if i != j and r < cutoff:
                w = np.exp(-((r / width) ** 2)) * (bonds if r < 1.95 else 1.0)
                block = w * np.outer(d, d) / r**2 if tensor else np.array([[w]])
                k[i, j] -= block
                k[i, i] += block
    return k


def covariance(atoms, cutoff, width, tensor, values):
    """fraction C sqrt(u u) of a molecule by the definition (n, n, m, m), m = 3 or 1."""
    fraction, anchor, bonds = values
    k = stiffness(atoms.xyz, cutoff, width, tensor, bonds)
    n, _, m, _ = k.shape
    g = np.linalg.inv(k.transpose(0, 2, 1, 3).reshape(n * m, n * m) + anchor * np.eye(n * m))
    g = g.reshape(n, m, n, m).transpose(0, 2, 1, 3)
    size = np.array([np.trace(g[i, i]) / m for i in range(n)])
    return fraction * g * np.sqrt(np.outer(atoms.u_iso, atoms.u_iso) / np.outer(size, size))[:, :, None, None]


def network_of(atoms, cutoff, width, n_axes, crystal=False):
    nodes = nodes_of(atoms)
    springs = find_springs(atoms, nodes, cutoff, crystal)
    return Network(nodes, Response(springs, width, n_axes), cutoff, width, 0.2, 1.0, True)


def test_a_gaussian_network():
    atoms = make_atoms()
    voxels = make_voxels(atoms)
    model, values = Elastic(atoms, voxels, network_of(atoms, 5.0, 4.0, 1)), np.array([0.8, 0.2, 1.7])
    v = isotropic(covariance(atoms, 5.0, 4.0, False, values)[:, :, 0, 0])
    v[np.arange(12), np.arange(12)] = atoms.u
    intensity, derivatives = model.evaluate(values)
    close(intensity, pair_sum(atoms.xyz, scattering(atoms, voxels.q), voxels.q, v), 1e-5)
    close(derivatives, slopes(model, values, 1e-3), 2e-3)


@pytest.mark.parametrize(("cell", "group"), [("triclinic", P1), ("orthorhombic", P212121), ("hexagonal", P3)])
def test_an_anisotropic_network_is_the_sum_over_pairs(cell, group):
    atoms = make_atoms(CELLS[cell], group)
    voxels = make_voxels(atoms)
    model = AnisotropicElastic(atoms, voxels, network_of(atoms, 6.0, 4.0, 3))
    values = np.array([0.8, 0.2, 1.7])
    v = covariance(atoms, 6.0, 4.0, True, values)
    every = np.arange(12)
    # what is not the network's is isotropic, and the file says how far an atom moves in all
    v[every, every] += (atoms.u_iso * (1.0 - values[0]))[:, None, None] * np.eye(3)
    np.testing.assert_allclose(np.trace(v[every, every], axis1=1, axis2=2), 3.0 * atoms.u_iso)
    f, wanted = scattering(atoms, voxels.q), 0.0
    for (xyz, _), rotation in zip(copies(atoms), atoms.rotations):
        turn = atoms.orthogonal @ rotation @ np.linalg.inv(atoms.orthogonal)
        wanted = wanted + pair_sum(xyz, f, voxels.q, np.einsum("ab,ijbc,dc->ijad", turn, v, turn))
    intensity, derivatives = model.evaluate(values)
    close(intensity, wanted, 1e-6)
    close(model.calculate(values), wanted, 1e-6)
    close(derivatives, slopes(model, values), 1e-6)


def test_displacements_of_the_file_that_are_tensors_stay():
    atoms = make_atoms(anisotropic=True)
    voxels = make_voxels(atoms)
    model, values = AnisotropicElastic(atoms, voxels, network_of(atoms, 6.0, 4.0, 3)), np.array([0.8, 0.2, 1.0])
    v = covariance(atoms, 6.0, 4.0, True, values)
    v[np.arange(12), np.arange(12)] = atoms.u
    close(model.evaluate(values)[0], pair_sum(atoms.xyz, scattering(atoms, voxels.q), voxels.q, v), 1e-6)
    close(model.evaluate(values)[1], slopes(model, values), 1e-6)


def test_residues_are_the_nodes_of_large_models(monkeypatch):
    from dials_postrefine.diffuse.model import springs

    monkeypatch.setattr(springs, "MOST_NODES", 5)
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms, n=150)
    network, values = network_of(atoms, 8.0, 5.0, 3), np.array([0.6, 0.3, 2.0])
    assert len(network.nodes.places) == 4 and not network.nodes.single
    model, f, wanted = AnisotropicElastic(atoms, voxels, network), scattering(atoms, voxels.q), 0.0
    of_nodes = values[0] * network.covariances(values)[0]
    own = of_nodes[np.arange(4), np.arange(4)]
    own = own - np.trace(own, axis1=1, axis2=2)[:, None, None] / 3.0 * np.eye(3)
    for (xyz, _), rotation in zip(copies(atoms), atoms.rotations):
        turn = np.diag(np.diag(rotation))
        v = of_nodes[np.ix_(atoms.residue, atoms.residue)].copy()
        v[np.arange(12), np.arange(12)] = atoms.u + own[atoms.residue]
        wanted = wanted + pair_sum(xyz, f, voxels.q, np.einsum("ab,ijbc,dc->ijad", turn, v, turn))
    close(model.evaluate(values)[0], wanted, 1e-6)
    close(model.evaluate(values)[1], slopes(model, values), 1e-6)


def test_an_average_over_drawn_displacements():
    """No formula: <|F|^2> - |<F>|^2 of displacements that are drawn from the network's and the atoms' own."""
    atoms = make_atoms(n=6)
    voxels = make_voxels(atoms, n=40)
    v = covariance(atoms, 6.0, 4.0, True, (0.8, 0.2, 1.0)).transpose(0, 2, 1, 3).reshape(18, 18)
    v = v + 0.2 * np.diag(np.repeat(atoms.u_iso, 3))
    root, random, f = np.linalg.cholesky(v), np.random.default_rng(5), scattering(atoms, voxels.q)
    first, square, n = 0.0, 0.0, 0
    for _ in range(15):
        moved = (random.normal(size=(4000, 18)) @ root.T).reshape(-1, 6, 3)
        for sign in (1.0, -1.0):
            phases = np.exp(1j * np.einsum("nik,mk->nim", sign * moved + atoms.xyz, voxels.q))
            amplitude = np.einsum("im,nim->nm", f, phases)
            first, square, n = first + amplitude.sum(axis=0), square + (np.abs(amplitude) ** 2).sum(axis=0), n + 4000
    drawn = square / n - np.abs(first / n) ** 2
    model = AnisotropicElastic(atoms, voxels, network_of(atoms, 6.0, 4.0, 3))
    found = model.evaluate(np.array([0.8, 0.2, 1.0]))[0]
    # the error of a voxel is 1/sqrt(n) = 3e-3, that of the scale between the two less
    assert abs((found @ drawn) / (found @ found) - 1.0) < 1e-3
    assert np.sqrt(((found - drawn) ** 2).mean() / (found**2).mean()) < 8e-3


def test_limits():
    """A weak anchor makes a rigid body of atoms that move alike; a strong one leaves nothing that interferes."""
    atoms = make_atoms(group=P212121).with_u(0.2)
    voxels = make_voxels(atoms)
    rigid = RigidBody([atoms], voxels).evaluate(np.array([np.sqrt(0.2)]))[0]
    alone = Uncorrelated(atoms, voxels).evaluate(np.zeros(0))[0]
    gaussian = Elastic(atoms, voxels, network_of(atoms, 30.0, np.inf, 1))
    close(gaussian.evaluate(np.array([1.0, 1e-5, 1.0]))[0], rigid, 1e-4)
    for model in (gaussian, AnisotropicElastic(atoms, voxels, network_of(atoms, 30.0, np.inf, 3))):
        close(model.evaluate(np.array([1.0, 1e8, 1.0]))[0], alone, 1e-5)
        close(model.evaluate(np.array([0.0, 0.2, 1.0]))[0], alone, 1e-6)


@pytest.mark.parametrize("n_axes", [1, 3])
def test_a_crystal_is_a_supercell(n_axes):
    """K(k) of a wave is what springs between all atoms of 4 x 4 x 4 cells, found one by one, do to the wave."""
    basis = np.diag([6.0, 7.0, 8.0])
    atoms = make_atoms(basis, P212121[:2], n=2)
    network = network_of(atoms, 5.0, 4.0, n_axes, crystal=True)
    cell = np.concatenate([xyz for xyz, _ in copies(atoms)])
    shifts = np.array(list(np.ndindex(4, 4, 4)))
    xyz = (cell[None] + (shifts @ basis)[:, None]).reshape(-1, 3)
    size = np.diag(basis) * 4.0
    n = len(xyz)
    k = np.zeros((n, n, n_axes, n_axes))
    for i in range(n):
        d = xyz - xyz[i]
        d -= size * np.rint(d / size)
        r = np.linalg.norm(d, axis=1)
        for j in np.flatnonzero((r < 5.0) & (r > 1e-6)):
            w = np.exp(-((r[j] / 4.0) ** 2))
            block = w * np.outer(d[j], d[j]) / r[j] ** 2 if n_axes == 3 else np.array([[w]])
            k[i, j] -= block
            k[i, i] += block
    k = k.transpose(0, 2, 1, 3).reshape(n * n_axes, -1) + 0.3 * np.eye(n * n_axes)
    part = np.random.default_rng(2).normal(size=(4 * n_axes, 2))
    for wave, (free, bonds) in zip(WAVES, network.response.stiffness):
        phases = np.exp(2j * np.pi * shifts @ wave)
        whole = (phases[:, None, None] * part[None]).reshape(n * n_axes, 2)
        wanted = (k @ whole)[: 4 * n_axes]
        np.testing.assert_allclose((free + bonds + 0.3 * np.eye(len(free))) @ part, wanted, atol=1e-10)
    g = network.response.evaluate(0.3)[0]
    assert g.shape == (2, 2, n_axes, n_axes)
    model = (AnisotropicElastic if n_axes == 3 else Elastic)(atoms, make_voxels(atoms), network)
    values = np.array([0.8, 0.2, 1.7])
    close(model.evaluate(values)[1], slopes(model, values, 1e-3), 2e-3)


@pytest.mark.parametrize("n_axes", [1, 3])
def test_the_network_is_found_by_the_displacements(n_axes):
    atoms = make_atoms(n=40, basis=np.diag([30.0, 30.0, 30.0])).with_u(1.0)
    g = covariance(atoms, 7.0, 4.0, n_axes == 3, (1.0, 0.05, 1.0))
    # covariance(..) has displacements of 1: those of the network itself
    k = stiffness(atoms.xyz, 7.0, 4.0, n_axes == 3).transpose(0, 2, 1, 3).reshape(40 * n_axes, -1)
    size = np.diag(np.linalg.inv(k + 0.05 * np.eye(len(k)))).reshape(40, n_axes).mean(axis=1)
    found = find_network(atoms.with_u(3.0 * size), NetworkChoice(n_axes))
    assert (found.cutoff, found.width) == (7.0, 4.0)
    assert found.anchor == pytest.approx(0.05, rel=0.02) and found.agreement > 0.9999
    v = found.covariances((1.0, 0.05))[0] / (3.0 * np.sqrt(np.outer(size, size)))[:, :, None, None]
    np.testing.assert_allclose(v, g, atol=1e-9)


def test_a_network_that_is_too_large_is_said(monkeypatch):
    from dials_postrefine.diffuse.model import springs

    monkeypatch.setattr(springs, "MOST_ROWS", 30)
    with pytest.raises(CannotModel, match="too large"):
        network_of(make_atoms(), 6.0, 4.0, 3)


def test_the_exact_points(shared_data):
    """I of a 3 x 3 covariance that is given, and of the network that the B factors alone find."""
    from dials_postrefine.diffuse.model.given_covariance import GivenCovariance

    path = shared_data / "diffuse_truth" / "v_anm_points.npz"
    pytest.importorskip("cctbx", reason="form factors are cctbx's")
    import dials_postrefine  # noqa: F401
    from dials_postrefine.scattering.form_factors import FormFactorChoice, choose_form_factors

    if not path.exists():
        pytest.skip("needs ../shared/data/diffuse_truth")
    data = np.load(path)
    kinds = sorted(set(data["elements"]))
    found = choose_form_factors(kinds, FormFactorChoice(table="it1992")).gaussians
    n = len(data["xyz"])
    own = data["V"].reshape(n, 3, n, 3)[np.arange(n), :, np.arange(n)]
    atoms = replace(
        make_atoms(),
        orthogonal=np.diag(data["cell"]),
        sites=data["xyz"] / data["cell"],
        occupancy=np.ones(n),
        u=np.trace(own, axis1=1, axis2=2)[:, None, None] / 3.0 * np.eye(3),
        kind=np.array([kinds.index(one) for one in data["elements"]]),
        residue=np.arange(n) // 4,
        chain=np.full(n, "A"),
        a=np.array([found[one].array_of_a() for one in kinds]),
        b=np.array([found[one].array_of_b() for one in kinds]),
        c=np.array([found[one].c() for one in kinds]),
    )
    nothing = np.zeros(len(data["q"]))
    h = data["q"] * data["cell"] / (2.0 * np.pi)
    voxels = Voxels(h, np.ones(3, int), data["q"], nothing, nothing + 1.0, np.arange(len(h)), nothing > 1.0)
    given = GivenCovariance(atoms, voxels, data["V"]).calculate(np.array([1.0]))
    assert np.abs(given / data["I"] - 1.0).max() < 1e-6
    network = find_network(atoms, NetworkChoice(3))
    assert (network.cutoff, network.width) == (8.0, 4.0)
    elastic = AnisotropicElastic(atoms, voxels, network).calculate(np.array([1.0, network.anchor]))
    assert np.abs(elastic / data["I"] - 1.0).max() < 1e-6
