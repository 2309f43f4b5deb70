"""Derivatives of the intensities of quartz behind an inclined surface, with absorption, by finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.electron.bloch.beams import BeamSelection, select_beams
from dials_postrefine.electron.bloch.derivatives import (
    amplitudes_by,
    differentiable,
    gradient_by_matrix,
    intensities_by,
    intensities_by_thickness,
)
from dials_postrefine.electron.bloch.geometry import Geometry
from dials_postrefine.electron.bloch.potential import (
    Scattering,
    absorption_by_atoms,
    between_beams,
    by_atoms,
    by_cell,
    coefficients,
    differences,
    potential_of_atoms,
    tabulate,
)
from dials_postrefine.electron.bloch.structurematrix import (
    by_potential,
    by_reciprocal,
    by_wave_vector,
    structure_matrix,
)
from dials_postrefine.scattering.electron_atoms import electron_atoms

T = np.array([0.0, 120.0, 700.0, 1400.0])
KAPPA = 0.05


@pytest.fixture(params=["transparent", "absorbing"])
def case(request, quartz_case):
    """Atoms, geometry, scattering and beams, without absorption and with that which is proportional."""
    atoms, geometry, scattering, beams = quartz_case
    if request.param == "transparent":
        scattering = replace(scattering, absorption="none")
    return atoms, geometry, scattering, beams


def at(atoms, geometry, scattering, beams):
    hkl = differences(beams)
    potential = tabulate(hkl, *coefficients(atoms, geometry.reciprocal, hkl, scattering))
    return differentiable(structure_matrix(geometry, potential, beams), T)


def compared(found, make, step):
    """Five-point differences of make(x).intensity, each parameter once, against found (p, t, n)."""
    for i, one in enumerate(found):
        values = []
        for x in (-2, -1, 1, 2):
            shift = np.zeros(len(found))
            shift[i] = x * step
            values.append(make(shift).intensity)
        expected = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * step)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-6 * max(np.abs(expected).max(), 1e-3))


def complex_or_none(values, scattering):
    return None if scattering.absorption == "none" else KAPPA * values


def test_by_thickness(case):
    here = at(*case)
    step = 0.2
    shifted = [differentiable(here.matrix, T + x * step).intensity for x in (1, 2, 3, 4)]
    found = intensities_by_thickness(here)
    # forward, as there is nothing before 0
    forward = (-25 * here.intensity + 48 * shifted[0] - 36 * shifted[1] + 16 * shifted[2] - 3 * shifted[3]) / (
        12 * step
    )
    np.testing.assert_allclose(found, forward, rtol=0, atol=1e-6 * np.abs(forward).max())


def test_by_orientation_and_cell(case):
    atoms, geometry, scattering, beams = case
    here = at(*case)
    hkl = differences(beams)
    u = between_beams(by_cell(atoms, geometry.reciprocal, hkl, scattering), hkl, beams)
    change = by_reciprocal(geometry, here.matrix, beams, (u, complex_or_none(u, scattering)))

    def make(shift):
        moved = replace(geometry, reciprocal=geometry.reciprocal + shift.reshape(3, 3))
        return at(atoms, moved, scattering, beams)

    compared(intensities_by(here, change), make, 2e-6)
    # a rotation by w leaves U: dA = [w]x A
    axis = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    turn = (axis @ geometry.reciprocal).reshape(1, 9)
    whole = intensities_by(here, change.combined(turn))
    rigid = intensities_by(here, by_reciprocal(geometry, here.matrix, beams).combined(turn))
    np.testing.assert_allclose(whole, rigid, rtol=0, atol=1e-9 * np.abs(whole).max())


def test_by_the_wave_vector(case):
    atoms, geometry, scattering, beams = case
    here = at(*case)
    found = intensities_by(here, by_wave_vector(geometry, here.matrix, beams))

    def make(shift):
        return at(atoms, Geometry(geometry.reciprocal, geometry.k + shift, geometry.normal), scattering, beams)

    compared(found, make, 2e-5)


@pytest.mark.parametrize("absorption", ["none", "proportional", "einstein"])
def test_by_positions_and_b(quartz_case, absorption):
    """Of Einstein's absorption also B of an atom whose displacements are anisotropic besides."""
    atoms, geometry, scattering, beams = quartz_case
    scattering = replace(scattering, absorption=absorption)
    if absorption == "einstein":
        atoms = replace(atoms, u_star=np.array([np.diag([4e-4, 6e-4, 3e-4]), np.zeros((3, 3))]))
    case = atoms, geometry, scattering, beams
    here = at(*case)
    hkl = differences(beams)
    u = between_beams(np.concatenate(by_atoms(atoms, geometry.reciprocal, hkl, scattering)), hkl, beams)
    absorbed = absorption_by_atoms(atoms, geometry.reciprocal, hkl, scattering)
    u_prime = None if absorbed is None else between_beams(np.concatenate(absorbed), hkl, beams)
    found = intensities_by(here, by_potential(here.matrix, u, u_prime))
    n = len(atoms.b)
    scale = np.array([1e-3] * 3 * n + [0.1] * n)  # fractions of the cell, and Angstrom^2

    def make(shift):
        shift = shift * scale
        moved = replace(atoms, sites=atoms.sites + shift[: 3 * n].reshape(n, 3), b=atoms.b + shift[3 * n :])
        return at(moved, geometry, scattering, beams)

    compared(found * scale[:, None, None], make, 0.02)


