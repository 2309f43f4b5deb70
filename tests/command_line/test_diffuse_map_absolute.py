"""dials.diffuse_map: the absolute scale and the delta-PDF of a sweep, from its own files by other programs."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from dials.util import Sorry

pytestmark = [pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
gemmi = pytest.importorskip("gemmi", reason="gemmi has scattering factors of its own, and reads the maps")


def test_the_scale_is_that_of_the_radial_profile_and_the_transform_that_of_the_map(sweep, mapped, tmp_path):
    from dials_postrefine.scattering.incoherent import incoherent

    composition = "absolute.composition=C40 N10 O20"
    found = mapped("map", sweep, "d_min=1.8", "grid.subdivide=2,2,2", composition, "output.delta_pdf=pdf.ccp4")
    absolute = found["absolute"]
    with open(tmp_path / "map" / "radial.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    s, intensity = (np.array([row[name] for row in rows]) for name in ("s", "intensity"))
    assert 0.0 < absolute["esd"] < absolute["factor"]
    assert absolute["d_max"] == pytest.approx(1.0 / s[s >= 0.35][0], rel=1e-4)
    expected = np.zeros_like(s)
    for element, n in (("C", 40), ("N", 10), ("O", 20)):
        factors = [gemmi.Element(element).it92.calculate_sf(0.25 * one * one) for one in s]
        expected += n * (np.square(factors) + incoherent(element, 0.5 * s))
    step = np.gradient(s[s >= 0.35]) * (s[s >= 0.35]) ** 2
    ratio = np.sum(step * expected[s >= 0.35]) / np.sum(step * intensity[s >= 0.35])
    assert absolute["factor"] == pytest.approx(ratio, rel=0.02)  # Breit and Dirac's factor, and other tables of f

    maps = [gemmi.read_ccp4_map(str(tmp_path / "map" / name)) for name in ("diffuse_anisotropic.ccp4", "pdf.ccp4")]
    for one in maps:
        one.setup(float("nan"))
    anisotropic, pdf = (np.array(one.grid, copy=False) for one in maps)
    assert anisotropic.shape == pdf.shape
    supercell = maps[1].grid.unit_cell
    back = np.fft.fftn(pdf).real / pdf.size * supercell.volume
    observed = np.argwhere(anisotropic != 0.0)[::17]
    for index in observed:
        h = np.where(2 * index > pdf.shape, index - pdf.shape, index)
        window = np.cos(0.5 * np.pi * 1.8 / supercell.calculate_d(h.tolist())) ** 2 if h.any() else 1.0
        assert abs(back[tuple(index)] - window * anisotropic[tuple(index)]) < 1e-4 * np.abs(anisotropic).max()
    assert len(observed) > 100


def test_what_is_no_composition_is_refused(sweep, mapped):
    with pytest.raises((Sorry, SystemExit), match="absolute.composition=C3 Qq can't be used, as Qq is no element"):
        mapped("map", sweep, "absolute.composition=C3 Qq")


def test_a_map_that_does_not_reach_far_enough_is_said(sweep, mapped):
    found = mapped("map", sweep, "d_min=3.2", "grid.subdivide=1,1,1", "absolute.composition=C40")
    assert found["absolute"] is None
    assert any("No absolute scale was found" in one for one in found["remarks"])
