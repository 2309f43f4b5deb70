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

from dials_postrefine.numerics.loops import slopes_of_groups
from dials_postrefine.stills.batch import spread_parameters, start_lattices
from dials_postrefine.stills.dataset import EarlierFit, Stills
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.model import LN_SCALE, partiality_with_variance, scale_factor
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_kept

N_START_ROUNDS = 3


def scaled_by_fits(
    stills: Stills, fits: Mapping[int, EarlierFit], profile: Profile
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    What the fits of an earlier run say of their observations.

    Parameters
    ----------
    stills : Stills
        n observations.
    fits : mapping of lattices to EarlierFit
    profile : Profile
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
    together = stills.joined(np.full(len(stills.unique), np.nan))
    x = start_lattices(together, fit)
    x[:, LN_SCALE] = 0.0
    x[list(stills.rejected)] = np.nan
    known = np.isfinite(x).all(axis=1)[together.lattice]
    p, _ = spread_parameters(x, together, fit.profile)
    shape = scale_factor(together.parameters(x), stills.q_sq)
    return np.where(known, p, 0.0), np.where(known, shape, 1.0)


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
        slope = slopes_of_groups(stills.intensity, mean.reference[stills.unique] * p * shape, stills.offsets)
        slope = np.where(slope > 0.0, slope, np.nan)
        scale = np.where(known, scale, np.repeat(slope, np.diff(stills.offsets)) * shape)
    return mean
