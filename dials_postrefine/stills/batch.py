"""
Many lattices at once: the objective of leastsquares.py, minimised by the compiled loops of kernels.py.

The start, the residuals and the minimum are those of leastsquares.py; only the way differs, and the time that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Minimum, Restraint, near_bounds
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.stills import kernels
from dials_postrefine.stills.model import N_PARAMETERS, JoinedObservations
from dials_postrefine.stills.partiality import Profile

# Lorentzian and Gaussian are Pearson VII at either end.
KINDS = {
    "hard_sphere": kernels.HARD_SPHERE,
    "lorentzian": kernels.PEARSON_VII,
    "pearson_vii": kernels.PEARSON_VII,
    "gaussian": kernels.GAUSSIAN,
}
NUMBER_OF_LOSS = {"linear": kernels.LINEAR, "huber": kernels.HUBER, "student_t": kernels.STUDENT_T}
assert set(NUMBER_OF_LOSS) == set(LOSSES)


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
    profile : Profile
    loss : str
        One of robust.LOSSES.
    restraint : Restraint
        Of all 7 parameters.
    """

    observations: JoinedObservations
    weight: np.ndarray
    free: np.ndarray
    profile: Profile
    loss: str
    restraint: Restraint


def _reflections(observations: JoinedObservations, weight: np.ndarray) -> kernels.KernelData:
    """The observations as the compiled loops take them."""
    first = np.searchsorted(observations.lattice, np.arange(len(observations.s0) + 1))
    arrays = (observations.q, observations.q_sq, observations.s0, observations.intensity, observations.reference)
    return kernels.KernelData(first, *(np.ascontiguousarray(array, dtype=float) for array in (*arrays, weight)))


def _problem(
    profile: Profile, bounds: Bounds, free: np.ndarray, restraint: Restraint, loss: str = "linear"
) -> kernels.KernelTask:
    return kernels.KernelTask(
        np.asarray(free, dtype=np.int64),
        restraint.mean,
        restraint.width**-2.0,
        bounds.lower,
        bounds.upper,
        KINDS[profile.name],
        1.0 if profile.name == "lorentzian" else float(profile.exponent),
        NUMBER_OF_LOSS[loss],
    )


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
        f is NaN of a lattice whose normal matrix is singular.
    """
    problem = _problem(objective.profile, bounds, objective.free, objective.restraint, objective.loss)
    data = _reflections(objective.observations, objective.weight)
    x = np.array(x, dtype=float)
    f, n_iterations, covariance = kernels.minimise_lattices(
        x, data, problem, iterations.n_max, iterations.step_threshold, esds
    )
    at_bound = near_bounds(x, bounds) & np.isin(np.arange(N_PARAMETERS), objective.free)
    return [Minimum(x[k], covariance[k], float(f[k]), int(n_iterations[k]), at_bound[k]) for k in range(len(x))]
