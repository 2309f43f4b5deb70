"""Amplitudes: given ones, closed forms, and what each method says of the same matrix."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.electron.bloch.blocks import STRONG
from dials_postrefine.electron.bloch.geometry import Geometry, excitation_errors
from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.potential import tabulate
from dials_postrefine.electron.bloch.propagation import METHODS, StructureMatrix, amplitudes, diagonalise, of_eigen
from dials_postrefine.electron.bloch.structurematrix import structure_matrix

K = 39.87345690135052


@pytest.mark.data
@pytest.mark.parametrize("method", METHODS)
def test_given_beams_and_potential_have_the_given_amplitudes(truth, method):
    matrix = structure_matrix(truth.geometry, truth.potential, truth.beams)
    np.testing.assert_allclose(amplitudes(matrix, truth.thickness, method), truth.psi, rtol=0, atol=1e-9)
    np.testing.assert_allclose(intensities(matrix, truth.thickness, method), truth.intensity, rtol=0, atol=1e-9)


@pytest.mark.data
def test_a_centre_of_symmetry_makes_the_matrix_real(truth_of):
    """Also where the origin is not in it: silicon has an atom there."""
    for name, real in (("Si110", True), ("Si_row111", True), ("quartz_general2", False)):
        truth = truth_of(name)
        assert np.isrealobj(structure_matrix(truth.geometry, truth.potential, truth.beams).hermitian) == real


def two_beams(s: float, u: complex, u_prime=None):
    """Structure matrix of 000 and 100, which is off the sphere by s, and its geometry: g lies across the beam."""
    g = 0.3
    # 2 K s = -2 k.g - g^2
    along = -(2.0 * K * s + g**2) / (2.0 * g)
    k = np.array([along, 0.0, np.sqrt(K**2 - along**2)])
    geometry = Geometry(np.diag([g, 0.5, 0.5]), k, np.array([0.0, 0.0, 1.0]))
    beams = np.array([[0, 0, 0], [1, 0, 0]])
    prime = None if u_prime is None else np.array([u_prime, 0.0])
    potential = tabulate(np.array([[1, 0, 0], [0, 0, 0]]), np.array([u, 0.0]), prime)
    np.testing.assert_allclose(excitation_errors(geometry, beams)[1], s, rtol=0, atol=1e-13)
    return structure_matrix(geometry, potential, beams), k[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("s", [0.0, 1e-3, -4e-3])
def test_two_beams_by_the_closed_form(method, s):
    """I_g = |U|^2/(K^2 s^2 + |U|^2) sin^2(pi t sqrt(K^2 s^2 + |U|^2)/K_n)."""
    u = 0.03 + 0.04j
    matrix, k_normal = two_beams(s, u)
    t = np.array([0.0, 10.0, 137.0, 800.0, 2500.0])
    root = np.sqrt((K * s) ** 2 + abs(u) ** 2)
    expected = (abs(u) / root * np.sin(np.pi * t * root / k_normal)) ** 2
    found = np.abs(amplitudes(matrix, t, method)) ** 2
    np.testing.assert_allclose(found[:, 1], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[:, 0], 1.0 - expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", [0.0, 2e-3])
def test_two_beams_with_absorption_by_the_closed_form(s):
    """cos and sin of a complex root: M = a + [[-b, U + iU'], [(U + iU')_-, b]], a of K s and U'_0."""
    u, u_prime, u_prime_0 = 0.03 + 0.04j, 0.002 - 0.001j, 0.003
    matrix, k_normal = two_beams(s, u)
    absorbing = np.array([[u_prime_0, np.conj(u_prime)], [u_prime, u_prime_0]])
    matrix = StructureMatrix(matrix.hermitian, absorbing, matrix.m, matrix.k_normal, np.ones(2))
    t = np.array([50.0, 400.0, 1500.0])
    up, down = u + 1j * u_prime, np.conj(u) + 1j * np.conj(u_prime)
    root = np.sqrt((K * s) ** 2 + up * down)
    x = np.pi * t / k_normal
    expected = np.exp(1j * x * (K * s + 1j * u_prime_0)) * 1j * up * np.sin(x * root) / root
    for method in ("auto", "eig", "expm", "chebyshev"):
        np.testing.assert_allclose(amplitudes(matrix, t, method)[:, 1], expected, rtol=0, atol=1e-12)
    # to first order in U': wrong to the second, (U'/U)^2
    np.testing.assert_allclose(amplitudes(matrix, t, "eigh")[:, 1], expected, rtol=0, atol=0.06)


