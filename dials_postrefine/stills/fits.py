"""
The fit of one lattice: what it needs to know, what it leads to, and why a lattice may be rejected.

lattice.py makes it; filters.py and deltacchalf.py, which compare the lattices with one another, may add their verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from dials_postrefine.stills.model import MAX_RELATIVE_VARIANCE, N_PARAMETERS, Observations
from dials_postrefine.stills.partiality import Profile, find_profile


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
    """
    What a fit needs to know; angles in radians, B in A^2 of this model's convention.

    A profile may be given by its name (partiality.find_profile).
    """

    model: str = "rs_hybrid"
    profile: Profile = Profile("lorentzian")
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "profile", find_profile(self.profile))


@dataclass
class LatticeFit:
    """
    The fit of one lattice of n observations.

    x (7,) as model.py orders it (NaN where no fit was possible), covariance (7, 7), reason None where accepted, refined
    unless only the scale was fitted, correlation_before and correlation_after of the intensities with the reference
    over the reflections with p above the threshold; model_correlation of the signed square roots of I_obs and I_calc
    over all that are matched, and partial_correlation of the same (filters.py); n_matched, n_kept, n_iterations;
    partiality and relative_variance (n,) of all observations (model.partiality_with_variance), until they are given
    away and of shape (0,) (chunks.spread_fits).
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
    relative_variance: np.ndarray = field(default_factory=lambda: np.zeros(0))


def no_fit(observations: Observations, reason: Reason) -> LatticeFit:
    """
    The result for a lattice that is out before any fit.

    Parameters
    ----------
    observations : Observations
        Of the lattice.
    reason : Reason

    Returns
    -------
    LatticeFit
        With x NaN.
    """
    fit = unfitted(observations, np.full(N_PARAMETERS, np.nan))
    fit.reason = reason
    return fit


def unfitted(observations: Observations, x: np.ndarray) -> LatticeFit:
    """
    A lattice of which nothing is known yet.

    Parameters
    ----------
    observations : Observations
        Of the lattice.
    x : ndarray, shape (7,)
        Where it stands.

    Returns
    -------
    LatticeFit
        Partialities of zero, and relative variances of MAX_RELATIVE_VARIANCE.
    """
    n = len(observations)
    unknown = np.zeros((N_PARAMETERS, N_PARAMETERS)), np.zeros(n)
    return LatticeFit(x, *unknown, relative_variance=np.full(n, MAX_RELATIVE_VARIANCE))
