"""
The compiled loops of the batched engine: the objective of leastsquares.py, minimised lattice by lattice.

The model is that of model.py, written out for one reflection.  Of a lattice whatever its normal equations need stands
in one small array, a row for each free parameter, so that the sums of products run over neighbours in memory.  A
lattice's sums are over its own rows in their order, and do not depend on what else is in a chunk.

    (H + lambda diag(H)) s = -g,      H = J^T psi' J + restraints,   g = J^T W u + restraints,

lambda x 8 where a step is refused (it does not lower f, or leaves the bounds), / 5 where it is taken; done once a step
is below `step_threshold` in units of 1/sqrt(diag(H)) at the start, relative to the parameters there.

model.py under scitbx.lstbx (leastsquares.py) says the same with arrays, and is what the tests hold this to, to 1e-6 and
better.  Sources: postrefinement.md, recipe; Marquardt (1963), J. Soc. Indust. Appl. Math. 11, 431.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from dials_postrefine.numerics.compiled import PART, compiler
from dials_postrefine.numerics.leastsquares import CURVATURE_FLOOR
from dials_postrefine.numerics.robust import HUBER_K, STUDENT_NU
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    MAX_EXPONENT,
    N_PARAMETERS,
    THETA_X,
    THETA_Y,
)

FIRST_DAMPING = 1e-3
LAST_DAMPING = 1e10
# A step is cut to this length in ln G, B, theta_x, theta_y, ln r_0, ln eta and epsilon, so that none leaps out of the
# basin of the current minimum.
LONGEST_STEP = np.array([1.0, 5.0, np.radians(0.05), np.radians(0.05), 0.5, 0.7, 1e-3])
HARD_SPHERE, PEARSON_VII, GAUSSIAN = range(3)
LINEAR, HUBER, STUDENT_T = range(3)
LN2 = np.log(2.0)
# What is shared by all reflections of a lattice (_constants).
ROTATED, ROTATED_X, ROTATED_Y = 0, 3, 6
LENGTH, CELL, RADIUS_SQ, MOSAICITY_SQ, RADIUS, SHAPE, N_CONSTANTS = range(9, 16)
# Rows of the array of a lattice after those of the free parameters.
CURVATURE, PULL, PRODUCT = range(N_PARAMETERS, N_PARAMETERS + 3)
N_ROWS = N_PARAMETERS + 3

jit = compiler(
    "dials_postrefine.numerics.leastsquares",
    "dials_postrefine.numerics.robust",
    "dials_postrefine.stills.model",
    error_model="numpy",
)
# What other loops are made of.
part = numba.njit(error_model="numpy", **PART)
# Sums in any order, which only their length decides: neighbours in memory are added together.
sums = numba.njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"}, **PART)


class KernelData(NamedTuple):
    """
    Those of L lattices, n in all: lattice k has the rows first[k] to first[k + 1]; first (L + 1,), q (n, 3) and
    q_sq (n,) in 1/Angstrom, s0 (L, 3), intensity, variance, reference and weight, what multiplies the residuals (n,).
    """

    first: np.ndarray
    q: np.ndarray
    q_sq: np.ndarray
    s0: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    reference: np.ndarray
    weight: np.ndarray


class KernelProfile(NamedTuple):
    """The number of the profile, and the exponent m of Pearson VII."""

    kind: int
    exponent: float


class KernelTask(NamedTuple):
    """
    What is minimised: the numbers of the free parameters (k,), mean and precision = 1/width^2 of the restraints (7,),
    lower and upper bounds (L, 7), the profile, and the number of the loss.
    """

    free: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    profile: KernelProfile
    loss: int


@part
def part_longest(first):
    """
    The most rows that a lattice has.

    Parameters
    ----------
    first : ndarray of int, shape (L + 1,)
        As of KernelData.

    Returns
    -------
    int
    """
    longest = 0
    for k in range(len(first) - 1):
        longest = max(longest, first[k + 1] - first[k])
    return longest


@part
def _profile(profile, a, r_h, per_radius):
    """p, dp/dr_h and dp/dr_s (partiality.py) from r_h and 1/r_s; a is that of Pearson VII."""
    kind, m = profile
    t = r_h * per_radius
    t_sq = t * t
    if kind == HARD_SPHERE:
        if t_sq >= 1.0:
            return 0.0, 0.0, 0.0
        return 1.0 - t_sq, -2.0 * t * per_radius, 2.0 * t_sq * per_radius
    if kind == GAUSSIAN:
        p = np.exp(-2.0 * LN2 * t_sq)
        slope = 4.0 * LN2 * p * per_radius
    else:
        u = 1.0 + a * t_sq
        p = 1.0 / u if m == 1.0 else np.exp(-m * np.log1p(a * t_sq))
        slope = 2.0 * m * a * p * per_radius / u
    return p, -slope * t, slope * t_sq


@part
def part_loss(kind, z):
    """
    rho, rho' and psi' at z = u^2 (robust.py).

    Parameters
    ----------
    kind : int
        LINEAR, HUBER or STUDENT_T.
    z : float

    Returns
    -------
    rho, weight, curvature : float
    """
    if kind == LINEAR:
        return z, 1.0, 1.0
    if kind == HUBER:
        if z <= HUBER_K * HUBER_K:
            return z, 1.0, 1.0
        size = np.sqrt(z)
        return 2.0 * HUBER_K * size - HUBER_K * HUBER_K, HUBER_K / size, 0.0
    n = STUDENT_NU
    return (n + 1.0) * np.log1p(z / n), (n + 1.0) / (n + z), (n + 1.0) * (n - z) / (n + z) ** 2


@part
def part_constants(x, s0, m, c):
    """
    What all reflections of a lattice share: R^T s0 and its derivatives, |s0|, k, r_0^2, eta^2, r_0 and a.

    Parameters
    ----------
    x : ndarray, shape (7,)
        The parameters (model.py).
    s0 : ndarray, shape (3,)
        1/Angstrom.
    m : float
        The exponent of Pearson VII, which a is of (partiality.py).
    c : ndarray, shape (N_CONSTANTS,)
        Filled, from ROTATED to SHAPE; k = 1 + epsilon.
    """
    cos_x, sin_x, cos_y, sin_y = np.cos(x[THETA_X]), np.sin(x[THETA_X]), np.cos(x[THETA_Y]), np.sin(x[THETA_Y])
    # R = R_y R_x; c[ROTATED:] = R^T s0, c[ROTATED_X:] = (R_y dR_x)^T s0, c[ROTATED_Y:] = (dR_y R_x)^T s0
    along = s0[0] * cos_y - s0[2] * sin_y
    across = s0[0] * sin_y + s0[2] * cos_y
    c[ROTATED] = along
    c[ROTATED + 1] = s0[1] * cos_x + across * sin_x
    c[ROTATED + 2] = -s0[1] * sin_x + across * cos_x
    c[ROTATED_X] = 0.0
    c[ROTATED_X + 1] = -s0[1] * sin_x + across * cos_x
    c[ROTATED_X + 2] = -s0[1] * cos_x - across * sin_x
    d_along = -s0[0] * sin_y - s0[2] * cos_y
    d_across = s0[0] * cos_y - s0[2] * sin_y
    c[ROTATED_Y] = d_along
    c[ROTATED_Y + 1] = d_across * sin_x
    c[ROTATED_Y + 2] = d_across * cos_x
    c[LENGTH] = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    c[CELL] = 1.0 + x[CELL_SCALE]
    c[RADIUS_SQ] = np.exp(2.0 * x[LN_RADIUS])
    c[MOSAICITY_SQ] = np.exp(2.0 * x[LN_MOSAICITY])
    c[RADIUS] = np.exp(x[LN_RADIUS])
    c[SHAPE] = 2.0 * np.expm1(LN2 / m)


@part
def part_calculate(x, c, data, i, profile, derivatives):
    """
    I_calc/I_ref and p of reflection i; fills derivatives of the former by the parameters.

    Parameters
    ----------
    x : ndarray, shape (7,)
        The parameters of its lattice (model.py).
    c : ndarray, shape (N_CONSTANTS,)
        Of its lattice, by part_constants.
    data : KernelData
    i : int
        The row in data.
    profile : KernelProfile
    derivatives : ndarray, shape (7,)
        Filled.

    Returns
    -------
    y, p : float
    """
    q_x, q_y, q_z, q_sq = data.q[i, 0], data.q[i, 1], data.q[i, 2], data.q_sq[i]
    along = c[ROTATED] * q_x + c[ROTATED + 1] * q_y + c[ROTATED + 2] * q_z
    squared = c[CELL] * q_sq
    numerator = c[CELL] * (squared + 2.0 * along)
    length = np.sqrt(max(numerator + c[LENGTH] * c[LENGTH], 0.0))
    r_h = numerator / (length + c[LENGTH])
    per_length = 1.0 / length
    turn = c[CELL] * per_length
    r_s = np.sqrt(c[RADIUS_SQ] + c[MOSAICITY_SQ] * q_sq)
    per_radius = 1.0 / r_s
    height = c[RADIUS] * per_radius
    p, dp_dr_h, dp_dr_s = _profile(profile, c[SHAPE], r_h, per_radius)
    full = np.exp(min(max(x[LN_SCALE] - 2.0 * x[B_FACTOR] * q_sq, -MAX_EXPONENT), MAX_EXPONENT)) * height
    y = full * p
    slope = full * dp_dr_h
    share = height * height
    wider = full * dp_dr_s * r_s
    derivatives[LN_SCALE] = y
    derivatives[B_FACTOR] = -2.0 * q_sq * y
    derivatives[THETA_X] = slope * turn * (c[ROTATED_X] * q_x + c[ROTATED_X + 1] * q_y + c[ROTATED_X + 2] * q_z)
    derivatives[THETA_Y] = slope * turn * (c[ROTATED_Y] * q_x + c[ROTATED_Y + 1] * q_y + c[ROTATED_Y + 2] * q_z)
    derivatives[LN_RADIUS] = share * wider + (1.0 - share) * y
    derivatives[LN_MOSAICITY] = (1.0 - share) * (wider - y)
    derivatives[CELL_SCALE] = slope * (squared + along) * per_length
    return y, p


@part
def _evaluate(k, x, data, problem, hessian, gradient, work):
    """f of lattice k at x (7,); fills H (7, 7) and g (7,) of its free parameters; work (N_ROWS, n)."""
    free = problem.free
    n_free = len(free)
    c, derivatives = np.empty(N_CONSTANTS), np.empty(N_PARAMETERS)
    part_constants(x, data.s0[k], problem.profile.exponent, c)
    first, last = data.first[k], data.first[k + 1]
    f = 0.0
    for i in range(first, last):
        y, p = part_calculate(x, c, data, i, problem.profile, derivatives)
        w = data.weight[i]
        u = w * (y * data.reference[i] - data.intensity[i])
        rho, outer, slope = part_loss(problem.loss, u * u)
        f += rho
        w *= data.reference[i]
        work[CURVATURE, i - first] = max(slope, CURVATURE_FLOOR * outer) * w * w
        work[PULL, i - first] = outer * u * w
        for a in range(n_free):
            work[a, i - first] = derivatives[free[a]]
    for a in range(n_free):
        gradient[a] = part_product(work[a], work[PULL], last - first)
        for i in range(last - first):
            work[PRODUCT, i] = work[a, i] * work[CURVATURE, i]
        for b in range(a + 1):
            hessian[a, b] = hessian[b, a] = part_product(work[PRODUCT], work[b], last - first)
        off = x[free[a]] - problem.mean[free[a]]
        precision = problem.precision[free[a]]
        if precision > 0.0:
            f += precision * off * off
            gradient[a] += precision * off
            hessian[a, a] += precision
    return 0.5 * f


@sums
def part_product(one, two, n):
    """
    The sum of products of the first n.

    Parameters
    ----------
    one, two : ndarray, shape (n,) or longer
    n : int

    Returns
    -------
    float
    """
    total = 0.0
    for i in range(n):
        total += one[i] * two[i]
    return total


@part
def _solve(matrix, damping, vector, n, step):
    """step (n,) of (matrix + damping diag) step = -vector by Cholesky's decomposition; whether there is one."""
    floor = 0.0
    for a in range(n):
        floor = max(floor, matrix[a, a])
    floor = 1e-12 * floor + 1e-300
    lower = np.empty((n, n))
    for a in range(n):
        for b in range(a + 1):
            total = matrix[a, b]
            if a == b:
                total += damping * max(matrix[a, a], floor)
            for i in range(b):
                total -= lower[a, i] * lower[b, i]
            if a == b:
                if not total > 0.0:
                    return False
                lower[a, a] = np.sqrt(total)
            else:
                lower[a, b] = total / lower[b, b]
    for a in range(n):
        total = -vector[a]
        for i in range(a):
            total -= lower[a, i] * step[i]
        step[a] = total / lower[a, a]
    for a in range(n - 1, -1, -1):
        total = step[a]
        for i in range(a + 1, n):
            total -= lower[i, a] * step[i]
        step[a] = total / lower[a, a]
    return True


