"""
What postrefinement leads to: the parameters of the lattices, what they make of the observations, and how it came about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.stills.convergence import Course, Cycle
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import LatticeFit, Reason
from dials_postrefine.stills.freereflections import FreeAgreement
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.scaling import corrected_values, merging_values


@dataclass
class PostrefinedStills:
    """
    The outcome of L lattices with n observations of n_unique indices.

    model, profile, radius and unit_cell as in FitSettings; x (L, 7), covariance (L, 7, 7), fits and reasons (L) by
    lattice; partiality, scale = G e, relative_variance of (G e p), kept and outlier (n,) by observation, outliers being
    among the kept, and variance_slope of all (errormodel.py); mean (n_unique,) their merged intensities and error_model
    the variances' (None: not wanted); reference (n_unique,) what the last cycle was fitted to, NaN for what is held out
    if it is the data's own mean; linear_scale (L,), the scales before; cycles and their course (convergence.py); free,
    the lattices' agreement with what was held out; scaled_only: these are the data as unrefined.py leaves them, and
    only cycles, course and free are of the postrefinement that was no better; restraint, what the population of the
    last cycle is to the lattices, None where they are not restrained.
    """

    model: str
    profile: Profile
    radius: str
    unit_cell: str
    x: np.ndarray
    covariance: np.ndarray
    fits: list[LatticeFit]
    reasons: list[Reason | None]
    partiality: np.ndarray
    scale: np.ndarray
    relative_variance: np.ndarray
    variance_slope: float
    kept: np.ndarray
    outlier: np.ndarray
    mean: np.ndarray
    error_model: ErrorModel | None
    reference: np.ndarray
    linear_scale: np.ndarray
    cycles: list[Cycle]
    course: Course
    free: FreeAgreement
    scaled_only: bool = False
    restraint: Restraint | None = None

    def merging_values(self, stills: Stills, selection: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """The scaled values of the selected observations and their variances, as they are to be merged."""
        return merging_values(stills, self, self.mean, self.error_model, selection)

    def corrected_values(self, stills: Stills) -> tuple[np.ndarray, np.ndarray]:
        """All values and their variances as they are to be written, not yet scaled."""
        return corrected_values(stills, self, self.mean, self.error_model)

    @property
    def accepted(self) -> np.ndarray:
        """Which lattices are accepted (L,)."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)
