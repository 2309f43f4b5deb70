"""
Sums over pairs of groups of atoms whose covariances are tensors, with derivatives.

Groups R move each as a whole, with covariances V_RS (3 x 3) and displacements that all of their atoms have,
U_R; what atoms do beside these is in the displacements u_i of the atoms.  With w_RS = q'V_RS q, delta_R = q'U_R q,

    I = sum_RS a_R a_S^* [exp(w_RS) - 1] - sum_R D_R [exp(w_RR) - 1] + sum_i o_i^2 f_i^2 - sum_R D_R
    a_R = exp(-delta_R/2) sum_{i in R} o_i f_i exp(i q.r_i - q'u_i q/2),    D_R = exp(-delta_R) sum_{i in R} |..|^2

and the derivative by a parameter on which V and U depend, C_R being the sum over S of the first two sums' terms,

    dI = sum_RS (a_R a_S^* - delta_RS D_R) exp(w_RS) dw_RS - sum_R (C_R - D_R) d delta_R

exp(w) - 1 is a polynomial of w/2^k, |w|/2^k < 1/2, that is doubled k times, e <- e (e + 2), right to 1e-8; loops go
over voxels innermost.  Cost: n_voxels n_orientations n_groups^2/2 times 3 to 5 ns, and half of that for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.covariance import add_amplitudes, displaced_occupancies
from dials_postrefine.diffuse.model.voxels import Voxels

BLOCK = 256  # voxels at a time


class TensorPairs:
    """
    The sums of groups at voxels (module docstring).

    atoms : Atoms, their displacements without U_R; groups (n_atoms,) of int, the group of each; voxels : Voxels.
    """

    def __init__(self, atoms: Atoms, groups: np.ndarray, voxels: Voxels):
        self.atoms, self.groups, self.h = atoms, groups, voxels.h
        self.n_groups = int(groups.max()) + 1
        self.members = np.zeros((len(atoms), self.n_groups))
        self.members[np.arange(len(atoms)), groups] = 1.0

    def evaluate(self, u: np.ndarray, v: np.ndarray, slopes: Sequence[tuple[np.ndarray, np.ndarray]] = ()):
        """
        I and its derivatives.

        Parameters
        ----------
        u : ndarray (n_groups, 3, 3)
        v : ndarray (n_groups, n_groups, 3, 3)
        slopes : sequence of (ndarray, ndarray)
            Of u and v by each parameter.

        Returns
        -------
        intensity : ndarray (n,)
        derivatives : ndarray (p, n)
        """
        matrices = np.array([elements(one) for one in (v, *(each for _, each in slopes))])
        tensors = np.array([elements(one) for one in (u, *(each for each, _ in slopes))])
        largest = np.abs(np.linalg.norm(v, axis=(2, 3))).max()
        intensity, derivatives = np.zeros(len(self.h)), np.zeros((len(slopes), len(self.h)))
        for rotation in self.atoms.rotations:
            h = self.h @ rotation
            for start in range(0, len(h), BLOCK):
                here = slice(start, start + BLOCK)
                found = self._block(h[here], tensors, matrices, largest)
                intensity[here] += found[0]
                derivatives[:, here] += found[1:]
        return intensity, derivatives

    def _block(self, h: np.ndarray, tensors: np.ndarray, matrices: np.ndarray, largest: float) -> np.ndarray:
        """I and derivatives (1 + p, n) at some voxels of an orientation."""
        atoms = self.atoms
        q = 2.0 * np.pi * h @ atoms.reciprocal.T
        q_sq = (q**2).sum(axis=1)
        factors, occupancies = atoms.factors(q_sq / (4.0 * np.pi**2)), displaced_occupancies(atoms, q)
        parts = np.zeros((2, len(h), self.n_groups))
        add_amplitudes(parts, h, factors, occupancies, (atoms.sites, atoms.kind, self.groups))
        f = factors[atoms.kind].T
        x, y, z = q.T
        products = np.array([x * x, y * y, z * z, x * y, x * z, y * z])
        delta = tensors @ products  # (1 + p, n_groups, n)
        damping = np.exp(-0.5 * delta[0])
        own = ((f * occupancies) ** 2 @ self.members).T * damping**2
        amplitudes = parts.transpose(0, 2, 1) * damping
        found, sums = np.zeros((len(matrices), len(h))), np.zeros_like(own)
        doublings = max(0, math.ceil(math.log2(max(2.0 * largest * q_sq.max(initial=0.0), 1e-300))))
        _add_tensor_pairs(found, sums, np.ascontiguousarray(amplitudes), own, (products, matrices, doublings))
        found[0] += ((f * atoms.occupancy) ** 2).sum(axis=1) - own.sum(axis=0)
        found[1:] -= ((sums - own) * delta[1:]).sum(axis=1)
        return found


def elements(tensor: np.ndarray) -> np.ndarray:
    """
    What q'T q has of each product of q's components.

    Parameters
    ----------
    tensor : ndarray (..., 3, 3)

    Returns
    -------
    ndarray (..., 6)
        Of xx, yy, zz, xy, xz, yz.
    """
    t = np.asarray(tensor, float)
    pairs = [(0, 1), (0, 2), (1, 2)]
    return np.stack([*(t[..., i, i] for i in range(3)), *(t[..., i, j] + t[..., j, i] for i, j in pairs)], axis=-1)


@numba.njit(nogil=True, cache=True)
def _add_tensor_pairs(found, sums, amplitudes, own, constant):
    """The sums over pairs of I and dI, and C_R (n_groups, n); amplitudes (2, n_groups, n), D_R (n_groups, n)."""
    products, matrices, doublings = constant
    n_groups, n = own.shape
    unit = 0.5**doublings
    grown, pair = np.empty(n), np.empty(n)
    xx, yy, zz, xy, xz, yz = products
    for r in range(n_groups):
        for s in range(r + 1):
            m = matrices[0, r, s]
            a, b, c, d, e, f = m[0] * unit, m[1] * unit, m[2] * unit, m[3] * unit, m[4] * unit, m[5] * unit
            for v in range(n):
                t = a * xx[v] + b * yy[v] + c * zz[v] + d * xy[v] + e * xz[v] + f * yz[v]
                series = 1.0 / 5040.0 + t * (1.0 / 40320.0 + t * (1.0 / 362880.0))
                series = 1.0 / 24.0 + t * (1.0 / 120.0 + t * (1.0 / 720.0 + t * series))
                grown[v] = t * (1.0 + t * (0.5 + t * (1.0 / 6.0 + t * series)))
                pair[v] = amplitudes[0, r, v] * amplitudes[0, s, v] + amplitudes[1, r, v] * amplitudes[1, s, v]
            for _ in range(doublings):
                for v in range(n):
                    grown[v] *= grown[v] + 2.0
            weight = 2.0
            if r == s:
                weight = 1.0
                for v in range(n):
                    pair[v] -= own[r, v]
            else:
                for v in range(n):
                    sums[s, v] += pair[v] * grown[v]
            for v in range(n):
                moved = pair[v] * grown[v]
                sums[r, v] += moved
                found[0, v] += weight * moved
                pair[v] *= weight * (grown[v] + 1.0)
            for k in range(1, len(matrices)):
                a, b, c, d, e, f = matrices[k, r, s]
                for v in range(n):
                    slope = a * xx[v] + b * yy[v] + c * zz[v] + d * xy[v] + e * xz[v] + f * yz[v]
                    found[k, v] += pair[v] * slope
