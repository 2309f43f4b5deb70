"""
The excess relative spread tau of a data set: how far symmetry mates differ beyond what their errors say.

    I_i ~ N(J_h, v_i + tau^2 J_h^2),    w_i = 1/(v_i + tau^2 J_h^2)

I_i (n,) are the intensities on one scale, v_i their variances, J_h the true intensity of the unique index h.  tau is
the b of DIALS' error model with a = 1, so that the variances must be those of the counts: the scaled ones contain it
already.  J_h is not known, and is integrated out,

    L(tau) = prod_h int dJ p(J) prod_i N(I_i; J, v_i + tau^2 J^2),    p(J) = (J^2 + v_h)^-1/2,    v_h = mean of v_i,

with the prior that leaves L as it is when all intensities are multiplied by a number (1/J; flat below the error of one
observation).  To first order this is the restricted likelihood of a mean J_h = sum w I/sum w with its term
-1/2 ln sum w (Patterson and Thompson 1971, Biometrika 58, 545).  With that mean in place of J in tau^2 J^2, however,
tau comes out 10 % too large at tau = 0.5 with five mates, as a mean that is low by chance makes the deviations from it
large.  The integral is a sum over nodes J = J_h + t (sum w)^-1/2, t even in arsinh t: dense at the centre, and far out
where a few mates and a large tau give the integrand long tails.

The interval is where ln L is within 1.92 of its maximum (95 %); it begins at zero where zero is in it.  As ln L is a
sum over h, the tau of the indices of an intensity or resolution comes from a partial sum.

Of an image, or an experiment, each observation is compared with what its mates say of it at the tau of the data set,

    p(I_i | mates) = sum_k a_ik N(I_i; J_k, v_i + (tau J_k)^2),
    a_ik ~ p(J_k | all)/N(I_i; J_k, v_i + tau^2 J_k^2)

where a_ik are normalised (Predictions).

Intensities in any unit, tau dimensionless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar

from dials_postrefine.electron.spread.images import Unusable

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
FEWEST = 3  # observations with a mate, for a tau
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
class Mates:
    """
    Observations that have a symmetry mate, sorted by unique index.

    row (n,) of the observations they came from, unique (n,) of them, offsets (n_unique + 1,) of each index in them,
    intensity and variance (n,).
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


def find_mates(unique: np.ndarray, intensity: np.ndarray, variance: np.ndarray, most: int = MOST_OBSERVATIONS) -> Mates:
    """
    The observations that have a mate, from numbers of unique indices, intensities and variances (m,); of many, those
    of every second, third, ... such index, so that they are no more than about `most`.

    Raises Unusable where there is none.
    """
    counts = np.bincount(unique)
    has_mate = np.flatnonzero(counts > 1)
    if not len(has_mate):
        raise Unusable("No unique index was observed more than once: data with symmetry mates are needed.")
    if counts[has_mate].sum() < FEWEST:
        raise Unusable("One unique index alone was observed, and only twice: data with more symmetry mates are needed.")
    step = max(1, int(np.ceil(counts[has_mate].sum() / most)))
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[has_mate[::step]] = True
    order = np.argsort(unique, kind="stable")
    order = order[chosen[unique[order]]]
    starts = np.flatnonzero(np.diff(unique[order], prepend=-1))
    return Mates(order, unique[order], np.append(starts, len(order)), intensity[order], variance[order])