@part
def _minimise(k, x, data, problem, n_max_iterations, step_threshold, work):
    """Move x (7,) of lattice k to its minimum; f there and the number of iterations, f NaN of a singular matrix."""
    free = problem.free
    n = len(free)
    hessian, gradient, step = np.empty((n, n)), np.empty(n), np.empty(n)
    next_hessian, next_gradient = np.empty((n, n)), np.empty(n)
    f = _evaluate(k, x, data, problem, hessian, gradient, work)
    unit = np.empty(n)
    for a in range(n):
        unit[a] = np.sqrt(max(hessian[a, a], 1e-300))
    damping = FIRST_DAMPING
    trial = x.copy()
    for iteration in range(n_max_iterations):
        if not _solve(hessian, damping, gradient, n, step):
            return np.nan, iteration
        size, norm, longest = 0.0, 0.0, 1.0
        for a in range(n):
            size += (step[a] * unit[a]) ** 2
            norm += (x[free[a]] * unit[a]) ** 2
            longest = max(longest, abs(step[a]) / LONGEST_STEP[free[a]])
        if not np.sqrt(size) > step_threshold * (np.sqrt(norm) + step_threshold):
            return f, iteration
        inside = True
        for a in range(n):
            j = free[a]
            trial[j] = x[j] + step[a] / longest
            inside = inside and problem.lower[k, j] <= trial[j] <= problem.upper[k, j]
        better = False
        if inside:
            value = _evaluate(k, trial, data, problem, next_hessian, next_gradient, work)
            better = value < f
        if better:
            f = value
            for a in range(n):
                x[free[a]] = trial[free[a]]
            hessian, next_hessian = next_hessian, hessian
            gradient, next_gradient = next_gradient, gradient
            damping *= 0.2
        else:
            damping *= 8.0
            if not damping < LAST_DAMPING:
                return f, iteration + 1
    return f, n_max_iterations


