"""U of atoms: the given ones, cctbx's structure factors, hands, and absorption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import dblquad, trapezoid

from dials_postrefine.electron.bloch import electrons
from dials_postrefine.electron.bloch.absorption import einstein_factor
from dials_postrefine.electron.bloch.beams import BeamSelection, select_beams
from dials_postrefine.electron.bloch.geometry import Geometry
from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.potential import (
    Scattering,
    coefficients,
    indices_within,
    potential_of_atoms,
    tabulate,
)
from dials_postrefine.electron.bloch.structurematrix import structure_matrix
from dials_postrefine.scattering.electron_atoms import electron_atoms

AT_200_KV = Scattering(electrons.relativistic_mass(200e3), electrons.wavelength(200e3))


def test_the_wavelength_is_the_usual_one():
    e = 200e3
    assert electrons.wavelength(e) == pytest.approx(12.2643 / np.sqrt(e * (1.0 + 0.97848e-6 * e)), rel=1e-5)
    assert electrons.wavelength(e) == pytest.approx(0.025079, abs=1e-6)
    assert electrons.energy_of(electrons.wavelength(e)) == pytest.approx(e, rel=1e-12)
    assert electrons.relativistic_mass(e) == pytest.approx(1.0 + 200.0 / 510.999, rel=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("name", ["Si110", "quartz_general2"])
def test_given_atoms_have_the_given_coefficients(truth_of, make_structure, name):
    truth = truth_of(name)
    a, b, c = np.linalg.norm(truth.A, axis=1)
    angle = np.degrees(np.arccos(truth.A[0] @ truth.A[1] / (a * b)))
    atoms = [(str(e), tuple(x), u) for e, x, u in zip(truth.elements, truth.frac, truth.B)]
    structure = make_structure((a, b, c, 90, 90, angle), "P 1", atoms)
    found, none = coefficients(electron_atoms(structure), truth.geometry.reciprocal, truth.U_hkl, AT_200_KV)
    other = truth.U_hkl.any(axis=1)  # U_0 is of no matter
    assert none is None
    np.testing.assert_allclose(found[other], truth.U[other], rtol=0, atol=1e-7)


def conjugates_of_f(structure, d_star_max: float):
    """Indices, and what U is to be by cctbx's direct summation."""
    from cctbx import miller
    from cctbx.array_family import flex

    from dials_postrefine.scattering.form_factors import FormFactorChoice, choose_form_factors
    from dials_postrefine.scattering.structure_factors import calculate_f_calc

    hkl = indices_within(reciprocal_of(structure), d_star_max)[1:]
    types = [one.scattering_type for one in structure.scatterers()]
    f = calculate_f_calc(
        structure,
        choose_form_factors(types, FormFactorChoice("electron")),
        miller.set(structure.crystal_symmetry(), flex.miller_index(hkl.tolist()), anomalous_flag=True),
        "direct",
    )
    return hkl, np.conj(np.array(f.data())) * AT_200_KV.gamma_rel / (np.pi * structure.unit_cell().volume())


def reciprocal_of(structure) -> np.ndarray:
    return np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3).T


def test_u_is_the_conjugate_of_what_cctbx_calls_f(quartz):
    """With symmetry, special positions and anisotropic displacements."""
    quartz = quartz.deep_copy_scatterers()
    quartz.scatterers()[1].convert_to_anisotropic(quartz.unit_cell())
    u_star = np.array(quartz.scatterers()[1].u_star)
    quartz.scatterers()[1].u_star = tuple(u_star * [1.3, 0.8, 1.0, 1.2, 1.1, 0.9])
    hkl, expected = conjugates_of_f(quartz, 1.5)
    found = coefficients(electron_atoms(quartz), reciprocal_of(quartz), hkl, AT_200_KV)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["F -4 3 m", "I 21 3", "R 3 :H", "C 1 2 1"])
def test_centring_is_what_it_is_in_cctbx(make_structure, group):
    from cctbx import sgtbx

    cell = sgtbx.space_group_info(group).any_compatible_unit_cell(volume=400.0).parameters()
    structure = make_structure(cell, group, [("Ga", (0.0, 0.0, 0.0), 0.6), ("O", (0.21, 0.09, 0.31), 0.8)])
    hkl, expected = conjugates_of_f(structure, 1.0)
    found = coefficients(electron_atoms(structure), reciprocal_of(structure), hkl, AT_200_KV)[0]
    # cctbx takes it for granted that nobody asks for absent reflections, and multiplies one cell's worth
    absent = np.array([structure.space_group().is_sys_absent(h) for h in hkl.tolist()])
    np.testing.assert_allclose(found, np.where(absent, 0.0, expected), rtol=0, atol=1e-12)
    assert np.any(absent)


