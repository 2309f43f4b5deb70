"""
Structure factors at fractional indices, by FFT.

The atoms lie once in a box of m = (m_1, m_2, m_3) cells, whose reciprocal lattice has the fractional indices H/m.  Of
each type t, point atoms that are blurred by their displacements and a width w are sampled on the grid of the box,

    D_t(q) = exp(q^2 w^2/2) FT[ sum_{j in t} o_j N(r - r_j; u_j + w^2) ],      F = sum_t f_t(q) D_t(q)

with +i q.r in the exponent (Ten Eyck 1977; form factors are exact, as they are multiplied in reciprocal space).  The
step of the grid and w are such that what is aliased is 1e-8 (in single precision 1e-6) of what is meant at the limit of
resolution, and the tails of the Gaussians are cut off at as much.

Arrays are those of scipy's rfftn: H_3 >= 0, as F(-q) = F(q)* where f'' is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
from scipy import fft
from scipy.interpolate import CubicSpline

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms

OVERSAMPLING = 1.5  # of the Nyquist frequency over the resolution
ALIASED = 1e-8
ALIASED_SINGLE = 1e-6  # in single precision
MOST_POINTS = 3e8


@dataclass(frozen=True)
class Box:
    """
    A box of cells and its FFT grid: cells m (3,), grid n (3,) of int, A (3, 3) of one cell, s_max 1/Angstrom, and the
    grid's Nyquist frequency over s_max.
    """

    cells: np.ndarray
    grid: np.ndarray
    orthogonal: np.ndarray
    s_max: float
    oversampling: float = OVERSAMPLING

    def width_sq(self, aliased: float) -> float:
        """w^2, by which the images that the grid makes of a point at 2 x oversampling - 1 times s_max are `aliased`."""
        beyond = (2.0 * self.oversampling - 1.0) ** 2 - 1.0
        return -math.log(aliased) / (2.0 * math.pi**2 * beyond) / self.s_max**2

    @property
    def n_points(self) -> int:
        """Points of the half of reciprocal space."""
        return int(self.grid[0] * self.grid[1] * (self.grid[2] // 2 + 1))

    def s_sq(self) -> np.ndarray:
        """|s|^2 (n_1, n_2, n_3/2 + 1) of the half of reciprocal space, 1/Angstrom^2."""
        metric = np.linalg.inv(self.orthogonal.T @ self.orthogonal)
        h, k = (fft.fftfreq(n, m / n) for n, m in zip(self.grid[:2], self.cells[:2]))
        h, k, l = np.ix_(h, k, fft.rfftfreq(self.grid[2], self.cells[2] / self.grid[2]))  # noqa: E741
        square = metric[0, 0] * h**2 + metric[1, 1] * k**2 + metric[2, 2] * l**2
        return square + 2.0 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)

    def nearest_distance(self) -> np.ndarray:
        """Distance (n_1, n_2, n_3) of each grid point to the nearest image of the origin, Angstrom."""
        x = [fft.fftfreq(n) for n in self.grid]
        basis = self.orthogonal * self.cells
        diagonal = np.allclose(basis.T @ basis, np.diag(np.diag(basis.T @ basis)))
        best = None
        shifts = [(0, 0, 0)] if diagonal else [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
        for shift in shifts:
            square = self.distance_sq(x, shift)
            best = square if best is None else np.minimum(best, square)
        return np.sqrt(best)

    def distance_sq(self, x, shift) -> np.ndarray:
        """Squared distance of fractions x (of the box) plus a shift by whole boxes to the origin, Angstrom^2."""
        basis = self.orthogonal * self.cells
        metric = basis.T @ basis
        a, b, c = np.ix_(*(each + s for each, s in zip(x, shift)))
        square = metric[0, 0] * a**2 + metric[1, 1] * b**2 + metric[2, 2] * c**2
        return np.maximum(square + 2.0 * (metric[0, 1] * a * b + metric[0, 2] * a * c + metric[1, 2] * b * c), 0.0)

    def places(self, h: np.ndarray) -> np.ndarray:
        """
        Where indices are found in an array of the half of reciprocal space, made flat.

        Parameters
        ----------
        h : ndarray (n, 3)
            Fractional indices; multiples of 1/m.

        Returns
        -------
        ndarray (n,) of int64
            Of h, or of -h.
        """
        number = np.rint(h * self.cells).astype(np.int64)
        number = np.where(number[:, 2:] < 0, -number, number)
        number[:, :2] %= self.grid[:2]
        return (number[:, 0] * self.grid[1] + number[:, 1]) * (self.grid[2] // 2 + 1) + number[:, 2]


def make_box(
    atoms: Atoms, cells, s_max: float, extent: np.ndarray | None = None, oversampling: float = OVERSAMPLING
) -> Box:
    """
    The box that has indices in steps of 1/cells to s_max.

    Parameters
    ----------
    atoms : Atoms
    cells : sequence of three int
    s_max : float
        1/Angstrom.
    extent : ndarray (3,) or None
        Of what is in it, in cells: the box is as many times larger as it takes to hold all differences of positions.
    oversampling : float
        The grid's Nyquist frequency over s_max.

    Returns
    -------
    Box

    Raises
    ------
    CannotModel
        For a box that no memory holds.
    """
    cells = np.array(cells, int)
    if extent is not None:
        cells = cells * np.maximum(1, np.ceil(2.0 * np.asarray(extent) / cells - 1e-6).astype(int))
    lengths = np.linalg.norm(atoms.orthogonal, axis=0) * cells
    grid = np.array([fft.next_fast_len(math.ceil(2.0 * oversampling * s_max * x) + 1, real=True) for x in lengths])
    grid += grid % 2  # even
    grid = np.array([fft.next_fast_len(int(n), real=True) for n in grid])
    if np.prod(grid.astype(float)) > MOST_POINTS:
        raise CannotModel(
            f"The map is too fine for the model: its box would have {np.prod(grid.astype(float)):.2g} points; set a "
            "larger d_min."
        )
    return Box(cells, grid, atoms.orthogonal, float(s_max), oversampling)


def calculate_parts(atoms: Atoms, box: Box) -> np.ndarray:
    """
    The partial structure factors D_t with the atoms' displacements, of the atoms as they lie (no symmetry).

    Parameters
    ----------
    atoms : Atoms
    box : Box

    Returns
    -------
    ndarray (m, n_1, n_2, n_3/2 + 1) of complex
        By type; right to s_max of the box, 0 beyond.
    """
    weights = np.where(atoms.kind == np.arange(len(atoms.c))[:, None], atoms.occupancy, 0.0)
    return transform_points(atoms.sites, atoms.u, weights, box)


def transform_points(sites: np.ndarray, u: np.ndarray, weights: np.ndarray, box: Box) -> np.ndarray:
    """
    sum_j w_j exp(i q.r_j - q'u_j q/2).

    Parameters
    ----------
    sites : ndarray (n, 3)
        Fractions of the cell.
    u : ndarray (n, 3, 3)
        Angstrom^2; eigenvalues may be below zero where these are small beside the width of the grid's points.
    weights : ndarray (m, n)
    box : Box

    Returns
    -------
    ndarray (m, n_1, n_2, n_3/2 + 1) of complex
        Right to s_max of the box, 0 beyond.
    """
    parts = np.zeros((len(weights), *box.grid[:2], box.grid[2] // 2 + 1), complex)
    constant = 2.0 * np.pi**2 * box.width_sq(ALIASED)
    for part, density in zip(parts, _densities(sites, u, weights, box, (float, ALIASED))):
        _unblur(part, fft.rfftn(density, overwrite_x=True), box.grid, _metric_of(box), (constant, box.s_max))
    return parts


def transform_half(sites: np.ndarray, u: np.ndarray, weights: np.ndarray, box: Box, grid: np.ndarray) -> np.ndarray:
    """
    The same in single precision, on a coarser grid: what lies beyond its frequencies is left out.

    Parameters
    ----------
    sites, u, weights, box
        As transform_points has them.
    grid : ndarray (3,) of int
        Even, none larger than the box's.

    Returns
    -------
    ndarray (m, grid_1, grid_2, grid_3/2 + 1) of complex64
    """
    parts = np.zeros((len(weights), *grid[:2], grid[2] // 2 + 1), np.complex64)
    constant = 2.0 * np.pi**2 * box.width_sq(ALIASED_SINGLE)
    for part, density in zip(parts, _densities(sites, u, weights, box, (np.float32, ALIASED_SINGLE))):
        _unblur(part, fft.rfftn(density, overwrite_x=True), box.grid, _metric_of(box), (constant, box.s_max))
    return parts


def _metric_of(box: Box) -> np.ndarray:
    """|s|^2 = n'G n of the numbers n of frequencies of the box (3, 3)."""
    basis = box.orthogonal * box.cells
    return np.linalg.inv(basis.T @ basis)


def _densities(sites, u, weights, box: Box, how) -> Iterator[np.ndarray]:
    """The blurred points on the grid of the box, of one row of the weights after the other."""
    kind, aliased = how
    tail, width_sq = math.sqrt(-2.0 * math.log(aliased)), box.width_sq(aliased)  # standard deviations to the end
    basis = box.orthogonal * box.cells
    axes, vectors = np.linalg.eigh(u + width_sq * np.eye(3))
    axes = np.maximum(axes, 0.3 * width_sq)
    precise = np.einsum("ba,nbc,nc,ndc,de->nae", basis, vectors, 1.0 / axes, vectors, basis)
    # of the box's fractions: a sphere of that radius
    half = tail * np.sqrt(axes[:, -1:] * np.diag(np.linalg.inv(basis.T @ basis)))
    height = abs(np.linalg.det(basis)) / np.prod(box.grid) / np.sqrt((2.0 * np.pi) ** 3 * axes.prod(axis=1))
    for weight in weights:
        here = weight != 0.0
        density = np.zeros(tuple(box.grid), kind)
        _add_gaussians(density, sites[here] / box.cells, half[here], precise[here], (weight * height)[here])
        yield density


@numba.njit(cache=True)
def _unblur(out, transform, fine, metric, constant):
    """The conjugate (for +i q.r) of a transform times exp(constant s^2) to s_max, 0 beyond, on out's coarser grid."""
    width, s_max = constant
    limit = s_max * s_max * (1.0 + 1e-9)
    n1, n2, n3 = out.shape
    for i in range(n1):
        h = i if 2 * i < n1 else i - n1
        for j in range(n2):
            k = j if 2 * j < n2 else j - n2
            for m in range(n3):
                s_sq = metric[0, 0] * h * h + metric[1, 1] * k * k + metric[2, 2] * m * m
                s_sq += 2.0 * (metric[0, 1] * h * k + metric[0, 2] * h * m + metric[1, 2] * k * m)
                if s_sq <= limit:
                    out[i, j, m] = np.conj(transform[h % fine[0], k % fine[1], m]) * math.exp(width * s_sq)


@numba.njit(cache=True)
def _add_gaussians(density, sites, half, precise, height):
    """height exp(-x'P x/2), x in fractions of the box from the sites, within half (n, 3), added periodically."""
    n1, n2, n3 = density.shape
    for j in range(len(sites)):
        x, y, z = sites[j]
        p = precise[j]
        for i in range(math.ceil((x - half[j, 0]) * n1), math.floor((x + half[j, 0]) * n1) + 1):
            dx = i / n1 - x
            for k in range(math.ceil((y - half[j, 1]) * n2), math.floor((y + half[j, 1]) * n2) + 1):
                dy = k / n2 - y
                constant = p[0, 0] * dx * dx + p[1, 1] * dy * dy + 2.0 * p[0, 1] * dx * dy
                linear = 2.0 * (p[0, 2] * dx + p[1, 2] * dy)
                for m in range(math.ceil((z - half[j, 2]) * n3), math.floor((z + half[j, 2]) * n3) + 1):
                    dz = m / n3 - z
                    density[i % n1, k % n2, m % n3] += height[j] * math.exp(
                        -0.5 * (constant + dz * (linear + dz * p[2, 2]))
                    )


def structure_factors(atoms: Atoms, parts: np.ndarray, box: Box, h: np.ndarray) -> np.ndarray:
    """
    |F|^2 at fractional indices of the box.

    Parameters
    ----------
    atoms : Atoms
    parts : ndarray
        calculate_parts.
    box : Box
    h : ndarray (n, 3)

    Returns
    -------
    ndarray (n,)
        |F|^2.
    """
    places = box.places(h)
    s_sq = np.einsum("ij,nj->ni", atoms.reciprocal, h)
    f = atoms.factors((s_sq**2).sum(axis=1))
    total = np.zeros(len(h), complex)
    for kind in range(len(f)):
        total += f[kind] * parts[kind].reshape(-1)[places]
    return np.abs(total) ** 2


def incoherent(atoms: Atoms, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The sums over atoms without interference, of the atoms as they lie.

    Parameters
    ----------
    atoms : Atoms
    q : ndarray (n, 3)
        1/Angstrom.

    Returns
    -------
    total, elastic : ndarray (n,)
        sum o^2 f^2, and sum o^2 f^2 exp(-q'u q).
    """
    square = (q**2).sum(axis=1)
    f_sq = atoms.factors(square / (4.0 * np.pi**2)) ** 2
    weights = atoms.occupancy**2
    strength = np.bincount(atoms.kind, weights, minlength=len(atoms.c))
    total = strength @ f_sq
    if not atoms.is_isotropic:
        elastic = np.zeros(len(q))
        tensor = np.stack([q[:, i] * q[:, j] for i in range(3) for j in range(3)])
        for j in range(len(atoms)):
            elastic += weights[j] * f_sq[atoms.kind[j]] * np.exp(-atoms.u[j].reshape(9) @ tensor)
        return total, elastic
    # a smooth function of q^2 alone
    node = np.linspace(0.0, square.max(), 2000)
    f_sq = atoms.factors(node / (4.0 * np.pi**2)) ** 2
    curve = np.zeros(len(node))
    for u, kind, weight in zip(atoms.u_iso, atoms.kind, weights):
        curve += weight * f_sq[kind] * np.exp(-u * node)
    return total, CubicSpline(node, curve)(square)
