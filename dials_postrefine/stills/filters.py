"""
Filters: which lattices and which observations take no part.

Before any fit.  The unit cell of a lattice, each parameter made exact for the space group, must be one of the main
group of the data set (cells.py): near the median of that group,

    |c - median(c)| <= max(tolerance, 5 x 1.4826 MAD(c)),     MAD = median |c - median(c)|,

the tolerance being a fraction of the median for lengths and a number of degrees for angles.  It is never tighter than
the spread of the group itself, so that a wide population is not cut through; of two that lie apart one is taken, the
larger one or else the first.  The observations of a lattice are significant up to the resolution from which on the
mean of I/sigma, in bins of equal numbers of reflections, falls below a limit (cctbx.xfel.merge,
select.significance_filter).

After the fits, lattices that were refined (enough reflections for all parameters) and are accepted so far must

1. be related to the reference.  A lattice that was indexed wrongly agrees with the model all the same, because the
   partialities and the fall-off were fitted to it; but its intensities are those of other reflections.  With
   a = sign(I_obs) sqrt|I_obs| and b likewise of I_calc = g^2 I_ref, g^2 = G e p, what is left of a and b once
   their regressions on 1, g and g d*^2 are taken off has no correlation r, the partial correlation given scale,
   geometry and fall-off (correlation.partial_correlation, which clips the rests: a wild intensity is no sign of a
   useless lattice).  By Fisher's Z = arctanh(r) +- 1/sqrt(n - 5), of n reflections and two controls, a lattice is
   unrelated that is near nothing and far from the median of the data set,

       Z(r) < max(Z(limit), FISHER_Z/sqrt(n - 5))   and   Z(median) - Z(r) > FISHER_Z/sqrt(n - 5),

   so that neither few reflections nor a data set that is weak as a whole are held against it;
2. have parameters within the population, robustly: of ln G, B, ln r_0, ln eta and epsilon

       e = |x - m| / sqrt(w^2 + esd(x)^2) <= z,     m = median(x),     w = 1.4826 median |x - m|

   with w of the lattices on the same side of m, for populations are skew (B), and the lattice's own esd, so that a
   narrow population rejects no lattice for what its data do not tell; of the angles sqrt(e_x^2 + e_y^2) <= z, with
   m = 0: indexing left them there, on both sides.  A parameter that was not refined is not tested, nor is any of fewer
   than MIN_POPULATION lattices.  Where more than MOST_OUTLIERS of the lattices would be out they are no outliers but a
   population of their own (a run with another attenuation), and stay.

A lattice gets the first reason that applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.cells import find_main_cells
from dials_postrefine.numerics.correlation import partial_correlation
from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.robust import robust_width
from dials_postrefine.stills.fits import LatticeFit, Reason
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    THETA_X,
    THETA_Y,
    Observations,
    scale_factor,
)

MIN_POPULATION = 20
MOST_OUTLIERS = 0.05
FISHER_Z = 3.0
LARGEST_R = 1.0 - 1e-12
OUTLIERS = (
    (LN_SCALE, Reason.SCALE_OUTLIER),
    (B_FACTOR, Reason.B_OUTLIER),
    (LN_RADIUS, Reason.RADIUS_OUTLIER),
    (LN_MOSAICITY, Reason.RADIUS_OUTLIER),
    (CELL_SCALE, Reason.CELL_OUTLIER),
)


@dataclass(frozen=True)
class SignificanceFilter:
    """The mean I/sigma that each of a lattice's n_bins resolution bins, of min_ct reflections or more, must have."""

    sigma: float = 0.5
    n_bins: int = 12
    min_ct: int = 10


@dataclass(frozen=True)
class InputFilters:
    """What is tested before any fit: tolerances of the unit cell (fraction, degrees), and significance or None."""

    cell_length: float = 0.03
    cell_angle: float = 2.0
    significance: SignificanceFilter | None = None


@dataclass(frozen=True)
class LatticeFilters:
    """
    What is tested after the fits: the least partial correlation (-1: not tested) and z of the parameters (docstring).
    """

    min_partial_correlation: float = 0.25
    parameter_z: float = 5.0


def cell_outliers(cells: np.ndarray, length_tolerance: float, angle_tolerance: float) -> np.ndarray:
    """
    Which unit cells are not of the main group (module docstring).

    Parameters
    ----------
    cells : ndarray, shape (L, 6)
        In Angstrom and degrees as DIALS gives them, NaN where there is none: that is no outlier.
    length_tolerance : float
        A fraction of the median.
    angle_tolerance : float
        In degrees.

    Returns
    -------
    ndarray of bool, shape (L,)
    """
    known = np.isfinite(cells).all(axis=1)
    return known & ~find_main_cells(cells, length_tolerance, angle_tolerance)


