"""
Gauss-Newton with variable projection, and the esds.

The residuals and derivatives of goodness.py go to numerics/leastsquares.py (scitbx.lstbx, Levenberg-Marquardt).  The
esds are of the inverse of the normal matrix of ALL parameters, scale and backgrounds among them, times the reduced
chi^2 where this is above 1:

    chi^2_red = chi^2/(n - p),    cov = max(1, chi^2_red) (J^T J)^-1

n unmasked pixels, p free parameters with scales and backgrounds.  Of a metric without variances it is the reduced chi^2
that scales the matrix, whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.fine.goodness import Comparison, Linear
from dials_postrefine.electron.fine.model import PatternModel
from dials_postrefine.electron.fine.parameters import Parameters
from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Objective, minimise, no_bounds


@dataclass(frozen=True)
class FineProblem:
    """What is fitted: a model, what it is compared with, whether the variances are known."""

    model: PatternModel
    comparison: Comparison
    known_variance: bool = True

    @property
    def n(self) -> int:
        """Unmasked pixels."""
        return int(np.count_nonzero(self.comparison.weight))


@dataclass
class FineCourse:
    """chi^2 and the free parameters at each evaluation."""

    chi2: list[float] = field(default_factory=list)
    x: list[np.ndarray] = field(default_factory=list)

    def add(self, chi2: float, x: np.ndarray) -> None:
        """Remember an evaluation."""
        self.chi2.append(float(chi2))
        self.x.append(np.array(x))


@dataclass(frozen=True)
class FineFit:
    """
    A fit.

    Attributes
    ----------
    parameters : Parameters
    simulated : ndarray, shape (d, n)
        t.
    linear : Linear
    chi2 : float
    n, n_parameters : int
    covariance : ndarray, shape (p, p)
        Of the free parameters, then of scales and backgrounds.
    course : FineCourse
    """

    parameters: Parameters
    simulated: np.ndarray
    linear: Linear
    chi2: float
    n: int
    n_parameters: int
    covariance: np.ndarray
    course: FineCourse

    @property
    def chi2_reduced(self) -> float:
        """chi^2 over pixels less parameters."""
        return self.chi2 / (self.n - self.n_parameters)

    def esds(self) -> dict[str, float]:
        """Of the free parameters, by name."""
        return dict(zip(self.parameters.free, np.sqrt(np.diag(self.covariance)).tolist()))

    def linear_esds(self) -> np.ndarray:
        """Of the scales, then of the backgrounds."""
        return np.sqrt(np.diag(self.covariance))[len(self.parameters.free) :]


def gauss_newton(
    problem: FineProblem,
    parameters: Parameters,
    n_max: int = 30,
    progress: Callable[[int], None] = lambda _: None,
    tolerance: float = 1e-6,
) -> FineFit:
    """
    Refine the free parameters.

    Parameters
    ----------
    problem : FineProblem
    parameters : Parameters
        The start.
    n_max : int
        Iterations.
    progress : callable
        Told the number of each evaluation.
    tolerance : float
        Step, relative to the parameters, below which the iterations end.

    Returns
    -------
    FineFit

    Raises
    ------
    Unusable
        Where there is no minimum to be found.
    """
    course = FineCourse()

    def evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        simulated, derivatives = problem.model.differentiate(parameters.at(x), parameters.free)
        residuals = problem.comparison.eliminate(simulated).residuals
        course.add(np.sum(residuals**2), x)
        progress(len(course.chi2))
        used = problem.comparison.weight > 0.0
        return residuals[used], problem.comparison.projected(simulated, derivatives)[:, used].T

    try:
        found = minimise(
            Objective(evaluate, norm=_norm(problem)),
            parameters.x,
            range(len(parameters.free)),
            bounds_of(parameters),
            Iterations(n_max, tolerance),
        )
    except RuntimeError:
        raise Unusable("the parameters can't be told from one another by these pixels: refine fewer of them") from None
    return finish(problem, replace(parameters, values=parameters.at(found.x)), course)


def finish(problem: FineProblem, parameters: Parameters, course: FineCourse) -> FineFit:
    """
    t, scale, backgrounds, chi^2 and covariance at parameters.

    Parameters
    ----------
    problem : FineProblem
    parameters : Parameters
    course : FineCourse
        How these were found.

    Returns
    -------
    FineFit
    """
    simulated, derivatives = problem.model.differentiate(parameters.values, parameters.free)
    linear = problem.comparison.eliminate(simulated)
    chi2 = float(np.sum(linear.residuals**2))
    root = np.sqrt(problem.comparison.weight)
    columns = np.concatenate([root * linear.scale[:, None] * derivatives, problem.comparison.linear_columns(simulated)])
    columns = columns[:, problem.comparison.weight > 0.0]
    n_parameters = len(columns)
    reduced = chi2 / max(problem.n - n_parameters, 1)
    covariance = _inverse(columns @ columns.T) * (max(1.0, reduced) if problem.known_variance else reduced)
    return FineFit(parameters, simulated, linear, chi2, problem.n, n_parameters, covariance, course)


def bounds_of(parameters: Parameters) -> Bounds:
    """
    The bounds of the free parameters: their ranges about the start where these bound; sigma and gamma are not negative.

    Parameters
    ----------
    parameters : Parameters

    Returns
    -------
    Bounds
    """
    bounds = no_bounds(len(parameters.free))
    if parameters.bound:
        bounds = Bounds(parameters.x - parameters.half_ranges(), parameters.x + parameters.half_ranges())
    least = [{"sigma": 0.05, "gamma": 0.0, "thickness": 1.0}.get(name, -np.inf) for name in parameters.free]
    return Bounds(np.maximum(bounds.lower, least), bounds.upper)


def _norm(problem: FineProblem) -> float:
    return float(problem.n) if problem.known_variance else 1.0


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a normal matrix, by units of its diagonal; what has no influence has no esd: infinite."""
    unit = 1.0 / np.sqrt(np.where(np.diag(matrix) > 0.0, np.diag(matrix), 1.0))
    try:
        inverse = np.linalg.inv(matrix * unit * unit[:, None])
    except np.linalg.LinAlgError:
        inverse = np.full(matrix.shape, np.nan)
    return inverse * unit * unit[:, None]
