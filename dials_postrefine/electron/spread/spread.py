"""
The excess relative spread tau of a data set: how far symmetry equivalents differ beyond what their errors say.

    I_i ~ N(J_h, v_i + tau^2 J_h^2),    w_i = 1/(v_i + tau^2 J_h^2)

I_i (n,) are the intensities on one scale, v_i their variances, J_h the true intensity of the unique index h.  tau is
the b of DIALS' error model with a = 1, so that the variances must be those of the counts: the scaled ones contain it
already.  J_h is not known, and is integrated out,

    L(tau) = prod_h int dJ p(J) prod_i N(I_i; J, v_i + tau^2 J^2),    p(J) = (J^2 + v_h)^-1/2,    v_h = mean of v_i,

with the prior that leaves L as it is when all intensities are multiplied by a number (1/J; flat below the error of one
observation).  To first order this is the restricted likelihood of a mean J_h = sum w I/sum w with its term -1/2 ln sum
w (Patterson and Thompson 1971, Biometrika 58, 545).  With that mean in place of J in tau^2 J^2, however, tau comes out
10 % too large at tau = 0.5 with five equivalents, as a mean that is low by chance makes the deviations from it large.
The integral is a sum over nodes J = J_h + t (sum w)^-1/2, t even in arsinh t: dense at the centre, and far out where a
few equivalents and a large tau give the integrand long tails.

The interval is where ln L is within 1.92 of its maximum (95 %); it begins at zero where zero is in it.  As ln L is a
sum over h, the tau of the indices of an intensity or resolution comes from a partial sum.

Of an image, or an experiment, each observation is compared with what its equivalents say of it at the tau of the data
set,

    p(I_i | equivalents) = sum_k a_ik N(I_i; J_k, v_i + (tau J_k)^2),
    a_ik ~ p(J_k | all)/N(I_i; J_k, v_i + tau^2 J_k^2)

where a_ik are normalised (Predictions).

Intensities in any unit, tau dimensionless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar

from dials_postrefine.electron.errors import Unusable

DELTA_LN_L = 1.92  # half of the 95 % quantile of chi squared of one degree of freedom
# The grid of tau: from zero to LARGEST, even in the logarithm beyond TAU_0.
TAU_0 = 0.005
LARGEST = 10.0
GRID = TAU_0 * np.expm1(np.linspace(0.0, np.log1p(LARGEST / TAU_0), 96))
# The nodes in J (module docstring), and the logarithms of their weights.
_ARSINH = np.linspace(-np.arcsinh(100.0), np.arcsinh(100.0), 31)
NODES, LN_WEIGHTS = np.sinh(_ARSINH), np.log(np.cosh(_ARSINH))
MAX_ITERATIONS = 30
CONVERGED = 1e-7
FEWEST = 3  # observations with an equivalent, for a tau
# So many observations give tau to 1 %; of more, an even sample of the unique indices is taken.
MOST_OBSERVATIONS = 40_000


@dataclass
class Tau:
    """tau with its 95 % interval, and from how many observations of how many unique indices; NaN of too few."""

    tau: float
    low: float
    high: float
    n: int
    n_unique: int


@dataclass
class Equivalents:
    """
    Observations that have a symmetry equivalent, sorted by unique index.

    Attributes
    ----------
    row : ndarray of int, shape (n,)
        Which of the observations that were given each is.
    unique : ndarray of int, shape (n,)
        Their unique indices.
    offsets : ndarray of int, shape (n_unique + 1,)
        Where those of each unique index begin.
    intensity, variance : ndarray, shape (n,)
    """

    row: np.ndarray
    unique: np.ndarray
    offsets: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How often each index was observed, (n_unique,)."""
        return np.diff(self.offsets)

    @property
    def n_unique(self) -> int:
        """How many unique indices there are."""
        return len(self.offsets) - 1

    @property
    def number(self) -> np.ndarray:
        """Which of the n_unique indices each observation is of, (n,)."""
        return np.repeat(np.arange(self.n_unique), self.counts)

    @property
    def mean(self) -> np.ndarray:
        """The plain mean of each index, (n_unique,)."""
        return self.sum(self.intensity) / self.counts

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums (n_unique,) of values (n,) over the observations of each index."""
        return np.add.reduceat(values, self.offsets[:-1])

    def at(self, values: np.ndarray) -> np.ndarray:
        """Values (n_unique,) of the indices, at each observation (n,)."""
        return np.repeat(values, self.counts)


def find_equivalents(
    unique: np.ndarray, intensity: np.ndarray, variance: np.ndarray, most: int = MOST_OBSERVATIONS
) -> Equivalents:
    """
    The observations that have a symmetry equivalent.

    Parameters
    ----------
    unique : ndarray of int, shape (m,)
        Numbers of the unique indices.
    intensity, variance : ndarray, shape (m,)
    most : int
        Of many, those of every second, third, ... such index are taken, so that they are no more than about this.

    Returns
    -------
    Equivalents

    Raises
    ------
    Unusable
        Where there is none.
    """
    counts = np.bincount(unique)
    has_equivalent = np.flatnonzero(counts > 1)
    if not len(has_equivalent):
        raise Unusable("No unique index was observed more than once: data with symmetry equivalents are needed.")
    if counts[has_equivalent].sum() < FEWEST:
        raise Unusable(
            "One unique index alone was observed, and only twice: data with more symmetry equivalents are needed."
        )
    step = max(1, int(np.ceil(counts[has_equivalent].sum() / most)))
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[has_equivalent[::step]] = True
    order = np.argsort(unique, kind="stable")
    order = order[chosen[unique[order]]]
    starts = np.flatnonzero(np.diff(unique[order], prepend=-1))
    return Equivalents(order, unique[order], np.append(starts, len(order)), intensity[order], variance[order])


def weighted_means(
    equivalents: Equivalents, tau: float, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    The mean of each index with the weights of that mean itself (module docstring).

    Parameters
    ----------
    equivalents : Equivalents
    tau : float
    start : ndarray, shape (n_unique,), optional
        A first J_h.

    Returns
    -------
    mean, total : ndarray, shape (n_unique,)
        J_h and sum w.
    """
    mean = equivalents.mean if start is None else start
    for _ in range(MAX_ITERATIONS):
        weight = 1.0 / (equivalents.variance + equivalents.at((tau * mean) ** 2))
        total = equivalents.sum(weight)
        previous, mean = mean, equivalents.sum(weight * equivalents.intensity) / total
        if np.abs(mean - previous).sum() <= CONVERGED * np.abs(mean).sum():
            break
    return mean, total


