"""
Liquid-like motions: neighbours move together, V_ij = sigma^2 Gamma(r_ij), to all orders; Gamma(r) as in kernels.py.

The pairs are those inside a copy (a molecule, or a cell), or all of the crystal.  The form factors, with exp(-q^2 u/2),
stand outside of the transform as they must (at q' in a convolution of |F(q')|^2 they are wrong by 6 to 25 %): they are
alike enough for a few functions to make them all, by a singular value decomposition,

    o_j f_j(q) exp(-q^2 u_j/2) = g(q) sum_r A_jr phi_r(q),      g^2 = sum_j o_j^2 f_j^2 exp(-q^2 u_j)

    I = g^2 sum_rs phi_r phi_s FT[ p_rs(r) (exp(x Gamma(r)) - 1) ] + sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)]       (1)
    p_rs(r) = FT^-1[ Re(F_r F_s^*) - sum_j A_jr A_js ],     F_r = sum_j A_jr exp(i q.r_j),     x = q^2 sigma^2

the pair of an atom with itself being the last sum of I.  Of anisotropic u_j, what is anisotropic stays in F_r.

x is different in each voxel and gamma in each step of a fit, but the kernel is a sum of a few functions b_k(r) that
depend on neither (kernels.py), so that

    I = sum_k c_k(x, gamma) T_k(q) + ...,       T_k = g^2 sum_rs phi_r phi_s FT[ p_rs(r) b_k(r) ]                 (2)

and the transforms are calculated once: some 10 functions times 1 to 3 pairs rs, in single precision.  After them I and
its derivatives cost n_voxels x K multiplications.  They are made anew where x or gamma leave what the b_k are good for.
p_rs is cut off smoothly between FLAT and PADDING times the resolution, which makes I right to 0.1 % of its mean; it has
no pair nearer than R_NEAREST, within which Gamma may be anything and is made smooth, so that its transform ends soon.

In a crystal |F|^2 is at integer indices only, times the number of cells of the box, and b_k is summed over the lattice
of boxes, of which the nearest 27 are taken.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy import fft

from dials_postrefine.diffuse.model.amplitudes import OVERSAMPLING, Box, incoherent, make_box, transform_half
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.kernels import N_X, SeparatedKernel
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import cells_for
from dials_postrefine.diffuse.model.voxels import Voxels

PADDING, FLAT = 2.0, 1.5  # resolution of the Patterson function over that of the voxels, and where its cut begins
PADDING_OF_LARGE, FLAT_OF_LARGE = 1.5, 1.2  # of boxes of more points than LARGE, for intensities right to 1 %
LARGE = 1e7
COARSE = 1.3  # OVERSAMPLING of the grid of the F_r
NEGLIGIBLE = 6e-3  # of the strongest p_rs
N_NODES = 400  # of |s| at which form factors are known
N_TABLE = 16384  # distances at which the b_k are tabulated
MOST_AT_ONCE = 2.5e8  # numbers of the b_k on the grid that are kept
BEYOND = 1.7  # times x that the b_k are made for
SIGMA = Parameter("sigma", 0.4, 0.01, 1.5)
GAMMA = Parameter("gamma", 8.0, 0.5, 100.0)


class LiquidLike:
    """
    The model (module docstring).

    atoms : Atoms; voxels : Voxels; across : "molecule", "cell" or "crystal"; kernel : "exponential", "gaussian";
    order : int or None, to which exp(x Gamma) - 1 is summed, for pairs of different atoms.
    """

    name = "liquid_like"
    parameters = (SIGMA, GAMMA)

    def __init__(self, atoms: Atoms, voxels: Voxels, across="molecule", kernel="exponential", order: int | None = None):
        self.across, self.kernel, self.order = across, kernel, order
        self.atoms = atoms if across == "molecule" else atoms.expanded()
        cells = cells_for(atoms, voxels.cells)
        extent = (
            None
            if across == "crystal"
            else np.ptp(self.atoms.sites, axis=0) + 6.0 / np.linalg.norm(atoms.orthogonal, axis=0)
        )
        self.s_max = voxels.s.max()
        self.padding, self.flat = PADDING, FLAT
        fine = make_box(self.atoms, cells, PADDING * self.s_max, extent, COARSE)
        if fine.n_points > LARGE:
            self.padding, self.flat = PADDING_OF_LARGE, FLAT_OF_LARGE
            fine = make_box(self.atoms, cells, self.padding * self.s_max, extent, COARSE)
        # what is aliased of the product falls beyond the voxels
        self.box = make_box(self.atoms, fine.cells, 0.5 * (1.0 + self.padding) * self.s_max / OVERSAMPLING)
        self.places = [self.box.places(voxels.h @ rotation) for rotation in self.atoms.rotations]
        self.q_sq = voxels.q_sq
        self.own = _sum_own(self.atoms, voxels)
        self.pattersons, self.factors, self.weights = self._pattersons(fine)
        basis = self.box.orthogonal * self.box.cells
        corner = 0.5 * np.abs(basis).sum(axis=1)
        self.r_max = float(np.linalg.norm(corner) * (3.0 if across == "crystal" else 1.0))
        self.separated: SeparatedKernel | None = None
        self.transforms = np.zeros((len(voxels), 0), np.float32)

    def _pattersons(self, fine: Box) -> tuple[list[np.ndarray], np.ndarray, list[float]]:
        """Of the p_rs that are not negligible grids, g^2 phi_r phi_s at the voxels (n_rs, n), relative strengths."""
        atoms, node = self.atoms, np.linspace(0.0, 1.0001 * self.s_max, N_NODES)
        coefficients, functions = split_factors(atoms, node)
        strength = np.sqrt((coefficients**2).sum(axis=1)) * np.abs(functions).max(axis=1)
        coefficients = coefficients[strength >= NEGLIGIBLE * strength[0]]  # the strongest ones come first
        remaining = atoms.u - atoms.u_iso[:, None, None] * np.eye(3)
        parts = transform_half(atoms.sites, remaining, coefficients, fine, self.box.grid)
        s = np.sqrt(self.box.s_sq()).astype(np.float32) / np.float32(self.s_max)
        window = np.cos(0.5 * np.pi * np.clip((s - self.flat) / (self.padding - self.flat), 0.0, 1.0)) ** 2
        if self.across == "crystal":
            whole = [np.rint(fft.fftfreq(n, 1 / n)) % m == 0 for n, m in zip(self.box.grid, self.box.cells)]
            lattice = np.zeros(window.shape, np.float32)
            last = np.arange(window.shape[2]) % self.box.cells[2] == 0
            lattice[np.ix_(whole[0], whole[1], last)] = self.box.cells.prod()
        found, factors, weights = [], [], []
        for r, s in [(r, s) for r in range(len(parts)) for s in range(r, len(parts))]:
            weight = strength[r] * strength[s] / strength[0] ** 2
            if weight < NEGLIGIBLE:
                continue
            weights.append(weight)
            square = parts[r].real * parts[s].real + parts[r].imag * parts[s].imag
            if self.across == "crystal":
                square *= lattice
            square = (square - np.float32(coefficients[r] @ coefficients[s])) * window
            found.append(fft.irfftn(square, s=tuple(self.box.grid), overwrite_x=True))
            product = functions[r] * functions[s] * (1.0 if r == s else 2.0)
            factors.append(np.interp(np.sqrt(self.q_sq) / (2.0 * np.pi), node, product))
        return found, np.array(factors, np.float32), weights

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        sigma, gamma = values
        pairs, by_x, by_gamma = self.interpolate(self.q_sq * sigma**2, gamma)
        return pairs + self.own, np.array([2.0 * sigma * self.q_sq * by_x, by_gamma])

    def interpolate(self, x: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first sum of (1) (n,) and its derivatives by x and gamma, for x (n,)."""
        limit = max(float(x.max()), 1e-6)
        if self.separated is None or not self.separated.covers(limit, gamma):
            self.separated = SeparatedKernel(gamma, BEYOND * limit, self.r_max, self.kernel, self.order)
            self.transforms = self._transform()
        found = np.empty((3, len(x)))
        _combine(found, self.transforms, x / self.separated.limit * N_X, self.separated.coefficients(gamma))
        return found[0], found[1], found[2]

    def _transform(self) -> np.ndarray:
        """The T_k of (2) at the voxels (n, K)."""
        distances = np.linspace(0.0, self.r_max * (1.0 + 1.0 / N_TABLE), N_TABLE + 2)
        table = self.separated.tabulate(distances).astype(np.float32)
        found = np.zeros((len(self.q_sq), table.shape[1]), np.float32)
        at_once = max(1, int(MOST_AT_ONCE / np.prod(self.box.grid.astype(float))))
        for first in range(0, table.shape[1], at_once):
            for k, value in enumerate(self._fill(table[:, first : first + at_once])):
                for density, factor, weight in zip(self.pattersons, self.factors, self.weights):
                    if first + k >= self.separated.enough(weight):
                        continue
                    transform = fft.rfftn(density * value).reshape(-1)
                    for places in self.places:
                        _gather(found[:, first + k], transform, places, factor)
        return found

    def _metric(self) -> np.ndarray:
        basis = self.box.orthogonal * self.box.cells
        return basis.T @ basis

    def _shifts(self) -> np.ndarray:
        """The images of the box (m, 3) of which the sum is taken, or of one copy the nearest one."""
        every = np.array(list(np.ndindex(3, 3, 3)), float) - 1.0
        if self.across != "crystal" and _is_diagonal(self._metric()):
            return np.zeros((1, 3))
        return every

    def _fill(self, table: np.ndarray) -> np.ndarray:
        """Tabulated functions (N_TABLE + 2, m) of the distance on the grid of the box (m, n_1, n_2, n_3)."""
        values = np.zeros((table.shape[1], *self.box.grid), np.float32)
        nearest = self.across != "crystal"
        metric = self._metric()
        _fill_grid(values, table, metric, self._shifts(), (N_TABLE / self.r_max, nearest, _is_diagonal(metric)))
        return values


