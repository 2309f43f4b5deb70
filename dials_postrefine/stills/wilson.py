"""
Wilson statistics: how probable an intensity is at its resolution.

    P(I) = exp(-E^2)  acentric,   erfc(sqrt(E^2/2))  centric,     E^2 = I/(epsilon Sigma)

is the probability of an intensity of I or more, Sigma the mean intensity at the resolution and epsilon the statistical
factor of the index.  Sigma is taken from the median of a shell, which wild intensities do not move: median/ln 2, the
ratio of acentric reflections, interpolated in d*^2.  A few observations in a thousand are wild, and a wild one may be
anything up to a hundred times the mean: below a probability of 1e-4 an observation that nothing else speaks for is
more likely wild than true; below 1e-2 where a second one contradicts it.  Sources: Wilson (1949), Acta Cryst. 2, 318;
Read (1999), Acta Cryst. D55, 1759.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erfc

from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.loops import medians_of_groups

LEAST_PROBABLE = 1e-4
LEAST_PROBABLE_OF_TWO = 1e-2
IN_SHELL = 100


@dataclass(frozen=True)
class WilsonPrior:
    """What symmetry and cell say of each unique index (n_unique,): d_star_sq in 1/Angstrom^2, epsilon, centric."""

    d_star_sq: np.ndarray
    epsilon: np.ndarray
    centric: np.ndarray

    def mean(self, intensity: np.ndarray) -> np.ndarray:
        """
        epsilon Sigma of each unique index (n_unique,) from merged intensities, NaN being unknown.

        NaN where a shell's median is not positive, and everywhere where fewer than IN_SHELL intensities are known.
        """
        known = np.flatnonzero(np.isfinite(intensity))
        if len(known) < IN_SHELL:
            return np.full(len(intensity), np.nan)
        known = known[np.argsort(self.d_star_sq[known], kind="stable")]
        n_shells = len(known) // IN_SHELL
        shell = np.repeat(np.arange(n_shells), [len(part) for part in np.array_split(known, n_shells)])
        centre = grouped_mean(self.d_star_sq[known], shell, n_shells)
        sigma = medians_of_groups(intensity[known] / self.epsilon[known], shell, n_shells, False) / np.log(2.0)
        mean = self.epsilon * np.interp(self.d_star_sq, centre, sigma)
        return np.where(mean > 0.0, mean, np.nan)

    def probability(self, intensity: np.ndarray, unique: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """P(I) of intensities (n,) of unique indices (n,), mean (n_unique,) being epsilon Sigma; one where unknown."""
        e_sq = np.maximum(np.nan_to_num(intensity / mean[unique]), 0.0)
        return np.where(self.centric[unique], erfc(np.sqrt(0.5 * e_sq)), np.exp(-e_sq))
