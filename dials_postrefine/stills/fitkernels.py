"""
The compiled loops of the batched engine around the minimisation: start values, weights, partialities, and the figures
that lattices are judged by.

They say lattice by lattice what lattice.start_values, the weights of lattice.py, model.partiality_with_variance, the
correlations of a LatticeFit and filters.relation_to_reference say with arrays, to rounding.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.numerics.compiled import compiler
from dials_postrefine.numerics.loops import part_correlation, part_median, part_partial_correlation, part_slope
from dials_postrefine.numerics.robust import MEDIAN_OF_NORMAL
from dials_postrefine.stills.kernels import (
    LENGTH,
    N_CONSTANTS,
    ROTATED,
    part,
    part_calculate,
    part_constants,
    part_longest,
)
from dials_postrefine.stills.model import (
    LN_MOSAICITY,
    LN_NOTHING,
    LN_RADIUS,
    LN_SCALE,
    MAX_RELATIVE_VARIANCE,
    N_PARAMETERS,
)

# Where counts begin: a plain 0 is a type of its own to numba, for which it would compile all that takes it once more.
ZERO = np.int64(0)
# Columns of the figures.
N_KEPT, BEFORE, AFTER, MODEL, PARTIAL, N_FIGURES = range(6)

jit = compiler(
    "dials_postrefine.numerics.loops",
    "dials_postrefine.numerics.correlation",
    "dials_postrefine.numerics.robust",
    "dials_postrefine.stills.kernels",
    "dials_postrefine.stills.model",
    error_model="numpy",
)


@part
def _start_radius(k, data, c, start_radius, mosaic, x, work):
    """Fill the shape's start in x (7,): r_s = start_radius RMS(r_h); NaN where there is none; work (n,)."""
    first, n = data.first[k], data.first[k + 1] - data.first[k]
    total, length = 0.0, c[LENGTH]
    for i in range(first, first + n):
        along = c[ROTATED] * data.q[i, 0] + c[ROTATED + 1] * data.q[i, 1] + c[ROTATED + 2] * data.q[i, 2]
        numerator = data.q_sq[i] + 2.0 * along
        total += (numerator / (np.sqrt(max(numerator + length * length, 0.0)) + length)) ** 2
    rms = start_radius * np.sqrt(total / n) if n else 0.0
    x[LN_MOSAICITY] = LN_NOTHING
    x[LN_RADIUS] = np.log(rms) if rms > 0.0 else np.nan
    if mosaic and rms > 0.0:
        for i in range(n):
            work[i] = data.q_sq[first + i]
        # half of r_s^2 to each of its parts at the middle of the resolution range
        x[LN_RADIUS] -= 0.5 * np.log(2.0)
        x[LN_MOSAICITY] = x[LN_RADIUS] - 0.5 * np.log(part_median(work, n))


@jit
def start_lattices(data, profile, start_radius, mosaic):
    """
    Where fits start that have nothing to go on from: lattice.start_values.

    Parameters
    ----------
    data : KernelData
        Of L lattices, n reflections; NaN in its reference.
    profile : KernelProfile
    start_radius : float
        r_s in units of RMS(r_h).
    mosaic : bool
        Whether the radius has two parts.

    Returns
    -------
    x : ndarray, shape (L, 7)
        ln G is NaN where no positive slope exists, and so is ln r_0 without observations.
    mean_root : ndarray, shape (L,)
        The mean of sqrt(I_calc/I_ref) at G = 1.
    """
    n_lattices = len(data.first) - 1
    x, mean_root = np.zeros((n_lattices, N_PARAMETERS)), np.full(n_lattices, np.nan)
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    work = np.empty((3, part_longest(data.first)))
    for k in range(n_lattices):
        part_constants(x[k], data.s0[k], profile.exponent, c)
        _start_radius(k, data, c, start_radius, mosaic, x[k], work[0])
        part_constants(x[k], data.s0[k], profile.exponent, c)
        x_k, n, total = x[k], ZERO, 0.0
        for i in range(data.first[k], data.first[k + 1]):
            y, p = part_calculate(x_k, c, data, i, profile, derivatives)
            total += np.sqrt(y)
            if np.isfinite(data.reference[i]):
                work[0, n], work[1, n] = data.intensity[i], y * data.reference[i]
                n += 1
        slope = part_slope(work[0], work[1], n, work[2]) if np.isfinite(x_k[LN_RADIUS]) else np.nan
        x_k[LN_SCALE] = np.log(slope) if slope > 0.0 else np.nan
        if data.first[k + 1] > data.first[k]:
            mean_root[k] = total / (data.first[k + 1] - data.first[k])
    return x, mean_root


