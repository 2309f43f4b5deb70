"""
One lattice: start values, fit, esds and verdict.

Start (postrefinement.md, Model): theta = 0, B = 0, r_s = RMS(r_h) over all observations (times the profile's factor)
and G the robust slope through the origin of I_obs on I_calc.  The rounds of the model follow (model.rounds), then the
esds by the sandwich estimator and one verdict: accepted, or one reason of `Reason`.

A lattice with too few matched reflections for all parameters (`reflections_per_parameter`) keeps its start geometry:
its scale alone is fitted, or where hardly anything is matched taken over from the linear scale a of the data set by
G = a / <sqrt(p)>^2.  Such a lattice is not `refined`.

With weights `sigma` the residuals are divided by sqrt(v + (m I_calc)^2), v the measured variance and m the relative
error of the model (`model_error`), I_calc taken once at the start of each round; with `unit` by one number, the median
absolute residual at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.leastsquares import Minimum, Restraint, minimise, no_restraint
from dials_postrefine.numerics.robust import MEDIAN_OF_NORMAL, slope_through_origin
from dials_postrefine.stills.batch import concatenate, minimise_many
from dials_postrefine.stills.geometry import excitation
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    LN_MOSAICITY,
    LN_NOTHING,
    LN_RADIUS,
    LN_SCALE,
    N_PARAMETERS,
    PARAMETERS,
    THETA_X,
    THETA_Y,
    Observations,
    calculate,
    calculate_with_jacobian,
    partiality,
    partiality_with_variance,
    radius,
    rounds,
    scale_factor,
)
from dials_postrefine.stills.partiality import PROFILES, START_RADIUS

# A fit may leave the start by these factors and no further: G, r_s.  The angles and B may reach twice the accepted
# limit, so that a runaway is seen as one and not as a value at the limit.  CELL_RANGE is the largest |epsilon|.
SCALE_RANGE = 1e4
RADIUS_RANGE = 10.0
CELL_RANGE = 0.02
LIMIT_MARGIN = 2.0
TEMPERED_STEPS = 1e4  # a tempered pass may stop at a step so many times the last one


class Reason(str, Enum):
    """Why a lattice is rejected: the fixed list of log and JSON."""

    NO_REFLECTIONS = "no usable reflections"
    NO_CRYSTAL = "no crystal"
    CELL = "unit cell does not fit the space group"
    CELL_OUTLIER = "unit cell far from the median"
    CELL_CHOICE = "indexed with another choice of the unit cell"
    FEW_REFLECTIONS = "too few reflections"
    NO_SCALE = "no positive scale to the reference"
    FIT_FAILED = "fit failed"
    AT_BOUND = "fit ran into a bound"
    MISORIENTATION = "misorientation too large"
    B_FACTOR = "B factor too large"
    FEW_KEPT = "too few reflections above the partiality threshold"
    CORRELATION = "correlation with the reference too low"
    UNRELATED = "intensities unrelated to the reference"
    SCALE_OUTLIER = "scale is an outlier"
    B_OUTLIER = "B factor is an outlier"
    RADIUS_OUTLIER = "radius or mosaicity is an outlier"
    MISORIENTATION_OUTLIER = "misorientation is an outlier"
    DELTA_CC_HALF = "lowers CC1/2"


@dataclass(frozen=True)
class FitSettings:
    """What a fit needs to know; angles in radians, B in A^2 of this model's convention."""

    model: str = "rs_hybrid"
    profile: str = "lorentzian"
    radius: str = "constant"
    unit_cell: str = "fixed"
    weighting: str = "sigma"
    loss: str = "huber"
    fix: tuple[str, ...] = ()
    model_error: float = 0.1
    partiality_threshold: float = 0.2
    min_correlation: float = 0.4
    min_reflections: int = 10
    reflections_per_parameter: float = 3.0
    max_misorientation: float = np.radians(0.5)
    max_b_factor: float = 25.0
    step_threshold: float = 1e-6


@dataclass
class LatticeFit:
    """
    The fit of one lattice.

    x (7,) as model.py orders it (NaN where no fit was possible), covariance (7, 7), reason None where accepted, refined
    unless only the scale was fitted, correlation_before and correlation_after of the intensities with the reference
    over the reflections with p above the threshold; model_correlation of the signed square roots of I_obs and I_calc
    over all that are matched, and partial_correlation of the same (filters.py); n_matched, n_kept, n_iterations;
    partiality and relative_variance (n,) of all observations (model.partiality_with_variance).
    """

    x: np.ndarray
    covariance: np.ndarray
    partiality: np.ndarray
    reason: Reason | None = None
    refined: bool = False
    correlation_before: float = np.nan
    correlation_after: float = np.nan
    n_matched: int = 0
    n_kept: int = 0
    n_iterations: int = 0
    model_correlation: float = np.nan
    partial_correlation: float = np.nan
    objective: float = np.nan
    relative_variance: np.ndarray | None = None


