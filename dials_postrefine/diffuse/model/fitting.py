"""
Weighted least squares of a model to a map, scale and background eliminated.

    minimise sum_v w_v [I_obs - k I(theta) - sum_m c_m phi_m]^2

and where a parameter has a prior (parameters.py) its theta^2/variance is added.

k and c_m are solved for at each theta; theta moves by Levenberg and Marquardt's steps of the Jacobian
(k dI/dtheta, I, phi) whose linear columns are projected out, which are the steps of the whole problem.  Weights are
1/variance; where sigmas are Poisson's they follow what is calculated, as those of the counts pull to low values.  With
robust losses, residuals beyond CLIP standard deviations count as these.

Standard deviations are those of the whole problem (scale and background free), times sqrt(chi^2) where that is above 1,
or those of the sandwich A^-1 [sum_blocks g_b g_b'] A^-1 where these are larger: A is the normal matrix, g_b the
gradient of a block of neighbouring voxels, in which what a model lacks has one sign (Huber-White, clustered).
Scale and width of a motion are nearly one number where q^2 sigma^2 is small: of a map in absolute units k may be held
(Problem.scale), which determines the other.

A parameter at a limit, or whose standard deviation is above half of its range, is not determined by the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.voxels import Voxels

MOST_STEPS = 40
SMALLEST_STEP = 1e-2  # standard deviations
SMALLEST_GAIN = 1e-2  # of chi^2, times what it is a voxel
CLIP = 4.0
REWEIGHTED = 2  # times


@dataclass
class Fit:
    """
    A fitted model: values and esds by parameter, k and its esd (0 where k is held), the correlations of parameters and
    scale, calculated (n,) in the units of the map with the background, chi_sq per degree of freedom of what was fitted,
    which parameters are not determined, and whether it converged.
    """

    name: str
    names: list[str]
    units: list[str]
    values: np.ndarray
    esds: np.ndarray
    scale: float
    scale_esd: float
    correlations: np.ndarray
    background: np.ndarray
    calculated: np.ndarray
    isotropic: np.ndarray
    variance: np.ndarray
    chi_sq: float
    undetermined: list[str] = field(default_factory=list)
    converged: bool = True


@dataclass
class Problem:
    """
    What is fitted: the voxels, the functions of the background (m, n), which voxels are used, robust or not, and the k
    that is held, None where it is fitted.
    """

    voxels: Voxels
    functions: np.ndarray
    used: np.ndarray
    robust: bool = False
    scale: float | None = None


@dataclass
class _Solution:
    """Scale and background at values of the parameters: weighted columns and residuals, roots of the weights."""

    scale: float
    background: np.ndarray
    root: np.ndarray
    columns: np.ndarray
    residual: np.ndarray
    cost: float


def fit(model: Model, problem: Problem, start: np.ndarray | None = None) -> Fit:
    """
    Fit a model.

    Parameters
    ----------
    model : Model
    problem : Problem
    start : ndarray (p,) or None
        None: where the parameters say.

    Returns
    -------
    Fit
    """
    low = np.array([one.low for one in model.parameters])
    high = np.array([one.high for one in model.parameters])
    values = np.array([one.start for one in model.parameters] if start is None else start, float)
    expected = np.full(len(problem.voxels), problem.voxels.intensity[problem.used].mean())
    converged = True
    for _ in range(REWEIGHTED if problem.voxels.poisson is not None or problem.robust else 1):
        variance = problem.voxels.variance(expected)
        values, solution, converged = _minimise(model, problem, variance, values, (low, high))
        expected = solution.scale * model.evaluate(values)[0] + solution.background @ problem.functions
    return _describe(model, problem, values, variance, converged)


def fit_background(problem: Problem) -> Fit:
    """
    The background alone: what any model has to be better than.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    Fit
    """
    return fit(_Nothing(len(problem.voxels)), problem)


class _Nothing:
    name = "background"
    parameters = ()

    def __init__(self, n: int):
        self.n = n

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.n), np.zeros((0, self.n))


def _columns(intensity: np.ndarray, problem: Problem) -> np.ndarray:
    """The linear columns (1 + m, n); of a model without intensity, or of one whose scale is held, the background's."""
    free = problem.scale is None and intensity.any()
    return np.concatenate([intensity[None], problem.functions]) if free else problem.functions


