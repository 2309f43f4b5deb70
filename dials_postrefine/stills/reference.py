"""
What lattices are fitted to, and what no fit sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.stills.dataset import Stills

# of merged intensities and their standard deviations (n_unique,), NaN where unknown: a model's on the same scale and
# their variances, or None where they are too few to tell
Prior = Callable[[np.ndarray, np.ndarray], "tuple[np.ndarray, np.ndarray] | None"]


@dataclass(frozen=True)
class FitReference:
    """
    The reference of a data set of n_unique indices.

    Parameters
    ----------
    intensity : ndarray, shape (n_unique,) or (0,)
        Full intensities of an external reference, NaN where unknown; (0,) for the scaled mean of the data themselves.
    free : ndarray of bool, shape (n_unique,) or (0,)
        Unique indices that take no part in any fit (freereflections.py); (0,) where there are none.
    prior : Prior, optional
        Where the reference is a model that has errors of its own.
    friedel_merged : bool
        Whether its intensities are the means of Friedel pairs that are kept apart in the data.
    """

    intensity: np.ndarray = field(default_factory=lambda: np.zeros(0))
    free: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    prior: Prior | None = None
    friedel_merged: bool = False

    @property
    def external(self) -> bool:
        """Whether there is a reference besides the data."""
        return len(self.intensity) > 0

    @property
    def lacks_differences(self) -> bool:
        """Whether the differences of Friedel pairs are to come from the data, which an external reference lacks."""
        return self.external and self.friedel_merged and self.prior is None

    @property
    def has_free(self) -> bool:
        """Whether anything is held out."""
        return len(self.free) > 0

    @property
    def working(self) -> np.ndarray:
        """The intensities that fits may see: NaN for free indices too, (0,) without an external reference."""
        return np.where(self.free, np.nan, self.intensity) if self.external and self.has_free else self.intensity

    def hide(self, stills: Stills) -> Stills:
        """The stills without the intensities and means of what is free, for all that precedes the fits."""
        if not self.has_free:
            return stills
        intensity = np.where(self.free[stills.unique], 0.0, stills.intensity)
        return replace(stills, intensity=intensity, absent=stills.absent | self.free)


def make_reference(
    intensity: np.ndarray | None = None,
    free: np.ndarray | None = None,
    prior: Prior | None = None,
    friedel_merged: bool = False,
) -> FitReference:
    """
    The FitReference of what there is.

    Parameters
    ----------
    intensity : ndarray, shape (n_unique,), optional
    free : ndarray of bool, shape (n_unique,), optional
    prior : Prior, optional
    friedel_merged : bool

    Returns
    -------
    FitReference
    """
    given = {"intensity": intensity, "free": free, "prior": prior, "friedel_merged": friedel_merged}
    return FitReference(**{name: value for name, value in given.items() if value is not None})