def start_values(observations: Observations, settings: FitSettings) -> np.ndarray:
    """The start x (7,), ln G being NaN where no positive slope exists (module docstring)."""
    x = np.zeros(N_PARAMETERS)
    x[LN_MOSAICITY] = LN_NOTHING
    r_h = excitation(observations.q, observations.q_sq, observations.s0, np.eye(3))
    rms = START_RADIUS[settings.profile] * np.sqrt(np.mean(r_h**2)) if len(r_h) else 0.0
    if not rms > 0.0:
        x[[LN_SCALE, LN_RADIUS]] = np.nan
        return x
    x[LN_RADIUS] = np.log(rms)
    if settings.radius == "mosaic":
        # half of r_s^2 to each of its parts at the middle of the resolution range
        x[LN_RADIUS] -= 0.5 * np.log(2.0)
        x[LN_MOSAICITY] = x[LN_RADIUS] - 0.5 * np.log(np.median(observations.q_sq))
    matched = np.isfinite(observations.reference)
    p = PROFILES[settings.profile](r_h, radius(x, observations.q_sq))[0]
    i_calc = scale_factor(x, observations.q_sq) * p * observations.reference
    slope = slope_through_origin(observations.intensity[matched], i_calc[matched]) if matched.any() else np.nan
    x[LN_SCALE] = np.log(slope) if slope > 0.0 else np.nan
    return x


def no_fit(observations: Observations, reason: Reason) -> LatticeFit:
    """The result for a lattice that is out before any fit."""
    unknown = np.full(N_PARAMETERS, np.nan), np.zeros((N_PARAMETERS, N_PARAMETERS))
    return LatticeFit(*unknown, np.zeros(len(observations)), reason)


@dataclass(frozen=True)
class _Pass:
    """One pass over the data: the parameters that it refines, and whether it is tempered (`_passes`)."""

    names: tuple[str, ...]
    tempered: bool = False


@dataclass
class _Trial:
    """A lattice on its way: its observations, those that are matched, where it stands and what is still to be done."""

    observations: Observations
    matched: Observations
    fit: LatticeFit
    lower: np.ndarray
    upper: np.ndarray
    passes: list[_Pass]
    at_bound: bool = False


def fit_lattice(
    observations: Observations,
    settings: FitSettings,
    start: np.ndarray | None = None,
    linear_scale: float = np.nan,
    restraint: Restraint | None = None,
) -> LatticeFit:
    """Fit the model to one lattice and judge it: fit_lattices of one."""
    return fit_lattices([observations], settings, [start], [linear_scale], restraint)[0]


def fit_lattices(
    lattices: Sequence[Observations],
    settings: FitSettings,
    starts: Sequence[np.ndarray | None],
    linear_scales: Sequence[float],
    restraint: Restraint | None = None,
    engine: str = "lstbx",
) -> list[LatticeFit]:
    """
    Fit the model to each lattice and judge it.

    A start (7,) continues from an earlier fit of the same lattice, straight in the model's last round; None starts
    cold.  linear_scales are for lattices whose own matched reflections can't give a scale.  engine is `lstbx`, one
    lattice after the other, or `batched`, all together.  Never raises for bad data: a result carries the reason.
    """
    restraint = no_restraint(N_PARAMETERS) if restraint is None else restraint
    trials = [_prepare(*one, settings) for one in zip(lattices, starts, linear_scales)]
    while waiting := [trial for trial in trials if trial.passes and trial.fit.reason is None]:
        now = waiting[0].passes[0]
        together = [trial for trial in waiting if trial.passes[0] == now]
        for trial in together:
            trial.passes = trial.passes[1:]
        fit_pass = _fit_batched if engine == "batched" and len(together) > 1 else _fit_one_by_one
        fit_pass(together, settings, now, restraint)
    fitted = [trial for trial in trials if trial.fit.reason is None]
    if fitted:
        _conclude(fitted, settings)
    return [trial.fit for trial in trials]


