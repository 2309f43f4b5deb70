"""
Weighted least squares of a model to a map, scale and background eliminated.

    minimise sum_v w_v [I_obs - k I(theta) - sum_m c_m phi_m]^2

and where a parameter has a prior (parameters.py) its theta^2/variance is added.

k and c_m are solved for at each theta (variable projection; Golub and Pereyra, SIAM J. Numer. Anal. 1973, 10, 413, with
Kaufman's Jacobian: k dI/dtheta from which the columns I and phi are projected out, whose steps are those of the whole
problem); theta moves by numerics/leastsquares.py.  Symmetry equivalents have one I, so that a model is evaluated at one
voxel of each orbit, with the mean of its intensities and the sum of its weights: the minimum is the same, as scatter
within orbits is a constant, which is added to chi^2.  Sums over voxels are those of the normal equations alone: of J
(p, n) and the residuals u, N = J J', J u and u.u; the minimiser is given a problem of p + 1 rows that has the same.

Weights are 1/variance; where sigmas are Poisson's they follow what is calculated, as those of the counts pull to low
values.  With robust losses, residuals beyond CLIP standard deviations count as these.

Standard deviations are those of the whole problem (scale and background free), times sqrt(chi^2) where that is above 1,
or those of the sandwich A^-1 [sum_blocks g_b g_b'] A^-1 where these are larger: A is the normal matrix, g_b the
gradient of a block of neighbouring voxels, in which what a model lacks has one sign (Huber-White, clustered).
Scale and width of a motion are nearly one number where q^2 sigma^2 is small: of a map in absolute units k may be held
(Problem.scale), which determines the other.

A direction of parameter space whose eigenvalue of the normal matrix is below RELATIVE is one that rounding can't tell
from 0: it counts with this eigenvalue, which makes the standard deviations of its parameters large.  A parameter at a
limit, or whose standard deviation is above half of itself, is not determined by the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.positive_tensors import PositiveTensors
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Objective, Restraint, descend

ITERATIONS = Iterations(40, 1e-5)
CLIP = 4.0
FEWEST = 10  # voxels a parameter
REWEIGHTED = 2  # times
ROBUST = 8  # times
RELATIVE = 1e-13  # eigenvalues of normal matrices, relative to the largest one, below which they are nothing
WIDEST = 1e4  # ranges of a parameter: the width of a restraint that changes nothing


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


@dataclass(frozen=True)
class Orbits:
    """Of voxels of which some are equivalents: the first one of each orbit (d,), and the orbit of each (n,), of int."""

    first: np.ndarray
    row: np.ndarray


@dataclass
class Problem:
    """
    What is fitted: the voxels (n), the functions of the background (m, n), which voxels are used, robust or not, and
    the k that is held, None where it is fitted; with orbits, models are those of `distinct` voxels, one of each orbit.
    """

    voxels: Voxels
    functions: np.ndarray
    used: np.ndarray
    robust: bool = False
    scale: float | None = None
    orbits: Orbits | None = None

    @cached_property
    def distinct(self) -> Voxels:
        """The voxels at which a model has to be evaluated."""
        return self.voxels if self.orbits is None else self.voxels.select(self.orbits.first)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the distinct voxels (d,) at all of them (n,)."""
        return values if self.orbits is None else values[self.orbits.row]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Sums (d,) of values (n,) over the used voxels of each orbit."""
        values = np.where(self.used, values, 0.0)
        return values if self.orbits is None else np.bincount(self.orbits.row, values, len(self.orbits.first))


def join_equivalents(problem: Problem) -> Problem:
    """
    The problem with models evaluated at one voxel of each orbit.

    Parameters
    ----------
    problem : Problem
        Whose voxels are used or not by orbits.

    Returns
    -------
    Problem
    """
    _, first, row = np.unique(problem.voxels.orbit, return_index=True, return_inverse=True)
    return problem if len(first) == len(row) else replace(problem, orbits=Orbits(first, row.reshape(-1)))


@dataclass
class _Data:
    """The used distinct voxels, means y (d,), weights w, functions (m, d), and the cost of scatter within orbits."""

    chosen: np.ndarray
    y: np.ndarray
    w: np.ndarray
    functions: np.ndarray
    within: float


@dataclass
class _Solution:
    """Scale and background at values of the parameters, residuals of the distinct used voxels, and their cost."""

    scale: float
    background: np.ndarray
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

    Raises
    ------
    CannotModel
        For fewer voxels than FEWEST a parameter.
    """
    values = np.array([one.start for one in model.parameters] if start is None else start, float)
    free = sum(one.precision == 0.0 for one in model.parameters) + len(problem.functions) + 1
    if problem.used.sum() < FEWEST * free:
        raise CannotModel(
            f"{problem.used.sum()} voxels are too few to fit the {free} parameters of {model.name} with its scale and "
            "background: take a lower d_min, fewer parameters, or a smaller background.n."
        )
    voxels, first = problem.voxels, problem.functions
    functions = first if problem.orbits is None else first[:, problem.orbits.first]
    variance = voxels.variance(np.full(len(voxels), voxels.intensity[problem.used].mean()))
    weight, rounds = 1.0 / variance, ROBUST if problem.robust else 1 if voxels.poisson is None else REWEIGHTED
    for number in range(rounds):
        data = _gather(problem, functions, weight)
        objective = _Projected(model, data, problem.scale)
        values, converged = _minimise(objective, values)
        at = objective.at(values)
        calculated = problem.spread(at.solution.scale * at.intensity + at.solution.background @ functions)
        if number < rounds - 1:
            variance = voxels.variance(calculated)
            weight = 1.0 / variance
            if problem.robust:
                weight *= np.minimum(
                    1.0, CLIP / np.maximum(np.abs(voxels.intensity - calculated) / variance**0.5, 1e-12)
                )
    found = _describe(model, problem, data, at, values)
    return replace(
        found,
        calculated=calculated,
        isotropic=problem.spread(at.solution.background @ functions),
        variance=variance,
        converged=converged,
    )


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
    return fit(_Nothing(len(problem.distinct)), problem)


