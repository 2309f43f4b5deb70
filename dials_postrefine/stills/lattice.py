"""
One lattice: start values, fit, esds and verdict.

Start (postrefinement.md, Model): theta = 0, B = 0, r_s = RMS(r_h) over all observations (times the profile's factor)
and G the robust slope through the origin of I_obs on I_calc.  The rounds of the model follow (model.rounds), then the
esds by the sandwich estimator and one verdict: accepted, or one reason of `Reason`.

All parameters take `reflections_per_parameter` matched reflections for each that no restraint holds, and one more.  A
lattice with fewer keeps its start geometry: its scale alone is fitted, or where hardly anything is matched taken over
from the linear scale a of the data set by G = a / <sqrt(p)>^2.  Such a lattice is not `refined`.

With weights `sigma` the residuals are divided by sqrt(v + (m I_calc)^2), v the measured variance and m the relative
error of the model (`model_error`), I_calc taken once at the start of each pass; with `unit` by one number, the median
absolute residual at the start.  In either case they are then divided by their own width at the start, 1.48 median |z|,
if that is above one: the loss bends where their bulk ends (Huber's concomitant scale: Robust Statistics, 1981, ch. 7),
and a restraint weighs beside them as it should, for residuals s times wider than the variances say would otherwise
count s^2 times too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.leastsquares import (
    Bounds,
    Iterations,
    Objective,
    Restraint,
    minimise,
    no_restraint,
)
from dials_postrefine.numerics.robust import MEDIAN_OF_NORMAL, slope_through_origin
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason, no_fit, unfitted
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

# A fit may leave the start by these factors and no further: G, r_s.  The angles and B may reach twice the accepted
# limit, so that a runaway is not taken for a value at the limit.  CELL_RANGE is the largest |epsilon|.
SCALE_RANGE = 1e4
RADIUS_RANGE = 10.0
CELL_RANGE = 0.02
LIMIT_MARGIN = 2.0


def start_values(observations: Observations, settings: FitSettings) -> np.ndarray:
    """
    Where a fit starts that has nothing to go on from (module docstring).

    Parameters
    ----------
    observations : Observations
        Those of the lattice, with their reference.
    settings : FitSettings

    Returns
    -------
    ndarray, shape (7,)
        As model.py orders it; ln G is NaN where no positive slope exists, and so is ln r_0 without observations.
    """
    x = np.zeros(N_PARAMETERS)
    x[LN_MOSAICITY] = LN_NOTHING
    r_h = excitation(observations.q, observations.q_sq, observations.s0, np.eye(3))
    rms = settings.profile.start_radius * np.sqrt(np.mean(r_h**2)) if len(r_h) else 0.0
    if not rms > 0.0:
        x[[LN_SCALE, LN_RADIUS]] = np.nan
        return x
    x[LN_RADIUS] = np.log(rms)
    if settings.radius == "mosaic":
        # half of r_s^2 to each of its parts at the middle of the resolution range
        x[LN_RADIUS] -= 0.5 * np.log(2.0)
        x[LN_MOSAICITY] = x[LN_RADIUS] - 0.5 * np.log(np.median(observations.q_sq))
    matched = np.isfinite(observations.reference)
    p = settings.profile(r_h, radius(x, observations.q_sq))[0]
    i_calc = scale_factor(x, observations.q_sq) * p * observations.reference
    slope = slope_through_origin(observations.intensity[matched], i_calc[matched]) if matched.any() else np.nan
    x[LN_SCALE] = np.log(slope) if slope > 0.0 else np.nan
    return x


@dataclass(frozen=True)
class Pass:
    """One pass over the data: the parameters that it refines, and whether only to find weights (passes_of)."""

    names: tuple[str, ...]
    preliminary: bool = False

    @property
    def free(self) -> list[int]:
        """The numbers of the parameters that it refines."""
        return [PARAMETERS.index(name) for name in self.names]


@dataclass
class _Trial:
    """A lattice on its way: its observations, those that are matched, where it stands and what is still to be done."""

    observations: Observations
    matched: Observations
    fit: LatticeFit
    bounds: Bounds
    passes: list[Pass]
    at_bound: bool = False


def no_starts(n_lattices: int) -> np.ndarray:
    """
    The starts of lattices that have nothing to go on from.

    Parameters
    ----------
    n_lattices : int
        L.

    Returns
    -------
    ndarray, shape (L, 7)
        NaN.
    """
    return np.full((n_lattices, N_PARAMETERS), np.nan)


def fit_lattices(
    lattices: Sequence[Observations],
    settings: FitSettings,
    starts: np.ndarray,
    linear_scales: Sequence[float],
    restraint: Restraint | None = None,
) -> list[LatticeFit]:
    """
    Fit the model to each lattice, one after the other by lstbx, and judge it (module docstring).

    Parameters
    ----------
    lattices : sequence of L Observations
    settings : FitSettings
    starts : ndarray, shape (L, 7)
        What an earlier fit of the same lattice ended with: goes on from there, straight in the model's last round.
        NaN: from start_values.
    linear_scales : sequence of L float
        For lattices whose own matched reflections can't give a scale; NaN where there is none.
    restraint : Restraint, optional
        Of all 7 parameters, the same for all lattices.

    Returns
    -------
    list of L LatticeFit
        Bad data raise nothing: the fit carries the reason.
    """
    restraint = no_restraint(N_PARAMETERS) if restraint is None else restraint
    fewest = fewest_matched(settings, restraint)
    trials = [_prepare(*lattice, settings, fewest) for lattice in zip(lattices, starts, linear_scales)]
    for trial in trials:
        for a_pass in trial.passes:
            if trial.fit.reason is None:
                _fit(trial, settings, a_pass, restraint)
        if trial.fit.reason is None:
            found = partiality_with_variance(trial.fit.x, trial.fit.covariance, trial.observations, settings.profile)
            trial.fit.partiality, trial.fit.relative_variance = found
            _judge(trial.fit, trial.observations, settings, trial.at_bound)
    return [trial.fit for trial in trials]


def _prepare(
    observations: Observations, start: np.ndarray, linear_scale: float, settings: FitSettings, fewest: float
) -> _Trial:
    """Start values, bounds and passes of a lattice, or the reason why there is nothing to fit; fewest_matched."""
    matched = observations.select(np.isfinite(observations.reference))
    if len(observations) == 0:
        nowhere = np.full(N_PARAMETERS, np.nan)
        return _Trial(observations, matched, no_fit(observations, Reason.NO_REFLECTIONS), Bounds(nowhere, nowhere), [])
    cold, goes_on = start_values(observations, settings), bool(np.isfinite(start).all())
    fit = unfitted(observations, cold)
    fit.n_matched = len(matched)
    names = refined_names(settings)
    fit.refined = len(matched) >= fewest
    if not fit.refined:
        names = [("scale",) if len(matched) > 2 and "scale" not in settings.fix else ()]
        goes_on = False
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
    bounds = bounds_about(cold, settings)
    if goes_on and fit.reason is None:
        fit.x = np.clip(start, bounds.lower, bounds.upper)
    return _Trial(observations, matched, fit, bounds, passes_of(names, settings, not goes_on))


def refined_names(settings: FitSettings) -> list[tuple[str, ...]]:
    """
    The parameters that each round of the model refines (model.rounds), but for those that are fixed.

    Parameters
    ----------
    settings : FitSettings

    Returns
    -------
    list of tuple of str
        Of PARAMETERS, a tuple for each round; empty where all are fixed.
    """
    names = rounds(settings.model, settings.radius, settings.unit_cell)
    return [tuple(name for name in refined if name not in settings.fix) for refined in names]


def fewest_matched(settings: FitSettings, restraint: Restraint) -> float:
    """
    How many matched reflections the fit of all parameters takes.

    Parameters
    ----------
    settings : FitSettings
    restraint : Restraint
        Of all 7 parameters.

    Returns
    -------
    float
        (module docstring)
    """
    unheld = sum(not np.isfinite(restraint.width[PARAMETERS.index(name)]) for name in refined_names(settings)[-1])
    return max(settings.reflections_per_parameter, 1.0) * unheld + 1.0


def fewest_compared(settings: FitSettings) -> float:
    """
    Of how many matched reflections a correlation with the reference is a verdict.

    Parameters
    ----------
    settings : FitSettings

    Returns
    -------
    float
    """
    return min(float(settings.min_reflections), fewest_matched(settings, no_restraint(N_PARAMETERS)))


def passes_of(names: Sequence[tuple[str, ...]], settings: FitSettings, cold: bool) -> list[Pass]:
    """
    The passes of a fit: the rounds of the model, but for what a cold start with a robust loss needs.

    The weights are those of where a pass starts, and a cold start is far away: preliminary passes, the residuals in
    units of their width there, bring the bulk of them in first.

    Parameters
    ----------
    names : sequence of tuple of str
        What each round refines.
    settings : FitSettings
    cold : bool
        Whether the fit starts from start values.

    Returns
    -------
    list of Pass
        Those that refine something.
    """
    passes = [Pass(names[-1])]
    if cold and settings.loss == "linear":
        passes = [Pass(refined) for refined in names]
    elif cold:
        passes = [*(Pass(refined, preliminary=True) for refined in names), *passes]
    return [a_pass for a_pass in passes if a_pass.names]


def bounds_about(start: np.ndarray, settings: FitSettings) -> Bounds:
    """
    How far fits may go.

    Parameters
    ----------
    start : ndarray, shape (7,) or (L, 7)
        Start values.
    settings : FitSettings

    Returns
    -------
    Bounds
        Of the same shape.
    """
    reach = np.empty(N_PARAMETERS)
    reach[LN_SCALE] = np.log(SCALE_RANGE)
    reach[B_FACTOR] = LIMIT_MARGIN * settings.max_b_factor
    reach[THETA_X] = reach[THETA_Y] = LIMIT_MARGIN * settings.max_misorientation
    reach[LN_RADIUS] = reach[LN_MOSAICITY] = np.log(RADIUS_RANGE)
    reach[CELL_SCALE] = CELL_RANGE
    centre = start.copy()
    centre[..., [B_FACTOR, THETA_X, THETA_Y]] = 0.0
    return Bounds(centre - reach, centre + reach)


def _weights(matched: Observations, i_calc: np.ndarray, settings: FitSettings) -> np.ndarray:
    """What multiplies the residuals of one lattice's matched reflections (module docstring)."""
    residual = np.abs(matched.intensity - i_calc)
    if settings.weighting == "sigma":
        weight = 1.0 / np.sqrt(matched.variance + (settings.model_error * i_calc) ** 2)
    else:
        spread = np.median(residual)
        weight = np.full(len(i_calc), 1.0 / spread if spread > 0.0 else 1.0)
    return weight / max(1.0, np.median(weight * residual) / MEDIAN_OF_NORMAL)