def significant_observations(
    intensity: np.ndarray,
    variance: np.ndarray,
    d_star_sq: np.ndarray,
    offsets: np.ndarray,
    settings: SignificanceFilter,
) -> np.ndarray:
    """
    Which observations lie within the resolution to which their lattice is significant (module docstring).

    Parameters
    ----------
    intensity, variance : ndarray, shape (n,)
    d_star_sq : ndarray, shape (n,)
        In 1/Angstrom^2.
    offsets : ndarray, shape (L + 1,)
        Lattice k owns rows offsets[k]:offsets[k + 1].
    settings : SignificanceFilter

    Returns
    -------
    ndarray of bool, shape (n,)
        None of a lattice whose first bin is too weak.
    """
    n = np.diff(offsets)
    lattice = np.repeat(np.arange(len(n)), n)
    order = np.lexsort((d_star_sq, lattice))
    place = np.arange(len(lattice)) - offsets[:-1][lattice]
    # bin b of a lattice begins at place b n // n_bins
    n_bins = np.clip(n // settings.min_ct, 1, settings.n_bins)
    number = ((place + 1) * n_bins[lattice] - 1) // n[lattice]
    group = lattice * settings.n_bins + number
    mean = grouped_mean((intensity / np.sqrt(variance))[order], group, len(n) * settings.n_bins, empty=np.inf)
    weak = mean.reshape(-1, settings.n_bins) < settings.sigma
    first_weak = np.where(weak.any(axis=1), weak.argmax(axis=1), settings.n_bins)
    significant = np.zeros(len(lattice), dtype=bool)
    significant[order] = number < first_weak[lattice]
    return significant


def relation_to_reference(observations: Observations, fit: LatticeFit) -> float:
    """
    The partial correlation r of a lattice with the reference it was fitted to (module docstring).

    Parameters
    ----------
    observations : Observations
        Of the lattice, with the reference.
    fit : LatticeFit
        Of the same, with its partialities.

    Returns
    -------
    float
        NaN where there is no fit or nothing matched.
    """
    matched = np.isfinite(observations.reference)
    if not np.isfinite(fit.x).all() or not matched.any():
        return np.nan
    q_sq, reference = observations.q_sq[matched], observations.reference[matched]
    recorded = scale_factor(fit.x, q_sq) * fit.partiality[matched]
    root = np.sqrt(recorded)
    observed, calculated = signed_root(observations.intensity[matched]), signed_root(recorded * reference)
    return partial_correlation(observed, calculated, (root, root * q_sq))


def reject_lattices(fits: Sequence[LatticeFit], settings: LatticeFilters) -> None:
    """
    Give the lattices that fail after the fit their reason (module docstring).

    Parameters
    ----------
    fits : sequence of LatticeFit
        Of all lattices of the data set; their reasons are changed in place.
    settings : LatticeFilters
    """
    judged = [fit for fit in _judged(fits) if np.isfinite(fit.partial_correlation)]
    r = np.clip([fit.partial_correlation for fit in judged], -LARGEST_R, LARGEST_R)
    n = np.array([fit.n_matched for fit in judged])
    if len(judged) and settings.min_partial_correlation > -1.0:
        z, error = np.arctanh(r), FISHER_Z / np.sqrt(n - 5.0)
        near_nothing = z < np.maximum(np.arctanh(settings.min_partial_correlation), error)
        for k in np.flatnonzero(near_nothing & (np.arctanh(np.median(r)) - z > error)):
            judged[k].reason = Reason.UNRELATED
    judged = _judged(fits)
    if len(judged) < MIN_POPULATION:
        return
    x = np.array([fit.x for fit in judged])
    variance = np.array([fit.covariance for fit in judged]).diagonal(axis1=1, axis2=2)
    tests = [(_excess(x[:, i] - np.median(x[:, i]), variance[:, i]), reason) for i, reason in OUTLIERS]
    turned = np.hypot(*(_excess(np.abs(x[:, i]), variance[:, i]) for i in (THETA_X, THETA_Y)))
    tests.append((turned, Reason.MISORIENTATION_OUTLIER))
    for excess, reason in tests:
        out = np.flatnonzero(excess > settings.parameter_z)
        for k in out if len(out) <= MOST_OUTLIERS * len(judged) else ():
            judged[k].reason = judged[k].reason or reason


def _judged(fits: Sequence[LatticeFit]) -> list[LatticeFit]:
    return [fit for fit in fits if fit.refined and fit.reason is None]


def _excess(deviation: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """e (n,) of the deviations x - m and the variances of x (module docstring), 0 where x was not refined."""
    size, width = np.abs(deviation), np.zeros(len(deviation))
    for side in (deviation >= 0.0, deviation < 0.0):
        if side.any():
            width[side] = robust_width(size[side])
    known = (variance > 0.0) & np.isfinite(variance)
    return np.divide(size, np.sqrt(width**2 + variance), out=np.zeros(len(size)), where=known)
