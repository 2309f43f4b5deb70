"""Covariances of trajectories: drawn displacements, what superposition takes off, and the frame of V."""

from __future__ import annotations

import numpy as np
import pytest
from pair_sums import make_atoms
from scipy.spatial.transform import Rotation

from dials_postrefine.diffuse.model.trajectory import covariance_of, superpose


def draw(n_frames=6000, seed=1):
    """Frames of atoms with a known covariance of internal motions, and that covariance."""
    xyz, random = make_atoms(n=10).xyz, np.random.default_rng(seed)
    root = 0.05 * random.normal(size=(30, 5))
    # of motions that neither shift nor turn the molecule
    rigid = np.concatenate(
        [np.tile(np.eye(3), (10, 1)), np.cross(np.eye(3)[:, None], (xyz - xyz.mean(0))).reshape(3, 30).T], 1
    )
    root -= rigid @ np.linalg.lstsq(rigid, root, rcond=None)[0]
    frames = xyz + (random.normal(size=(n_frames, 5)) @ root.T).reshape(-1, 10, 3)
    return xyz, frames, root @ root.T


def test_frames_as_they_lie():
    xyz, frames, v = draw()
    found = covariance_of(frames, xyz, superposed=False)
    assert np.abs(found - v).max() < 5.0 * np.diag(v).max() / np.sqrt(len(frames))
    np.testing.assert_allclose(found, np.cov(frames.reshape(len(frames), -1).T, bias=True), atol=1e-12)


def test_superposition_takes_off_what_moves_as_a_whole():
    """V of frames that are turned and shifted at will is that of the internal motions, in the frame of the model."""
    xyz, frames, v = draw()
    turns = Rotation.random(len(frames), random_state=2).as_matrix()
    shifts = 20.0 * np.random.default_rng(3).normal(size=(len(frames), 1, 3))
    found = covariance_of(frames @ turns + shifts, xyz)
    assert np.abs(found - v).max() < 0.06 * np.abs(v).max()
    assert np.linalg.eigvalsh(found).min() > -1e-9


def test_a_superposition_is_a_rotation():
    xyz = make_atoms(n=10).xyz
    turn = Rotation.from_rotvec([0.4, -1.2, 2.0]).as_matrix()
    np.testing.assert_allclose(superpose(xyz @ turn + [3.0, 4.0, 5.0], xyz), xyz, atol=1e-10)
    mirrored = superpose(xyz * [-1.0, 1.0, 1.0], xyz)
    assert np.abs(mirrored - xyz).max() > 0.5
    inner = np.linalg.norm(mirrored[:, None] - mirrored, axis=2)
    np.testing.assert_allclose(inner, np.linalg.norm(xyz[:, None] - xyz, axis=2), atol=1e-10)
    assert superpose(xyz[None] + 1.0, xyz)[0] == pytest.approx(xyz)