def telling_bounds(settings: FitSettings) -> list[int]:
    """
    The numbers of the parameters whose bounds a fit must not end at: one part of a mosaic radius may well be nothing
    beside the other; angles and B have limits of their own.

    Parameters
    ----------
    settings : FitSettings

    Returns
    -------
    list of int
        Places in x (model.py).
    """
    return [LN_SCALE, CELL_SCALE, *([LN_RADIUS] if settings.radius == "constant" else [])]


def _fit(trial: _Trial, settings: FitSettings, a_pass: Pass, restraint: Restraint) -> None:
    """One pass of a lattice, by leastsquares.py."""
    fit, matched = trial.fit, trial.matched
    weight = _weights(matched, calculate(fit.x, matched, settings.profile), settings)

    def evaluate(x):
        y, jacobian = calculate_with_jacobian(x, matched, settings.profile)
        return weight * (y - matched.intensity), weight[:, None] * jacobian

    norm = float(np.sum((weight * matched.intensity) ** 2))
    try:
        objective = Objective(evaluate, settings.loss, restraint, norm if norm > 0.0 else 1.0)
        minimum = minimise(
            objective, fit.x, a_pass.free, trial.bounds, Iterations(step_threshold=settings.step_threshold)
        )
    except (RuntimeError, np.linalg.LinAlgError):
        fit.reason = Reason.FIT_FAILED
        return
    fit.x, fit.covariance, fit.objective = minimum.x, minimum.covariance, minimum.objective
    fit.n_iterations += minimum.n_iterations
    trial.at_bound = bool(minimum.at_bound[telling_bounds(settings)].any())


def _judge(fit: LatticeFit, observations: Observations, settings: FitSettings, at_bound: bool) -> None:
    """Correlations and verdict."""
    kept = fit.partiality >= settings.partiality_threshold
    fit.n_kept = int(np.count_nonzero(kept))
    matched = np.isfinite(observations.reference)
    both = kept & matched
    comparable = fit.n_matched >= fewest_compared(settings)
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