@jit
def minimise_lattices(numbers, x, data, problem, n_max_iterations, step_threshold):
    """
    Move some lattices' x (L, 7), in place, to their minimum over the free parameters.

    Parameters
    ----------
    numbers : ndarray of int, shape (l,)
        Which of the L lattices.
    x : ndarray, shape (L, 7)
        Stays as it is of a lattice whose normal matrix is singular.
    data : KernelData
    problem : KernelTask
    n_max_iterations : int
    step_threshold : float
        Module docstring.

    Returns
    -------
    f : ndarray, shape (l,)
        NaN of a lattice whose normal matrix is singular.
    n_iterations : ndarray of int, shape (l,)
    """
    n_lattices = len(numbers)
    f, n_iterations = np.empty(n_lattices), np.zeros(n_lattices, np.int64)
    work, start = np.empty((N_ROWS, part_longest(data.first))), np.empty(N_PARAMETERS)
    for number in range(n_lattices):
        k = numbers[number]
        for a in range(N_PARAMETERS):
            start[a] = x[k, a]
        f[number], n_iterations[number] = _minimise(k, x[k], data, problem, n_max_iterations, step_threshold, work)
        if np.isnan(f[number]):
            for a in range(N_PARAMETERS):
                x[k, a] = start[a]
    return f, n_iterations