def _ln_normal(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """ln N + 1/2 ln 2 pi."""
    return -0.5 * (difference**2 / variance + np.log(variance))


def integrand(
    equivalents: Equivalents, tau: float, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The nodes of the integral over J, and the integrand there.

    Parameters
    ----------
    equivalents : Equivalents
    tau : float
    start : ndarray, shape (n_unique,), optional
        A first J_h.

    Returns
    -------
    nodes : ndarray, shape (k, n_unique)
        J.
    ln_p : ndarray, shape (k, n_unique)
        The logarithm of the integrand, weights of the nodes included.
    mean : ndarray, shape (n_unique,)
        J_h.
    """
    mean, total = weighted_means(equivalents, tau, start)
    width = total**-0.5
    error = equivalents.sum(equivalents.variance) / equivalents.counts
    nodes = mean + NODES[:, None] * width
    ln_p = np.log(width) - 0.5 * np.log(nodes**2 + error) + LN_WEIGHTS[:, None]
    for j, row in zip(nodes, ln_p):
        row += equivalents.sum(
            _ln_normal(equivalents.intensity - equivalents.at(j), equivalents.variance + equivalents.at((tau * j) ** 2))
        )
    return nodes, ln_p, mean


def ln_likelihoods(equivalents: Equivalents) -> np.ndarray:
    """
    ln L of each unique index, at the tau of GRID (module docstring).

    Parameters
    ----------
    equivalents : Equivalents

    Returns
    -------
    ndarray, shape (n_grid, n_unique)
    """
    found, mean = np.empty((len(GRID), equivalents.n_unique)), None
    for row, tau in zip(found, GRID):
        _, ln_p, mean = integrand(equivalents, tau, mean)
        row[:] = _ln_sum(ln_p)
    return found


def _ln_sum(ln_p: np.ndarray) -> np.ndarray:
    """ln sum exp over the first axis."""
    top = ln_p.max(axis=0)
    return top + np.log(np.exp(ln_p - top).sum(axis=0))


def locate_maximum(ln_l: np.ndarray) -> tuple[float, float, float]:
    """
    The maximum of ln L, and its 95 % interval.

    Parameters
    ----------
    ln_l : ndarray, shape (n_grid,)
        ln L at the tau of GRID.

    Returns
    -------
    tau, low, high : float
        Where ln L is largest, and where it is lower by 1.92 on either side.
    """
    u = np.log1p(GRID / TAU_0)  # in which the grid is even
    spline = CubicSpline(u, ln_l)
    k = int(np.argmax(ln_l))
    bounds = u[max(k - 1, 0)], u[min(k + 1, len(u) - 1)]
    best = minimize_scalar(lambda x: -spline(x), bounds=bounds, method="bounded", options={"xatol": 1e-7})
    peak, top = (best.x, -best.fun) if -best.fun > ln_l[k] else (u[k], ln_l[k])

    def limit(outward: np.ndarray, end: int) -> float:
        below = np.flatnonzero(ln_l[outward] < top - DELTA_LN_L)
        return brentq(lambda x: spline(x) - top + DELTA_LN_L, u[outward[below[0]]], peak) if len(below) else u[end]

    low, high = limit(np.flatnonzero(u < peak)[::-1], 0), limit(np.flatnonzero(u > peak), -1)
    return tuple(float(TAU_0 * np.expm1(x)) for x in (peak, low, high))


def _tau(ln_l: np.ndarray, n: int, n_unique: int) -> Tau:
    found = locate_maximum(ln_l) if n >= FEWEST else (np.nan,) * 3
    return Tau(*found, int(n), int(n_unique))


def fit_tau(equivalents: Equivalents, ln_l: np.ndarray | None = None) -> Tau:
    """
    tau of all observations together.

    Parameters
    ----------
    equivalents : Equivalents
    ln_l : ndarray, shape (n_grid, n_unique), optional
        What ln_likelihoods gives, where it is known.

    Returns
    -------
    Tau
    """
    ln_l = ln_likelihoods(equivalents) if ln_l is None else ln_l
    return _tau(ln_l.sum(axis=1), len(equivalents.row), equivalents.n_unique)


def fit_by_unique(equivalents: Equivalents, ln_l: np.ndarray, group: np.ndarray, n_groups: int) -> list[Tau]:
    """
    tau of groups of unique indices.

    Parameters
    ----------
    equivalents : Equivalents
    ln_l : ndarray, shape (n_grid, n_unique)
        As ln_likelihoods gives it.
    group : ndarray of int, shape (n_unique,)
        -1: of none.
    n_groups : int

    Returns
    -------
    list of Tau, length n_groups
    """
    found = []
    for members in (group == k for k in range(n_groups)):
        found.append(_tau(ln_l[:, members].sum(axis=1), equivalents.counts[members].sum(), np.count_nonzero(members)))
    return found


@dataclass
class Predictions:
    """
    What its equivalents say of each observation (module docstring).

    Attributes
    ----------
    intensity, variance : ndarray, shape (n,)
        As observed.
    nodes : ndarray, shape (k, n)
        J.
    ln_a : ndarray, shape (k, n)
        ln a.
    """

    intensity: np.ndarray
    variance: np.ndarray
    nodes: np.ndarray
    ln_a: np.ndarray

    def ln_density(self, tau: np.ndarray | float) -> np.ndarray:
        """ln p(I_i | equivalents) + 1/2 ln 2 pi, (n,), of a tau that is a number or (n,)."""
        return _ln_sum(self.ln_a + _ln_normal(self.intensity - self.nodes, self.variance + (tau * self.nodes) ** 2))

    def slope(self, tau: np.ndarray) -> np.ndarray:
        """The derivative of ln_density by ln tau, (n,), tau (n,)."""
        excess = (tau * self.nodes) ** 2
        total = self.variance + excess
        square = (self.intensity - self.nodes) ** 2
        a = self.ln_a - 0.5 * (square / total + np.log(total))
        a = np.exp(a - a.max(axis=0))
        return (a * excess * (square / total - 1.0) / total).sum(axis=0) / a.sum(axis=0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (n,) of J by the equivalents."""
        a = np.exp(self.ln_a)
        mean = (a * self.nodes).sum(axis=0)
        return mean, (a * (self.nodes - mean) ** 2).sum(axis=0)


def predict_from_equivalents(equivalents: Equivalents, tau: float) -> Predictions:
    """
    The predictions of all observations by their equivalents (module docstring).

    Parameters
    ----------
    equivalents : Equivalents
    tau : float
        Of the data set.

    Returns
    -------
    Predictions
    """
    nodes, ln_p, _ = integrand(equivalents, tau)
    j = np.repeat(nodes, equivalents.counts, axis=1)
    ln_a = np.repeat(ln_p, equivalents.counts, axis=1)
    ln_a -= _ln_normal(equivalents.intensity - j, equivalents.variance + (tau * j) ** 2)
    return Predictions(equivalents.intensity, equivalents.variance, j, ln_a - _ln_sum(ln_a))


def ln_densities(predicted: Predictions) -> np.ndarray:
    """
    ln p(I_i | equivalents), at the tau of GRID.

    Parameters
    ----------
    predicted : Predictions
        n observations.

    Returns
    -------
    ndarray, shape (n_grid, n)
    """
    return np.array([predicted.ln_density(tau) for tau in GRID])


def fit_by_observation(equivalents: Equivalents, ln_p: np.ndarray, group: np.ndarray, n_groups: int) -> list[Tau]:
    """
    tau of groups of observations, as images and experiments are.

    Parameters
    ----------
    equivalents : Equivalents
        n observations.
    ln_p : ndarray, shape (n_grid, n)
        As ln_densities gives it.
    group : ndarray of int, shape (n,)
        -1: of none.
    n_groups : int

    Returns
    -------
    list of Tau, length n_groups
    """
    grouped = group >= 0
    group, number = group[grouped], equivalents.number[grouped]
    ln_l = np.array([np.bincount(group, row[grouped], n_groups) for row in ln_p])
    n = np.bincount(group, minlength=n_groups)
    pairs = np.unique(group.astype(np.int64) * equivalents.n_unique + number)
    n_unique = np.bincount(pairs // equivalents.n_unique, minlength=n_groups)
    return [_tau(ln_l[:, k], n[k], n_unique[k]) for k in range(n_groups)]
