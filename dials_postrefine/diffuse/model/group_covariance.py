"""
Covariances of groups of atoms that are inferred from the map: V = L L' of low rank.

Groups R (groups.py) move each as a whole, and with one another; V_RS is isotropic,

    V = L L',     L = Phi C,     Phi Phi' = K,     K_RS = exp(-d_RS/length)                                        (1)

with L (n_groups, rank), so that V is non-negative definite whatever C is.  Elements of C (n_groups, rank) are the
parameters; their prior is normal with mean 0 and variance s^2/rank, by which V is s^2 K on average: near groups move
together.  s^2 is the mean displacement of the file over the strength: a strength of 1 expects what the file's B allow,
and a larger one holds V nearer to 0.  With amplitudes F_R of the groups (covariance.py), atoms keeping the file's u_i,

    I = sum_RS F_R F_S^* [exp(q^2 V_RS) - 1] - sum_R D_R [exp(q^2 V_RR) - 1] + sum_i o_i^2 f_i^2 [1 - exp(-q^2 u_i)]
    dI/dV_RS = 2 q^2 Re(F_R F_S^*) exp(q^2 V_RS)                 R != S, V_RS = V_SR being one parameter             (2)
    dI/dV_RR = q^2 (|F_R|^2 - D_R) exp(q^2 V_RR)                 D_R = sum_{i in R} E_i^2

Displacements in E_i are the file's and no part of V: the derivative by V_RR has no Debye-Waller term, unlike that of
the usual equation in which V_ii is the displacement, q^2 [A_ii - sum_{j != i} Re A_ij (e^{q^2 V_ij} - 1)].  By (1)
dI/dL_Rk = 2 q^2 sum_S [Re(F_R F_S^*) - delta_RS D_R] exp(q^2 V_RS) L_Sk, and dI/dC = Phi' dI/dL.

Rotations C -> C O leave V as it is: elements of C have no meaning of their own, those of V have.  Their standard
deviations are those of C carried over, dV = dL L' + L dL'; they are of V of this rank under this prior.  A map has no
more to say than some numbers a group: V_RS of N groups are N(N+1)/2, of which those that voxels do not determine are
the prior's.  Cost: n_voxels n_groups^2 (1/2 exponential + rank) an evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.voxels import Voxels

REACH = 8.0  # standard deviations of the prior to which elements of C may go
START_OF_NEXT = 0.5  # standard deviations of the prior at which one motion more begins
BEGIN = 0.5  # of the prior's mean square at which V begins


@dataclass(frozen=True)
class LowRank:
    """V of values of C: Phi (n_groups, n_groups) and the rank."""

    phi: np.ndarray
    rank: int

    def factor(self, values: np.ndarray) -> np.ndarray:
        """L (n_groups, rank), Angstrom."""
        return self.phi @ np.reshape(values, (-1, self.rank))

    def covariance(self, values: np.ndarray) -> np.ndarray:
        """V (n_groups, n_groups), Angstrom^2."""
        factor = self.factor(values)
        return factor @ factor.T

    def esds(self, values: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """
        Standard deviations of V (n_groups, n_groups), Angstrom^2.

        Parameters
        ----------
        values : ndarray (n_groups rank,)
        covariance : ndarray (n_groups rank, n_groups rank)
            Of the values.
        """
        factor, n = self.factor(values), len(self.phi)
        of_c = covariance.reshape(n, self.rank, n, self.rank)
        of_l = np.einsum("rm,manb,sn->rasb", self.phi, of_c, self.phi, optimize=True)
        same = of_l[np.arange(n), :, np.arange(n)]
        alone = np.einsum("rab,sa,sb->rs", same, factor, factor, optimize=True)
        crossed = np.einsum("rasb,sa,rb->rs", of_l, factor, factor, optimize=True)
        return np.sqrt(np.maximum(alone + alone.T + 2.0 * crossed, 0.0))


class GroupCovariance:
    """
    The model (module docstring).

    pairs : GroupPairs of the groups; places : ndarray (n_groups, 3), of the groups, Angstrom; voxels : Voxels;
    rank : int; strength : float, of the prior; length : float, of its kernel, Angstrom.  fit(..) minds the prior.
    """

    name = "covariance"

    def __init__(self, pairs: GroupPairs, places: np.ndarray, voxels: Voxels, rank: int, strength=1.0, length=10.0):
        n = pairs.n_groups
        self.pairs, self.low_rank = pairs, low_rank(places, length, rank)
        rank, phi = self.low_rank.rank, self.low_rank.phi
        self.q_sq = voxels.q_sq
        expected = float(pairs.u.mean()) / strength
        self.spread = math.sqrt(expected / rank)
        start = np.zeros((n, rank))
        first = (phi[:, :rank] ** 2).sum() / n
        np.fill_diagonal(start, math.sqrt(BEGIN * expected / first))
        limit = max(REACH * self.spread, 2.0 * start.max())
        self.parameters = tuple(
            Parameter(f"c{r + 1}_{k + 1}", float(start[r, k]), -limit, limit, "A", 1.0 / self.spread**2)
            for r in range(n)
            for k in range(rank)
        )
        self.strength = np.array([np.interp(self.q_sq, pairs.node, one) for one in pairs.strength]).T
        # real and imaginary F_R of all orientations (2 x n_orientations, n_voxels, n_groups)
        self.amplitudes = np.concatenate(pairs.parts)

    def grown(self, values: np.ndarray) -> np.ndarray:
        """Values to begin with (n_groups rank,) from those of a model of a lower rank: a small motion is added."""
        start = np.zeros((self.pairs.n_groups, self.low_rank.rank))
        before = np.reshape(values, (len(start), -1))
        start[:, : before.shape[1]] = before
        for k in range(before.shape[1], start.shape[1]):
            start[k, k] = START_OF_NEXT * self.spread
        limit = self.parameters[0].high
        return np.clip(start, -limit, limit).reshape(-1)

    def covariance(self, values: np.ndarray) -> np.ndarray:
        """V (n_groups, n_groups), Angstrom^2."""
        return self.low_rank.covariance(values)

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives."""
        v = self.covariance(values)
        return self.pairs.interpolated(v, np.zeros_like(v))[0]

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        factor = self.low_rank.factor(values)
        intensity = self.pairs.own.copy()
        slopes = np.zeros((len(self.q_sq), *factor.shape))
        _add_pairs(intensity, slopes, self.amplitudes, (self.q_sq, self.strength), (factor, factor @ factor.T))
        return intensity, np.einsum("rm,nrk->mkn", self.low_rank.phi, slopes).reshape(-1, len(self.q_sq))


