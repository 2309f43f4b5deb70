"""Hands, settings and what symmetry leaves to be refined, against what crystallography says of known groups."""

from __future__ import annotations

import numpy as np
import pytest
from quartz_frames import quartz, scattering

from cctbx import crystal, xray

from dials_postrefine.electron.bloch.potential import coefficients
from dials_postrefine.electron.dynamical.crystal import Setting, freedom_of, in_hand, settings_of
from dials_postrefine.files.electron.scaled_images import symmetry_of
from dials_postrefine.scattering.electron_atoms import electron_atoms

RECIPROCAL = np.linalg.inv(np.array([[4.9226, -2.4613, 0.0], [0.0, 4.26309, 0.0], [0.0, 0.0, 5.4003]])).T


def lattice_of(structure) -> np.ndarray:
    return symmetry_of(structure.unit_cell().parameters(), structure.space_group()).lattice


def structure_of(symbol: str, cell, site, u=0.01):
    structure = xray.structure(crystal_symmetry=crystal.symmetry(unit_cell=cell, space_group_symbol=symbol))
    structure.add_scatterer(xray.scatterer("Si", site, u=u))
    return structure


def test_quartz_has_two_hands_and_the_dauphine_twin_of_each():
    structure = quartz()
    found = settings_of(electron_atoms(structure), lattice_of(structure))
    assert [one.hand for one in found[:2]] == [1, -1] and len(found) == 4
    assert np.array_equal(found[0].operation, np.eye(3))
    assert found[0].name == "as given" and found[1].name == "inverted"
    # none is another one seen by an operation of the crystal: |U| of the twins differ, and the hands' do not
    atoms = electron_atoms(structure)
    hkl = np.array([[1, 0, 1], [2, 1, 3], [3, -1, 2]])
    u = [
        np.abs(coefficients(in_hand(atoms, one.hand), RECIPROCAL, hkl @ one.operation, scattering())[0])
        for one in found
    ]
    assert u[0] == pytest.approx(u[1]) and u[2] == pytest.approx(u[3])
    assert not np.allclose(u[0], u[2], rtol=0.05)


@pytest.mark.parametrize(
    ("symbol", "cell", "n"),
    [
        ("P-1", (5, 6, 7, 80, 85, 95), 1),
        ("P1", (5, 6, 7, 80, 85, 95), 2),
        ("P212121", (5, 6, 7, 90, 90, 90), 2),
        ("Pnma", (5, 6, 7, 90, 90, 90), 1),
        ("Pna21", (5, 6, 7, 90, 90, 90), 2),  # polar: inverted is turned about an axis across
        ("P41", (5, 5, 7, 90, 90, 90), 4),  # and turned upside down, each
        ("P43212", (5, 5, 7, 90, 90, 90), 2),
    ],
)
def test_the_number_of_different_crystals(symbol, cell, n):
    structure = structure_of(symbol, cell, (0.11, 0.23, 0.34))
    assert len(settings_of(electron_atoms(structure), lattice_of(structure))) == n


def test_the_inverted_crystal_has_conjugate_coefficients():
    atoms = electron_atoms(quartz())
    hkl = np.array([[1, 0, 1], [2, 1, 3], [0, 0, 3]])
    u, _ = coefficients(atoms, RECIPROCAL, hkl, scattering())
    inverted, _ = coefficients(in_hand(atoms, -1), RECIPROCAL, hkl, scattering())
    assert inverted == pytest.approx(np.conj(u))


@pytest.mark.parametrize("anisotropic", [False, True])
def test_what_is_free_keeps_the_symmetry_of_the_site(anisotropic):
    """Silicon of quartz is on a twofold axis: one coordinate, and four of six displacements."""
    atoms = electron_atoms(quartz(anisotropic))
    free = freedom_of(atoms)
    assert len(free.shifts) == 1 + 3
    assert (len(free.isotropic), len(free.displacements)) == ((0, 4 + 6) if anisotropic else (2, 0))
    for change in free.displacements:
        assert np.allclose(change, np.swapaxes(change, 1, 2))
    silicon = [one[0] for one in free.shifts if np.any(one[0])]
    assert np.allclose(np.cross(silicon[0], [0.0, 1.0, 0.0]), 0.0)  # 0, y, 5/6


def test_along_a_polar_axis_the_origin_is_not_refined():
    structure = structure_of("P41", (5, 5, 7, 90, 90, 90), (0.11, 0.23, 0.34))
    structure.add_scatterer(xray.scatterer("O", (0.31, 0.43, 0.12), u=0.01))
    free = freedom_of(electron_atoms(structure))
    assert len(free.shifts) == 5
    assert np.allclose(free.shifts[:, :, 2].sum(axis=1), 0.0)


def test_names_say_how_the_indices_are_read():
    assert Setting(-1, np.array([[-1, 1, 0], [0, 1, 0], [0, 0, -1]])).name == "inverted, read as -h,h+k,-l"