@jit
def weigh_lattices(numbers, x, data, profile, by_sigma, model_error):
    """
    Fill the weights of some lattices' reflections as lattice.py has them.

    Parameters
    ----------
    numbers : ndarray of int, shape (l,)
        Which of the L lattices.
    x : ndarray, shape (L, 7)
    data : KernelData
        Of which weight changes.
    profile : KernelProfile
    by_sigma : bool
        The weighting, `sigma` or `unit`.
    model_error : float
    """
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    work = np.empty((2, part_longest(data.first)))
    for k in numbers:
        part_constants(x[k], data.s0[k], profile.exponent, c)
        first, n = data.first[k], data.first[k + 1] - data.first[k]
        residual, sizes = work[0], work[1]
        for i in range(n):
            y, p = part_calculate(x[k], c, data, first + i, profile, derivatives)
            i_calc = y * data.reference[first + i]
            residual[i] = abs(data.intensity[first + i] - i_calc)
            data.weight[first + i] = 1.0 / np.sqrt(data.variance[first + i] + (model_error * i_calc) ** 2)
        if not by_sigma:
            for i in range(n):
                sizes[i] = residual[i]
            spread = part_median(sizes, n)
            for i in range(n):
                data.weight[first + i] = 1.0 / spread if spread > 0.0 else 1.0
        for i in range(n):
            sizes[i] = data.weight[first + i] * residual[i]
        width = max(1.0, part_median(sizes, n) / MEDIAN_OF_NORMAL)
        for i in range(n):
            data.weight[first + i] /= width


@jit
def spread_lattices(x, data, profile):
    """
    What the parameters say of each reflection.

    Parameters
    ----------
    x : ndarray, shape (L, 7)
    data : KernelData
        Of L lattices, n reflections; their intensities do not matter.
    profile : KernelProfile

    Returns
    -------
    recorded : ndarray, shape (n,)
        I_calc/I_ref.
    p : ndarray, shape (n,)
    """
    n = len(data.q_sq)
    recorded, p = np.empty(n), np.empty(n)
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    for k in range(len(x)):
        part_constants(x[k], data.s0[k], profile.exponent, c)
        for i in range(data.first[k], data.first[k + 1]):
            recorded[i], p[i] = part_calculate(x[k], c, data, i, profile, derivatives)
    return recorded, p


@part
def _relative_variance(y, derivatives, covariance, known, n_known):
    """g^T C g with g = d ln I_calc/dx, over the parameters known[:n_known], that have a variance."""
    total = 0.0
    for one in range(n_known):
        a = known[one]
        inner = 0.5 * covariance[a, a] * derivatives[a]
        for two in range(one):
            inner += covariance[a, known[two]] * derivatives[known[two]]
        total += 2.0 * derivatives[a] * inner
    total /= y * y
    return min(max(total, 0.0), MAX_RELATIVE_VARIANCE) if np.isfinite(total) else MAX_RELATIVE_VARIANCE


@part
def _signed_root(intensity):
    return np.sqrt(intensity) if intensity >= 0.0 else -np.sqrt(-intensity)


@part
def _judge(k, recorded, p, data, threshold, figures, work):
    """Fill the figures (5,) of lattice k; work (4, n)."""
    n_kept, n = ZERO, ZERO
    for i in range(data.first[k], data.first[k + 1]):
        if p[i] >= threshold:
            n_kept += 1
            if np.isfinite(data.reference[i]):
                work[0, n], work[1, n] = data.intensity[i], data.reference[i]
                work[2, n] = data.intensity[i] / recorded[i]
                n += 1
    figures[N_KEPT] = n_kept
    figures[BEFORE] = part_correlation(work[0], work[1], n)
    figures[AFTER] = part_correlation(work[2], work[1], n)
    n = ZERO
    for i in range(data.first[k], data.first[k + 1]):
        if np.isfinite(data.reference[i]):
            work[0, n] = _signed_root(data.intensity[i])
            work[1, n] = _signed_root(recorded[i] * data.reference[i])
            work[2, n] = np.sqrt(recorded[i])
            work[3, n] = work[2, n] * data.q_sq[i]
            n += 1
    figures[MODEL] = part_correlation(work[0], work[1], n)
    figures[PARTIAL] = part_partial_correlation(work, n)


@jit
def conclude_lattices(numbers, x, covariance, data, profile, threshold):
    """
    Partialities, their variances and what some lattices are judged by.

    Parameters
    ----------
    numbers : ndarray of int, shape (l,)
        Which of the L lattices.
    x : ndarray, shape (L, 7)
    covariance : ndarray, shape (L, 7, 7)
    data : KernelData
        n reflections; NaN in its reference.
    profile : KernelProfile
    threshold : float
        Of the partialities that are kept.

    Returns
    -------
    p : ndarray, shape (n,)
        Zero of the other lattices.
    variance : ndarray, shape (n,)
        Of ln(G e p r_0/r_s), MAX_RELATIVE_VARIANCE of the other lattices.
    figures : ndarray, shape (l, N_FIGURES)
        Number above the threshold, correlations before and after, of the model, and partial, as LatticeFit has them.
    """
    n = len(data.q_sq)
    recorded, p, variance = np.zeros(n), np.zeros(n), np.full(n, MAX_RELATIVE_VARIANCE)
    figures = np.empty((len(numbers), N_FIGURES))
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    known = np.empty(N_PARAMETERS, np.int64)
    work = np.empty((4, part_longest(data.first)))
    for number in range(len(numbers)):
        k = numbers[number]
        n_known = ZERO
        for a in range(N_PARAMETERS):
            if covariance[k, a, a] != 0.0:
                known[n_known] = a
                n_known += 1
        part_constants(x[k], data.s0[k], profile.exponent, c)
        for i in range(data.first[k], data.first[k + 1]):
            recorded[i], p[i] = part_calculate(x[k], c, data, i, profile, derivatives)
            variance[i] = _relative_variance(recorded[i], derivatives, covariance[k], known, n_known)
        _judge(k, recorded, p, data, threshold, figures[number], work)
    return p, variance, figures
