"""
The first mean of the data, which the first cycle fits the lattices to where there is no external reference.

Lattices that an earlier run has fitted with the same model are as it left them, the others at their start values, with
a scale to the mean of all that is renewed in N_START_ROUNDS rounds.  The error of a partial observation that no fit has
seen is assumed to be t = (2 m (1 - p))^2 besides the error model's b = m, m = `model_error`.  Source:
postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dials_postrefine.numerics.robust import slope_through_origin
from dials_postrefine.stills.dataset import EarlierFit, Stills
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.lattice import start_values
from dials_postrefine.stills.model import LN_SCALE, partiality, partiality_with_variance, scale_factor
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_kept

N_START_ROUNDS = 3


def scaled_by_fits(
    stills: Stills, fits: Mapping[int, EarlierFit], profile: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    What the fits of an earlier run say of their observations.

    Parameters
    ----------
    stills : Stills
        n observations.
    fits : mapping of lattices to EarlierFit
    profile : str
        One of partiality.PROFILES.

    Returns
    -------
    p, scale, relative : ndarray, shape (n,)
        Partiality, G e and the relative variance of (G e p).
    known : ndarray of bool, shape (n,)
        Which observations are of a lattice with a fit.
    """
    n = len(stills.unique)
    p, scale, relative, known = np.zeros(n), np.ones(n), np.zeros(n), np.zeros(n, dtype=bool)
    for k, fit in fits.items():
        rows, observations = stills.rows(k), stills.unmatched(k)
        p[rows], relative[rows] = partiality_with_variance(fit.x, fit.covariance, observations, profile)
        scale[rows] = scale_factor(fit.x, observations.q_sq)
        known[rows] = True
    return p, scale, relative, known


def start_partialities(stills: Stills, fit: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    """
    What the lattices' start values say of their observations.

    Parameters
    ----------
    stills : Stills
        n observations.
    fit : FitSettings

    Returns
    -------
    p : ndarray, shape (n,)
        Partialities, 0 where there are no start values.
    shape : ndarray, shape (n,)
        G e at G = 1.
    """
    p, shape = np.zeros(len(stills.unique)), np.ones(len(stills.unique))
    for k in range(stills.n_lattices):
        rows, observations = stills.rows(k), stills.unmatched(k)
        x = start_values(observations, fit)
        x[LN_SCALE] = 0.0
        if np.isfinite(x).all() and k not in stills.rejected:
            p[rows] = partiality(x, observations, fit.profile)
            shape[rows] = scale_factor(x, observations.q_sq)
    return p, shape


def first_mean(
    stills: Stills,
    fit: FitSettings,
    outlier_z: float,
    linear_scale: np.ndarray,
    earlier: Mapping[int, EarlierFit],
    variance_slope: float,
    fits_model: bool = False,
) -> WeightedMean:
    """
    The scaled mean of the data with the lattices as earlier fits left them, the others at their start values.

    Parameters
    ----------
    stills : Stills
        L lattices.
    fit : FitSettings
    outlier_z : float
        The limit of the outlier test.
    linear_scale : ndarray, shape (L,)
    earlier : mapping of lattices to EarlierFit
        Where all have one, this is the mean that their run ended with.
    variance_slope : float
        As in Scaled.
    fits_model : bool
        Whether the error model is fitted to the mean where all lattices have an earlier fit, as it was there.

    Returns
    -------
    WeightedMean
    """
    p, shape = start_partialities(stills, fit)
    found_p, found_scale, found_relative, known = scaled_by_fits(stills, earlier, fit.profile)
    scale = np.where(known, found_scale, linear_scale[stills.lattice()] * shape)
    relative = np.where(known, found_relative, (2.0 * fit.model_error * (1.0 - p)) ** 2)
    p = np.where(known, found_p, p)
    model = ErrorModel(b=fit.model_error)
    for _ in range(N_START_ROUNDS):
        kept = (p >= fit.partiality_threshold) & np.isfinite(scale)
        scaled = Scaled(p, scale, relative, kept, variance_slope)
        mean = mean_of_kept(stills, scaled, model, outlier_z, fits_model and bool(known.all()))
        model = mean.error_model
        for k in range(stills.n_lattices):
            if k not in earlier:
                rows = stills.rows(k)
                recorded = mean.reference[stills.unique[rows]] * p[rows] * shape[rows]
                scale[rows] = _positive_slope(stills.intensity[rows], recorded) * shape[rows]
    return mean


def _positive_slope(intensity: np.ndarray, reference: np.ndarray) -> float:
    """The robust slope where the reference is known, NaN unless it is positive."""
    known = np.isfinite(reference)
    slope = slope_through_origin(intensity[known], reference[known])
    return slope if slope > 0.0 else np.nan
