"""
The compiled loops of the batched engine: covariances at the minimum, by sandwich.sandwich_hc3 lattice by lattice.

    C = H^-1 (J^T W^2 u^2 D J + P) H^-1,      H = J^T psi' J + P,      D_i = 1/(1 - h_i)^2

in the units of the parameters that make the diagonal of J^T J + P one, P the restraints.  The rows of a lattice's
Jacobian stand in the array that the minimisation has too (kernels.py).
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.numerics.compiled import compiler
from dials_postrefine.numerics.sandwich import MAX_LEVERAGE, SINGULAR
from dials_postrefine.stills.kernels import (
    N_CONSTANTS,
    N_ROWS,
    part,
    part_calculate,
    part_constants,
    part_longest,
    part_loss,
    part_product,
)
from dials_postrefine.stills.model import N_PARAMETERS

# Rows of a lattice's array after those of the free parameters.
RESIDUAL, CURVATURE, SPREAD = range(N_PARAMETERS, N_ROWS)
MOST_SWEEPS = 30

jit = compiler(
    "dials_postrefine.numerics.sandwich",
    "dials_postrefine.numerics.robust",
    "dials_postrefine.stills.kernels",
    "dials_postrefine.stills.model",
    error_model="numpy",
)


@part
def _diagonalise(matrix, vectors):
    """Rotations of Jacobi: the eigenvalues of a symmetric matrix (n, n) on its diagonal, their vectors in columns."""
    n = len(matrix)
    for a in range(n):
        for b in range(n):
            vectors[a, b] = 1.0 if a == b else 0.0
    for _ in range(MOST_SWEEPS):
        off, size = 0.0, 0.0
        for a in range(n):
            size += matrix[a, a] ** 2
            for b in range(a):
                off += matrix[a, b] ** 2
        if not off > 1e-34 * size:
            return
        for a in range(n):
            for b in range(a):
                if matrix[a, b] == 0.0:
                    continue
                theta = 0.5 * (matrix[b, b] - matrix[a, a]) / matrix[a, b]
                t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                t = t if theta >= 0.0 else -t
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for i in range(n):
                    one, two = matrix[i, a], matrix[i, b]
                    matrix[i, a], matrix[i, b] = c * one - s * two, s * one + c * two
                for i in range(n):
                    one, two = matrix[a, i], matrix[b, i]
                    matrix[a, i], matrix[b, i] = c * one - s * two, s * one + c * two
                for i in range(n):
                    one, two = vectors[i, a], vectors[i, b]
                    vectors[i, a], vectors[i, b] = c * one - s * two, s * one + c * two


@part
def _inverse(matrix):
    """The inverse (n, n) of a symmetric matrix, which is destroyed, and whether there is one."""
    n = len(matrix)
    vectors, inverse = np.empty((n, n)), np.zeros((n, n))
    _diagonalise(matrix, vectors)
    low, high = matrix[0, 0], matrix[0, 0]
    for a in range(1, n):
        low, high = min(low, matrix[a, a]), max(high, matrix[a, a])
    if not (low > SINGULAR * high and high > 0.0):
        return inverse, False
    for a in range(n):
        for b in range(n):
            for e in range(n):
                inverse[a, b] += vectors[a, e] * vectors[b, e] / matrix[e, e]
    return inverse, True


@part
def _rows(k, x, data, problem, units, work):
    """Fill the rows of a lattice's Jacobian in their units (n_free,), and its residuals."""
    free, first, n = problem.free, data.first[k], data.first[k + 1] - data.first[k]
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    part_constants(x, data.s0[k], problem.profile.exponent, c)
    for i in range(n):
        y, p = part_calculate(x, c, data, first + i, problem.profile, derivatives)
        full = data.weight[first + i] * data.reference[first + i]
        work[RESIDUAL, i] = full * y - data.weight[first + i] * data.intensity[first + i]
        for a in range(len(free)):
            work[a, i] = full * derivatives[free[a]]
    for a in range(len(free)):
        units[a] = np.sqrt(part_product(work[a], work[a], n) + problem.precision[free[a]])
        for i in range(n):
            work[a, i] /= units[a]


@part
def _weighted_products(weight, problem, units, n, work):
    """J^T diag(weight) J + P (n_free, n_free)."""
    n_free = len(units)
    matrix, product = np.empty((n_free, n_free)), np.empty(n)
    for a in range(n_free):
        for i in range(n):
            product[i] = work[a, i] * weight[i]
        for b in range(a + 1):
            matrix[a, b] = matrix[b, a] = part_product(product, work[b], n)
        matrix[a, a] += problem.precision[problem.free[a]] / units[a] ** 2
    return matrix


@part
def _leverages(inverse, n, work):
    """Put j_i H^-1 j_i in the row SPREAD."""
    for i in range(n):
        work[SPREAD, i] = 0.0
    for a in range(len(inverse)):
        for b in range(a + 1):
            factor = inverse[a, a] if a == b else 2.0 * inverse[a, b]
            for i in range(n):
                work[SPREAD, i] += factor * work[a, i] * work[b, i]


@part
def _covariance(k, x, data, problem, covariance, work):
    """Fill the covariance (7, 7) of lattice k."""
    free, n = problem.free, data.first[k + 1] - data.first[k]
    n_free, n_restraints = len(free), 0
    units = np.empty(n_free)
    for a in range(n_free):
        covariance[free[a], free[a]] = np.inf
        n_restraints += problem.precision[free[a]] > 0.0
    _rows(k, x, data, problem, units, work)
    least = units[0]
    for a in range(n_free):
        least = min(least, units[a])
    if n + n_restraints <= n_free or not least > 0.0:
        return
    for which in range(2):  # psi' of a loss that is not convex may give no positive matrix
        for i in range(n):
            rho, outer, slope = part_loss(problem.loss, work[RESIDUAL, i] ** 2)
            work[CURVATURE, i] = slope if which == 0 else outer
        inverse, exists = _inverse(_weighted_products(work[CURVATURE], problem, units, n, work))
        if not exists:
            continue
        _leverages(inverse, n, work)
        for i in range(n):
            leverage = min(max(work[CURVATURE, i] * work[SPREAD, i], 0.0), MAX_LEVERAGE)
            rho, outer, slope = part_loss(problem.loss, work[RESIDUAL, i] ** 2)
            work[SPREAD, i] = (outer * work[RESIDUAL, i] / (1.0 - leverage)) ** 2
        middle = _weighted_products(work[SPREAD], problem, units, n, work)
        for a in range(n_free):
            for b in range(n_free):
                total = 0.0
                for e in range(n_free):
                    for g in range(n_free):
                        total += inverse[a, e] * middle[e, g] * inverse[g, b]
                covariance[free[a], free[b]] = total / (units[a] * units[b])
        return


@jit
def covariances(numbers, x, data, problem):
    """
    The covariances of some lattices at their minimum (module docstring).

    Parameters
    ----------
    numbers : ndarray of int, shape (l,)
        Which of the L lattices.
    x : ndarray, shape (L, 7)
    data : KernelData
    problem : KernelTask

    Returns
    -------
    ndarray, shape (l, 7, 7)
        Zero where fixed, infinite on the diagonal where the data do not determine the parameters.
    """
    covariance = np.zeros((len(numbers), N_PARAMETERS, N_PARAMETERS))
    work = np.empty((N_ROWS, part_longest(data.first)))
    for number in range(len(numbers)):
        k = numbers[number]
        _covariance(k, x[k], data, problem, covariance[number], work)
    return covariance