def test_a_thin_crystal_scatters_kinematically(quartz_case):
    """I -> (pi U t/K_n)^2 sinc^2(s_n t), the error being one of third order in t."""
    from dials_postrefine.electron.bloch.potential import potential_of_atoms

    atoms, geometry, scattering, beams = quartz_case
    potential = potential_of_atoms(atoms, geometry.reciprocal, 2.4, scattering)
    matrix = structure_matrix(geometry, potential, beams)
    matrix = StructureMatrix(matrix.hermitian, np.zeros(0), matrix.m, matrix.k_normal, matrix.phase)
    u = np.abs(potential.at(beams)[0][1:])
    k_n = geometry.k_normal
    difference = []
    for t in (0.2, 0.02):
        x = np.pi * t * matrix.hermitian.diagonal()[1:] / (2.0 * k_n)  # pi s_n t, s_n along the normal
        expected = (matrix.m[1:] ** 2 * np.pi * u * t / k_n) ** 2 * (np.sin(x) / x) ** 2
        difference.append(np.abs(intensities(matrix, t)[0, 1:] - expected).max() / expected.max())
    assert difference[0] < 2e-3 and difference[1] < 0.15 * difference[0]


def random_matrix(n: int, seed: int, absorbing: bool) -> StructureMatrix:
    rng = np.random.default_rng(seed)
    h = 0.02 * (rng.normal(size=(2, n, n)) + 1j * rng.normal(size=(2, n, n)))
    h = h + np.conj(np.swapaxes(h, 1, 2))
    h[:, np.arange(n), np.arange(n)] -= rng.exponential(size=(2, n))
    b = 0.05 * (rng.normal(size=(2, n, n)) + 1j * rng.normal(size=(2, n, n)))
    a = 0.002 * (np.einsum("oij,okj->oik", b, np.conj(b)) + np.eye(n))
    m = np.ones((2, n))
    m[:, 1:] += 0.05 * rng.normal(size=(2, n - 1))
    return StructureMatrix(h, a if absorbing else np.zeros(0), m, np.array([39.0, 38.0]), np.ones(n))


@pytest.mark.parametrize("n", [3, 23, 24, 61])
@pytest.mark.parametrize("real", [True, False])
def test_intensities_without_eigenvectors_are_those_with_them(n, real):
    matrix = random_matrix(n, n, absorbing=False)
    if real:
        matrix = StructureMatrix(matrix.hermitian.real.copy(), np.zeros(0), matrix.m, matrix.k_normal, matrix.phase)
    t = np.array([0.0, 300.0, 1700.0])
    found = intensities(matrix, t)
    np.testing.assert_allclose(found, np.abs(amplitudes(matrix, t, "expm")) ** 2, rtol=0, atol=1e-11)
    one = StructureMatrix(matrix.hermitian[1], np.zeros(0), matrix.m[1], matrix.k_normal[1], matrix.phase)
    np.testing.assert_allclose(intensities(one, t), found[1], rtol=0, atol=1e-14)


def test_what_passes_the_surface_is_one_without_absorption_and_less_with_it():
    t = np.array([0.0, 500.0, 3000.0])
    for absorbing in (False, True):
        matrix = random_matrix(30, 1, absorbing)
        current = (intensities(matrix, t, "eig") / matrix.m[:, None] ** 2).sum(axis=-1) * matrix.m[:, :1] ** 2
        if absorbing:
            assert np.all(np.diff(current, axis=1) < -1e-3)
        else:
            np.testing.assert_allclose(current, 1.0, rtol=0, atol=1e-11)