@pytest.mark.parametrize("absorption", ["none", "proportional", "einstein"])
def test_u_and_u_prime_are_hermitian(quartz, absorption):
    fractional = np.array(quartz.unit_cell().fractionalization_matrix()).reshape(3, 3)
    scattering = replace(AT_200_KV, absorption=absorption, kappa=0.03)
    potential = potential_of_atoms(electron_atoms(quartz), fractional.T, 3.0, scattering)
    geometry = Geometry(fractional.T, np.array([0.4, 0.3, 39.8]))
    beams = select_beams(geometry, potential, BeamSelection(1.5, 0.05))
    matrix = structure_matrix(geometry, potential, beams)
    assert len(beams) > 20
    for one in (matrix.hermitian, matrix.absorption):
        if one.size:
            np.testing.assert_allclose(one, np.conj(one.T), rtol=0, atol=1e-15)
    assert matrix.absorbs == (absorption != "none")
    if absorption == "einstein":  # no electrons are made
        assert np.linalg.eigvalsh(matrix.absorption).min() > 0.0


def test_coefficients_that_are_no_conjugates_are_refused():
    with pytest.raises(ValueError, match="Friedel"):
        tabulate(np.array([[1, 0, 0], [-1, 0, 0]]), np.array([0.1 + 0.1j, 0.1 + 0.1j]))


def test_the_integral_of_absorption_is_the_closed_form():
    a, b = np.array([0.5, 1.2, 0.3]), np.array([0.4, 3.0, 20.0])

    def f(s_sq):
        return np.sum(a * np.exp(-b * s_sq))

    for s, debye_waller in ((0.0, 0.5), (0.4, 0.5), (0.7, 1.2)):

        def inside(y, x, s=s, debye_waller=debye_waller):
            plus, minus = (x + s / 2.0) ** 2 + y**2, (x - s / 2.0) ** 2 + y**2
            return f(plus) * f(minus) * (1.0 - np.exp(-2.0 * debye_waller * (x**2 + y**2 - s**2 / 4.0)))

        expected = 2.0 * 0.035 * 2.0 * dblquad(inside, -6.0, 6.0, 0.0, 6.0, epsabs=1e-9)[0]
        found = einstein_factor(np.array([s**2]), a, b, debye_waller, 0.035)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_silicon_against_what_was_measured(make_structure):
    """
    U_111 0.04735 and U'_111 7.94e-4 1/A^2, refined from CBED of a (111) row at 196.75 kV; B 0.47 A^2.  Charge in bonds
    makes U_111 5 % less than that of free atoms; U' has electronic losses besides the thermal ones, which are the most.
    """
    silicon = make_structure((5.4309,) * 3 + (90,) * 3, "F d -3 m :1", [("Si", (0, 0, 0), 0.4668)])
    energy = 196.75e3
    scattering = Scattering(electrons.relativistic_mass(energy), electrons.wavelength(energy), "einstein")
    fractional = np.array(silicon.unit_cell().fractionalization_matrix()).reshape(3, 3)
    u, u_prime = coefficients(electron_atoms(silicon), fractional.T, np.array([[1, 1, 1]]), scattering)
    assert 1.0 < abs(u[0]) / 0.04735 < 1.07
    assert 0.5 < abs(u_prime[0]) / 7.94e-4 < 1.0


def test_absorption_is_what_an_atom_scatters_diffusely(quartz):
    """Optical theorem: gamma f'(0) = K/2 times the cross section, int |gamma f|^2 (1 - exp(-2 B s^2)) 4 d^2s/K^2."""
    gamma, wavelength, b = 1.39, 0.025, 0.8
    atoms = electron_atoms(quartz)
    s = np.linspace(0.0, 8.0, 200001)
    f = np.exp(-atoms.b_gaussian[0] * s[:, None] ** 2) @ atoms.a[0]
    scattered = (gamma * f) ** 2 * (1.0 - np.exp(-2.0 * b * s**2)) * 8.0 * np.pi * s
    section = trapezoid(scattered, s) * wavelength**2
    found = einstein_factor(np.array([0.0]), atoms.core_a[0], atoms.core_b[0], b, gamma * wavelength)
    np.testing.assert_allclose(gamma * found, section / (2.0 * wavelength), rtol=1e-6)


