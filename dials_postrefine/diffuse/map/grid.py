"""
The voxels: a lattice of points in reciprocal space around which pixels are collected, and their addresses in memory.

A point with fractional Miller indices h has the voxel coordinates x = K h and lies in the voxel of the nearest
integers, so that voxels are centred on integers.  With frame hkl K = diag(subdivide), and x / subdivide are indices;
with frame cartesian K = B / spacing, where B h is the scattering vector in the Cartesian frame of the crystal
(1/Angstrom).

Voxels are kept as rows along the third axis, each as long as it is inside the resolution limit (pi/6 of the box): the
voxel (i, j, k) has the address row_base[i, j] + k for row_low[i, j] <= k < row_high[i, j].  i and j are counted from
low[0] and low[1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Addresses are 32-bit numbers, with a few negative ones that have a meaning.
MOST_VOXELS = 2**31 - 16
# So many voxels a pixel may sweep while it is taken to stand still.
MOST_SWEPT = 1.1


class Rows(NamedTuple):
    """What compiled loops need of a grid: low and the first two of shape, limits (5,); row_low, row_high, row_base."""

    limits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    base: np.ndarray


@dataclass(frozen=True)
class Grid:
    """
    A grid of voxels (module docstring).

    frame "hkl" or "cartesian"; to_voxel K (3, 3); reciprocal B of the reference cell (3, 3), 1/Angstrom; d_min, d_max
    in Angstrom (d_max infinite for none); low and shape (3,) of the box; row_low, row_high (n0, n1) int32 and row_base
    (n0, n1) int64; n_voxels.
    """

    frame: str
    subdivide: tuple[int, int, int] | None
    spacing: float | None
    to_voxel: np.ndarray
    reciprocal: np.ndarray
    d_min: float
    d_max: float
    low: np.ndarray
    shape: tuple[int, int, int]
    row_low: np.ndarray
    row_high: np.ndarray
    row_base: np.ndarray
    n_voxels: int

    @property
    def rows(self) -> Rows:
        """The rows of voxels, for compiled loops."""
        return Rows(np.array([*self.low, *self.shape[:2]]), self.row_low, self.row_high, self.row_base)

    @property
    def to_s(self) -> np.ndarray:
        """Voxel coordinates -> scattering vector in the frame of the crystal, B K^-1 (3, 3), 1/Angstrom."""
        return self.reciprocal @ np.linalg.inv(self.to_voxel)

    def voxels_swept(self, oscillation: float) -> float:
        """
        How many voxels a pixel sweeps, where it sweeps most of them: far from the axis.

        Parameters
        ----------
        oscillation : float
            The rotation, degrees.

        Returns
        -------
        float
        """
        return math.radians(oscillation) / self.d_min / float(np.linalg.norm(self.to_s, axis=0).min())

    def steps_to_follow(self, oscillation: float) -> int:
        """
        In how many steps a rotation must be followed for no pixel to sweep more than MOST_SWEPT voxels in one.

        Parameters
        ----------
        oscillation : float
            The rotation, degrees.

        Returns
        -------
        int
        """
        return max(1, math.ceil(self.voxels_swept(oscillation) / MOST_SWEPT))

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coordinates of the voxels along each axis: fractional indices, or 1/Angstrom."""
        steps = self.spacing if self.frame == "cartesian" else 1.0 / np.array(self.subdivide)
        steps = np.broadcast_to(steps, 3)
        return tuple((self.low[a] + np.arange(self.shape[a])) * steps[a] for a in range(3))


