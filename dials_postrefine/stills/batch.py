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

import numpy as np

from dials_postrefine.numerics.leastsquares import CURVATURE_FLOOR, Minimum, Restraint
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.sandwich import sandwich_hc3
from dials_postrefine.stills.model import Observations, calculate_with_jacobian

FIRST_DAMPING = 1e-3
LAST_DAMPING = 1e10
# A step is cut to this length in ln G, B, theta_x, theta_y, ln r_0, ln eta and epsilon, so that none leaps out of its
# valley.
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
    Minimise f of each lattice from x (L, 7) over the free parameters, every lattice having reflections.

    weight (n,) multiplies the residuals; lower and upper (L, 7) bound the parameters.  Without esds the covariances are
    zero.
    """
    n_lattices, free = len(x), np.asarray(free)
    x = x.copy()
    rho = LOSSES[loss]
    mean, precision = restraint.mean[free], restraint.width[free] ** -2.0
    longest = LONGEST_STEP[free]

    def evaluate(which: np.ndarray, x: np.ndarray):
        """f, H and g of the lattices `which`, at x."""
        rows = np.isin(observations.lattice, which) if len(which) < n_lattices else slice(None)
        part = observations.select(rows)
        number = np.zeros(n_lattices, dtype=int)
        number[which] = np.arange(len(which))
        part.lattice, part.s0 = number[part.lattice], observations.s0[which]
        first = np.searchsorted(part.lattice, np.arange(len(which)))
        w = weight[rows]
        y, jacobian = calculate_with_jacobian(x, part, profile)
        u = w * (y - part.intensity)
        value, outer, slope = rho(u * u)
        off = x[:, free] - mean
        f = 0.5 * np.add.reduceat(value, first) + 0.5 * np.sum(precision * off**2, axis=1)
        columns = (w[:, None] * jacobian[:, free]).T
        curvature = np.maximum(slope, CURVATURE_FLOOR * outer)
        k = len(free)
        hessian, gradient = np.empty((len(which), k, k)), precision * off
        for i in range(k):
            gradient[:, i] += np.add.reduceat(outer * u * columns[i], first)
            for j in range(i, k):
                hessian[:, i, j] = hessian[:, j, i] = np.add.reduceat(curvature * columns[i] * columns[j], first)
        hessian[:, range(k), range(k)] += precision
        return f, hessian, gradient

    at = np.arange(n_lattices)
    f, hessian, gradient = evaluate(at, x)
    unit = np.sqrt(np.maximum(hessian[:, range(len(free)), range(len(free))], 1e-300))
    damping = np.full(n_lattices, FIRST_DAMPING)
    n_iterations = np.zeros(n_lattices, dtype=int)
    for _ in range(n_max_iterations):
        if not len(at):
            break
        damped = hessian[at]
        diagonal = np.einsum("ijj->ij", damped)
        diagonal += damping[at, None] * np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
        step = -np.linalg.solve(damped, gradient[at][..., None])[..., 0]
        size = np.linalg.norm(step * unit[at], axis=1)
        norm = np.linalg.norm(x[at][:, free] * unit[at], axis=1)
        going = size > step_threshold * (norm + step_threshold)
        at, step = at[going], step[going]
        if not len(at):
            break
        step /= np.maximum(1.0, np.max(np.abs(step) / longest, axis=1))[:, None]
        trial = x[at]
        trial[:, free] += step
        n_iterations[at] += 1
        inside = np.all((trial >= lower[at]) & (trial <= upper[at]), axis=1)
        better = np.zeros(len(at), dtype=bool)
        if inside.any():
            some = at[inside]
            f_new, hessian_new, gradient_new = evaluate(some, trial[inside])
            better[inside] = f_new < f[some]
            taken = better[inside]
            f[some[taken]], hessian[some[taken]], gradient[some[taken]] = (
                f_new[taken],
                hessian_new[taken],
                gradient_new[taken],
            )
            x[some[taken]] = trial[inside][taken]
        damping[at] *= np.where(better, 0.2, 8.0)
        at = at[damping[at] < LAST_DAMPING]
    covariance = np.zeros((n_lattices, x.shape[1], x.shape[1]))
    if esds:
        y, jacobian = calculate_with_jacobian(x, observations, profile)
        u, jacobian = weight * (y - observations.intensity), weight[:, None] * jacobian[:, free]
        edges = np.searchsorted(observations.lattice, np.arange(n_lattices + 1))
        for k in range(n_lattices):
            rows = slice(edges[k], edges[k + 1])
            covariance[k][np.ix_(free, free)] = sandwich_hc3(u[rows], jacobian[rows], loss, restraint.width[free])
    near = 1e-3 * (upper - lower)
    at_bound = ((x - lower < near) | (upper - x < near)) & np.isin(np.arange(x.shape[1]), free)
    return [Minimum(x[k], covariance[k], float(f[k]), int(n_iterations[k]), at_bound[k]) for k in range(n_lattices)]