def low_rank(places: np.ndarray, length: float, rank: int) -> LowRank:
    """
    The form that V has.

    Parameters
    ----------
    places : ndarray (n_groups, 3)
        Angstrom.
    length : float
        Of the kernel, Angstrom.
    rank : int
        No more than there are groups.

    Returns
    -------
    LowRank
    """
    return LowRank(kernel_root(places, length), min(rank, len(places)))


def kernel_root(places: np.ndarray, length: float) -> np.ndarray:
    """
    Phi of (1): columns are eigenvectors, the smoothest first.

    Parameters
    ----------
    places : ndarray (n_groups, 3)
        Of the groups, Angstrom.
    length : float
        Of the kernel, Angstrom.

    Returns
    -------
    ndarray (n_groups, n_groups)
        Eigenvectors times the roots of their eigenvalues.
    """
    distance = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2))
    values, vectors = np.linalg.eigh(np.exp(-distance / length))
    order = np.argsort(values)[::-1]
    phi = vectors[:, order] * np.sqrt(np.maximum(values[order], 0.0))
    return phi * np.where(phi.sum(axis=0) < 0.0, -1.0, 1.0)


@numba.njit(cache=True)
def _add_pairs(intensity, slopes, f, voxels, covariance):
    """Add the sum over groups to I (n,) and dI/dL (n, n_groups, rank): amplitudes, q^2 and D, L and V."""
    q_sq, own = voxels
    factor, v = covariance
    n_groups, rank = factor.shape
    for n in range(len(intensity)):
        for r in range(n_groups):
            for s in range(r + 1):
                pair = 0.0
                for part in range(len(f)):
                    pair += f[part, n, r] * f[part, n, s]
                if r == s:
                    pair -= own[n, r]
                grown = math.exp(min(q_sq[n] * v[r, s], 50.0))
                intensity[n] += (1.0 if r == s else 2.0) * pair * (grown - 1.0)
                slope = 2.0 * q_sq[n] * pair * grown
                for k in range(rank):
                    slopes[n, r, k] += slope * factor[s, k]
                    if r != s:
                        slopes[n, s, k] += slope * factor[r, k]
