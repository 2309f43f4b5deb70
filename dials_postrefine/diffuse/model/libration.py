"""
Bodies that librate about their centroids c, beside moving as a whole (TLS without S; Schomaker and Trueblood, Acta
Cryst. 1968, B24, 63).  To first order in the angle, with rho_i = r_i - c,

    u_i = t + lambda x rho_i,     V_ij = T + L [(rho_i.rho_j) 1 - rho_j rho_i'],     T = <t t'>, <lambda lambda'> = L 1

inside a body, 0 between bodies.  T is sigma^2 or a tensor (rigid_body.py); L is isotropic, the square of the root mean
square angle about any axis; T is that of the centroid, and t and lambda know nothing of each other (S = 0).  T and L
are squares, so that V is non-negative definite (of a tensor T where T itself is).

With w_i the part of rho_i perpendicular to q, times |q|, q'V_ij q = x + L w_i.w_j, x = q'T q, and (2) of the room is

    I = sum_bodies { exp(x) sum_k L^k/k! P_k - P_0 + sum_j o_j^2 f_j^2 - sum_j E_j^2 }
    P_k = sum_{i != j} E_i E_j^* (w_i.w_j)^k
        = sum_{m + n = k} k!/(m! n!) |sum_i E_i a_i^m b_i^n|^2 - sum_i |E_i|^2 w_i^2k

with a, b the two coordinates of w: V has rank 2 at a q, so that moments replace the sum over pairs.  P_k are sums over
atoms that hold for all T and L: n_voxels x n_atoms x n_orientations x K^2/2 multiplications, once.  K is the order at
which the rest of the exponential is REST of it, for the atom that is farthest from c; it grows with L.  The
displacements u_i in E_i are the file's, libration is contained in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy import special, stats

from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import ELEMENTS, SIGMA, TENSOR
from dials_postrefine.diffuse.model.voxels import Voxels

REST = 1e-8
LARGEST = 15.0  # of L w^2, for which some 40 orders are summed
MORE_ORDERS = 6  # at a time
BLOCK = 4096  # voxels at a time


@dataclass(frozen=True)
class _Orientation:
    """A body as an operation turns it: indices and q there (n, 3), sum f^2 - sum E^2 (n,), and rho (n_atoms, 3)."""

    atoms: Atoms
    h: np.ndarray
    q: np.ndarray
    own: np.ndarray
    rho: np.ndarray


class LibratingBody:
    """
    The model (module docstring) of bodies, each the atoms of one with its operations.

    bodies : sequence of Atoms; voxels : Voxels; tensor : bool, T with six elements.  Parameters are those of
    rigid_body.py and libration, the square root of L in degrees, at most what makes the mean displacement twice the
    file's.
    """

    name = "rigid_body"

    def __init__(self, bodies: Sequence[Atoms], voxels: Voxels, tensor: bool = False):
        self.tensor = tensor
        self.orientations, self.sums = [], []
        for atoms in bodies:
            rho = atoms.xyz - atoms.xyz.mean(axis=0)
            for rotation in atoms.rotations:
                h = voxels.h @ rotation
                q = 2.0 * np.pi * h @ atoms.reciprocal.T
                total, elastic = incoherent(atoms, q)
                self.orientations.append(_Orientation(atoms, h, q, total - elastic, rho))
        self.own = sum(one.own for one in self.orientations)
        high = librations_of(bodies, voxels)
        far_sq = max((one.rho**2).sum(axis=1).max() for one in self.orientations)
        self.largest_sq = max(float(far_sq * voxels.q_sq.max()), 1e-12)
        libration = Parameter("libration", 0.3 * high, 0.0, high, "deg")
        self.parameters = (*(TENSOR if tensor else (SIGMA,)), libration)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        angle = math.radians(values[-1])
        l_sq = angle**2
        sums = self._sums(orders_for(l_sq * self.largest_sq))
        intensity, derivatives = self.own.copy(), np.zeros((len(values), len(self.own)))
        for one, p in zip(self.orientations if self.tensor else self.orientations[:1], sums):
            k = np.arange(len(p))
            weight = l_sq**k / special.factorial(k)
            x, dx = self._exponent(one.q, values[:-1])
            grown = np.exp(np.minimum(x, 50.0))
            series, slope = weight @ p, weight[:-1] @ p[1:]
            intensity += grown * series - p[0]
            derivatives[:-1] += dx * (grown * series)
            derivatives[-1] += 2.0 * angle * math.radians(1.0) * grown * slope
        return intensity, derivatives

    def _exponent(self, q: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x = q'T q (n,) and dx/dvalue (p, n)."""
        if not self.tensor:
            q_sq = (q**2).sum(axis=1)
            return values[0] ** 2 * q_sq, 2.0 * values[0] * q_sq[None]
        dx = np.array([(1.0 if i == j else 2.0) * q[:, i] * q[:, j] for i, j in ELEMENTS])
        return values @ dx, dx

    def _sums(self, n: int) -> list[np.ndarray]:
        """P_k (at least n, n_voxels) of each orientation, or of all where T is isotropic."""
        if not self.sums or len(self.sums[0]) < n:
            n += MORE_ORDERS if self.sums else 0
            found = [moment_sums(one.atoms, one.rho, one.h, one.q, n) for one in self.orientations]
            self.sums = found if self.tensor else [sum(found)]
        return self.sums