def test_by_positions_where_a_centre_of_symmetry_is_off_the_origin(make_structure):
    """Two atoms whose centre is at 1/8 1/8 1/8: M is real there, and the derivatives are of the crystal's origin."""
    atoms = [("Si", (0.0, 0.0, 0.0), 0.5), ("Si", (0.25, 0.25, 0.25), 0.5)]
    structure = make_structure((4.0, 4.6, 5.1, 90, 90, 90), "P 1", atoms)
    reciprocal = np.diag(1.0 / np.array([4.0, 4.6, 5.1]))
    geometry = Geometry(reciprocal, np.array([0.35, 0.2, 39.8]))
    scattering = Scattering(1.39, 0.025079)
    potential = potential_of_atoms(electron_atoms(structure), reciprocal, 2.0, scattering)
    beams = select_beams(geometry, potential, BeamSelection(0.9, 0.03))
    atoms = electron_atoms(structure)
    here = at(atoms, geometry, scattering, beams)
    assert np.isrealobj(here.matrix.hermitian) and len(beams) > 10
    hkl = differences(beams)
    u = between_beams(by_atoms(atoms, reciprocal, hkl, scattering)[0], hkl, beams)

    def make(shift):
        return at(replace(atoms, sites=atoms.sites + shift.reshape(2, 3)), geometry, scattering, beams)

    compared(intensities_by(here, by_potential(here.matrix, u)), make, 2e-5)


def test_by_u_and_u_prime(case):
    """Real and imaginary part of U of one Friedel pair, and of U'."""
    atoms, geometry, scattering, beams = case
    hkl = differences(beams)
    u, u_prime = coefficients(atoms, geometry.reciprocal, hkl, scattering)
    if u_prime is None:
        u_prime = np.zeros_like(u)
    pair = beams[2] - beams[5]
    plus, minus = np.all(hkl == pair, axis=1), np.all(hkl == -pair, axis=1)
    units = np.array([plus + minus + 0j, 1j * plus - 1j * minus])

    def make(shift):
        moved = u + shift[:2] @ units, u_prime + shift[2:] @ units
        return differentiable(structure_matrix(geometry, tabulate(hkl, *moved), beams), T)

    here = make(np.zeros(4))
    by_u = between_beams(units, hkl, beams)
    nothing = np.zeros_like(by_u)
    change = by_potential(here.matrix, np.concatenate([by_u, nothing]), np.concatenate([nothing, by_u]))
    compared(intensities_by(here, change), make, 1e-5)


def test_the_gradient_is_the_sum_of_the_derivatives(case):
    atoms, geometry, scattering, beams = case
    here = at(*case)
    hkl = differences(beams)
    u = between_beams(by_cell(atoms, geometry.reciprocal, hkl, scattering), hkl, beams)
    change = by_reciprocal(geometry, here.matrix, beams, (u, complex_or_none(u, scattering)))
    weights = np.random.default_rng(0).normal(size=here.intensity.shape)
    expected = np.sum(intensities_by(here, change) * weights, axis=(1, 2))
    by_matrix, by_log_m = gradient_by_matrix(here, weights)
    found = np.einsum("gh,pgh->p", by_matrix, change.matrix).real + change.log_m @ by_log_m
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_equal_eigenvalues_are_no_matter():
    """Beams that nothing couples: M is diagonal, and all but degenerate."""
    geometry = Geometry(np.eye(3), np.array([0.0, 0.0, 40.0]))
    beams = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]])
    hkl = differences(beams)
    potential = tabulate(hkl, np.zeros(len(hkl)))
    here = differentiable(structure_matrix(geometry, potential, beams), np.array([300.0]))
    up = np.zeros((1, 4, 4))
    up[0, 1, 2] = up[0, 2, 1] = up[0, 0, 1] = up[0, 1, 0] = 1.0
    found = amplitudes_by(here, by_potential(here.matrix, up))[0, 0]
    # first order: i pi t/K (e_1 - e_0)/(x_1 - x_0)
    x = np.pi * 300.0 / 40.0 * here.matrix.hermitian[1, 1]
    expected = np.pi * 300.0 / 40.0 * (np.exp(1j * x) - 1.0) / x
    np.testing.assert_allclose(found, [0.0, expected, 0.0, 0.0], rtol=0, atol=1e-12)


def test_potential_of_atoms_and_of_differences_agree(quartz_case):
    atoms, geometry, scattering, beams = quartz_case
    whole = potential_of_atoms(atoms, geometry.reciprocal, 2.4, scattering)
    hkl = differences(beams)
    u, u_prime = coefficients(atoms, geometry.reciprocal, hkl, scattering)
    at_hkl = whole.at(hkl)
    np.testing.assert_allclose(at_hkl[0], u, rtol=0, atol=1e-15)
    np.testing.assert_allclose(at_hkl[1], u_prime, rtol=0, atol=1e-15)
