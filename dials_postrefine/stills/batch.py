"""
Many lattices at once: the objective of leastsquares.py, minimised by one vectorised Levenberg-Marquardt.

The reflections of all lattices lie in one array, sorted by lattice; the normal matrices (L, k, k) are sums over each
lattice's rows (`np.add.reduceat`) and are solved as a stack.  Each lattice has its own damping,

    (H + lambda diag(H)) s = -g,      H = J^T psi' J + restraints,   g = J^T W u + restraints,

lambda x 8 where a step is refused (it does not lower f, or leaves the bounds), / 5 where it is taken, and is done once
its step is below `step_threshold` in units of 1/sqrt(diag(H)) relative to its parameters there, as in leastsquares.py.
What is done is left out of the next evaluation.  The start, the residuals and the minimum are those of leastsquares.py;
only the way differs.  Source: postrefinement.md, recipe; Marquardt (1963).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.leastsquares import (
    CURVATURE_FLOOR,
    Bounds,
    Iterations,
    Minimum,
    Restraint,
    near_bounds,
)
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.sandwich import sandwich_hc3
from dials_postrefine.stills.model import JoinedObservations, calculate_with_jacobian

FIRST_DAMPING = 1e-3
LAST_DAMPING = 1e10
# A step is cut to this length in ln G, B, theta_x, theta_y, ln r_0, ln eta and epsilon, so that none leaps out of the
# basin of the current minimum.
LONGEST_STEP = np.array([1.0, 5.0, np.radians(0.05), np.radians(0.05), 0.5, 0.7, 1e-3])


@dataclass(frozen=True)
class JoinedObjective:
    """
    The objectives f of L lattices (leastsquares.py), independent of one another.

    Parameters
    ----------
    observations : JoinedObservations
        Those of L lattices, n reflections sorted by lattice, and of each lattice at least one.
    weight : ndarray, shape (n,)
        What multiplies the residuals.
    free : ndarray of int, shape (k,)
        The parameters that are refined.
    profile, loss : str
        Of partiality.PROFILES and robust.LOSSES.
    restraint : Restraint
        Of all 7 parameters.
    """

    observations: JoinedObservations
    weight: np.ndarray
    free: np.ndarray
    profile: str
    loss: str
    restraint: Restraint

    def residuals(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u (n,) and du/dx (n, k) at x (L, 7)."""
        y, jacobian = calculate_with_jacobian(x, self.observations, self.profile)
        return self.weight * (y - self.observations.intensity), self.weight[:, None] * jacobian[:, self.free]

    def select(self, lattices: np.ndarray) -> JoinedObjective:
        """The same of these lattices alone, given by their numbers, and numbered anew."""
        observations, n_lattices = self.observations, len(self.observations.s0)
        rows = np.isin(observations.lattice, lattices) if len(lattices) < n_lattices else slice(None)
        part = observations.select(rows)
        number = np.zeros(n_lattices, dtype=int)
        number[lattices] = np.arange(len(lattices))
        part.lattice, part.s0 = number[part.lattice], observations.s0[lattices]
        return replace(self, observations=part, weight=self.weight[rows])

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """f (L,), H (L, k, k) and g (L, k) at x (L, 7) (module docstring)."""
        first = np.searchsorted(self.observations.lattice, np.arange(len(x)))
        u, jacobian = self.residuals(x)
        rho, outer, slope = LOSSES[self.loss](u * u)
        precision = self.restraint.width[self.free] ** -2.0
        away = x[:, self.free] - self.restraint.mean[self.free]
        f = 0.5 * np.add.reduceat(rho, first) + 0.5 * np.sum(precision * away**2, axis=1)
        columns = jacobian.T
        curvature = np.maximum(slope, CURVATURE_FLOOR * outer)
        k = len(self.free)
        hessian, gradient = np.empty((len(x), k, k)), precision * away
        for i in range(k):
            gradient[:, i] += np.add.reduceat(outer * u * columns[i], first)
            for j in range(i, k):
                hessian[:, i, j] = hessian[:, j, i] = np.add.reduceat(curvature * columns[i] * columns[j], first)
        hessian[:, range(k), range(k)] += precision
        return f, hessian, gradient

    def covariances(self, x: np.ndarray) -> np.ndarray:
        """The covariance (L, 7, 7) of the parameters at the minima x (L, 7), zero for what is not free."""
        covariance = np.zeros((len(x), x.shape[1], x.shape[1]))
        u, jacobian = self.residuals(x)
        edges = np.searchsorted(self.observations.lattice, np.arange(len(x) + 1))
        for k in range(len(x)):
            rows = slice(edges[k], edges[k + 1])
            covariance[k][np.ix_(self.free, self.free)] = sandwich_hc3(
                u[rows], jacobian[rows], self.loss, self.restraint.width[self.free]
            )
        return covariance


