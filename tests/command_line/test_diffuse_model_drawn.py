"""Liquid-like motions in P 21 21 21, a map of which is an average over drawn displacements: no formula is shared."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rigid_maps
from pair_sums import P212121
from rigid_maps import CELL, N_ATOMS, simulate_atoms, write_map, write_pdb

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("numba", reason="structure factors are sampled by compiled loops")
pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

pytestmark = [pytest.mark.dials, pytest.mark.slow]

SIGMA, GAMMA, N_DRAWN = 0.35, 5.0, 5000


def drawn_intensity(h):
    """<|F|^2> - |<F>|^2 of the four molecules, each of which moves on its own; h and -h have the same."""
    place = np.rint(rigid_maps.CELLS * h).astype(int)
    half = [tuple(row) > tuple(-row) for row in place]
    of_one = {}
    for row, value in zip(place[half], of_a_molecule(h[half])):
        of_one[tuple(row)] = of_one[tuple(-row)] = value
    # the copy at R x + t has at h what the first one has at h R
    return sum(np.array([of_one[tuple(row)] for row in place @ np.array(rotation)]) for rotation, _ in P212121)


def of_a_molecule(h):
    from dials_postrefine.scattering.form_factors import choose_form_factors

    xyz, elements, b = simulate_atoms()
    gaussians = choose_form_factors(["C", "N", "O"]).gaussians
    distance = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    v = SIGMA**2 * np.exp(-distance / GAMMA)
    np.fill_diagonal(v, b / (8.0 * np.pi**2))
    drawn = np.random.default_rng(11).normal(size=(N_DRAWN, N_ATOMS, 3))
    moved = np.einsum("ij,njk->nik", np.linalg.cholesky(v), drawn) + xyz
    place = np.rint(rigid_maps.CELLS * h).astype(int)
    low = place.min(axis=0)
    waves = [  # exp(2 pi i h x) of each index along each axis
        np.exp(
            2j
            * np.pi
            / rigid_maps.CELLS
            / CELL[k]
            * np.arange(low[k], place[:, k].max() + 1)[:, None, None]
            * moved[:, :, k]
        ).astype(np.complex64)
        for k in range(3)
    ]
    s_sq = ((h / np.array(CELL)) ** 2).sum(axis=1)
    f = {
        name: sum(a * np.exp(-w * s_sq / 4) for a, w in zip(g.array_of_a(), g.array_of_b())) + g.c()
        for name, g in gaussians.items()
    }
    weights = np.array([f[element] for element in elements], np.complex64).T
    found, row = np.empty(len(h)), None
    for number in np.lexsort(place.T[::-1]):
        i, j, k = place[number] - low
        if row != (i, j):
            row, plane = (i, j), waves[0][i] * waves[1][j]
        found[number] = ((plane * waves[2][k]) @ weights[number]).var()
    return found


def test_liquid_like_motions_that_were_drawn(run_program, tmp_path, monkeypatch):
    monkeypatch.setattr(rigid_maps, "D_MIN", 2.6)
    path = write_map(tmp_path / "diffuse.nxs", drawn_intensity, exposure=0.8)
    model = write_pdb(tmp_path / "model.pdb", "P 21 21 21")
    done = run_program("dials.diffuse_model", path, model, "model=rigid_body+liquid_like", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "dials.diffuse_model.json").read_text())
    assert found["chosen"] == "liquid_like" and found["reindex_operation"] == "h,k,l"
    one = found["models"]["liquid_like"]
    assert one["variant"]["across"] == "molecule" and one["chi2_reduced"] == pytest.approx(1.0, abs=0.1)
    for name, true in (("sigma", SIGMA), ("gamma", GAMMA)):
        value, esd = one["parameters"][name]["value"], one["parameters"][name]["esd"]
        assert abs(value - true) < min(3.0 * esd, 0.03 * true), name
