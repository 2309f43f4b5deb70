"""The rotation is A = R_y R_x A_ref, right-handed, and so are its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_postrefine.numerics.rotations import rotate, rotate_many_with_derivatives, rotate_with_derivatives


def test_rotation_composes_x_first_then_y_as_scipy_has_it():
    expected = Rotation.from_euler("xy", [0.3, -0.2]).as_matrix()  # extrinsic: about x, then about the fixed y
    assert rotate(0.3, -0.2) == pytest.approx(expected, abs=1e-15)
    assert not np.allclose(rotate(0.3, -0.2), Rotation.from_euler("yx", [-0.2, 0.3]).as_matrix())


def test_a_positive_turn_about_x_takes_y_towards_z():
    assert rotate(np.pi / 2, 0.0) @ (0.0, 1.0, 0.0) == pytest.approx([0.0, 0.0, 1.0])


def test_derivatives_agree_with_central_differences():
    theta = np.array([0.3, -0.2])
    r, *derivatives = rotate_with_derivatives(*theta)
    assert r == pytest.approx(rotate(*theta), abs=1e-15)
    for i, derivative in enumerate(derivatives):
        step = np.eye(2)[i] * 1e-5
        numeric = (rotate(*(theta + step)) - rotate(*(theta - step))) / 2e-5
        assert derivative == pytest.approx(numeric, abs=1e-9)


def test_many_rotations_written_out_are_those_of_scitbx():
    theta_x, theta_y = np.random.default_rng(0).uniform(-0.5, 0.5, size=(2, 20))
    expected = [rotate_with_derivatives(*pair) for pair in zip(theta_x, theta_y)]
    assert rotate_many_with_derivatives(theta_x, theta_y) == pytest.approx(np.array(expected), abs=1e-15)
