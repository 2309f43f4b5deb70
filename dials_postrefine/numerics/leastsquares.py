"""
Robust non-linear least squares by scitbx.lstbx.

The objective is

    f(x) = 1/2 sum_i rho(u_i^2) + 1/2 sum_j ((x_j - m_j)/s_j)^2,     u_i = w_i (y_i(x) - y_obs,i)

with rho one of the losses of robust.py.  Its gradient is J^T W u with W = rho'(u^2), the weights of iterative
reweighting; they are renewed at every build-up, and because f itself judges each Levenberg-Marquardt step they converge
together with the parameters: no outer loop is needed.  The curvature is psi' = rho' + 2 u^2 rho'' in place of rho',
which keeps the convergence of Gauss-Newton where plain reweighting takes four times the iterations (Triggs et al. 2000,
Bundle adjustment, section 4.3); it is floored where the loss is concave.  The normal equations are
J^T psi' J s = -J^T W u.  f is divided by a constant so that it is of order one.  The second sum restrains parameters to
means m within widths s; an infinite width is none.

lstbx damps with mu I, mu = tau max(diag), while the column of ln r_s can be a thousand times the others: parameter i is
refined in units of 1/sqrt(diag_i) of the first normal matrix (Jacobi preconditioning).  Bounds are kept by calling the
objective infinite outside the box: the step is refused and the damping grows.  Where they are limits at which a
parameter may well be (Bounds.hold), a step ends there, and what the gradient drives against them is left out of the
next one (an active set).

Esds are those of the sandwich estimator HC3 (sandwich.py).  Sources: Madsen, Nielsen and Tingleff (2004), Methods for
non-linear least squares problems, section 3.2; Triggs et al. as above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scitbx.array_family import flex
from scitbx.lstbx import normal_eqns, normal_eqns_solving

from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.sandwich import sandwich_hc3

CURVATURE_FLOOR = 0.1
NEAR_BOUND = 1e-3  # of the range between the bounds


@dataclass(frozen=True)
class Restraint:
    """The means (k,) and widths (k,) of the parameters' restraints; an infinite width is none."""

    mean: np.ndarray
    width: np.ndarray


def no_restraint(k: int) -> Restraint:
    """
    The restraint of k parameters that restrains none.

    Parameters
    ----------
    k : int

    Returns
    -------
    Restraint
        Mean and width of shape (k,).
    """
    return Restraint(np.zeros(k), np.full(k, np.inf))


@dataclass(frozen=True)
class Bounds:
    """
    The lowest and highest values of the parameters, lower and upper: (k,) of one problem, (L, k) of L problems; with
    hold a step that would leave them ends there, else it is refused.
    """

    lower: np.ndarray
    upper: np.ndarray
    hold: bool = False


def no_bounds(k: int) -> Bounds:
    """
    The bounds of k parameters that may have any value.

    Parameters
    ----------
    k : int

    Returns
    -------
    Bounds
        Of shape (k,).
    """
    return Bounds(np.full(k, -np.inf), np.full(k, np.inf))


@dataclass(frozen=True)
class Objective:
    """
    What is minimised, f(x) (module docstring).

    Parameters
    ----------
    evaluate : callable
        Of x (k,) the weighted residuals u (n,) and their derivatives du/dx (n, k).
    loss : str
        One of robust.LOSSES.
    restraint : Restraint, optional
        Of all k parameters.
    norm : float
        What f is divided by, so that it is of order one.
    """

    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    loss: str = "linear"
    restraint: Restraint | None = None
    norm: float = 1.0


@dataclass(frozen=True)
class Iterations:
    """
    When a minimisation ends: after n_max iterations, or at a step below step_threshold relative to the parameters, in
    the units of the preconditioner.
    """

    n_max: int = 50
    step_threshold: float = 1e-6


@dataclass
class Minimum:
    """
    Where a minimisation ended: all parameters x (k,), covariance (k, k) with zeros where fixed, f(x) as objective, the
    number of iterations, and which of the free parameters are at a bound (k,).
    """

    x: np.ndarray
    covariance: np.ndarray
    objective: float
    n_iterations: int
    at_bound: np.ndarray


