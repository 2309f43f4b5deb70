"""Incoherent scattering against the closed form of hydrogen, its limits, and the absolute scale of a known gas."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx has the scattering factors")

from dials_postrefine.diffuse.map.absolute import absolute_scale
from dials_postrefine.scattering.incoherent import TABLE, incoherent, independent_scattering, parse_composition

pytestmark = [pytest.mark.cctbx]

BOHR = 0.529177


def test_hydrogen_is_as_its_wave_function_has_it():
    """S = 1 - F^2, F = (1 + (2 pi a_0 x)^2)^-2, within what interpolation between values of the table leaves."""
    x = np.linspace(0.01, 2.0, 60)
    exact = 1.0 - (1.0 + (2.0 * np.pi * BOHR * x) ** 2) ** -4
    assert np.abs(incoherent("H", x) - exact).max() < 0.005


def test_limits():
    from cctbx.eltbx import tiny_pse

    x = np.linspace(0.0, 30.0, 3000)
    for element in TABLE:
        value, z = incoherent(element, x), tiny_pse.table(element).atomic_number()
        assert value[0] == 0.0 and (np.diff(value) >= 0.0).all() and 0.98 * z < value[-1] <= z, element


def test_composition():
    assert parse_composition("C3 H7 N O2 S, h2 O1") == {"C": 3, "H": 9, "N": 1, "O": 3, "S": 1}
    for wrong in ("", "Xx2", "C-1", "C0", "3C"):
        with pytest.raises(ValueError):
            parse_composition(wrong)


def test_the_scale_of_clusters_in_random_orientation_is_found():
    """Debye's sum over 60 atoms, with the Compton part, on a scale of 1/37."""
    s = np.linspace(0.02, 0.9, 500)
    coherent, compton = independent_scattering({"C": 60}, s, 0.9)
    where = np.random.default_rng(5).uniform(0.0, 12.0, (60, 3))
    distance = np.linalg.norm(where[:, None] - where[None], axis=-1)[np.triu_indices(60, 1)]
    interference = 2.0 * np.sinc(2.0 * s[:, None] * np.maximum(distance, 1.3)).sum(axis=1) / 60.0
    found = absolute_scale(s, (coherent * (1.0 + interference) + compton) / 37.0, coherent, compton)
    assert abs(found.factor - 37.0) < 3.0 * found.esd and found.esd < 1.5
    assert 0.2 < found.incoherent < 0.8


def test_bragg_peaks_that_are_masked_are_allowed_for():
    s = np.linspace(0.02, 0.7, 300)
    coherent, compton = independent_scattering({"C": 30, "H": 40, "O": 9, "N": 7}, s, 0.9)
    diffuse = coherent * (1.0 - np.exp(-0.5 * 12.0 * s * s)) + compton
    found = absolute_scale(s, diffuse / 5.0, coherent, compton, 12.0)
    assert found.factor == pytest.approx(5.0, rel=1e-9)
    assert absolute_scale(s, diffuse / 5.0, coherent, compton).factor > 5.5


def test_a_map_that_does_not_reach_far_enough_has_none():
    s = np.linspace(0.02, 0.3, 50)
    assert absolute_scale(s, np.ones(50), np.ones(50), np.ones(50)) is None