def friedel_asymmetry(structure, make=lambda u: u):
    """(I_g - I_-g)/(I_g + I_-g) of the reflections of the zone [001] up to 0.5 1/A, and their indices."""
    fractional = np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
    geometry = Geometry(fractional.T, np.array([0.0, 0.0, electrons.wave_number(200e3)]))
    hkl = indices_within(fractional.T, 3.0)
    u = make(coefficients(electron_atoms(structure), fractional.T, hkl, AT_200_KV)[0])
    potential = tabulate(hkl, u)
    beams = select_beams(geometry, potential, BeamSelection(1.5, 0.03))
    found = intensities(structure_matrix(geometry, potential, beams), np.array([400.0]))[0]
    of = {tuple(h): x for h, x in zip(beams.tolist(), found)}
    low = [h for h in of if h > (0, 0, 0) and np.linalg.norm(np.array(h) @ fractional) < 0.5 and h[2] == 0]
    return np.array(low), np.array(
        [(of[h] - of[tuple(-x for x in h)]) / (of[h] + of[tuple(-x for x in h)]) for h in low]
    )


def test_friedel_pairs_differ_where_there_is_no_centre_and_change_places_in_the_other_hand(make_structure):
    atoms = [("Ga", (0.0, 0.0, 0.0), 0.6), ("O", (0.31, 0.12, 0.22), 0.8), ("C", (0.07, 0.43, 0.4), 1.0)]
    one = make_structure((4.1, 5.2, 6.3, 90, 90, 90), "P 1", atoms)
    other = make_structure((4.1, 5.2, 6.3, 90, 90, 90), "P 1", [(e, tuple(-x for x in r), b) for e, r, b in atoms])
    hkl, found = friedel_asymmetry(one)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(friedel_asymmetry(other)[1], -found, rtol=0, atol=1e-9)
    np.testing.assert_allclose(friedel_asymmetry(one, np.conj)[1], -found, rtol=0, atol=1e-9)


def test_the_direction_of_the_friedel_difference_is_that_of_second_order():
    """
    Three beams, thin crystal, all on the sphere: psi_g = i x U_g - x^2/2 U_{g-h} U_h, x = pi t/K, so that
    I_g - I_-g = 2 x^3 Re(i U_g* U_{g-h} U_h) to lowest order.
    """
    k = 39.87
    hkl = np.array([[1, 0, 0], [0, 1, 0], [1, -1, 0]])
    u = np.array([0.02 * np.exp(0.4j), 0.03 * np.exp(1.1j), 0.025 * np.exp(0.3j)])
    expected = np.real(1j * np.conj(u[0]) * u[2] * u[1])  # g = 100, h = 010, g - h = 1-10
    found = []
    for sign in (1, -1):
        beams = sign * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
        # flat enough that s is none
        geometry = Geometry(1e-6 * np.eye(3), np.array([0.0, 0.0, k]))
        matrix = structure_matrix(geometry, tabulate(hkl, u), beams)
        found.append(intensities(matrix, np.array([20.0]))[0, 1])
    x = np.pi * 20.0 / k
    assert found[0] - found[1] == pytest.approx(2.0 * x**3 * expected, rel=0.01)


@pytest.mark.data
def test_of_a_real_cif_the_same_coefficients_follow(truth_of):
    """The sites of quartz in the given set are those of quartz_enantiomer_1.cif, P3(2)21; U_-g is U_g*."""
    truth = truth_of("quartz_general2")
    of = {tuple(h): u for h, u in zip(truth.U_hkl.tolist(), truth.U)}
    pairs = [(u, of[tuple(-x for x in h)]) for h, u in of.items() if tuple(-x for x in h) in of]
    np.testing.assert_allclose([u for u, _ in pairs], np.conj([v for _, v in pairs]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("metal", "other", "cell", "change"), [("Mg2+", "O2-", 4.2117, 0.31), ("Na1+", "Cl1-", 5.6402, -0.13)]
)
def test_charges_change_the_111_reflections_of_salts(make_structure, metal, other, cell, change):
    """MgO by +31 %, NaCl by -13 %; hardly 220, where both ions scatter in phase."""
    atoms = [(metal, (0, 0, 0), 0.3), (other, (0.5, 0.5, 0.5), 0.3)]
    salt = make_structure((cell,) * 3 + (90,) * 3, "F m -3 m", atoms)
    hkl = np.array([[1, 1, 1], [2, 2, 0]])
    u = [
        coefficients(electron_atoms(salt, ions), np.eye(3) / cell, hkl, AT_200_KV)[0].real
        for ions in ("neutral", "peng1998")
    ]
    np.testing.assert_allclose(u[1] / u[0] - 1.0, [change, 0.0], rtol=0, atol=0.01)
