"""
Isotropic covariances of groups R of atoms that move alike, V_ij = V_RS for i in R and j in S (of single atoms, too):

    I = sum_RS F_R F_S^* [exp(q^2 V_RS) - 1] - sum_i E_i^2 [exp(q^2 V_RR) - 1] + sum_i o_i^2 f_i^2 [1 - exp(-q^2 u_i)]
    F_R = sum_{i in R} E_i                                                                                       (1)

so that atoms keep the displacements u_i of the file.  The matrix exp(q^2 V) - 1 is smooth in q^2: at K Chebyshev nodes
it is made once, and polynomials interpolate between (F' M_k F), which are matrix products: n_voxels x n_groups^2 x K
multiplications, 10^11 a second and core in single precision.  tensor_pairs.py has what is anisotropic.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.voxels import Voxels

MOST_AMPLITUDES = 4e8  # groups times voxels times orientations
BLOCK = 8192  # voxels at a time


class GroupPairs:
    """
    The amplitudes F_R of groups at voxels, and sums over their pairs.

    atoms : Atoms; groups (n_atoms,) of int, the group of each; voxels : Voxels.
    """

    def __init__(self, atoms: Atoms, groups: np.ndarray, voxels: Voxels):
        self.n_groups = int(groups.max()) + 1
        size = float(self.n_groups) * len(voxels) * len(atoms.rotations)
        if size > MOST_AMPLITUDES:
            raise CannotModel(
                f"{self.n_groups} groups at {len(voxels)} voxels in {len(atoms.rotations)} orientations are too many "
                "for a covariance model: set a larger d_min."
            )
        self.q_sq = voxels.q_sq
        self.u = np.bincount(groups, atoms.u_iso) / np.bincount(groups)
        self.parts = []  # of each orientation: real and imaginary F_R (n, n_groups)
        self.own = np.zeros(len(voxels))
        for rotation in atoms.rotations:
            h = voxels.h @ rotation
            q = 2.0 * np.pi * h @ atoms.reciprocal.T
            f = np.zeros((2, len(voxels), self.n_groups), np.float32)
            for start in range(0, len(h), BLOCK):
                here = slice(start, start + BLOCK)
                add_amplitudes(
                    f[:, here],
                    h[here],
                    atoms.factors((q[here] ** 2).sum(axis=1) / (4.0 * np.pi**2)),
                    displaced_occupancies(atoms, q[here]),
                    (atoms.sites, atoms.kind, groups),
                )
            self.parts.append(f)
            total, elastic = incoherent(atoms, q)
            self.own += total - elastic
        # sum over atoms of E_i^2 by group
        node = np.linspace(0.0, self.q_sq.max(), 400)
        strength = (atoms.occupancy[:, None] * atoms.factors(node / (4.0 * np.pi**2))[atoms.kind]) ** 2
        strength *= np.exp(-atoms.u_iso[:, None] * node)
        by_group = np.zeros((self.n_groups, len(node)))
        np.add.at(by_group, groups, strength)
        self.node, self.strength = node, by_group * len(atoms.rotations)
        self.single = np.bincount(groups).max() == 1

    def sum(self, matrices, q_sq: np.ndarray | None = None) -> np.ndarray:
        """
        sum_RS F_R F_S^* M_RS less what atoms have with themselves, for matrices M of zero or more q^2 (n_matrices, n).

        Parameters
        ----------
        matrices : sequence of ndarray (n_groups, n_groups)

        Returns
        -------
        ndarray (n_matrices, n)
        """
        found = np.zeros((len(matrices), len(self.q_sq)))
        for out, matrix in zip(found, matrices):
            inside = np.diag(matrix).copy()
            used = matrix.astype(np.float32)
            if self.single:
                np.fill_diagonal(used, 0.0)
            for f in self.parts:
                for part in f:
                    for start in range(0, len(part), BLOCK):
                        here = part[start : start + BLOCK]
                        out[start : start + BLOCK] += np.einsum("nr,nr->n", here @ used, here)
            if not self.single:
                out -= np.interp(self.q_sq, self.node, inside @ self.strength)
        return found

    def interpolated(self, v: np.ndarray, slopes: np.ndarray, scale: float = 1.0):
        """
        (1) for V = scale v, its derivative by scale, and by what changes v as slopes do.

        Parameters
        ----------
        v, slopes : ndarray (n_groups, n_groups)
            Angstrom^2.
        scale : float

        Returns
        -------
        intensity, by_scale, by_slope : ndarray (n,)
        """
        off = v - np.diag(np.diag(v)) if self.single else v
        x = self.q_sq * scale
        limit = max(x.max(), 1e-9)
        nodes = chebyshev_nodes(limit, limit * np.abs(off).max())
        sums = self.sum([np.expm1(node * off) for node in nodes])
        turned = (
            self.sum([node * slopes * np.exp(node * off) for node in nodes]) if slopes.any() else np.zeros_like(sums)
        )
        values, by_x = _lagrange(nodes, x)
        return (
            np.einsum("kn,kn->n", values, sums) + self.own,
            np.einsum("kn,kn->n", by_x, sums) * self.q_sq,
            np.einsum("kn,kn->n", values, turned),
        )


def chebyshev_nodes(limit: float, largest: float) -> np.ndarray:
    """
    Nodes in [0, limit], the ends among them, enough for exp(x V) with x V up to `largest`.

    Parameters
    ----------
    limit : float
        Of x, 1/Angstrom^2.
    largest : float

    Returns
    -------
    ndarray (K,)
        Ascending, 1/Angstrom^2.
    """
    n = 5 + math.ceil(1.6 * largest)
    return 0.5 * limit * (1.0 - np.cos(np.pi * np.arange(n) / (n - 1)))


def displaced_occupancies(atoms: Atoms, q: np.ndarray) -> np.ndarray:
    """
    Occupancies times Debye-Waller factors.

    Parameters
    ----------
    atoms : Atoms
    q : ndarray (n, 3)
        1/Angstrom.

    Returns
    -------
    ndarray (n, n_atoms)
        o_i exp(-q'u_i q/2).
    """
    if atoms.is_isotropic:
        return atoms.occupancy * np.exp(-0.5 * (q**2).sum(axis=1)[:, None] * atoms.u_iso)
    return atoms.occupancy * np.exp(-0.5 * np.einsum("ni,aij,nj->na", q, atoms.u, q))


@numba.njit(cache=True)
def add_amplitudes(out, h, factors, weights, atoms):
    """
    Add w_ni f_t(n) exp(2 pi i h.x) of atoms to their groups.

    Parameters
    ----------
    out : ndarray (2, n, n_groups)
        Real and imaginary parts.
    h : ndarray (n, 3)
    factors : ndarray (n_types, n)
    weights : ndarray (n, n_atoms)
    atoms : tuple of ndarray
        Sites, kinds and groups of the atoms.
    """
    sites, kind, group = atoms
    for n in range(len(h)):
        for i in range(len(sites)):
            phase = 2.0 * np.pi * (h[n, 0] * sites[i, 0] + h[n, 1] * sites[i, 1] + h[n, 2] * sites[i, 2])
            size = weights[n, i] * factors[kind[i], n]
            out[0, n, group[i]] += size * math.cos(phase)
            out[1, n, group[i]] += size * math.sin(phase)


def _lagrange(nodes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
