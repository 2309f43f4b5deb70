"""
Liquid-like motions: neighbours move together, V_ij = sigma^2 Gamma(r_ij), to all orders.

    Gamma(r) = exp(-r/gamma)  (exponential),     exp(-r^2/(2 gamma^2))  (gaussian)

The pairs are those inside a copy (a molecule, or a cell), or all of the crystal.  With (2) of the room, by the pairs'
distribution p(r), the Patterson function of atoms that are all alike and have no width,

    I = g^2 FT[ p(r) (exp(x Gamma(r)) - 1) ] + sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)],     x = q^2 sigma^2        (1)
    p(r) = FT^-1[ |F|^2/g^2 - 1 ],     g^2(q) = sum_j o_j^2 f_j^2 exp(-q'u_j q)

the pair of an atom with itself being the second sum.  Dividing by g before, and multiplying after the convolution is
what puts the form factors at q and not at q': what is left of that error is how much f_C/f_O changes within the width
of the kernel (tests/diffuse/model has it below 1 %; without the division it is 6 to 25 %).

x is different in each voxel, but the bracket is smooth in it: at K Chebyshev nodes x_k in [0, x_max] there is an FFT
each, and polynomials L_k interpolate, I = g^2 sum_k L_k(x) FT_k, whose derivative by sigma needs no more.  That by
gamma needs as many FFTs again.  p is cut off smoothly
between FLAT and PADDING times the resolution; it has no pair nearer than R_NEAREST, within which Gamma may be anything
and is made smooth, so that its transform ends soon, too.

In a crystal |F|^2 is at integer indices only, times the number of cells of the box, and the bracket is summed over the
lattice of boxes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

from dials_postrefine.diffuse.model.amplitudes import OVERSAMPLING, Box, calculate_parts, incoherent, make_box
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import cells_for
from dials_postrefine.diffuse.model.voxels import Voxels

PADDING, FLAT = 1.5, 1.2  # resolution of the Patterson function over that of the voxels, and where its cut begins
R_NEAREST = 1.1  # Angstrom
SIGMA = Parameter("sigma", 0.4, 0.01, 1.5)
GAMMA = Parameter("gamma", 8.0, 0.5, 200.0)
KERNELS = ("exponential", "gaussian")
NEAREST_LATTICE = 4.0  # gamma: boxes so much nearer than this many gammas are summed


class LiquidLike:
    """
    The model (module docstring).

    atoms : Atoms; voxels : Voxels; across : "molecule", "cell" or "crystal"; kernel : one of KERNELS.
    """

    name = "liquid_like"
    parameters = (SIGMA, GAMMA)

    def __init__(self, atoms: Atoms, voxels: Voxels, across: str = "molecule", kernel: str = "exponential"):
        self.across, self.kernel = across, kernel
        self.atoms = atoms if across == "molecule" else atoms.expanded()
        cells = cells_for(atoms, voxels.cells)
        extent = None if across == "crystal" else np.ptp(self.atoms.sites, axis=0) + 6.0 / np.linalg.norm(
            atoms.orthogonal, axis=0
        )
        fine = make_box(self.atoms, cells, PADDING * voxels.s.max(), extent)
        self.s_max = voxels.s.max()
        # what is aliased of the product falls beyond the voxels
        self.box = make_box(self.atoms, fine.cells, 0.5 * (1.0 + PADDING) * self.s_max / OVERSAMPLING)
        self.rotations = self.atoms.rotations
        self.places = [self.box.places(voxels.h @ rotation) for rotation in self.rotations]
        self.q_sq = voxels.q_sq
        total, elastic = incoherent(self.atoms, voxels.q)
        self.g_sq, self.own = elastic * len(self.rotations), (total - elastic) * len(self.rotations)
        if not self.atoms.is_isotropic:
            self._sum_own(voxels)
        self.patterson = self._patterson(fine)
        self.distance = self.box.nearest_distance()
        self._cache: dict = {}

    def _sum_own(self, voxels: Voxels) -> None:
        """The sums without interference over orientations, which differ."""
        self.own = np.zeros(len(voxels))
        for rotation in self.rotations:
            total, elastic = incoherent(self.atoms, 2.0 * np.pi * (voxels.h @ rotation) @ self.atoms.reciprocal.T)
            self.own += total - elastic

    def _patterson(self, fine: Box) -> np.ndarray:
        """p(r) on the grid of the box, from |F|^2 of a finer one."""
        atoms = self.atoms
        parts = calculate_parts(atoms, fine)
        s_sq = fine.s_sq()
        node = np.linspace(0.0, fine.s_max**2, 2000)
        f = atoms.factors(node)
        g = np.sqrt(incoherent(atoms.with_u(atoms.u_iso), 2.0 * np.pi * np.sqrt(node)[:, None] * [[1.0, 0, 0]])[1])
        amplitude = np.zeros(s_sq.shape, complex)
        for kind in range(len(f)):
            amplitude += np.interp(s_sq, node, f[kind] / g) * parts[kind]
        square = np.abs(amplitude) ** 2
        if self.across == "crystal":
            axes = (fft.fftfreq(fine.grid[0], 1 / fine.grid[0]), fft.fftfreq(fine.grid[1], 1 / fine.grid[1]))
            axes = (*axes, np.arange(square.shape[2]))
            whole = np.ix_(*(np.rint(axis) % m == 0 for axis, m in zip(axes, fine.cells)))
            square, every = np.zeros_like(square), square
            square[whole] = every[whole] * np.prod(fine.cells)
        cut = np.clip((np.sqrt(s_sq) / self.s_max - FLAT) / (PADDING - FLAT), 0.0, 1.0)
        square = (square - 1.0) * np.cos(0.5 * np.pi * cut) ** 2
        return fft.irfftn(cropped(square, fine.grid, self.box.grid), s=tuple(self.box.grid), workers=2)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        sigma, gamma = values
        x = self.q_sq * sigma**2
        pairs, by_x, by_gamma = self.interpolate(x, gamma)
        return (
            self.g_unit * pairs + self.own,
            np.array([2.0 * sigma * self.q_sq * self.g_unit * by_x, self.g_unit * by_gamma]),
        )

    @property
    def g_unit(self) -> np.ndarray:
        """g^2 of one copy (n,): the sum over orientations is in what it multiplies."""
        return self.g_sq / len(self.rotations)

    def interpolate(self, x: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """FT[p (exp(x Gamma) - 1)] (n,) and its derivatives by x and gamma, for x (n,)."""
        nodes, transforms, by_gamma = self._transforms(float(x.max()), gamma)
        polynomials, slopes = lagrange(nodes, x)
        return (
            np.einsum("kn,kn->n", polynomials, transforms),
            np.einsum("kn,kn->n", slopes, transforms),
            np.einsum("kn,kn->n", polynomials, by_gamma),
        )

    def _transforms(self, x_max: float, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nodes x_k (K,), FT[p (exp(x_k Gamma) - 1)] and its derivative by gamma (K, n)."""
        if self._cache.get("gamma") == gamma and x_max <= self._cache["limit"]:
            return self._cache["found"]
        limit = 1.3 * max(x_max, 1e-6)
        n_nodes = 4 + math.ceil(1.5 * limit)
        # with 0, where all is 0
        nodes = 0.5 * limit * (1.0 - np.cos(np.pi * np.arange(n_nodes) / (n_nodes - 1)))
        found = np.zeros((2, n_nodes, len(self.q_sq)))
        curves = [self._kernel(nodes[k], gamma) for k in range(1, n_nodes)]
        for k, (bracket, slope) in enumerate(curves, 1):
            for out, factor in ((found[0], bracket), (found[1], slope)):
                transform = fft.rfftn(self.patterson * factor, workers=2).real.reshape(-1)
                for places in self.places:
                    out[k] += transform[places]
        self._cache = {"gamma": gamma, "limit": limit, "found": (nodes, *found)}
        return self._cache["found"]

    def _kernel(self, x: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """exp(x Gamma) - 1 on the grid of the box and its derivative by gamma."""
        if self.across != "crystal":
            return bracket(self.distance, x, gamma, self.kernel)
        found = np.zeros((2, *self.distance.shape))
        basis = self.box.orthogonal * self.box.cells
        shortest = 1.0 / np.linalg.norm(np.linalg.inv(basis), axis=1).max()  # distance of lattice planes
        reach = 1 if 0.5 * shortest < NEAREST_LATTICE * gamma * 2.0 else 0
        shifts = range(-reach, reach + 1)
        place = [fft.fftfreq(n) for n in self.box.grid]
        for shift in [(i, j, k) for i in shifts for j in shifts for k in shifts]:
            found += bracket(np.sqrt(self.box.distance_sq(place, shift)), x, gamma, self.kernel)
        return found[0], found[1]


def bracket(r: np.ndarray, x: float, gamma: float, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """
    exp(x Gamma(r)) - 1 and its derivative by gamma.

    Parameters
    ----------
    r : ndarray
        Angstrom.
    x, gamma : float
    kernel : str
        One of KERNELS.

    Returns
    -------
    value, slope : ndarray
        As r.
    """
    near = np.minimum(r / R_NEAREST, 1.0) ** 2
    r = np.maximum(r, R_NEAREST * (0.375 + 0.75 * near - 0.125 * near**2))
    if kernel == "gaussian":
        correlation = np.exp(-0.5 * (r / gamma) ** 2)
        slope = correlation * r**2 / gamma**3
    else:
        correlation = np.exp(-r / gamma)
        slope = correlation * r / gamma**2
    value = np.expm1(x * correlation)
    return value, x * (value + 1.0) * slope


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