def librations_of(bodies: Sequence[Atoms], voxels: Voxels) -> float:
    """
    The largest libration that is tried.

    Parameters
    ----------
    bodies : sequence of Atoms
    voxels : Voxels

    Returns
    -------
    float
        The root mean square angle about any axis, degrees, that makes the mean displacement twice the file's, or less
        where too many orders would be summed.
    """
    arms = [((one.xyz - one.xyz.mean(axis=0)) ** 2).sum(axis=1) for one in bodies]
    mean_sq, far_sq = np.mean([one.mean() for one in arms]), max(one.max() for one in arms)
    u = np.mean([one.u_iso.mean() for one in bodies])
    all_of_it = math.degrees(math.sqrt(u / max(2.0 / 3.0 * mean_sq, 1e-12)))
    most = math.degrees(math.sqrt(LARGEST / max(float(far_sq * voxels.q_sq.max()), 1e-12)))
    return min(math.sqrt(2.0) * all_of_it, most, 90.0)


def orders_for(y: float) -> int:
    """
    How many terms of exp(y) are enough: what is left out is REST of it, one more for the derivative.

    Parameters
    ----------
    y : float

    Returns
    -------
    int
    """
    return int(stats.poisson.isf(REST, y)) + 3 if y > 0.0 else 2


def moment_sums(atoms: Atoms, rho: np.ndarray, h: np.ndarray, q: np.ndarray, n_orders: int) -> np.ndarray:
    """
    P_k (module docstring).

    Parameters
    ----------
    atoms : Atoms
        As they lie, with the displacements of the file.
    rho : ndarray (n_atoms, 3)
        Angstrom.
    h, q : ndarray (n, 3)
        Indices, and 1/Angstrom.
    n_orders : int

    Returns
    -------
    ndarray (n_orders, n)
    """
    found = np.zeros((n_orders, len(h)))
    choose = special.comb(np.arange(n_orders)[:, None], np.arange(n_orders)[None])
    for start in range(0, len(h), BLOCK):
        here = slice(start, start + BLOCK)
        size = np.linalg.norm(q[here], axis=1)
        first = np.cross(q[here], np.eye(3)[np.abs(q[here]).argmin(axis=1)])
        first /= np.maximum(np.linalg.norm(first, axis=1), 1e-300)[:, None]
        second = np.cross(q[here] / np.maximum(size, 1e-300)[:, None], first)
        f = atoms.factors(size**2 / (4.0 * np.pi**2))[atoms.kind].T
        if atoms.is_isotropic:
            f = f * np.exp(-0.5 * size[:, None] ** 2 * atoms.u_iso)
        else:
            f = f * np.exp(-0.5 * np.einsum("ni,aij,nj->na", q[here], atoms.u, q[here]))
        axes = (first * size[:, None], second * size[:, None])
        _add_moments(found[:, here], h[here] @ atoms.sites.T, f * atoms.occupancy, axes, (rho, choose))
    return found


@numba.njit(cache=True)
def _add_moments(out, turns, f, axes, constant):
    """P_k of voxels: phases in turns and sizes f (n, n_atoms), axes of w (n, 3) twice, rho and binomials."""
    first, second = axes
    rho, choose = constant
    n_orders = len(choose)
    real, imaginary = np.zeros((n_orders, n_orders)), np.zeros((n_orders, n_orders))
    for v in range(len(turns)):
        real[:], imaginary[:] = 0.0, 0.0
        for i in range(len(rho)):
            x, y, z = rho[i]
            a = x * first[v, 0] + y * first[v, 1] + z * first[v, 2]
            b = x * second[v, 0] + y * second[v, 1] + z * second[v, 2]
            phase = 2.0 * math.pi * turns[v, i]
            c, s = f[v, i] * math.cos(phase), f[v, i] * math.sin(phase)
            power = 1.0
            for m in range(n_orders):
                product = power
                for n in range(n_orders - m):
                    real[m, n] += c * product
                    imaginary[m, n] += s * product
                    product *= b
                power *= a
            square, alone = a * a + b * b, f[v, i] ** 2
            for k in range(n_orders):
                out[k, v] -= alone
                alone *= square
        for k in range(n_orders):
            for m in range(k + 1):
                out[k, v] += choose[k, m] * (real[m, k - m] ** 2 + imaginary[m, k - m] ** 2)
