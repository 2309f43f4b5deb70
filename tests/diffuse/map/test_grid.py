"""Voxels and their addresses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_postrefine.diffuse.map.grid import addresses, make_grid, voxels

TRICLINIC = np.array([[0.05, 0.0, 0.0], [0.012, 0.04, 0.0], [-0.007, 0.011, 0.031]]).T


def box(grid):
    """All voxels of the box of a grid, (n, 3)."""
    return np.stack(np.meshgrid(*(low + np.arange(n) for low, n in zip(grid.low, grid.shape)), indexing="ij"), -1)


@pytest.mark.parametrize("given", [{"subdivide": (3, 2, 1)}, {"spacing": 0.02}])
def test_the_grid_has_each_voxel_that_a_scattering_vector_within_the_limit_can_fall_into(given):
    grid = make_grid(TRICLINIC, 2.0, **given)
    rng = np.random.default_rng(0)
    s = rng.normal(size=(200_000, 3))
    s *= (rng.random(len(s)) ** (1 / 3) / 2.0 / np.linalg.norm(s, axis=1))[:, None]
    h = s @ np.linalg.inv(TRICLINIC).T
    x = np.rint(h @ grid.to_voxel.T).astype(int)
    found = addresses(grid, x)
    assert found.min() >= 0 and found.max() < grid.n_voxels
    # and not many more: a shell of about a voxel
    corner = np.linalg.norm(grid.to_s @ np.array([0.5, 0.5, 0.5]))
    assert grid.n_voxels * abs(np.linalg.det(grid.to_s)) < 4 / 3 * np.pi * (0.5 + 3.0 * corner) ** 3


def test_addresses_are_all_different_and_voxels_takes_them_back():
    grid = make_grid(TRICLINIC, 2.5, subdivide=(2, 3, 2))
    x = voxels(grid)
    np.testing.assert_array_equal(addresses(grid, x), np.arange(grid.n_voxels))
    everything = box(grid).reshape(-1, 3)
    found = addresses(grid, everything)
    assert np.count_nonzero(found >= 0) == grid.n_voxels == len(np.unique(found[found >= 0]))
    assert (addresses(grid, everything + 1000) == -1).all()


@pytest.mark.parametrize("given", [{"subdivide": (3, 3, 3)}, {"spacing": 0.01}])
def test_with_a_voxel_there_is_its_friedel_mate(given):
    turned = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix() @ TRICLINIC  # numbers that round either way
    grid = make_grid(turned, 2.2, **given)
    assert (addresses(grid, -voxels(grid)) >= 0).all()


def test_axes_are_indices_or_reciprocal_angstroms():
    grid = make_grid(TRICLINIC, 3.0, subdivide=(3, 2, 1))
    for axis, low, n, step in zip(grid.axes, grid.low, grid.shape, (3, 2, 1)):
        np.testing.assert_allclose(axis * step, low + np.arange(n))
    grid = make_grid(TRICLINIC, 3.0, spacing=0.025)
    for axis, low in zip(grid.axes, grid.low):
        np.testing.assert_allclose(np.diff(axis), 0.025)
        assert axis[0] == pytest.approx(0.025 * low) and axis[-1] >= 1 / 3.0 > axis[-3]


def test_voxels_beyond_what_can_be_addressed_are_refused_with_their_number():
    with pytest.raises(ValueError, match=r"e\+\d+ voxels"):
        make_grid(TRICLINIC, 0.1, subdivide=(99, 99, 99))
    with pytest.raises(ValueError, match=r"e\+\d+ voxels"):
        make_grid(np.eye(3) * 0.01, 1.0, subdivide=(9, 9, 9))
