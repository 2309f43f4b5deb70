"""
Liquid-like motions: neighbours move together, V_ij = sigma^2 Gamma(r_ij), to all orders.

    Gamma(r) = exp(-r/gamma)  (exponential),     exp(-r^2/(2 gamma^2))  (gaussian)

The pairs are those inside a copy (a molecule, or a cell), or all of the crystal.  The form factors, with exp(-q^2 u/2),
stand outside of the transform as they must (at q' in a convolution of |F(q')|^2 they are wrong by 6 to 25 %): they are
alike enough for a few functions to make them all, by a singular value decomposition,

    o_j f_j(q) exp(-q^2 u_j/2) = g(q) sum_r A_jr phi_r(q),      g^2 = sum_j o_j^2 f_j^2 exp(-q^2 u_j)

    I = g^2 sum_rs phi_r phi_s FT[ p_rs(r) (exp(x Gamma(r)) - 1) ] + sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)]       (1)
    p_rs(r) = FT^-1[ Re(F_r F_s^*) - sum_j A_jr A_js ],     F_r = sum_j A_jr exp(i q.r_j),     x = q^2 sigma^2

the pair of an atom with itself being the last sum of I.  Of anisotropic u_j, what is anisotropic stays in F_r.

x is different in each voxel, but the bracket is smooth in it: at K Chebyshev nodes x_k in [0, x_max] there is an FFT
each, and polynomials L_k interpolate, FT = sum_k L_k(x) FT_k, whose derivative by sigma needs no more.  That by
gamma needs as many FFTs again.  p_rs is cut off smoothly between FLAT and PADDING times the resolution, which makes I
right to 0.1 % of its mean; it has no pair nearer than R_NEAREST, within which Gamma may be anything and is made smooth,
so that its transform ends soon, too.

In a crystal |F|^2 is at integer indices only, times the number of cells of the box, and the bracket is summed over the
lattice of boxes, of all but the nearest image to second order in x Gamma.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

from dials_postrefine.diffuse.model.amplitudes import OVERSAMPLING, Box, incoherent, make_box, transform_points
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import cells_for
from dials_postrefine.diffuse.model.voxels import Voxels

PADDING, FLAT = 2.0, 1.5  # resolution of the Patterson function over that of the voxels, and where its cut begins
PADDING_OF_LARGE, FLAT_OF_LARGE = 1.5, 1.2  # of boxes of more points than LARGE, for intensities right to 1 %
LARGE = 1e7
R_NEAREST = 1.1  # Angstrom
NEGLIGIBLE = 6e-3  # of the strongest p_rs
N_NODES = 400  # of |s| at which form factors are known
SIGMA = Parameter("sigma", 0.4, 0.01, 1.5)
GAMMA = Parameter("gamma", 8.0, 0.5, 100.0)
FAR = 5.0  # gammas, beyond which images of a box are not summed


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
        fine = make_box(self.atoms, cells, PADDING * self.s_max, extent)
        if fine.n_points > LARGE:
            self.padding, self.flat = PADDING_OF_LARGE, FLAT_OF_LARGE
            fine = make_box(self.atoms, cells, self.padding * self.s_max, extent)
        # what is aliased of the product falls beyond the voxels
        self.box = make_box(self.atoms, fine.cells, 0.5 * (1.0 + self.padding) * self.s_max / OVERSAMPLING)
        self.rotations = self.atoms.rotations
        self.places = [self.box.places(voxels.h @ rotation) for rotation in self.rotations]
        self.q_sq = voxels.q_sq
        self.own = _sum_own(self.atoms, voxels)
        self.distance = self.box.nearest_distance().astype(np.float32)
        self.pattersons, self.factors = self._pattersons(fine)
        self._cache: dict = {}
        self._gamma = None

    def _pattersons(self, fine: Box) -> tuple[list[np.ndarray], np.ndarray]:
        """The p_rs on the grid of the box that are not negligible, and g^2 phi_r phi_s at the voxels (n_rs, n)."""
        atoms, node = self.atoms, np.linspace(0.0, 1.0001 * self.s_max, N_NODES)
        coefficients, functions = split_factors(atoms, node)
        remaining = atoms.u - atoms.u_iso[:, None, None] * np.eye(3)
        parts = transform_points(atoms.sites, remaining, coefficients, fine)
        shape = cropped(parts[0], fine.grid, self.box.grid).shape
        cut = np.clip((np.sqrt(self.box.s_sq()) / self.s_max - self.flat) / (self.padding - self.flat), 0.0, 1.0)
        window = np.cos(0.5 * np.pi * cut) ** 2
        if self.across == "crystal":
            whole = [np.rint(fft.fftfreq(n, 1 / n)) % m == 0 for n, m in zip(self.box.grid, self.box.cells)]
            lattice = np.zeros(shape)
            lattice[np.ix_(whole[0], whole[1], np.arange(shape[2]) % self.box.cells[2] == 0)] = self.box.cells.prod()
        found, factors = [], []
        strength = np.sqrt((coefficients**2).sum(axis=1)) * np.abs(functions).max(axis=1)
        for r, s in [(r, s) for r in range(len(parts)) for s in range(r, len(parts))]:
            if strength[r] * strength[s] < NEGLIGIBLE * strength[0] ** 2:
                continue
            square = cropped(parts[r] * np.conj(parts[s]), fine.grid, self.box.grid).real
            if self.across == "crystal":
                square *= lattice
            square = (square - coefficients[r] @ coefficients[s]) * window
            density = fft.irfftn(square, s=tuple(self.box.grid), workers=2)
            found.append(density.astype(np.float32))
            product = functions[r] * functions[s] * (1.0 if r == s else 2.0)
            factors.append(np.interp(np.sqrt(self.q_sq) / (2.0 * np.pi), node, product))
        return found, np.array(factors)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        sigma, gamma = values
        pairs, by_x, by_gamma = self.interpolate(self.q_sq * sigma**2, gamma)
        return pairs + self.own, np.array([2.0 * sigma * self.q_sq * by_x, by_gamma])

    def interpolate(self, x: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first sum of (1) (n,) and its derivatives by x and gamma, for x (n,)."""
        nodes, transforms, by_gamma = self._transforms(float(x.max()), gamma)
        polynomials, slopes = lagrange(nodes, x)
        return (
            np.einsum("kn,kn->n", polynomials, transforms),
            np.einsum("kn,kn->n", slopes, transforms),
            np.einsum("kn,kn->n", polynomials, by_gamma),
        )

    def _transforms(self, x_max: float, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nodes x_k (K,), the first sum of (1) at x = x_k and its derivative by gamma (K, n)."""
        if self._cache.get("gamma") == gamma and x_max <= self._cache["limit"]:
            return self._cache["found"]
        limit = 1.15 * max(x_max, 1e-6)
        n_nodes = 4 + math.ceil(1.2 * limit)
        # with 0, where all is 0
        nodes = 0.5 * limit * (1.0 - np.cos(np.pi * np.arange(n_nodes) / (n_nodes - 1)))
        found = np.zeros((2, n_nodes, len(self.q_sq)))
        for k in range(1, n_nodes):
            for out, bracket in zip(found, self._kernel(nodes[k], gamma)):
                for density, factor in zip(self.pattersons, self.factors):
                    transform = fft.rfftn(density * bracket, workers=2).real.reshape(-1)
                    for places in self.places:
                        out[k] += factor * transform[places]
        self._cache = {"gamma": gamma, "limit": limit, "found": (nodes, *found)}
        return self._cache["found"]

    def _kernel(self, x: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """exp(x Gamma) - 1 on the grid of the box, of a crystal summed over its images; its derivative by gamma."""
        if self._gamma != gamma:
            self._gamma, self._correlation = gamma, correlation_of(self.distance, gamma, self.kernel)
            self._images = self._sum_images(gamma) if self.across == "crystal" else None
        correlation, slope = self._correlation
        value, grown = _bracket(np.float32(x) * correlation, self.order)
        by_gamma = np.float32(x) * grown * slope
        if self._images is not None:
            one, square, by_one, by_square = self._images
            second = 0.0 if self.order == 1 else 0.5 * x * x
            value = value + np.float32(x) * one + np.float32(second) * square
            by_gamma = by_gamma + np.float32(x) * by_one + np.float32(second) * by_square
        return value, by_gamma

    def _sum_images(self, gamma: float) -> list[np.ndarray]:
        """Sums of Gamma and Gamma^2 over all but the nearest image, to whose second order they count, and slopes."""
        basis = self.box.orthogonal * self.box.cells
        planes = 1.0 / np.linalg.norm(np.linalg.inv(basis), axis=1)  # distances of lattice planes
        reach = [1 if 0.5 * one < FAR * gamma else 0 for one in planes]
        place = [fft.fftfreq(n).astype(np.float32) for n in self.box.grid]
        nearest, slope = self._correlation
        sums = [-nearest, -(nearest**2), -slope, -2.0 * nearest * slope]
        for shift in np.ndindex(*(2 * one + 1 for one in reach)):
            r = np.sqrt(self.box.distance_sq(place, np.array(shift) - reach)).astype(np.float32)
            correlation, slope = correlation_of(r, gamma, self.kernel)
            for out, term in zip(sums, (correlation, correlation**2, slope, 2.0 * correlation * slope)):
                out += term
        return sums


def _bracket(y: np.ndarray, order: int | None) -> tuple[np.ndarray, np.ndarray]:
    """exp(y) - 1 to an order, None for all, and its derivative."""
    if order is None:
        value = np.expm1(y)
        return value, value + 1.0
    term, value, slope = np.ones_like(y), np.zeros_like(y), np.zeros_like(y)
    for k in range(1, order + 1):
        slope += term
        term = term * y / np.float32(k)
        value += term
    return value, slope


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


def correlation_of(r: np.ndarray, gamma: float, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Gamma(r), within R_NEAREST made smooth, and its derivative by gamma.

    Parameters
    ----------
    r : ndarray
        Angstrom.
    gamma : float
        Angstrom.
    kernel : str
        "exponential" or "gaussian".

    Returns
    -------
    value, slope : ndarray
        As r.
    """
    near = np.minimum(r / R_NEAREST, 1.0) ** 2
    r = np.maximum(r, R_NEAREST * (0.375 + 0.75 * near - 0.125 * near**2))
    if kernel == "gaussian":
        value = np.exp(-0.5 * (r / gamma) ** 2)
        return value, value * r**2 / gamma**3
    value = np.exp(-r / gamma)
    return value, value * r / gamma**2


def lagrange(nodes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The polynomials that are 1 at one node and 0 at the others.

    Parameters
    ----------
    nodes : ndarray (K,)
    x : ndarray (n,)

    Returns
    -------
    values, slopes : ndarray (K, n)
    """
    n_nodes = len(nodes)
    powers = np.linalg.inv(np.polynomial.chebyshev.chebvander(2.0 * nodes / nodes[-1] - 1.0, n_nodes - 1))
    # rows of powers.T: the Chebyshev coefficients of each polynomial
    scaled = 2.0 * x / nodes[-1] - 1.0
    values = powers.T @ np.polynomial.chebyshev.chebvander(scaled, n_nodes - 1).T
    derived = np.polynomial.chebyshev.chebder(powers, axis=0) * 2.0 / nodes[-1]
    slopes = derived.T @ np.polynomial.chebyshev.chebvander(scaled, n_nodes - 2).T
    return values, slopes


def cropped(values: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """
    An array of rfftn's of a fine grid as one of a coarse grid, what lies beyond its frequencies being left out.

    Parameters
    ----------
    values : ndarray (fine_1, fine_2, fine_3/2 + 1)
    fine, coarse : ndarray (3,) of int
        Both even, coarse the smaller one.

    Returns
    -------
    ndarray (coarse_1, coarse_2, coarse_3/2 + 1)
    """
    keep = [np.rint(fft.fftfreq(n, 1 / n)).astype(int) % m for n, m in zip(coarse[:2], fine[:2])]
    return values[np.ix_(*keep, np.arange(coarse[2] // 2 + 1))]