def _solve(intensity: np.ndarray, problem: Problem, weight: np.ndarray) -> _Solution:
    used = problem.used
    columns = _columns(intensity, problem)
    held = 0.0 if problem.scale is None else problem.scale
    part, y = columns[:, used], problem.voxels.intensity[used] - held * intensity[used]
    w = weight[used]
    for _ in range(4 if problem.robust else 1):
        root = np.sqrt(w)
        norm = np.sqrt(((part * root) ** 2).sum(axis=1))
        norm[norm == 0.0] = 1.0
        linear = np.linalg.lstsq(((part / norm[:, None]) * root).T, root * y, rcond=1e-11)[0] / norm
        residual = y - linear @ part
        if problem.robust:
            z = np.abs(residual) * np.sqrt(weight[used])
            w = weight[used] * np.minimum(1.0, CLIP / np.maximum(z, 1e-12))
    root = np.sqrt(w)
    scale, background = (linear[0], linear[1:]) if len(linear) > len(problem.functions) else (held, linear)
    return _Solution(scale, background, root, part * root, residual * root, float((w * residual**2).sum()))


def _minimise(model, problem, variance, values, limits):
    """Levenberg and Marquardt's steps: values, the solution there, whether they converged."""
    weight = 1.0 / variance
    precision = np.array([one.precision for one in model.parameters])
    intensity, derivatives = model.evaluate(values)
    solution = _solve(intensity, problem, weight)
    if not len(values) or not intensity.any():
        return values, solution, True
    damping = 1e-3
    for _ in range(MOST_STEPS):
        jacobian = solution.scale * derivatives[:, problem.used] * solution.root
        basis = np.linalg.qr(solution.columns.T)[0]
        jacobian = jacobian - (jacobian @ basis) @ basis.T
        normal, gradient = jacobian @ jacobian.T + np.diag(precision), jacobian @ solution.residual - precision * values
        # what would leave its limits stays there
        free = np.where(gradient > 0.0, values < limits[1], values > limits[0]) & (np.diag(normal) > 0.0)
        size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
        better = False
        while free.any() and damping < 1e6:
            part = normal[np.ix_(free, free)]
            step = np.zeros(len(values))
            step[free] = np.linalg.solve(part + damping * np.diag(np.diag(part)), gradient[free])
            trial = np.clip(values + step, *limits)
            moved = (np.abs(trial - values) * size).max()
            if moved < SMALLEST_STEP:
                break
            intensity, derivatives_there = model.evaluate(trial)
            there = _solve(intensity, problem, weight)
            gain = solution.cost - there.cost + precision @ (values**2 - trial**2)
            if gain >= 0.0:
                better = True
                break
            damping = max(10.0 * damping, 1e-2)
        if not better:
            return values, solution, True
        values, solution, derivatives = trial, there, derivatives_there
        damping = max(damping / 10.0, 1e-9)
        if gain < SMALLEST_GAIN * max(1.0, solution.cost / problem.used.sum()):
            return values, solution, True
    return values, solution, False


def _describe(model: Model, problem: Problem, values: np.ndarray, variance: np.ndarray, converged: bool) -> Fit:
    intensity, derivatives = model.evaluate(values)
    weight = 1.0 / variance
    solution = _solve(intensity, problem, weight)
    columns = _columns(intensity, problem)
    has_scale = len(columns) > len(problem.functions)
    scale, background = solution.scale, solution.background
    whole = np.concatenate([scale * derivatives, columns])[:, problem.used] * np.sqrt(weight[problem.used])
    norm = np.sqrt((whole**2).sum(axis=1))
    norm[norm == 0.0] = 1.0
    whole /= norm[:, None]
    normal = whole @ whole.T
    precision = [one.precision for one in model.parameters]
    normal[np.diag_indices(len(precision))] += np.array(precision) / norm[: len(precision)] ** 2
    covariance = np.linalg.pinv(normal, rcond=1e-13, hermitian=True) / np.outer(norm, norm)
    n_free = max(1, problem.used.sum() - len(whole))
    chi_sq = solution.cost / n_free
    n = len(values) + has_scale
    block = problem.voxels.blocks()[problem.used]
    gradients = np.array([np.bincount(block, row * solution.residual) for row in whole]) * norm[:, None]
    clustered = np.diag(covariance @ (gradients @ gradients.T) @ covariance)[:n] if block.max() > len(whole) else 0.0
    esds = np.sqrt(np.maximum(np.maximum(np.diag(covariance)[:n], 0.0) * max(chi_sq, 1.0), clustered))
    root = np.sqrt(np.maximum(np.diag(covariance)[:n], 1e-300))
    undetermined = [
        one.name
        for one, value, esd in zip(model.parameters, values, esds)
        if not one.low < value < one.high
        or one.precision == 0.0
        and esd > 0.5 * abs(value) + 1e-3 * (one.high - one.low)
    ]
    isotropic = background @ problem.functions
    return Fit(
        model.name,
        [one.name for one in model.parameters],
        [one.unit for one in model.parameters],
        values,
        esds[: len(values)],
        float(scale),
        float(esds[-1]) if has_scale else 0.0,
        covariance[:n, :n] / np.outer(root, root),
        background,
        scale * intensity + isotropic,
        isotropic,
        variance,
        float(chi_sq),
        undetermined,
        converged,
    )
