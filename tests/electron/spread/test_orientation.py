"""Misorientations, zone axes, the crystal's frame, excitation errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_postrefine.electron.spread import orientation

B = np.array([[0.2, 0.03, 0.01], [0.0, 0.17, -0.04], [0.0, 0.0, 0.11]])


def test_the_misorientation_is_the_smallest_angle_over_the_lattice(make_images):
    lattice = make_images().symmetry.lattice
    rng = np.random.default_rng(0)
    b = np.diag([0.2, 0.2, 0.125])
    turns = Rotation.random(12, random_state=1).as_matrix()
    a_matrix = turns @ b
    a, other = rng.integers(0, 12, (2, 40))
    found = orientation.misorientations(a_matrix, a, other, lattice)
    for k in range(40):
        angles = []
        for m in lattice:
            r = a_matrix[other[k]] @ m.T @ np.linalg.inv(a_matrix[a[k]])
            np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
            angles.append(np.linalg.norm(Rotation.from_matrix(r).as_rotvec()))
        assert found[k] == pytest.approx(min(angles), abs=1e-9)


def test_small_misorientations_are_exact():
    turn = Rotation.from_rotvec([0.0, 1e-7, 0.0]).as_matrix()
    found = orientation.misorientations(np.array([B, turn @ B]), np.array([0]), np.array([1]), np.eye(3)[None])
    assert found[0] == pytest.approx(1e-7, rel=1e-6)


def test_zone_axes_are_unique_and_complete():
    axes = orientation.zone_axes(1)
    assert len(axes) == 13  # 3 edges, 6 diagonals of faces, 4 of the cell
    assert len(orientation.zone_axes(2)) == 49
    both = np.concatenate([axes, -axes])
    assert len(np.unique(both, axis=0)) == 26


def test_the_beam_along_an_axis_is_at_no_angle_to_it():
    direct = np.linalg.inv(B)  # rows a, b, c
    axes = orientation.zone_axes(2)
    turns = Rotation.random(len(axes), random_state=2).as_matrix()
    beams = np.array([turn @ (axis @ direct) for turn, axis in zip(turns, axes)])
    angle, nearest = orientation.nearest_zone_axes(turns @ B, beams, axes)
    np.testing.assert_allclose(angle, 0.0, atol=1e-7)
    np.testing.assert_array_equal(axes[nearest], axes)
    angle, _ = orientation.nearest_zone_axes(turns @ B, -beams, axes)
    np.testing.assert_allclose(angle, 0.0, atol=1e-7)


def test_the_frame_of_the_crystal_does_not_depend_on_how_it_is_turned():
    turns = Rotation.random(5, random_state=3).as_matrix()
    s0 = np.array([0.1, 0.2, -3.0])
    found = orientation.beam_directions(turns @ B, np.array([turn @ s0 for turn in turns]))
    np.testing.assert_allclose(found, np.tile(s0 / np.linalg.norm(s0), (5, 1)), atol=1e-12)
    np.testing.assert_allclose(orientation.crystal_frame(turns @ B), turns, atol=1e-12)


def test_stereographic_projection():
    c = np.sqrt(0.5)
    found = orientation.stereographic(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [c, 0.0, c]]))
    np.testing.assert_allclose(found, [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [np.tan(np.pi / 8), 0.0]], atol=1e-12)


def frame(first, other):
    """An orthogonal matrix with a column along first."""
    second = np.cross(other, first)
    second /= np.linalg.norm(second)
    return np.column_stack([first, second, np.cross(first, second)])


def test_the_excitation_error_is_zero_on_the_sphere_and_the_distance_near_it():
    s0 = np.array([0.0, 0.0, -40.0])
    h = np.array([[1, 2, 0]])
    g = B @ h[0]
    # turn g so that |s0 + g| = |s0|, then by a small angle
    for small in (0.0, 1e-3):
        size = np.linalg.norm(g)
        up = np.arcsin(size / 80.0) + small
        target = np.array([np.cos(up), 0.0, np.sin(up)])
        turn = frame(target, [0.0, 1.0, 0.0]) @ frame(g / size, [0.0, 0.0, 1.0]).T
        found = orientation.excitation_error((turn @ B)[None], s0[None], h)[0]
        distance = 40.0 - np.linalg.norm(s0 + turn @ g)
        assert found == pytest.approx(distance, rel=2e-3, abs=1e-12)
        assert found >= -1e-12
