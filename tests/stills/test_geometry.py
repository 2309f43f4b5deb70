"""r_h is the distance from the Ewald sphere, for any beam; its derivatives are those of r_h."""

from __future__ import annotations

import numpy as np
import pytest

from scitbx import matrix

from dials_postrefine.numerics.rotations import rotate, rotate_with_derivatives
from dials_postrefine.stills.geometry import excitation, excitation_with_derivatives, scattering_vectors


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    a_matrix = rng.normal(size=(3, 3)) / 50.0
    h = rng.integers(-15, 16, size=(200, 3))
    s0 = np.array([0.05, -0.08, -0.75])  # neither along z nor of a special length
    return a_matrix, h, s0


def test_excitation_is_the_distance_from_the_sphere_computed_reflection_by_reflection_with_scitbx(case):
    a_matrix, h, s0 = case
    theta_x, theta_y = 0.013, -0.021
    q_ref = scattering_vectors(a_matrix, h)
    r_h = excitation(q_ref, np.sum(q_ref**2, axis=1), s0, rotate(theta_x, theta_y))
    r = matrix.col((0, 1, 0)).axis_and_angle_as_r3_rotation_matrix(theta_y) * matrix.col(
        (1, 0, 0)
    ).axis_and_angle_as_r3_rotation_matrix(theta_x)
    a = r * matrix.sqr(a_matrix.ravel().tolist())
    beam = matrix.col(s0.tolist())
    expected = [(a * matrix.col(i) + beam).length() - beam.length() for i in h.tolist()]
    assert r_h == pytest.approx(expected, abs=1e-14)


def test_excitation_is_positive_outside_and_negative_inside_the_sphere():
    s0 = np.array([0.0, 0.0, -1.0])
    q = np.array([[0.0, 0.0, -0.1], [0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    assert excitation(q, np.sum(q**2, axis=1), s0, np.eye(3)) == pytest.approx([0.1, -0.1, 0.0])


def test_excitation_keeps_digits_that_the_difference_of_lengths_loses():
    s0 = np.array([0.0, 0.0, -40.0])  # electrons
    q = np.array([[1e-6, 0.0, 0.0]])
    exact = 1e-12 / 80.0  # q^2 / (2 k) to first order, relative error q^2 / (4 k^2)
    assert excitation(q, np.sum(q**2, axis=1), s0, np.eye(3))[0] == pytest.approx(exact, rel=1e-12)


def test_angle_derivatives_agree_with_central_differences(case):
    a_matrix, h, s0 = case
    q_ref = scattering_vectors(a_matrix, h)
    q_sq = np.sum(q_ref**2, axis=1)
    theta = np.array([0.013, -0.021])
    r_h, *derivatives, _ = excitation_with_derivatives(
        q_ref, q_sq, np.linalg.norm(s0), s0 @ rotate_with_derivatives(*theta)
    )
    assert r_h == pytest.approx(excitation(q_ref, q_sq, s0, rotate(*theta)), abs=1e-15)
    for i, derivative in enumerate(derivatives):
        step = np.zeros(2)
        step[i] = 1e-4
        # fourth order, so that 1e-6 is a test of the derivative and not of the step
        near = [excitation(q_ref, q_sq, s0, rotate(*(theta + m * step))) for m in (1, -1, 2, -2)]
        numeric = (8 * (near[0] - near[1]) - (near[2] - near[3])) / 12e-4
        assert derivative == pytest.approx(numeric, rel=1e-6, abs=1e-9 * np.abs(numeric).max())


def test_derivatives_of_a_scaled_cell_agree_with_central_differences(case):
    a_matrix, h, s0 = case
    q_ref = scattering_vectors(a_matrix, h)
    x = np.array([0.013, -0.021, 0.004])

    def excitation_at(x):
        q = (1.0 + x[2]) * q_ref
        return excitation(q, np.sum(q**2, axis=1), s0, rotate(x[0], x[1]))

    r_h, *derivatives = excitation_with_derivatives(
        q_ref, np.sum(q_ref**2, axis=1), np.linalg.norm(s0), s0 @ rotate_with_derivatives(*x[:2]), 1.0 + x[2]
    )
    assert r_h == pytest.approx(excitation_at(x), abs=1e-15)
    for step, derivative in zip(1e-4 * np.eye(3), derivatives):
        near = [excitation_at(x + m * step) for m in (1, -1, 2, -2)]
        numeric = (8 * (near[0] - near[1]) - (near[2] - near[3])) / 12e-4
        assert derivative == pytest.approx(numeric, rel=1e-6, abs=1e-9 * np.abs(numeric).max())