class NormalEquations(normal_eqns.non_linear_ls, normal_eqns.non_linear_ls_mixin):
    """
    Normal equations of f over the free parameters, for scitbx.lstbx.normal_eqns_solving.

    free lists the indices of the parameters that are refined, bounds are those of all.  u and its derivatives are
    evaluated once for each x: most steps are accepted, so that what judges a step also makes the next equations.
    """

    def __init__(self, objective: Objective, x: np.ndarray, free: Sequence[int], bounds: Bounds) -> None:
        super().__init__(n_parameters=len(free))
        restraint = no_restraint(len(x)) if objective.restraint is None else objective.restraint
        self._evaluate = objective.evaluate
        self._free = np.asarray(free)
        self._loss = LOSSES[objective.loss]
        self._lower, self._upper, self._hold = bounds.lower, bounds.upper, bounds.hold
        self._norm = 1.0 / float(objective.norm)
        self._mean, self._precision = restraint.mean[self._free], restraint.width[self._free] ** -2.0
        self._objective = np.inf
        self._move_to(np.array(x, dtype=float))
        columns = self._jacobian[:, self._free]
        diagonal = (np.einsum("ij,ij->j", columns, columns) + self._precision) * self._norm
        # a parameter without any influence keeps its unit: the damping holds it where it is
        self._unit = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))

    def _move_to(self, x):
        self.x = x
        if np.all(x >= self._lower) and np.all(x <= self._upper):
            self.u, self._jacobian = self._evaluate(x)
            self._rho, self._weight, self._slope = self._loss(self.u * self.u)
            restraints = np.sum(self._precision * (x[self._free] - self._mean) ** 2)
            self._objective = 0.5 * self._norm * float(np.sum(self._rho) + restraints)
        else:
            self._objective = np.inf

    @property
    def jacobian(self):
        """du/dx (n, k) at x."""
        return self._jacobian

    def build_up(self, objective_only=False):
        """The normal equations at x, unless objective_only: the objective is known since the step."""
        if objective_only:
            return
        self.reset()
        jacobian = self._jacobian[:, self._free] * self._unit
        precision, distance = self._precision.copy(), self.x[self._free] - self._mean
        if self._hold:
            stuck = self._against_bounds(jacobian)
            jacobian[:, stuck], distance[stuck] = 0.0, 0.0
            precision[stuck] = 1.0 / (self._norm * self._unit[stuck] ** 2)
        curvature = np.maximum(self._slope, CURVATURE_FLOOR * self._weight)
        self.add_equations(
            flex.double(self.u * self._weight / curvature),
            flex.double(np.ascontiguousarray(jacobian)),
            flex.double(curvature * self._norm),
        )
        self.add_equations(flex.double(distance), flex.double(np.diag(self._unit)), flex.double(precision * self._norm))

    def _against_bounds(self, jacobian):
        """Which free parameters are at a bound that f would have them leave."""
        x = self.x[self._free]
        gradient = jacobian.T @ (self.u * self._weight) + self._precision * (x - self._mean) * self._unit
        low, high = x <= self._lower[self._free], x >= self._upper[self._free]
        return low & (gradient > 0.0) | high & (gradient < 0.0)

    def objective(self):
        """f(x), infinite outside the bounds."""
        return self._objective

    def parameter_vector_norm(self):
        """|x| of the free parameters in their units."""
        return float(np.linalg.norm(self.x[self._free] / self._unit))

    def step_forward(self):
        """Take the step that was solved for."""
        self._before = {name: getattr(self, name) for name in STATE}
        x = self.x.copy()
        x[self._free] += self.step().as_numpy_array() * self._unit
        self._move_to(np.clip(x, self._lower, self._upper) if self._hold else x)

    def step_backward(self):
        """Undo the step, exactly."""
        vars(self).update(self._before)


STATE = ("x", "u", "_jacobian", "_rho", "_weight", "_slope", "_objective")


def minimise(
    objective: Objective,
    x: ArrayLike,
    free: Sequence[int],
    bounds: Bounds | None = None,
    iterations: Iterations = Iterations(),
) -> Minimum:
    """
    Minimise f over the free parameters by preconditioned Levenberg-Marquardt (module docstring).

    Parameters
    ----------
    objective : Objective
    x : array_like, shape (k,)
        The start.
    free : sequence of int
        The parameters that are refined, one at least.
    bounds : Bounds, optional
    iterations : Iterations

    Returns
    -------
    Minimum

    Raises
    ------
    RuntimeError
        From lstbx's Cholesky decomposition, where the normal matrix has no inverse.
    """
    free, bounds = list(free), no_bounds(np.size(x)) if bounds is None else bounds
    equations, n_iterations = descend(objective, x, free, bounds, iterations)
    restraint = no_restraint(np.size(x)) if objective.restraint is None else objective.restraint
    x = equations.x
    covariance = np.zeros((len(x), len(x)))
    covariance[np.ix_(free, free)] = sandwich_hc3(
        equations.u, equations.jacobian[:, free], objective.loss, restraint.width[free]
    )
    at_bound = near_bounds(x, bounds) & np.isin(np.arange(len(x)), free)
    return Minimum(x, covariance, equations.objective() * objective.norm, n_iterations, at_bound)


def descend(
    objective: Objective,
    x: ArrayLike,
    free: Sequence[int],
    bounds: Bounds,
    iterations: Iterations = Iterations(),
) -> tuple[NormalEquations, int]:
    """
    The steps of minimise alone, for objectives whose esds are found otherwise.

    Parameters
    ----------
    objective, x, free, bounds, iterations
        As minimise has them.

    Returns
    -------
    equations : NormalEquations
        At the minimum: equations.x, equations.u, equations.jacobian.
    n_iterations : int

    Raises
    ------
    RuntimeError
        From lstbx's Cholesky decomposition, where the normal matrix has no inverse.
    """
    equations = NormalEquations(objective, np.asarray(x, dtype=float), free, bounds)
    found = normal_eqns_solving.levenberg_marquardt_iterations(
        equations, n_max_iterations=iterations.n_max, tau=1e-3, step_threshold=iterations.step_threshold
    )
    return equations, found.n_iterations


def near_bounds(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """
    Which parameters are within NEAR_BOUND of the range between their bounds of one of them.

    Parameters
    ----------
    x : ndarray, shape (k,) or (L, k)
    bounds : Bounds
        Of the same shape, or (k,).

    Returns
    -------
    ndarray of bool, shape of x
    """
    extent = bounds.upper - bounds.lower
    near = NEAR_BOUND * np.where(np.isfinite(extent), extent, 0.0)
    return (x - bounds.lower < near) | (bounds.upper - x < near)
