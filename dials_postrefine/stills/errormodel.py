"""
The error model: how far observations of one unique index lie apart, put into their variances.

    var' = a^2 (var + (b I)^2 + c^2 t I^2)

for a scaled observation with the variance `var` of its counts; I is the merged intensity, not the observation's own,
so that a weight does not depend on the error of what it weighs, and t the variance of ln(G e p) that the covariance of
the lattice's parameters gives (model.partiality_with_variance).  For the same reason var is that of the counts to be
expected: an integrator takes it from the counts observed, so that what is too weak by chance weighs too much, and

    var = var_i + s_i (I - I_i),      s_i = g/(G e p),

g the slope of the integrator's variances on its intensities (the gain, of a counting detector). a, b and c are those of
greatest likelihood for the differences between each observation i and the mean of the others of its index,

    d_i = I_i - sum_j w_j I_j / sum_j w_j,    var(d_i) = var'_i + sum_j w_j^2 var'_j / (sum_j w_j)^2     (j != i),

which is linear in a^2, (a b)^2 and (a c)^2.  Differences of more than Z_MAX standard deviations are left out: they are
for the outlier test.  Where all is well the normalised differences d/sqrt(var(d)) have unit width whatever the
intensity; `widths` says how it is.  Sources: Evans and Murshudov (2013), Acta Cryst. D69, 1204, for a and b;
postrefinement.md for the rest of the error of a partial observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from dials_postrefine.numerics.grouped import sum_of_others
from dials_postrefine.numerics.robust import robust_width
from dials_postrefine.stills.merging import MIN_OTHER_WEIGHT

LEAST_OF_COUNTS = 0.2  # of the integrator's variance is left at least
FEWEST = 200
MOST = 20_000
Z_MAX = 4.0
N_ROUNDS = 3
N_DECILES = 10
START_B = 0.1
# The bounds of ln a^2, and of ln (a b)^2 and ln (a c)^2, where the lowest is nothing.
LN_A_SQ = (-6.0, 10.0)
LN_PART = (-14.0, 10.0)


@dataclass(frozen=True)
class ErrorModel:
    """
    a, b and c of the module docstring; n the number of differences that they come from, 0 where they are assumed;
    widths: 1.48 times the median absolute normalised difference by deciles of the intensity, weak to strong.
    """

    a: float = 1.0
    b: float = 0.1
    c: float = 1.0
    n: int = 0
    widths: tuple[float, ...] = ()

    def at_least(self, value: np.ndarray, variance: np.ndarray, relative: np.ndarray) -> np.ndarray:
        """
        What the true intensity is at least (n,), three standard deviations of each kind from the value (n,).

        (I - 3 a sqrt(var)) / (1 + 3 a sqrt(b^2 + c^2 t)): the larger part of the error is in proportion to the truth,
        and not to a value that may be wild.
        """
        in_proportion = np.sqrt(self.b**2 + self.c**2 * relative)
        return (value - 3.0 * self.a * np.sqrt(variance)) / (1.0 + 3.0 * self.a * in_proportion)

    def variance(self, variance: np.ndarray, relative: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        """var' (n,) from the variance of the counts, t and the merged intensity I, each (n,)."""
        return self.a**2 * (variance + intensity**2 * (self.b**2 + self.c**2 * relative))


def slope_of_variance(intensity: np.ndarray, variance: np.ndarray) -> float:
    """
    The slope g of variances on intensities: between the medians of the strongest and of the weakest tenth.

    Parameters
    ----------
    intensity, variance : ndarray, shape (n,)

    Returns
    -------
    float
        At most the variance per intensity of the strongest; zero where the variances do not grow with the intensities.
    """
    n = max(len(intensity) // N_DECILES, 1)
    if len(intensity) < 2:
        return 0.0
    order = np.argpartition(intensity, [n - 1, len(intensity) - n])
    (weak_i, weak_v), (strong_i, strong_v) = (
        (float(np.median(intensity[tenth])), float(np.median(variance[tenth]))) for tenth in (order[:n], order[-n:])
    )
    if not strong_i > max(weak_i, 0.0):
        return 0.0
    return min(max((strong_v - weak_v) / (strong_i - weak_i), 0.0), strong_v / strong_i)


def expected_counts(variance: np.ndarray, value: np.ndarray, slope: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """
    The variance var of the counts to be expected (module docstring).

    Parameters
    ----------
    variance, value, slope : ndarray, shape (n,)
        var_i, I_i and s_i, as scaling.scaled_values gives them.
    intensity : ndarray, shape (n,)
        I.

    Returns
    -------
    ndarray, shape (n,)
        At least LEAST_OF_COUNTS times the variance.
    """
    return np.maximum(variance + slope * (intensity - value), LEAST_OF_COUNTS * variance)


def fit_error_model(
    value: np.ndarray,
    variance: np.ndarray,
    relative: np.ndarray,
    intensity: np.ndarray,
    unique: np.ndarray,
    weight: np.ndarray,
    assumed: ErrorModel,
) -> ErrorModel:
    """
    The error model of greatest likelihood (module docstring).

    Parameters
    ----------
    value, variance : ndarray, shape (n,)
        Scaled observations, and the variances of their counts.
    relative : ndarray, shape (n,)
        t, the variance of ln(G e p).
    intensity : ndarray, shape (n,)
        Merged intensity of each one's index.
    unique : ndarray of int, shape (n,)
        Number of the unique index.
    weight : ndarray, shape (n,)
        That it has in the mean.
    assumed : ErrorModel
        What is returned where fewer than FEWEST differences are there.

    Returns
    -------
    ErrorModel
    """
    n_unique = int(unique.max()) + 1 if len(unique) else 0

    def others(x):
        return sum_of_others(x, unique, n_unique)

    sum_w = others(weight)
    paired = sum_w > MIN_OTHER_WEIGHT * (sum_w + weight)
    if np.count_nonzero(paired) < FEWEST:
        return assumed
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = value - others(weight * value) / sum_w
        parts = np.array(
            [part + others(weight**2 * part) / sum_w**2 for part in (variance, intensity**2, relative * intensity**2)]
        )
    number = np.flatnonzero(paired)
    number = number[:: -(-len(number) // MOST)]
    difference, parts = difference[number], parts[:, number]

    def total(x):
        return np.exp(x) @ parts

    x = np.log([1.0, START_B**2, 1.0])
    bounds = [LN_A_SQ, LN_PART, LN_PART]
    for _ in range(N_ROUNDS):
        good = np.abs(difference) < Z_MAX * np.sqrt(total(x)) * robust_width(difference / np.sqrt(total(x)))
        used, square = parts[:, good], difference[good] ** 2

        def minus_log_likelihood(x, used=used, square=square):
            spread = np.exp(x) @ used
            gradient = (0.5 / spread - 0.5 * square / spread**2) @ (used.T * np.exp(x))
            return 0.5 * float(np.sum(np.log(spread) + square / spread)), gradient

        x = minimize(minus_log_likelihood, x, jac=True, method="L-BFGS-B", bounds=bounds).x
    z = difference / np.sqrt(total(x))
    deciles = np.array_split(z[np.argsort(intensity[number], kind="stable")], N_DECILES)
    a, b, c = np.sqrt(np.exp(x))
    return ErrorModel(
        float(a), float(b / a), float(c / a), len(number), tuple(float(robust_width(tenth)) for tenth in deciles)
    )