@dataclass
class _Progress:
    """Where L lattices stand: x (L, 7), f, H and g there, the damping (L,), iterations (L,), units of steps (L, k)."""

    x: np.ndarray
    f: np.ndarray
    hessian: np.ndarray
    gradient: np.ndarray
    damping: np.ndarray
    n_iterations: np.ndarray
    unit: np.ndarray

    def solve(self, active: np.ndarray, free: np.ndarray, step_threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the active lattices those that are not done yet, and their next steps."""
        damped = self.hessian[active]
        diagonal = np.einsum("ijj->ij", damped)
        floor = 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        diagonal += self.damping[active, None] * np.maximum(diagonal, floor)
        step = -np.linalg.solve(damped, self.gradient[active][..., None])[..., 0]
        size = np.linalg.norm(step * self.unit[active], axis=1)
        norm = np.linalg.norm(self.x[active][:, free] * self.unit[active], axis=1)
        going = size > step_threshold * (norm + step_threshold)
        active, step = active[going], step[going]
        return active, step / np.maximum(1.0, np.max(np.abs(step) / LONGEST_STEP[free], axis=1))[:, None]

    def move(self, active: np.ndarray, trial: np.ndarray, inside: np.ndarray, objective: JoinedObjective) -> None:
        """Take the active lattices (m,) to trial (m, 7) where that is inside the bounds and lowers f."""
        better = np.zeros(len(active), dtype=bool)
        if inside.any():
            tried = active[inside]
            f, hessian, gradient = objective.select(tried).evaluate(trial[inside])
            better[inside] = f < self.f[tried]
            taken = better[inside]
            moved = tried[taken]
            self.f[moved], self.hessian[moved], self.gradient[moved] = f[taken], hessian[taken], gradient[taken]
            self.x[moved] = trial[inside][taken]
        self.damping[active] *= np.where(better, 0.2, 8.0)


def minimise_many(
    objective: JoinedObjective,
    x: np.ndarray,
    bounds: Bounds,
    iterations: Iterations = Iterations(),
    esds: bool = True,
) -> list[Minimum]:
    """
    Minimise f of each lattice over the free parameters (module docstring).

    Parameters
    ----------
    objective : JoinedObjective
        Of L lattices.
    x : ndarray, shape (L, 7)
        The start, as model.py orders it.
    bounds : Bounds
        Each (L, 7).
    iterations : Iterations
        The threshold of the step in units of 1/sqrt(diag(H)).
    esds : bool
        Without them the covariances are zero.

    Returns
    -------
    list of L Minimum

    Raises
    ------
    numpy.linalg.LinAlgError
        Where the normal matrix of a lattice is singular.
    """
    n_lattices, free = len(x), objective.free
    x = x.copy()
    active = np.arange(n_lattices)
    f, hessian, gradient = objective.evaluate(x)
    unit = np.sqrt(np.maximum(hessian[:, range(len(free)), range(len(free))], 1e-300))
    damping, n_iterations = np.full(n_lattices, FIRST_DAMPING), np.zeros(n_lattices, dtype=int)
    progress = _Progress(x, f, hessian, gradient, damping, n_iterations, unit)
    for _ in range(iterations.n_max):
        if not len(active):
            break
        active, step = progress.solve(active, free, iterations.step_threshold)
        if not len(active):
            break
        trial = x[active]
        trial[:, free] += step
        n_iterations[active] += 1
        inside = np.all((trial >= bounds.lower[active]) & (trial <= bounds.upper[active]), axis=1)
        progress.move(active, trial, inside, objective)
        active = active[damping[active] < LAST_DAMPING]
    covariance = objective.covariances(x) if esds else np.zeros((n_lattices, x.shape[1], x.shape[1]))
    at_bound = near_bounds(x, bounds) & np.isin(np.arange(x.shape[1]), free)
    return [Minimum(x[k], covariance[k], float(f[k]), int(n_iterations[k]), at_bound[k]) for k in range(n_lattices)]
