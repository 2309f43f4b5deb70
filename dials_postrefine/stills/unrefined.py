"""
Scaling alone: what the data are without postrefinement, for comparison and where that is all they can bear.

Each lattice has one scale, that of its amplitudes (scaling.linear_scales), and its geometry as indexed; every
observation counts as full, p = 1.  It is merged with the error model that postrefined data have, but without their
outlier test: beside observations of unknown partiality those that are nearly full look like outliers, and are the best
(16 simulated sets of 3 to 20 lattices: CC to the truth with it 0.02 lower on average, and below the mean with the
weights of the counts in 6 of them; without it in none by more than 0.0001).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.errormodel import ErrorModel, slope_of_variance
from dials_postrefine.stills.fits import LatticeFit, Reason, no_fit, unfitted
from dials_postrefine.stills.lattice import start_values
from dials_postrefine.stills.loop import DatasetSettings
from dials_postrefine.stills.model import LN_MOSAICITY, LN_NOTHING, LN_SCALE
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import Scaled, WeightedMean, linear_scales, mean_of_kept, mean_of_others

# The relative error of an observation that is not known to be full, where the data are too few to tell it.
UNKNOWN_PARTIALITY = 0.5


def scale_alone(stills: Stills, settings: DatasetSettings, linear_scale: np.ndarray) -> tuple[Scaled, WeightedMean]:
    """
    The observations scaled by one number a lattice, and their mean.

    Parameters
    ----------
    stills : Stills
        L lattices.
    settings : DatasetSettings
    linear_scale : ndarray, shape (L,)
        NaN where a lattice has none: it is left out.

    Returns
    -------
    scaled : Scaled
    mean : WeightedMean
    """
    scale = linear_scale[stills.lattice()]
    known = np.isfinite(scale)
    for k in stills.rejected:
        known[stills.rows(k)] = False
    ones = np.ones(len(scale))
    slope = slope_of_variance(stills.intensity, stills.variance)
    scaled = Scaled(ones, np.where(known, scale, 1.0), np.zeros(len(scale)), known, slope)
    model = ErrorModel(b=UNKNOWN_PARTIALITY)
    return scaled, mean_of_kept(stills, scaled, model, np.inf, settings.error_model == "basic")


def predict_by_scale(
    stills: Stills, settings: DatasetSettings, reference: FitReference
) -> tuple[np.ndarray, np.ndarray]:
    """
    What scaling alone says of each observation from the external reference, or from the mean of the other lattices.

    Parameters
    ----------
    stills : Stills
        L lattices, n observations.
    settings : DatasetSettings
    reference : FitReference
        Its free indices have no part in the scales.

    Returns
    -------
    predicted : ndarray, shape (n,)
        Intensities as observed, NaN where nothing is known.
    merged : ndarray, shape (n_unique,)
        What is merged of the scaled observations.
    """
    scale = linear_scales(reference.hide(stills), reference.working if reference.external else None)
    scaled, mean = scale_alone(stills, settings, scale)
    expected = reference.intensity[stills.unique] if reference.external else mean_of_others(stills, mean)
    return np.where(scaled.kept, scaled.scale * expected, np.nan), mean.reference


def leave_unrefined(
    stills: Stills, settings: DatasetSettings, result: PostrefinedStills, reference: FitReference
) -> PostrefinedStills:
    """
    The same data set with its lattices as they were indexed, scaled alone.

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    result : PostrefinedStills
        What postrefinement made of it.
    reference : FitReference
        What it was postrefined against.

    Returns
    -------
    PostrefinedStills
        Rejected is what was rejected before any fit, what has no positive scale, and what has fewer than the required
        number of reflections.
    """
    scaled, mean = scale_alone(stills, settings, result.linear_scale)
    external = reference.external
    by_row = reference.intensity[stills.unique] if external else mean_of_others(stills, mean)
    fits = [_unrefined_fit(stills, settings, k, result.linear_scale[k], by_row) for k in range(stills.n_lattices)]
    for k, fit in enumerate(fits):
        if fit.reason is not None:
            scaled.kept[stills.rows(k)] = False
    return replace(
        result,
        x=np.array([fit.x for fit in fits]),
        covariance=np.array([fit.covariance for fit in fits]),
        fits=fits,
        reasons=[fit.reason for fit in fits],
        partiality=scaled.partiality,
        scale=scaled.scale,
        relative_variance=scaled.relative_variance,
        kept=scaled.kept,
        outlier=mean.outlier,
        mean=mean.reference,
        error_model=mean.error_model if settings.error_model == "basic" else None,
        reference=reference.intensity if external else mean.reference,
        scaled_only=True,
    )


def _unrefined_fit(
    stills: Stills, settings: DatasetSettings, k: int, scale: float, reference: np.ndarray
) -> LatticeFit:
    """Lattice k at its start, with its scale; reference (n,) is that of each observation of the data set."""
    rows = stills.rows(k)
    observations = stills.observations(k, reference[rows])
    if k in stills.rejected:
        return no_fit(observations, stills.rejected[k])
    x = start_values(observations, settings.fit)
    x[LN_SCALE], x[LN_MOSAICITY] = np.log(scale), LN_NOTHING
    fit = unfitted(observations, x)
    fit.partiality[:], fit.relative_variance[:] = 1.0, 0.0
    known = np.isfinite(observations.reference)
    fit.n_matched, fit.n_kept = int(np.count_nonzero(known)), len(observations)
    found = correlation(observations.intensity[known], observations.reference[known])
    fit.correlation_before = fit.correlation_after = found
    if not np.isfinite(x).all():
        fit.reason = Reason.NO_SCALE
    elif len(observations) < settings.fit.min_reflections:
        fit.reason = Reason.FEW_REFLECTIONS
    return fit
