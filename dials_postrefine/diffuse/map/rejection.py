"""
Whether pixels of a map are to be rejected as outliers, and from where on, by the sums of a pass without rejection.

The pixels of each voxel have a chi^2 against Poisson's law (orbits.shell_sums),

    chi^2_v = N - 1 + [sum (n^2 - var n)/e - ((sum n)^2 - var(sum n)) / sum e] / mean(var n / e)

A few pixels that are no photons of the crystal (zingers, ice, tails of Bragg peaks, bad pixels) raise the mean of
chi^2_v / (N - 1) over all voxels and hardly its median; a wrong gain, or voxels that are too large, raise both.  So
they are rejected where the mean is beyond CHI_SQ, and then beyond SIGMAS times the root of the median, which is how
wide the pixels of most voxels are.  Where nothing but noise differs, nothing is rejected, and there is no second pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map.columns import COUNT_SCALE, COUNTS, EXPOSURE, PIXELS, SQUARES, VARIANCE

CHI_SQ = 1.25
SIGMAS = 8.0
# More than this part of the pixels are no outliers: then all stay.
MOST_REJECTED = 0.01
BLOCK = 1 << 18  # voxels at a time
MOST_VOXELS = 1 << 22  # whose median is taken


@dataclass(frozen=True)
class Rejection:
    """
    From how many sigma on pixels were rejected, None where none were; chi^2 before, where it decided; and the part of
    the pixels that would have been rejected, where that was too much for outliers.
    """

    n_sigma: float | None = None
    chi_sq: float | None = None
    too_many: float | None = None


def automatic_limit(sums: np.ndarray, quanta: tuple[float, float]) -> tuple[float | None, float | None]:
    """
    Whether pixels are to be rejected, and from where on.

    Parameters
    ----------
    sums : ndarray (n_voxels, N_SUMS)
        Before they are averaged over symmetry.
    quanta : tuple of two float
        Of exposure and squares (MappingSettings.quanta).

    Returns
    -------
    limit : float or None
        In sigma; None for no rejection.
    chi_sq : float or None
        The mean chi^2 per degree of freedom; None where no voxel has more than a pixel.
    """
    total, freedom = 0.0, 0.0
    every = -(-len(sums) // MOST_VOXELS)
    ratios, weights = [], []
    for start in range(0, len(sums), BLOCK):
        chi_sq, n = chi_squared(sums[start : start + BLOCK], quanta)
        total, freedom = total + chi_sq.sum(), freedom + n.sum()
        ratios.append((chi_sq / n)[::every])
        weights.append(n[::every])
    if freedom <= 0.0:
        return None, None
    mean = float(total / freedom)
    if mean <= CHI_SQ:
        return None, mean
    return SIGMAS * max(1.0, _median(np.concatenate(ratios), np.concatenate(weights))) ** 0.5, mean


def chi_squared(sums: np.ndarray, quanta: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """
    chi^2 of voxels against Poisson's law (module docstring).

    Parameters
    ----------
    sums, quanta
        As of automatic_limit.

    Returns
    -------
    chi_sq, freedom : ndarray (m,)
        Of the m voxels that have more than a pixel.
    """
    sums = sums[(sums[:, PIXELS] > COUNT_SCALE) & (sums[:, VARIANCE] > 0) & (sums[:, EXPOSURE] > 0)]
    counts, pixels, variance = (sums[:, k] / COUNT_SCALE for k in (COUNTS, PIXELS, VARIANCE))
    exposure, squares = sums[:, EXPOSURE] / quanta[0], sums[:, SQUARES] / quanta[1]
    excess = squares - (counts * counts - variance) / exposure
    return pixels - 1.0 + excess * exposure / np.maximum(variance, counts), pixels - 1.0


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order[np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())]])