def make_grid(
    reciprocal: np.ndarray,
    d_min: float,
    d_max: float = np.inf,
    subdivide: tuple[int, int, int] = (3, 3, 3),
    spacing: float | None = None,
) -> Grid:
    """
    The grid of a crystal.

    Parameters
    ----------
    reciprocal : ndarray (3, 3)
        B: B h in the Cartesian frame of the crystal, 1/Angstrom.
    d_min, d_max : float
        Limits of resolution, Angstrom.
    subdivide : tuple of three int
        Voxels along an index.
    spacing : float or None
        1/Angstrom: a Cartesian grid of that step in place of one of subdivided indices.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        For more voxels than can be addressed, with their number.
    """
    frame = "hkl" if spacing is None else "cartesian"
    to_voxel = np.diag(np.array(subdivide, float)) if spacing is None else reciprocal / spacing
    to_s = reciprocal @ np.linalg.inv(to_voxel)
    metric = to_s.T @ to_s
    # half a diagonal of a voxel more: pixels within the limit may lie in voxels with a centre beyond it
    corners = np.array([(0.5, 0.5 * y, 0.5 * z) for y in (-1, 1) for z in (-1, 1)])
    margin = np.sqrt(np.einsum("ni,ij,nj->n", corners, metric, corners).max())
    radius_sq = (1.0 / d_min + margin) ** 2
    half = np.floor(np.sqrt(radius_sq * np.diag(np.linalg.inv(metric)))).astype(int)
    low, shape = -half, tuple(int(n) for n in 2 * half + 1)
    if np.prod(np.array(shape, float)) > 2.0 * MOST_VOXELS:  # no need to look closer
        raise ValueError(f"{np.prod(np.array(shape, float)):.3g} voxels")
    x, y = np.meshgrid(np.arange(-half[0], half[0] + 1), np.arange(-half[1], half[1] + 1), indexing="ij")
    linear = (metric[0, 2] * x + metric[1, 2] * y) / metric[2, 2]
    constant = (metric[0, 0] * x * x + 2.0 * metric[0, 1] * x * y + metric[1, 1] * y * y - radius_sq) / metric[2, 2]
    inside = linear * linear - constant
    width = np.sqrt(np.maximum(inside, 0.0))
    # rounded, so that -x has what x has
    row_low = np.where(inside < 0.0, 0, np.ceil(np.round(-linear - width, 9))).astype(np.int32)
    row_high = np.where(inside < 0.0, 0, np.floor(np.round(-linear + width, 9)) + 1).astype(np.int32)
    length = np.maximum(row_high - row_low, 0).astype(np.int64)
    offset = np.concatenate([[0], np.cumsum(length.ravel())])
    n_voxels = int(offset[-1])
    if n_voxels > MOST_VOXELS:
        raise ValueError(f"{n_voxels:.3g} voxels")
    row_base = offset[:-1].reshape(length.shape) - row_low
    return Grid(
        frame,
        None if spacing is not None else tuple(int(n) for n in subdivide),
        spacing,
        to_voxel,
        np.asarray(reciprocal, float),
        float(d_min),
        float(d_max),
        low,
        shape,
        row_low,
        np.maximum(row_high, row_low),
        row_base,
        n_voxels,
    )


def addresses(grid: Grid, x: np.ndarray) -> np.ndarray:
    """
    The addresses of voxels.

    Parameters
    ----------
    grid : Grid
    x : ndarray (n, 3) of int
        Voxel coordinates.

    Returns
    -------
    ndarray (n,) of int64
        -1 outside of the grid.
    """
    x = np.asarray(x, dtype=np.int64)
    i, j = (x[:, :2] - grid.low[:2]).T
    inside = (i >= 0) & (i < grid.shape[0]) & (j >= 0) & (j < grid.shape[1])
    i, j = np.where(inside, i, 0), np.where(inside, j, 0)
    inside &= (x[:, 2] >= grid.row_low[i, j]) & (x[:, 2] < grid.row_high[i, j])
    return np.where(inside, grid.row_base[i, j] + x[:, 2], -1)


def voxels(grid: Grid) -> np.ndarray:
    """
    The coordinates of all voxels.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    ndarray (n_voxels, 3) of int32
        In the order of their addresses.
    """
    length = (grid.row_high - grid.row_low).ravel()
    row = np.repeat(np.arange(length.size), length)
    x = np.empty((grid.n_voxels, 3), np.int32)
    x[:, 0] = row // grid.shape[1] + grid.low[0]
    x[:, 1] = row % grid.shape[1] + grid.low[1]
    x[:, 2] = np.arange(grid.n_voxels) - grid.row_base.ravel()[row]
    return x


def voxels_at(grid: Grid, address: np.ndarray) -> np.ndarray:
    """
    The coordinates of some voxels.

    Parameters
    ----------
    grid : Grid
    address : ndarray (n,) of int

    Returns
    -------
    ndarray (n, 3) of int64
    """
    starts = (grid.row_base + grid.row_low).ravel()
    row = np.searchsorted(starts, address, side="right") - 1
    i, j = np.divmod(row, grid.shape[1])
    return np.stack([i + grid.low[0], j + grid.low[1], address - grid.row_base.ravel()[row]], axis=1)
