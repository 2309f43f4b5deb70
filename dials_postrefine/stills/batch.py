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

from dials_postrefine.numerics.leastsquares import CURVATURE_FLOOR, Minimum, Restraint
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.sandwich import sandwich_hc3
from dials_postrefine.stills.model import Observations, calculate_with_jacobian

FIRST_DAMPING = 1e-3
LAST_DAMPING = 1e10
# A step is cut to this length in ln G, B, theta_x, theta_y, ln r_0, ln eta and epsilon, so that none leaps out of the
# basin of the current minimum.
LONGEST_STEP = np.array([1.0, 5.0, np.radians(0.05), np.radians(0.05), 0.5, 0.7, 1e-3])


def concatenate(lattices: list[Observations]) -> Observations:
    """The observations of many lattices as one."""
    return Observations(
        *(np.concatenate([getattr(one, name) for one in lattices]) for name in ("q", "q_sq")),
        s0=np.array([one.s0 for one in lattices]),
        **{name: np.concatenate([getattr(one, name) for one in lattices]) for name in _VALUES},
        lattice=np.repeat(np.arange(len(lattices)), [len(one) for one in lattices]),
    )


_VALUES = ("intensity", "variance", "reference")


@dataclass(frozen=True)
class _Problem:
    """
    The objectives of L lattices: observations (n), what multiplies their residuals, weight (n,), the k parameters that
    are free (k,), profile, loss and restraint.
    """

    observations: Observations
    weight: np.ndarray
    free: np.ndarray
    profile: str
    loss: str
    restraint: Restraint

    def residuals(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u (n,) and du/dx (n, k) at x (L, 7)."""
        y, jacobian = calculate_with_jacobian(x, self.observations, self.profile)
        return self.weight * (y - self.observations.intensity), self.weight[:, None] * jacobian[:, self.free]

    def part(self, which: np.ndarray, n_lattices: int) -> _Problem:
        """The same of the lattices `which` of n_lattices, numbered anew."""
        observations = self.observations
        rows = np.isin(observations.lattice, which) if len(which) < n_lattices else slice(None)
        part = observations.select(rows)
        number = np.zeros(n_lattices, dtype=int)
        number[which] = np.arange(len(which))
        part.lattice, part.s0 = number[part.lattice], observations.s0[which]
        return replace(self, observations=part, weight=self.weight[rows])

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """f (L,), H (L, k, k) and g (L, k) at x (L, 7) (module docstring)."""
        first = np.searchsorted(self.observations.lattice, np.arange(len(x)))
        u, jacobian = self.residuals(x)
        rho, outer, slope = LOSSES[self.loss](u * u)
        precision = self.restraint.width[self.free] ** -2.0
        off = x[:, self.free] - self.restraint.mean[self.free]
        f = 0.5 * np.add.reduceat(rho, first) + 0.5 * np.sum(precision * off**2, axis=1)
        columns = jacobian.T
        curvature = np.maximum(slope, CURVATURE_FLOOR * outer)
        k = len(self.free)
        hessian, gradient = np.empty((len(x), k, k)), precision * off
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

    def solve(self, at: np.ndarray, free: np.ndarray, step_threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the lattices `at` those that are not done yet, and their next steps."""
        damped = self.hessian[at]
        diagonal = np.einsum("ijj->ij", damped)
        floor = 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        diagonal += self.damping[at, None] * np.maximum(diagonal, floor)
        step = -np.linalg.solve(damped, self.gradient[at][..., None])[..., 0]
        size = np.linalg.norm(step * self.unit[at], axis=1)
        norm = np.linalg.norm(self.x[at][:, free] * self.unit[at], axis=1)
        going = size > step_threshold * (norm + step_threshold)
        at, step = at[going], step[going]
        return at, step / np.maximum(1.0, np.max(np.abs(step) / LONGEST_STEP[free], axis=1))[:, None]

    def move(self, at: np.ndarray, trial: np.ndarray, inside: np.ndarray, problem: _Problem) -> None:
        """Take the lattices `at` to trial (len(at), 7) where that is inside the bounds and lowers f."""
        better = np.zeros(len(at), dtype=bool)
        if inside.any():
            some = at[inside]
            f, hessian, gradient = problem.part(some, len(self.x)).evaluate(trial[inside])
            better[inside] = f < self.f[some]
            taken = better[inside]
            moved = some[taken]
            self.f[moved], self.hessian[moved], self.gradient[moved] = f[taken], hessian[taken], gradient[taken]
            self.x[moved] = trial[inside][taken]
        self.damping[at] *= np.where(better, 0.2, 8.0)


def minimise_many(
    observations: Observations,
    weight: np.ndarray,
    x: np.ndarray,
    free: list[int],
    profile: str,
    loss: str,
    lower: np.ndarray,
    upper: np.ndarray,
    restraint: Restraint,
    n_max_iterations: int = 50,
    step_threshold: float = 1e-6,
    esds: bool = True,
) -> list[Minimum]:
    """
    Minimise f of each lattice over the free parameters (module docstring).

    Parameters
    ----------
    observations : Observations
        Those of L lattices, n reflections sorted by lattice, and of each lattice at least one.
    weight : ndarray, shape (n,)
        What multiplies the residuals.
    x : ndarray, shape (L, 7)
        The start, as model.py orders it.
    free : list of int
        The parameters that are refined.
    profile, loss : str
        Of partiality.PROFILES and robust.LOSSES.
    lower, upper : ndarray, shape (L, 7)
        The bounds.
    restraint : Restraint
        Of all 7 parameters.
    n_max_iterations : int
    step_threshold : float
        Relative to the parameters, in units of 1/sqrt(diag(H)).
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
    n_lattices, free = len(x), np.asarray(free)
    x = x.copy()
    problem = _Problem(observations, weight, free, profile, loss, restraint)
    at = np.arange(n_lattices)
    f, hessian, gradient = problem.part(at, n_lattices).evaluate(x)
    unit = np.sqrt(np.maximum(hessian[:, range(len(free)), range(len(free))], 1e-300))
    damping, n_iterations = np.full(n_lattices, FIRST_DAMPING), np.zeros(n_lattices, dtype=int)
    progress = _Progress(x, f, hessian, gradient, damping, n_iterations, unit)
    for _ in range(n_max_iterations):
        if not len(at):
            break
        at, step = progress.solve(at, free, step_threshold)
        if not len(at):
            break
        trial = x[at]
        trial[:, free] += step
        n_iterations[at] += 1
        progress.move(at, trial, np.all((trial >= lower[at]) & (trial <= upper[at]), axis=1), problem)
        at = at[damping[at] < LAST_DAMPING]
    covariance = problem.covariances(x) if esds else np.zeros((n_lattices, x.shape[1], x.shape[1]))
    near = 1e-3 * (upper - lower)
    at_bound = ((x - lower < near) | (upper - x < near)) & np.isin(np.arange(x.shape[1]), free)
    return [Minimum(x[k], covariance[k], float(f[k]), int(n_iterations[k]), at_bound[k]) for k in range(n_lattices)]
