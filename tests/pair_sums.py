"""A few atoms in several lattices, voxels, and the sum over pairs that no model shares a formula with."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="structure factors are sampled by compiled loops")

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.voxels import Voxels, hold_out, orbits_of

P1 = [(np.eye(3), (0, 0, 0))]
P212121 = [
    (np.diag([1, 1, 1]), (0, 0, 0)),
    (np.diag([-1, -1, 1]), (0.5, 0, 0.5)),
    (np.diag([-1, 1, -1]), (0, 0.5, 0.5)),
    (np.diag([1, -1, -1]), (0.5, 0.5, 0)),
]
P3 = [
    (np.eye(3), (0, 0, 0)),
    (np.array([[0, -1, 0], [1, -1, 0], [0, 0, 1]]), (0, 0, 0)),
    (np.array([[-1, 1, 0], [-1, 0, 0], [0, 0, 1]]), (0, 0, 0)),
]
CELLS = {
    "orthorhombic": np.diag([13.0, 15.0, 17.0]),
    "triclinic": np.array([[13.0, -2.0, 1.5], [0.0, 14.0, -3.0], [0.0, 0.0, 15.0]]),
    "hexagonal": np.array([[16.0, -8.0, 0.0], [0.0, 8.0 * 3**0.5, 0.0], [0.0, 0.0, 14.0]]),
}


def make_atoms(basis=CELLS["orthorhombic"], group=P1, n=12, seed=1, anisotropic=False) -> Atoms:
    """n atoms of three types, not nearer than 1.2 A, in a ball about the middle of the cell."""
    random = np.random.default_rng(seed)
    xyz = []
    while len(xyz) < n:
        one = random.normal(size=3) * 2.0
        if all(np.linalg.norm(one - other) > 1.2 for other in xyz):
            xyz.append(one)
    u = random.uniform(0.12, 0.3, n)[:, None, None] * np.eye(3)
    if anisotropic:
        vector = random.normal(size=(n, 3))
        u = u + 0.05 * vector[:, :, None] * vector[:, None, :]
    return Atoms(
        orthogonal=basis,
        sites=np.array(xyz) @ np.linalg.inv(basis).T + 0.4,
        occupancy=np.where(np.arange(n) == 3, 0.5, 1.0),
        u=u,
        kind=np.arange(n) % 3,
        a=np.array([[2.3, 1.0, 1.6, 0.9], [12.2, 3.1, 2.0, 1.2], [3.0, 2.3, 1.5, 0.9]]),
        b=np.array([[20.8, 10.2, 0.6, 51.7], [0.006, 9.9, 28.9, 0.6], [13.3, 5.7, 0.3, 32.9]]),
        c=np.array([0.2, -11.5, 0.25]),
        rotations=np.array([r for r, _ in group]).astype(int),
        translations=np.array([t for _, t in group], float),
        residue=np.arange(n) // 3,
        chain=np.where(np.arange(n) < n // 2, "A", "B"),
    )


def make_voxels(atoms: Atoms, d_min=2.0, cells=(2, 2, 2), n=300, seed=2) -> Voxels:
    """Voxels without intensity."""
    cells = np.array(cells)
    reach = np.ceil(np.linalg.norm(atoms.orthogonal, axis=0) / d_min).astype(int) * cells
    h = np.stack(np.meshgrid(*(np.arange(-m, m + 1) / c for m, c in zip(reach, cells)), indexing="ij"), -1)
    h = h.reshape(-1, 3)
    s = np.linalg.norm(h @ atoms.reciprocal.T, axis=1)
    h = h[(s < 1.0 / d_min) & (s > 0.02)]
    if n is not None:
        h = h[np.sort(np.random.default_rng(seed).choice(len(h), n, replace=False))]
    orbit = orbits_of(h, cells, atoms.rotations)
    nothing = np.zeros(len(h))
    q = 2.0 * np.pi * h @ atoms.reciprocal.T
    return Voxels(h, cells, q, nothing, nothing + 1.0, orbit, hold_out(h, orbit, 0.1, "orbits"))


def copies(atoms: Atoms) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cartesian positions and displacements of each copy that the operations make."""
    basis = atoms.orthogonal
    found = []
    for rotation, translation in zip(atoms.rotations, atoms.translations):
        turn = basis @ rotation @ np.linalg.inv(basis)
        u = np.array([turn @ one @ turn.T for one in atoms.u])
        found.append(((atoms.sites @ rotation.T + translation) @ basis.T, u))
    return found


def pair_sum(xyz, f, q, v) -> np.ndarray:
    """sum_ij f_i f_j cos(q.r_ij) exp(-q'(V_ii + V_jj)q/2) (exp(q'V_ij q) - 1); v (n, n, 3, 3), f (n, n_voxels)."""
    found = np.zeros(len(q))
    for i in range(len(xyz)):
        for j in range(len(xyz)):
            damping = np.exp(-0.5 * np.einsum("na,ab,nb->n", q, v[i, i] + v[j, j], q))
            rest = np.expm1(np.einsum("na,ab,nb->n", q, v[i, j], q))
            found += f[i] * f[j] * np.cos(q @ (xyz[i] - xyz[j])) * damping * rest
    return found


def scattering(atoms: Atoms, q: np.ndarray) -> np.ndarray:
    """o_i f_i (n_atoms, n_voxels), term by term."""
    s_sq = (q**2).sum(axis=1) / (4.0 * np.pi**2)
    f = [sum(a * np.exp(-b * s_sq / 4) for a, b in zip(atoms.a[k], atoms.b[k])) + atoms.c[k] for k in atoms.kind]
    return np.array(f) * atoms.occupancy[:, None]


def isotropic(scalar: np.ndarray) -> np.ndarray:
    """V (n, n) as 3 x 3 blocks."""
    return scalar[:, :, None, None] * np.eye(3)


def slopes(model, values, step=1e-4) -> np.ndarray:
    """Finite differences of a model's intensity (p, n)."""
    values = np.array(values, float)
    found = []
    for k in range(len(values)):
        up, down = values.copy(), values.copy()
        up[k] += step
        down[k] -= step
        found.append((model.evaluate(up)[0] - model.evaluate(down)[0]) / (2.0 * step))
    return np.array(found)
