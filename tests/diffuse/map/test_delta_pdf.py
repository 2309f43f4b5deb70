"""The delta-PDF against transforms that have a closed form, and with the voxels of Bragg peaks left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from dials_postrefine.diffuse.map.delta_pdf import delta_pdf
from dials_postrefine.diffuse.map.grid import make_grid

pytestmark = pytest.mark.dials

# Columns a*, b*, c* of a triclinic cell, 1/Angstrom.
RECIPROCAL = np.linalg.inv([[9.0, 0.0, 0.0], [1.5, 11.0, 0.0], [-1.0, 2.0, 10.0]])
D_MIN, SIGMA = 1.3, 0.8


def points(grid):
    """Scattering vectors of the voxels of the box (n0, n1, n2, 3)."""
    x = np.stack(np.meshgrid(*(low + np.arange(n) for low, n in zip(grid.low, grid.shape)), indexing="ij"), axis=-1)
    return x @ grid.to_s.T


def observed(grid, vectors, heights):
    """dI = sum_j c_j cos(2 pi s.r_j) exp(-2 pi^2 sigma^2 s^2), NaN outside of the limit."""
    s = points(grid)
    waves = sum(c * np.cos(2.0 * np.pi * s @ r) for r, c in zip(vectors, heights))
    length = np.linalg.norm(s, axis=-1)
    return np.where(length * D_MIN < 1.0, waves * np.exp(-2.0 * (np.pi * SIGMA * length) ** 2), np.nan)


def expected(grid, vectors, heights, r):
    """
    The transform: of each pair half the radial integral of w exp(-2 pi^2 sigma^2 s^2) 4 pi s^2 sin(2 pi s x)/(2 pi s x)
    for the distances x from r_j and from -r_j, by quadrature.
    """
    s = np.linspace(1e-6, 1.0 / D_MIN, 4001)
    weight = np.cos(0.5 * np.pi * s * D_MIN) ** 2 * np.exp(-2.0 * (np.pi * SIGMA * s) ** 2) * 4.0 * np.pi * s * s

    def at(vector):
        return trapezoid(weight * np.sinc(2.0 * s * np.linalg.norm(vector)), s)

    return sum(0.5 * c * (at(r - v) + at(r + v)) for v, c in zip(vectors, heights))


@pytest.mark.parametrize("subdivide", [(3, 3, 3), (2, 3, 4)])
def test_pairs_are_where_they_are_and_as_high(subdivide):
    grid = make_grid(RECIPROCAL, D_MIN, subdivide=subdivide)
    vectors, heights = np.array([[3.0, 1.0, -2.0], [-4.0, 5.0, 1.0]]), (2.0, -1.5)
    found = delta_pdf(observed(grid, vectors, heights), grid)
    basis = np.linalg.inv(grid.to_s)  # rows: the vectors of the supercell
    rng = np.random.default_rng(3)
    cell = basis / np.array(grid.shape)[:, None]
    near = [np.rint(v @ np.linalg.inv(cell)).astype(int) for v in (*vectors, *-vectors)]
    for index in [*near, *rng.integers(-4, 5, (12, 3))]:
        r = index @ cell
        assert found[tuple(index % grid.shape)] == pytest.approx(expected(grid, vectors, heights, r), abs=1e-6)


def test_bragg_peaks_that_are_left_out_leave_no_lattice():
    grid = make_grid(RECIPROCAL, D_MIN, subdivide=(4, 4, 4))
    vectors, heights = np.array([[2.5, 1.0, -1.0]]), (1.0,)
    whole = observed(grid, vectors, heights)
    x = np.stack(np.meshgrid(*(low + np.arange(n) for low, n in zip(grid.low, grid.shape)), indexing="ij"), axis=-1)
    bragg = (x % 4 == 0).all(axis=-1)
    masked = np.where(bragg, np.nan, whole)
    truth, filled = delta_pdf(whole, grid), delta_pdf(masked, grid)
    empty = delta_pdf(np.where(bragg & np.isfinite(whole), 0.0, whole), grid)
    assert np.abs(filled - truth).max() < 0.1 * np.abs(empty - truth).max()


def test_nothing_observed_is_nothing():
    grid = make_grid(RECIPROCAL, 2.0)
    assert not delta_pdf(np.full(grid.shape, np.nan), grid).any()
