"""
Many lattices at once: the fits of lattice.py by the compiled loops of kernels.py, esdkernels.py and fitkernels.py.

Start, passes, residuals, minimum and verdict are those of lattice.py, to 1e-6 and better; only the way differs, and the
time that it takes: whatever is done once a lattice is done for all of them by one call.  What one lattice leads to does
not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Restraint, near_bounds, no_restraint
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.stills import esdkernels, fitkernels, kernels
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason
from dials_postrefine.stills.lattice import (
    Pass,
    bounds_about,
    fewest_compared,
    fewest_matched,
    passes_of,
    refined_names,
    telling_bounds,
)
from dials_postrefine.stills.model import (
    B_FACTOR,
    LN_SCALE,
    N_PARAMETERS,
    PARAMETERS,
    THETA_X,
    THETA_Y,
    JoinedObservations,
)
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
N_PREPARED = 20
REASONS = (None, *Reason)


def kernel_profile(profile: Profile) -> kernels.KernelProfile:
    """
    The profile as the compiled loops take it.

    Parameters
    ----------
    profile : Profile

    Returns
    -------
    kernels.KernelProfile
    """
    return kernels.KernelProfile(KINDS[profile.name], 1.0 if profile.name == "lorentzian" else float(profile.exponent))


def kernel_data(observations: JoinedObservations) -> kernels.KernelData:
    """
    The observations as the compiled loops take them, with weights that are not set.

    Parameters
    ----------
    observations : JoinedObservations
        Of L lattices, n reflections in all.

    Returns
    -------
    kernels.KernelData
        Of the same.
    """
    first = np.searchsorted(observations.lattice, np.arange(len(observations.s0) + 1))
    names = ("q", "q_sq", "s0", "intensity", "variance", "reference")
    arrays = (np.ascontiguousarray(getattr(observations, name), dtype=float) for name in names)
    return kernels.KernelData(first, *arrays, np.empty(len(observations)))


def start_lattices(observations: JoinedObservations, settings: FitSettings) -> np.ndarray:
    """
    The start values of many lattices (lattice.start_values).

    Parameters
    ----------
    observations : JoinedObservations
        Of L lattices.
    settings : FitSettings

    Returns
    -------
    ndarray, shape (L, 7)
    """
    return _start(kernel_data(observations), settings)[0]


def spread_parameters(
    x: np.ndarray, observations: JoinedObservations, profile: Profile
) -> tuple[np.ndarray, np.ndarray]:
    """
    What the parameters of many lattices say of each reflection.

    Parameters
    ----------
    x : ndarray, shape (L, 7)
    observations : JoinedObservations
        n reflections; only their geometry matters.
    profile : Profile

    Returns
    -------
    p : ndarray, shape (n,)
        Partiality.
    recorded : ndarray, shape (n,)
        I_calc/I_ref = G e p r_0/r_s.
    """
    recorded, p = fitkernels.spread_lattices(np.array(x), kernel_data(observations), kernel_profile(profile))
    return p, recorded


@cache
def prepare() -> None:
    """Compile all loops, or load what is in the cache: once, before processes are forked that would do it each."""
    rng = np.random.default_rng(0)
    n, q = 2 * N_PREPARED, 0.2 * rng.normal(size=(2 * N_PREPARED, 3))
    ones, beam = np.ones(n), np.array([[0.0, 0.0, 1.0]] * 2)
    lattice = np.repeat([0, 1], N_PREPARED)
    observations = JoinedObservations(q, np.sum(q * q, axis=1), beam, rng.random(n), ones, ones, lattice)
    settings = FitSettings(reflections_per_parameter=1.0)
    fit_batch(observations, settings, np.full((2, N_PARAMETERS), np.nan), np.ones(2))
    spread_parameters(start_lattices(observations, settings), observations, settings.profile)


def _start(data: kernels.KernelData, settings: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    profile = settings.profile
    return fitkernels.start_lattices(data, kernel_profile(profile), profile.start_radius, settings.radius == "mosaic")


class _Batch:
    """Where L lattices stand on their way: what a LatticeFit has of each, as arrays."""

    def __init__(self, observations: JoinedObservations, settings: FitSettings, restraint: Restraint) -> None:
        self.settings, self.profile, self.restraint = settings, kernel_profile(settings.profile), restraint
        self.data = kernel_data(observations)
        self.matched = kernel_data(observations.select(np.isfinite(observations.reference)))
        self.n, self.n_matched = np.diff(self.data.first), np.diff(self.matched.first)
        n_lattices = len(self.n)
        self.reason = np.zeros(n_lattices, dtype=int)  # its number in REASONS
        self.covariance = np.zeros((n_lattices, N_PARAMETERS, N_PARAMETERS))
        self.n_iterations, self.objective = np.zeros(n_lattices, dtype=int), np.full(n_lattices, np.nan)
        self.at_bound = np.zeros(n_lattices, dtype=bool)
        self.names = refined_names(settings)
        self.refined = self.n_matched >= fewest_matched(settings, restraint)

    def reject(self, which: np.ndarray, reason: Reason) -> None:
        """Give the lattices that have no reason yet this one, where which (L,) holds."""
        self.reason[which & (self.reason == 0)] = REASONS.index(reason)

    def prepare(self, starts: np.ndarray, linear_scales: np.ndarray) -> None:
        """Start values and bounds, or the reason why there is nothing to fit."""
        cold, mean_root = _start(self.data, self.settings)
        unscaled = ~np.isfinite(cold[:, LN_SCALE])
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.log(np.where((linear_scales > 0.0) & (mean_root > 0.0), linear_scales / mean_root**2, np.nan))
        cold[unscaled, LN_SCALE] = scale[unscaled]
        self.covariance[unscaled, LN_SCALE, LN_SCALE] = 1.0
        self.reject(self.n == 0, Reason.NO_REFLECTIONS)
        self.reject(self.n < self.settings.min_reflections, Reason.FEW_REFLECTIONS)
        self.reject(~np.isfinite(cold).all(axis=1), Reason.NO_SCALE)
        self.bounds = bounds_about(cold, self.settings)
        self.goes_on = np.isfinite(starts).all(axis=1) & self.refined
        inside = np.clip(starts, self.bounds.lower, self.bounds.upper)
        self.x = np.where((self.goes_on & (self.reason == 0))[:, None], inside, cold)

    def minimise(self) -> None:
        """All passes of all lattices."""
        scale = "scale" not in self.settings.fix
        alone = ~self.refined & (self.n_matched > 2) & scale
        plans = [
            (alone, passes_of([PARAMETERS[: LN_SCALE + 1]], self.settings, cold=True)),
            (self.refined & ~self.goes_on, passes_of(self.names, self.settings, cold=True)),
            (self.refined & self.goes_on, passes_of(self.names, self.settings, cold=False)),
        ]
        for which, passes in plans:
            for a_pass in passes:
                numbers = np.flatnonzero(which & (self.reason == 0))
                if len(numbers):
                    self._fit(numbers, a_pass)

    def _fit(self, numbers: np.ndarray, a_pass: Pass) -> None:
        """One pass of some lattices."""
        settings, restraint = self.settings, self.restraint
        by_sigma = settings.weighting == "sigma"
        fitkernels.weigh_lattices(numbers, self.x, self.matched, self.profile, by_sigma, settings.model_error)
        free = np.array(a_pass.free)
        bounds = self.bounds.lower, self.bounds.upper
        task = kernels.KernelTask(
            free, restraint.mean, restraint.width**-2.0, *bounds, self.profile, NUMBER_OF_LOSS[settings.loss]
        )
        iterations = Iterations(step_threshold=settings.step_threshold)
        f, n_iterations = kernels.minimise_lattices(
            numbers, self.x, self.matched, task, iterations.n_max, iterations.step_threshold
        )
        self.n_iterations[numbers] += n_iterations
        self.objective[numbers] = f
        self.covariance[numbers] = 0.0
        found = np.isfinite(f)
        self.reason[numbers[~found]] = REASONS.index(Reason.FIT_FAILED)
        numbers = numbers[found]
        if not a_pass.preliminary:
            self.covariance[numbers] = esdkernels.covariances(numbers, self.x, self.matched, task)
        near = near_bounds(self.x[numbers], Bounds(*(side[numbers] for side in bounds)))
        telling = [i for i in telling_bounds(settings) if i in a_pass.free]
        self.at_bound[numbers] = near[:, telling].any(axis=1)

    def conclude(self) -> list[LatticeFit]:
        """Partialities, correlations and verdict: the fits."""
        settings, numbers = self.settings, np.flatnonzero(self.reason == 0)
        p, variance, found = fitkernels.conclude_lattices(
            numbers, self.x, self.covariance, self.data, self.profile, settings.partiality_threshold
        )
        figures = np.full((len(self.n), fitkernels.N_FIGURES), np.nan)
        figures[numbers] = found
        n_kept = np.nan_to_num(figures[:, fitkernels.N_KEPT]).astype(int)
        comparable = self.n_matched >= fewest_compared(settings)
        misorientation = np.hypot(self.x[:, THETA_X], self.x[:, THETA_Y])
        self.reject(~np.isfinite(self.x).all(axis=1), Reason.FIT_FAILED)
        self.reject(misorientation > settings.max_misorientation, Reason.MISORIENTATION)
        self.reject(np.abs(self.x[:, B_FACTOR]) > settings.max_b_factor, Reason.B_FACTOR)
        self.reject(self.at_bound, Reason.AT_BOUND)
        self.reject(n_kept < settings.min_reflections, Reason.FEW_KEPT)
        related = figures[:, fitkernels.MODEL] >= settings.min_correlation
        self.reject(comparable & ~related, Reason.CORRELATION)
        correlations = figures[:, [fitkernels.BEFORE, fitkernels.AFTER, fitkernels.MODEL, fitkernels.PARTIAL]].tolist()
        first = self.data.first.tolist()
        return [
            LatticeFit(
                self.x[k],
                self.covariance[k],
                p[first[k] : first[k + 1]],
                REASONS[self.reason[k]],
                bool(self.refined[k]),
                correlations[k][0],
                correlations[k][1],
                int(self.n_matched[k]),
                int(n_kept[k]),
                int(self.n_iterations[k]),
                correlations[k][2],
                correlations[k][3],
                float(self.objective[k]),
                variance[first[k] : first[k + 1]],
            )
            for k in range(len(self.n))
        ]


def fit_batch(
    observations: JoinedObservations,
    settings: FitSettings,
    starts: np.ndarray,
    linear_scales: np.ndarray,
    restraint: Restraint | None = None,
    rejected: Mapping[int, Reason] | None = None,
) -> list[LatticeFit]:
    """
    Fit the model to each lattice and judge it, as lattice.fit_lattices does.

    Parameters
    ----------
    observations : JoinedObservations
        Of L lattices.
    settings : FitSettings
    starts : ndarray, shape (L, 7)
    linear_scales : ndarray, shape (L,)
    restraint : Restraint, optional
        As there.
    rejected : mapping of lattices to Reason, optional
        What is not to be fitted.

    Returns
    -------
    list of L LatticeFit
        Bad data raise nothing: the fit carries the reason.  partial_correlation is filters.relation_to_reference.
    """
    batch = _Batch(observations, settings, no_restraint(N_PARAMETERS) if restraint is None else restraint)
    for k, reason in (rejected or {}).items():
        batch.reason[k] = REASONS.index(reason)
    batch.prepare(starts, np.asarray(linear_scales, dtype=float))
    nothing = batch.n == 0
    nothing[list(rejected or ())] = True
    batch.minimise()
    batch.x[nothing], batch.covariance[nothing] = np.nan, 0.0
    batch.n_matched[nothing], batch.refined[nothing] = 0, False
    return batch.conclude()