def weighted_means(mates: Mates, tau: float, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """J_h = sum w I/sum w (n_unique,) with the weights of J_h itself, and sum w (n_unique,); start: a first J_h."""
    mean = mates.mean if start is None else start
    for _ in range(MAX_ITERATIONS):
        weight = 1.0 / (mates.variance + mates.at((tau * mean) ** 2))
        total = mates.sum(weight)
        previous, mean = mean, mates.sum(weight * mates.intensity) / total
        if np.abs(mean - previous).sum() <= CONVERGED * np.abs(mean).sum():
            break
    return mean, total


def _ln_normal(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """ln N + 1/2 ln 2 pi."""
    return -0.5 * (difference**2 / variance + np.log(variance))


def integrand(mates: Mates, tau: float, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes J (k, n_unique), the logarithm of the integrand at them with weights, and J_h (n_unique,), of a tau."""
    mean, total = weighted_means(mates, tau, start)
    width = total**-0.5
    error = mates.sum(mates.variance) / mates.counts
    nodes = mean + NODES[:, None] * width
    ln_p = np.log(width) - 0.5 * np.log(nodes**2 + error) + LN_WEIGHTS[:, None]
    for j, row in zip(nodes, ln_p):
        row += mates.sum(_ln_normal(mates.intensity - mates.at(j), mates.variance + mates.at((tau * j) ** 2)))
    return nodes, ln_p, mean


def ln_likelihoods(mates: Mates) -> np.ndarray:
    """ln L (n_grid, n_unique) of the tau of the grid, of each unique index."""
    found, mean = np.empty((len(GRID), mates.n_unique)), None
    for row, tau in zip(found, GRID):
        _, ln_p, mean = integrand(mates, tau, mean)
        row[:] = _ln_sum(ln_p)
    return found


def _ln_sum(ln_p: np.ndarray) -> np.ndarray:
    """ln sum exp over the first axis."""
    top = ln_p.max(axis=0)
    return top + np.log(np.exp(ln_p - top).sum(axis=0))


def locate_maximum(ln_l: np.ndarray) -> tuple[float, float, float]:
    """Where ln L (n_grid,) over the grid is largest, and where it is lower by 1.92 on either side."""
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


def fit_tau(mates: Mates, ln_l: np.ndarray | None = None) -> Tau:
    """tau of all observations together; ln_l: what ln_likelihoods gives, where it is known."""
    ln_l = ln_likelihoods(mates) if ln_l is None else ln_l
    return _tau(ln_l.sum(axis=1), len(mates.row), mates.n_unique)


def fit_by_unique(mates: Mates, ln_l: np.ndarray, group: np.ndarray, n_groups: int) -> list[Tau]:
    """tau of groups of unique indices, group (n_unique,); ln_l as ln_likelihoods gives it."""
    own = [group == k for k in range(n_groups)]
    return [_tau(ln_l[:, some].sum(axis=1), mates.counts[some].sum(), np.count_nonzero(some)) for some in own]


@dataclass
class Predictions:
    """
    What the mates say of each observation (module docstring): intensity and variance (n,), nodes J (k, n), and ln a
    (k, n).
    """

    intensity: np.ndarray
    variance: np.ndarray
    nodes: np.ndarray
    ln_a: np.ndarray

    def ln_density(self, tau: np.ndarray | float) -> np.ndarray:
        """ln p(I_i | mates) + 1/2 ln 2 pi, (n,), of a tau that is a number or (n,)."""
        return _ln_sum(self.ln_a + _ln_normal(self.intensity - self.nodes, self.variance + (tau * self.nodes) ** 2))

    def slope(self, tau: np.ndarray) -> np.ndarray:
        """The derivative of ln_density by ln tau, (n,), tau (n,)."""
        own = (tau * self.nodes) ** 2
        total = self.variance + own
        square = (self.intensity - self.nodes) ** 2
        a = self.ln_a - 0.5 * (square / total + np.log(total))
        a = np.exp(a - a.max(axis=0))
        return (a * own * (square / total - 1.0) / total).sum(axis=0) / a.sum(axis=0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (n,) of J by the mates."""
        a = np.exp(self.ln_a)
        mean = (a * self.nodes).sum(axis=0)
        return mean, (a * (self.nodes - mean) ** 2).sum(axis=0)


def predict_from_mates(mates: Mates, tau: float) -> Predictions:
    """The predictions of all observations at the tau of the data set."""
    nodes, ln_p, _ = integrand(mates, tau)
    j = np.repeat(nodes, mates.counts, axis=1)
    ln_a = np.repeat(ln_p, mates.counts, axis=1)
    ln_a -= _ln_normal(mates.intensity - j, mates.variance + (tau * j) ** 2)
    return Predictions(mates.intensity, mates.variance, j, ln_a - _ln_sum(ln_a))


def ln_densities(predicted: Predictions) -> np.ndarray:
    """ln p(I_i | mates) of the tau of the grid, (n_grid, n)."""
    return np.array([predicted.ln_density(tau) for tau in GRID])


def fit_by_observation(mates: Mates, ln_p: np.ndarray, group: np.ndarray, n_groups: int) -> list[Tau]:
    """tau of groups of observations, group (n,), -1: of none; images, experiments; ln_p as ln_densities gives it."""
    some = group >= 0
    group, number = group[some], mates.number[some]
    ln_l = np.array([np.bincount(group, row[some], n_groups) for row in ln_p])
    n = np.bincount(group, minlength=n_groups)
    pairs = np.unique(group.astype(np.int64) * mates.n_unique + number)
    n_unique = np.bincount(pairs // mates.n_unique, minlength=n_groups)
    return [_tau(ln_l[:, k], n[k], n_unique[k]) for k in range(n_groups)]