def _conclude(trials: list[_Trial], settings: FitSettings) -> None:
    """Partialities, their variance, correlations and verdict of lattices that were fitted."""
    together = concatenate([trial.observations for trial in trials])
    x, covariance = (np.array([getattr(trial.fit, name) for trial in trials]) for name in ("x", "covariance"))
    p, variance = partiality_with_variance(x, covariance, together, settings.profile)
    edges = np.cumsum([len(trial.observations) for trial in trials])[:-1]
    for trial, own_p, own_variance in zip(trials, np.split(p, edges), np.split(variance, edges)):
        trial.fit.partiality, trial.fit.relative_variance = own_p, own_variance
        _judge(trial.fit, trial.observations, settings, trial.at_bound)


def _prepare(
    observations: Observations, start: np.ndarray | None, linear_scale: float, settings: FitSettings
) -> _Trial:
    """Start values, bounds and passes of a lattice, or the reason why there is nothing to fit."""
    matched = observations.select(np.isfinite(observations.reference))
    nowhere = np.full(N_PARAMETERS, np.nan)
    if len(observations) == 0:
        return _Trial(observations, matched, no_fit(observations, Reason.NO_REFLECTIONS), nowhere, nowhere, [])
    cold = start_values(observations, settings)
    fit = LatticeFit(cold, np.zeros((N_PARAMETERS, N_PARAMETERS)), np.zeros(len(observations)), n_matched=len(matched))
    names = rounds(settings.model, settings.radius, settings.unit_cell)
    names = [tuple(name for name in some if name not in settings.fix) for some in names]
    fit.refined = len(matched) >= max(settings.reflections_per_parameter, 1.0) * len(names[-1]) + 1
    if not fit.refined:
        names = [("scale",) if len(matched) > 2 and "scale" not in settings.fix else ()]
        start = None
    if not np.isfinite(cold[LN_SCALE]):
        cold[LN_SCALE] = 0.0
        recorded = partiality(cold, observations, settings.profile) * scale_factor(cold, observations.q_sq)
        mean_root = np.mean(np.sqrt(recorded))
        cold[LN_SCALE] = np.log(linear_scale / mean_root**2) if linear_scale > 0.0 and mean_root > 0.0 else np.nan
        fit.covariance[LN_SCALE, LN_SCALE] = 1.0
    if len(observations) < settings.min_reflections:
        fit.reason = Reason.FEW_REFLECTIONS
    elif not np.all(np.isfinite(cold)):
        fit.reason = Reason.NO_SCALE
    lower, upper = _bounds(cold, settings)
    if start is not None and fit.reason is None:
        fit.x = np.clip(start, lower, upper)
    return _Trial(observations, matched, fit, lower, upper, _passes(names, settings, start is None))


def _passes(names: list[tuple[str, ...]], settings: FitSettings, cold: bool) -> list[_Pass]:
    """
    The passes of a fit: the rounds of the model, but for what a cold start with a robust loss needs.

    In the tails of a robust loss the gradient fades, and a fit can end in a false minimum: a tempered pass, the
    residuals in units of their own spread, brings the bulk of them in first.
    """
    passes = [_Pass(names[-1])]
    if cold and settings.loss == "linear":
        passes = [_Pass(some) for some in names]
    elif cold:
        passes = [_Pass(names[0], tempered=True), *passes]
    return [a_pass for a_pass in passes if a_pass.names]