@pytest.mark.data
def test_intensities_sum_to_one_on_a_zone_axis(truth_of):
    truth = truth_of("Si110")
    zone = truth.beams[np.abs(truth.geometry.g(truth.beams)[:, 2]) < 1e-9]  # g_n is none
    found = intensities(structure_matrix(truth.geometry, truth.potential, zone), truth.thickness)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=0, atol=1e-12)


def test_first_order_absorption_is_that_to_first_order():
    """Ten times less absorption: a hundred times less error."""
    t = np.array([600.0])
    error = []
    for factor in (1.0, 0.1):
        matrix = random_matrix(20, 2, True)
        matrix = StructureMatrix(matrix.hermitian, factor * matrix.absorption, matrix.m, matrix.k_normal, matrix.phase)
        error.append(np.abs(amplitudes(matrix, t, "eigh") - amplitudes(matrix, t, "eig")).max())
    assert error[1] < 0.2 * error[0] and error[0] < 0.05


@pytest.mark.parametrize("n", [12, 61])
def test_weak_absorption_by_blocks_is_near_to_exact(n):
    """Exact where the blocks hold all waves; else far nearer than to first order, and more so with less absorption."""
    t, error = np.array([600.0]), []
    for factor in (0.1, 0.03):
        matrix = random_matrix(n, 2, True)
        matrix = StructureMatrix(matrix.hermitian, factor * matrix.absorption, matrix.m, matrix.k_normal, matrix.phase)
        eigen, exact = diagonalise(matrix, "blocks"), amplitudes(matrix, t, "eig")
        error.append(np.abs(of_eigen(eigen, matrix, t) * matrix.factor[:, None] - exact).max())
        first = np.abs(amplitudes(matrix, t, "eigh") - exact).max()
        np.testing.assert_allclose(eigen.inverse @ eigen.vectors, np.broadcast_to(np.eye(n), (2, n, n)), atol=1e-10)
    assert max(error) < 1e-11 if n <= STRONG else error[1] < 0.2 * error[0] and error[1] < 0.05 * first


@pytest.mark.parametrize("n", [12, 90])
def test_what_is_not_asked_for_by_method_is_exact(n):
    matrix, t = random_matrix(n, 4, True), np.array([0.0, 250.0, 900.0])
    expected = np.abs(amplitudes(matrix, t, "expm")) ** 2
    np.testing.assert_allclose(intensities(matrix, t), expected, rtol=0, atol=1e-10)


def test_a_stack_of_orientations_is_one_after_the_other():
    reciprocal = np.stack([np.diag([0.2, 0.19, 0.21]) @ np.linalg.qr(np.eye(3) + 0.01 * i)[0] for i in range(4)])
    geometry = Geometry(reciprocal, np.array([0.3, 0.1, K]))
    rng = np.random.default_rng(3)
    hkl = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    half = hkl[: len(hkl) // 2]
    potential = tabulate(half, 0.02 * (rng.normal(size=len(half)) + 1j * rng.normal(size=len(half))))
    beams = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]])
    t = np.array([100.0, 900.0])
    found = intensities(structure_matrix(geometry, potential, beams), t)
    assert found.shape == (4, 2, 5)
    for one, a in zip(found, reciprocal):
        alone = structure_matrix(Geometry(a, geometry.k), potential, beams)
        np.testing.assert_allclose(one, intensities(alone, t), rtol=0, atol=1e-13)


def test_bad_input_is_refused():
    matrix = random_matrix(3, 0, False)
    with pytest.raises(ValueError, match="no method"):
        amplitudes(matrix, [1.0], "magic")
    with pytest.raises(ValueError, match="below zero"):
        intensities(matrix, [-1.0])
    with pytest.raises(ValueError, match="first beam"):
        structure_matrix(Geometry(np.eye(3), np.array([0, 0, K])), tabulate([[1, 0, 0]], [0.1]), np.array([[1, 0, 0]]))
    with pytest.raises(ValueError, match="run along the surface"):
        Geometry(np.eye(3), np.array([0.0, 0.0, K]), np.array([1.0, 0.0, 0.0]))