def _is_diagonal(metric: np.ndarray) -> bool:
    return np.allclose(metric, np.diag(np.diag(metric)))


@numba.njit(cache=True)
def _fill_grid(values, table, metric, shifts, how):
    """Add a table's functions of the distance times a scale, of the nearest shift or of all of them, in even grids."""
    scale, nearest, diagonal = how
    n_functions, n1, n2, n3 = values.shape
    last = len(table) - 2
    # the others are equivalent by inversion, or by mirrors
    for i in range(n1 // 2 + 1):
        x = i / n1
        for j in range(n2 // 2 + 1 if diagonal else n2):
            y = (j if 2 * j < n2 else j - n2) / n2
            for k in range(n3 // 2 + 1 if diagonal else n3):
                z = (k if 2 * k < n3 else k - n3) / n3
                best = np.inf
                for m in range(len(shifts)):
                    a, b, c = x + shifts[m, 0], y + shifts[m, 1], z + shifts[m, 2]
                    square = metric[0, 0] * a * a + metric[1, 1] * b * b + metric[2, 2] * c * c
                    square += 2.0 * (metric[0, 1] * a * b + metric[0, 2] * a * c + metric[1, 2] * b * c)
                    if nearest and m < len(shifts) - 1:
                        best = min(best, square)
                        continue
                    t = scale * math.sqrt(max(min(best, square) if nearest else square, 0.0))
                    row = min(int(t), last)
                    part = np.float32(t - row)
                    for f in range(n_functions):
                        values[f, i, j, k] += table[row, f] + part * (table[row + 1, f] - table[row, f])
    for f in range(n_functions):
        for i in range(n1):
            for j in range(n2):
                if diagonal:
                    from_i, from_j = min(i, n1 - i), min(j, n2 - j)
                    for k in range(n3):
                        values[f, i, j, k] = values[f, from_i, from_j, min(k, n3 - k)]
                elif 2 * i > n1:
                    for k in range(n3):
                        values[f, i, j, k] = values[f, n1 - i, (n2 - j) % n2, (n3 - k) % n3]


@numba.njit(cache=True)
def _gather(out, transform, places, factor):
    """Add the factor times the real part of the transform at places to out."""
    for n in range(len(out)):
        out[n] += factor[n] * transform[places[n]].real


@numba.njit(cache=True)
def _combine(out, transforms, t, coefficients):
    """Sums (3, n) over k of coefficients (n_x, 3, K), interpolated at t steps, times the transforms (n, K)."""
    last = len(coefficients) - 2
    for n in range(len(transforms)):
        row = min(int(t[n]), last)
        part = t[n] - row
        low, high = coefficients[row], coefficients[row + 1]
        value, by_x, by_gamma = 0.0, 0.0, 0.0
        for k in range(transforms.shape[1]):
            transform = transforms[n, k]
            value += transform * (low[0, k] + part * (high[0, k] - low[0, k]))
            by_x += transform * (low[1, k] + part * (high[1, k] - low[1, k]))
            by_gamma += transform * (low[2, k] + part * (high[2, k] - low[2, k]))
        out[0, n], out[1, n], out[2, n] = value, by_x, by_gamma


def _sum_own(atoms: Atoms, voxels: Voxels) -> np.ndarray:
    """sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)] over all orientations (n,)."""
    rotations = atoms.rotations
    if atoms.is_isotropic:
        total, elastic = incoherent(atoms, voxels.q)
        return (total - elastic) * len(rotations)
    found = np.zeros(len(voxels))
    for rotation in rotations:
        total, elastic = incoherent(atoms, 2.0 * np.pi * (voxels.h @ rotation) @ atoms.reciprocal.T)
        found += total - elastic
    return found


def split_factors(atoms: Atoms, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The A_jr and g phi_r of the module docstring.

    Parameters
    ----------
    atoms : Atoms
    s : ndarray (n,)
        |s|, 1/Angstrom.

    Returns
    -------
    coefficients : ndarray (n_r, n_atoms)
    functions : ndarray (n_r, n)
        As many as it takes for no factor to be wrong by more than a thousandth of the mean one.
    """
    curves = atoms.occupancy[:, None] * atoms.factors(s**2)[atoms.kind]
    curves *= np.exp(-2.0 * np.pi**2 * atoms.u_iso[:, None] * s**2)
    mean = np.sqrt((curves**2).sum(axis=0))
    left, singular, right = np.linalg.svd(curves / mean, full_matrices=False)
    n = 1 + int((singular[1:] > 1e-3 * singular[0]).sum())
    return (left[:, :n] * singular[:n]).T, right[:n] * mean