class _Nothing:
    name = "background"
    parameters = ()

    def __init__(self, n: int):
        self.n = n

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.n), np.zeros((0, self.n))


def _gather(problem: Problem, functions: np.ndarray, weight: np.ndarray) -> _Data:
    """What is fitted with weights (n,) of the voxels."""
    intensity, w = problem.voxels.intensity, problem.gather(weight)
    chosen = np.flatnonzero(w > 0.0)
    y = problem.gather(weight * np.where(problem.used, intensity, 0.0))[chosen] / w[chosen]
    squares = problem.gather(weight * np.where(problem.used, intensity, 0.0) ** 2)[chosen]
    within = float((squares - w[chosen] * y**2).sum()) if problem.orbits is not None else 0.0
    return _Data(chosen, y, w[chosen], functions[:, chosen], within)


@dataclass
class _At:
    """What is at values of the parameters: I and derivatives of the distinct voxels, N, J u (module docstring)."""

    intensity: np.ndarray
    derivatives: np.ndarray
    solution: _Solution
    normal: np.ndarray
    gradient: np.ndarray


class _Projected:
    """The problem of the parameters alone, scale and background being solved for."""

    def __init__(self, model: Model, data: _Data, scale: float | None):
        self.model, self.data, self.scale = model, data, scale
        self.of_functions = (data.functions * data.w) @ data.functions.T
        self.known: dict[bytes, _At] = {}

    def at(self, values: np.ndarray) -> _At:
        """What is there; of the last places it is known."""
        key = np.asarray(values, float).tobytes()
        if key not in self.known:
            if len(self.known) > 1:
                del self.known[next(iter(self.known))]
            self.known[key] = self._calculate(values)
        return self.known[key]

    def _calculate(self, values: np.ndarray) -> _At:
        data = self.data
        intensity, derivatives = self.model.evaluate(values)
        used, slopes = intensity[data.chosen], derivatives[:, data.chosen]
        free = bool(self.scale is None and used.any())
        linear, inverse = self._linear(used, free)
        scale, background = (linear[0], linear[1:]) if free else (self.scale or 0.0, linear)
        residual = data.y - scale * used - background @ data.functions
        solution = _Solution(float(scale), background, residual, float(data.w @ residual**2))
        weighted = slopes * data.w
        shared = np.concatenate([weighted @ used[None].T] * free + [weighted @ data.functions.T], axis=1)
        normal = scale**2 * (weighted @ slopes.T - shared @ inverse @ shared.T)
        return _At(intensity, derivatives, solution, normal, scale * (weighted @ residual))

    def _linear(self, intensity: np.ndarray, free: bool) -> tuple[np.ndarray, np.ndarray]:
        """The linear parameters, k first where it is free, and the inverse of their normal matrix."""
        data = self.data
        weighted = data.w * intensity
        y = data.y if free else data.y - (self.scale or 0.0) * intensity
        normal, right = self.of_functions, data.functions @ (data.w * y)
        if free:
            side = data.functions @ weighted
            normal = np.block([[np.array([[weighted @ intensity]]), side[None]], [side[:, None], normal]])
            right = np.concatenate([[weighted @ y], right])
        inverse = inverse_of(normal)
        return inverse @ right, inverse

    def compressed(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (p + 1,) and their derivatives (p + 1, p) with the N, the gradient and the cost of all."""
        at = self.at(values)
        size = np.sqrt(np.maximum(np.diag(at.normal), 0.0))
        unit = np.where(size > 0.0, size, 1.0)
        strength, axes = np.linalg.eigh(at.normal / np.outer(unit, unit))
        root = np.sqrt(np.maximum(strength, RELATIVE**0.75))
        jacobian = root[:, None] * axes.T * unit
        jacobian[:, size == 0.0] = 0.0
        residual = -(axes.T @ (at.gradient / unit)) / root
        rest = np.sqrt(max(at.solution.cost - residual @ residual, 0.0))
        return np.append(residual, rest), np.concatenate([jacobian, np.zeros((1, len(size)))])


def inverse_of(normal: np.ndarray) -> np.ndarray:
    """
    The inverse of a normal matrix, of what it determines: for steps and solutions, not for standard deviations.

    Parameters
    ----------
    normal : ndarray (m, m)

    Returns
    -------
    ndarray (m, m)
    """
    norm = np.sqrt(np.maximum(np.diag(normal), 0.0))
    norm[norm == 0.0] = 1.0
    return np.linalg.pinv(normal / np.outer(norm, norm), rcond=RELATIVE, hermitian=True) / np.outer(norm, norm)


def _minimise(objective: _Projected, values: np.ndarray) -> tuple[np.ndarray, bool]:
    """The values at the minimum, and whether the steps converged."""
    start = objective.at(values)
    if not len(values) or not np.diag(start.normal).any():
        return values, True
    with np.errstate(divide="ignore"):
        width = np.array([one.precision for one in objective.model.parameters]) ** -0.5
    form = PositiveTensors(objective.model.parameters)
    # where the scale becomes 0 nothing else holds a parameter, and the normal matrix would have no inverse
    width = np.minimum(width, WIDEST * (form.upper - form.lower))

    def evaluate(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual, jacobian = objective.compressed(form.values(moved))
        return residual, jacobian @ form.slopes(moved)

    goal = Objective(evaluate, restraint=Restraint(np.zeros(len(width)), width), norm=float(len(objective.data.y)))
    bounds = Bounds(form.lower, form.upper, hold=True)
    equations, n = descend(goal, form.moved(values), range(len(values)), bounds, ITERATIONS)
    return form.values(equations.x), n < ITERATIONS.n_max


def _describe(model: Model, problem: Problem, data: _Data, at: _At, values: np.ndarray) -> Fit:
    """The fit with its standard deviations, but for what is at all voxels."""
    used, n_values = at.intensity[data.chosen], len(values)
    has_scale = bool(problem.scale is None and used.any())
    scale = at.solution.scale
    whole = [scale * at.derivatives[:, data.chosen], *([used[None]] if has_scale else []), data.functions]
    whole = np.concatenate(whole)
    norm = np.sqrt((whole**2) @ data.w)
    norm[norm == 0.0] = 1.0
    normal = (whole * data.w) @ whole.T / np.outer(norm, norm)
    precision = [one.precision for one in model.parameters]
    normal[np.diag_indices(n_values)] += np.array(precision) / norm[:n_values] ** 2
    strength, axes = np.linalg.eigh(normal)
    # a direction of which the map says nothing has a large variance, not none
    root = axes / np.sqrt(np.maximum(strength, RELATIVE * strength[-1]))
    covariance = root @ root.T / np.outer(norm, norm)
    chi_sq = (at.solution.cost + data.within) / max(1, problem.used.sum() - len(whole))
    n = n_values + has_scale
    block = problem.distinct.blocks[data.chosen]
    pull = data.w * at.solution.residual
    gradients = np.array([np.bincount(block, row * pull) for row in whole])
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
    nothing = np.zeros(0)
    return Fit(
        model.name,
        [one.name for one in model.parameters],
        [one.unit for one in model.parameters],
        values,
        esds[:n_values],
        float(scale),
        float(esds[-1]) if has_scale else 0.0,
        covariance[:n, :n] / np.outer(root, root),
        at.solution.background,
        nothing,
        nothing,
        nothing,
        float(chi_sq),
        undetermined,
    )
