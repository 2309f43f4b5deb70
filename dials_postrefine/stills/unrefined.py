"""
Scaling alone: what the data are without postrefinement, for comparison and where that is all they can bear.

Each lattice has one scale, that of its amplitudes (scaling.linear_scales), and its geometry as indexed; every
observation counts as full, p = 1.  It is merged with the error model and the outlier test that postrefined data have.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.errormodel import ErrorModel, slope_of_variance
from dials_postrefine.stills.loop import DatasetSettings
from dials_postrefine.stills.reference import Reference
from dials_postrefine.stills.scaling import Scaled, WeightedMean, linear_scales, mean_of_kept, mean_of_others


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
    model = ErrorModel(b=settings.fit.model_error)
    return scaled, mean_of_kept(stills, scaled, model, settings.outlier_z, settings.error_model == "basic")


def predict_by_scale(stills: Stills, settings: DatasetSettings, reference: Reference) -> np.ndarray:
    """
    What scaling alone says of each observation from the mean of the other lattices.

    Parameters
    ----------
    stills : Stills
        L lattices, n observations.
    settings : DatasetSettings
    reference : Reference
        Its free indices have no part in the scales.

    Returns
    -------
    ndarray, shape (n,)
        Intensities as observed, NaN where nothing is known.
    """
    scale = linear_scales(reference.hide(stills), None)
    scaled, mean = scale_alone(stills, settings, scale)
    return np.where(scaled.kept, scaled.scale * mean_of_others(stills, mean), np.nan)
