"""
Least squares for a few numbers that all observations share, whatever the mean of each index and the parameters of each
lattice are.

With y_i the scaled observation of index u in lattice l, M_u the mean of the index, and weights w_i,

    y_i = M_u (1 + delta_u + g_i . s_l + f_i . a) + noise

delta (n_unique,) and s (L, k) are nuisances: there are thousands of them, and nobody wants to know.  The columns M f
and the residuals y - M, times sqrt w, are made orthogonal to all columns of the nuisances by alternating projections
(von Neumann; Halperin, Acta Sci. Math. 23 (1962) 96): off the means, off each lattice's parameters, and so on.  What is
left of the columns, F, and of the residuals, r, gives a = (F^T F + Lambda)^-1 F^T r (Frisch and Waugh, Econometrica 1
(1933) 387), with Lambda the precisions of a priori knowledge, if any.  The covariance is the sandwich over lattices as
clusters (Liang and Zeger, Biometrika 73 (1986) 13), times what the nuisances have taken off the residuals,
n/(n - n_unique - k L), and where weights are robust times (sum w / sum psi')^2, psi' the slope of the influence: the
weights of what is far out follow the residuals (Huber 1981, Robust Statistics, ch. 7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from dials_postrefine.numerics.sandwich import sandwich_clusters
from dials_postrefine.stills.systematics.deviations import Deviations

N_ROUNDS = 8
RIDGE = 1e-8  # of the diagonal: a lattice may not determine all that it has


@dataclass(frozen=True)
class Nuisances:
    """The nuisances' columns as rows of two sparse matrices, those of each one orthonormal; n_free of them together."""

    by_index: sparse.csr_matrix
    by_lattice: sparse.csr_matrix
    n_free: int

    def project(self, columns: np.ndarray) -> np.ndarray:
        """The columns (n, m) without what the nuisances can make of them."""
        left = columns
        for _ in range(N_ROUNDS):
            for basis, back in ((self.by_index, self.by_index.T), (self.by_lattice, self.by_lattice.T)):
                left = left - back @ (basis @ left)
        return left


@dataclass(frozen=True)
class Shared:
    """a (m,) and its covariance (m, m)."""

    a: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Projected:
    """
    What the nuisances leave (module docstring): columns F (n, m) and residuals r (n,), times sqrt w; cluster (n,), the
    lattice of each; n_free numbers that the nuisances have; widening, sum w / sum psi' of robust weights.
    """

    columns: np.ndarray
    residual: np.ndarray
    cluster: np.ndarray
    n_free: int
    widening: float = 1.0

    def solve(self, precision: np.ndarray | float = 0.0) -> Shared:
        """a with its covariance; precision (m,), 1/variance of what is known before."""
        f, r = self.columns, self.residual
        n, m = f.shape
        inverse = np.linalg.pinv(f.T @ f + np.diag(np.broadcast_to(precision, m)), hermitian=True)
        a = inverse @ (f.T @ r)
        scores = f * (r - f @ a)[:, None]
        sums = np.column_stack([np.bincount(self.cluster, column) for column in scores.T])
        covariance = sandwich_clusters(sums, inverse)
        return Shared(a, covariance * self.widening**2 * n / max(n - self.n_free - m, 1))

    def part(self, which: slice, others: np.ndarray) -> Projected:
        """Some of the columns, the others (m,), zero for these, being known."""
        return replace(self, columns=self.columns[:, which], residual=self.residual - self.columns @ others)


def make_nuisances(
    deviations: Deviations, mean: np.ndarray, root_weight: np.ndarray, by_index: bool = True
) -> Nuisances:
    """
    The nuisances of deviations (module docstring).

    Parameters
    ----------
    deviations : Deviations
        Of n observations.
    mean : ndarray, shape (n_unique,)
        The means of the indices.
    root_weight : ndarray, shape (n,)
        Square roots of the weights.
    by_index : bool
        False: the means are known, and no nuisances.

    Returns
    -------
    Nuisances
    """
    n, n_lattices, k = len(root_weight), deviations.n_lattices, deviations.gradient.shape[1]
    height = mean[deviations.unique] * root_weight
    norm = np.sqrt(np.bincount(deviations.unique, height**2, deviations.n_unique))[deviations.unique]
    unit = np.divide(height, norm, out=np.zeros(n), where=norm > 0.0) * by_index
    indices = sparse.csr_matrix((unit, (deviations.unique, np.arange(n))), (deviations.n_unique, n))
    columns = height[:, None] * deviations.gradient
    first = np.searchsorted(deviations.lattice, np.arange(n_lattices))
    normal = np.add.reduceat(columns[:, :, None] * columns[:, None, :], first, axis=0)
    units = np.sqrt(np.einsum("lii->li", normal))
    units[units == 0.0] = 1.0
    normal /= units[:, :, None] * units[:, None, :]
    values, vectors = np.linalg.eigh(normal)
    turn = np.where(values[:, None, :] > RIDGE, vectors / np.sqrt(np.maximum(values, RIDGE))[:, None, :], 0.0)
    turn /= units[:, :, None]
    basis = np.einsum("nk,nkj->nj", columns, turn[deviations.lattice])
    number = deviations.lattice[:, None] * k + np.arange(k)
    row = np.repeat(np.arange(n), k)
    lattices = sparse.csr_matrix((basis.ravel(), (number.ravel(), row)), (n_lattices * k, n))
    n_free = int(np.count_nonzero(values > RIDGE)) + by_index * deviations.n_unique
    return Nuisances(indices, lattices, n_free)


def project(nuisances: Nuisances, columns: np.ndarray, residual: np.ndarray, cluster: np.ndarray) -> Projected:
    """
    What the nuisances leave of the columns M f and the residuals y - M (module docstring).

    Parameters
    ----------
    nuisances : Nuisances
        Of n observations.
    columns : ndarray, shape (n, m)
        M f, times sqrt w.
    residual : ndarray, shape (n,)
        y - M, times sqrt w.
    cluster : ndarray of int, shape (n,)
        The lattice of each.

    Returns
    -------
    Projected
    """
    left = nuisances.project(np.column_stack([columns, residual]))
    return Projected(left[:, :-1], left[:, -1], cluster, nuisances.n_free)