def _bounds(start: np.ndarray, settings: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    reach = np.empty(N_PARAMETERS)
    reach[LN_SCALE] = np.log(SCALE_RANGE)
    reach[B_FACTOR] = LIMIT_MARGIN * settings.max_b_factor
    reach[THETA_X] = reach[THETA_Y] = LIMIT_MARGIN * settings.max_misorientation
    reach[LN_RADIUS] = reach[LN_MOSAICITY] = np.log(RADIUS_RANGE)
    reach[CELL_SCALE] = CELL_RANGE
    centre = start.copy()
    centre[[B_FACTOR, THETA_X, THETA_Y]] = 0.0
    return centre - reach, centre + reach


def _weights(matched: Observations, i_calc: np.ndarray, settings: FitSettings, tempered: bool) -> np.ndarray:
    """What multiplies the residuals of one lattice's matched reflections (module docstring)."""
    residual = np.abs(matched.intensity - i_calc)
    if settings.weighting == "sigma":
        weight = 1.0 / np.sqrt(matched.variance + (settings.model_error * i_calc) ** 2)
    else:
        spread = np.median(residual)
        weight = np.full(len(i_calc), 1.0 / spread if spread > 0.0 else 1.0)
    return weight / max(1.0, np.median(weight * residual) / MEDIAN_OF_NORMAL) if tempered else weight


def _step_threshold(settings: FitSettings, a_pass: _Pass) -> float:
    """Where a pass may stop."""
    return settings.step_threshold * (TEMPERED_STEPS if a_pass.tempered else 1.0)


def _fit_one_by_one(trials: list[_Trial], settings: FitSettings, a_pass: _Pass, restraint: Restraint) -> None:
    """One pass by leastsquares.py, lattice after lattice."""
    for trial in trials:
        matched = trial.matched
        weight = _weights(matched, calculate(trial.fit.x, matched, settings.profile), settings, a_pass.tempered)

        def evaluate(x, weight=weight, matched=matched):
            y, jacobian = calculate_with_jacobian(x, matched, settings.profile)
            return weight * (y - matched.intensity), weight[:, None] * jacobian

        norm = float(np.sum((weight * matched.intensity) ** 2))
        try:
            minimum = minimise(
                evaluate,
                trial.fit.x,
                [PARAMETERS.index(name) for name in a_pass.names],
                settings.loss,
                trial.lower,
                trial.upper,
                norm if norm > 0.0 else 1.0,
                step_threshold=_step_threshold(settings, a_pass),
                restraint=restraint,
            )
        except (RuntimeError, np.linalg.LinAlgError):
            trial.fit.reason = Reason.FIT_FAILED
            continue
        _take(trial, minimum, settings)


def _fit_batched(trials: list[_Trial], settings: FitSettings, a_pass: _Pass, restraint: Restraint) -> None:
    """One pass by batch.py, all lattices together."""
    together = concatenate([trial.matched for trial in trials])
    x = np.array([trial.fit.x for trial in trials])
    edges = np.cumsum([len(trial.matched) for trial in trials])[:-1]
    i_calc = np.split(calculate(x, together, settings.profile), edges)
    weights = [_weights(trial.matched, own, settings, a_pass.tempered) for trial, own in zip(trials, i_calc)]
    try:
        minima = minimise_many(
            together,
            np.concatenate(weights),
            x,
            [PARAMETERS.index(name) for name in a_pass.names],
            settings.profile,
            settings.loss,
            np.array([trial.lower for trial in trials]),
            np.array([trial.upper for trial in trials]),
            restraint,
            step_threshold=_step_threshold(settings, a_pass),
            esds=not a_pass.tempered,
        )
    except np.linalg.LinAlgError:  # one singular lattice must not stop the others
        _fit_one_by_one(trials, settings, a_pass, restraint)
        return
    for trial, minimum in zip(trials, minima):
        _take(trial, minimum, settings)


def _take(trial: _Trial, minimum: Minimum, settings: FitSettings) -> None:
    fit = trial.fit
    fit.x, fit.covariance, fit.objective = minimum.x, minimum.covariance, minimum.objective
    fit.n_iterations += minimum.n_iterations
    # One part of a mosaic radius may well be nothing beside the other; angles and B have limits of their own.
    telling = [LN_SCALE, CELL_SCALE, *([LN_RADIUS] if settings.radius == "constant" else [])]
    trial.at_bound = bool(minimum.at_bound[telling].any())


def _judge(fit: LatticeFit, observations: Observations, settings: FitSettings, at_bound: bool) -> None:
    """Correlations and verdict."""
    kept = fit.partiality >= settings.partiality_threshold
    fit.n_kept = int(np.count_nonzero(kept))
    matched = np.isfinite(observations.reference)
    both = kept & matched
    # a correlation of less is no verdict, and a lattice that could not be refined is not to blame for it
    comparable = fit.refined or fit.n_matched >= settings.min_reflections
    before, reference = observations.intensity[both], observations.reference[both]
    after = before / (scale_factor(fit.x, observations.q_sq[both]) * fit.partiality[both])
    fit.correlation_before = correlation(before, reference)
    fit.correlation_after = correlation(after, reference)
    i_calc = (scale_factor(fit.x, observations.q_sq) * fit.partiality * observations.reference)[matched]
    fit.model_correlation = correlation(signed_root(observations.intensity[matched]), signed_root(i_calc))
    if not np.all(np.isfinite(fit.x)):
        fit.reason = Reason.FIT_FAILED
    elif np.hypot(fit.x[THETA_X], fit.x[THETA_Y]) > settings.max_misorientation:
        fit.reason = Reason.MISORIENTATION
    elif abs(fit.x[B_FACTOR]) > settings.max_b_factor:
        fit.reason = Reason.B_FACTOR
    elif at_bound:
        fit.reason = Reason.AT_BOUND
    elif fit.n_kept < settings.min_reflections:
        fit.reason = Reason.FEW_KEPT
    elif comparable and not fit.model_correlation >= settings.min_correlation:
        fit.reason = Reason.CORRELATION
