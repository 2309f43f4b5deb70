"""
How well matched spots agree: of a pair of images, an image, a pair of experiments, or all together.

With intensities I1, I2 and variances v1, v2 of m matched spots; log spread and its like from the spots that are strong
on both images, I > strong sqrt(v):

    log spread         s = 1.4826 MAD(ln I1/I2)/sqrt 2         esd 1.167 s/sqrt m   (of normal residuals)
    expected           median sqrt(v1/I1^2 + v2/I2^2)/sqrt 2
    R                  sum |I1 - I2|/sum (I1 + I2)             esd sqrt(sum (|I1 - I2| - R (I1 + I2))^2)/sum (I1 + I2)
    CC, CC of ln I     linear correlations                     esd (1 - CC^2)/sqrt(m - 1)
    z                  (I1 - k I2)/sqrt(v1 + k^2 v2),  k = sum I1/sum I2;  its robust width 1.4826 median |z|

MAD is the median of the absolute deviations from the median, so that a ratio of two images' scales does not count.
The esd of CC is that of normally distributed intensities, and up to a third too small for such as real ones are.
All arrays are (m,) or one number a group; NaN where a group has too few spots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dials_postrefine.numerics.correlation import grouped_correlation
from dials_postrefine.numerics.grouped import grouped_median
from dials_postrefine.numerics.robust import MAD_TO_SIGMA

MAD_ESD = 1.167  # the esd of such a sigma of m normal numbers, times sqrt(m)/sigma
FEWEST = 3  # spots, for any of the numbers


@dataclass
class SpotAgreement:
    """
    The numbers of n_groups groups (module docstring).

    Attributes
    ----------
    n, n_strong : ndarray of int, shape (n_groups,)
        Matched spots, and those that are strong on both images.
    log_spread, log_spread_esd, expected, r, r_esd, cc, cc_esd, cc_log, k, z_width, z_width_esd : ndarray, shape
    (n_groups,)
        NaN of a group with too few spots.
    """

    n: np.ndarray
    n_strong: np.ndarray
    log_spread: np.ndarray
    log_spread_esd: np.ndarray
    expected: np.ndarray
    r: np.ndarray
    r_esd: np.ndarray
    cc: np.ndarray
    cc_esd: np.ndarray
    cc_log: np.ndarray
    k: np.ndarray
    z_width: np.ndarray
    z_width_esd: np.ndarray

    def as_dict(self, k: int) -> dict[str, float]:
        """The numbers of one group, k, by name."""
        return {one.name: getattr(self, one.name)[k].item() for one in fields(self)}


def measure_agreement(
    i1: np.ndarray,
    v1: np.ndarray,
    i2: np.ndarray,
    v2: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    strong: float = 3.0,
) -> SpotAgreement:
    """
    The agreement of matched spots by group.

    Parameters
    ----------
    i1, v1, i2, v2 : ndarray, shape (m,)
        Intensities and variances on the first and on the second image.
    group : ndarray of int, shape (m,)
    n_groups : int
    strong : float
        The least I/sigma of a strong spot.

    Returns
    -------
    SpotAgreement
    """

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values, n_groups)

    n = np.bincount(group, minlength=n_groups)
    both = (i1 > strong * np.sqrt(v1)) & (i2 > strong * np.sqrt(v2))
    strong_group, n_strong = group[both], np.bincount(group[both], minlength=n_groups)
    ln1, ln2 = np.log(i1[both]), np.log(i2[both])
    ratio = ln1 - ln2
    deviation = np.abs(ratio - grouped_median(ratio, strong_group, n_groups)[strong_group])
    error = np.sqrt(v1[both] / i1[both] ** 2 + v2[both] / i2[both] ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_spread = _enough(MAD_TO_SIGMA / np.sqrt(2.0) * grouped_median(deviation, strong_group, n_groups), n_strong)
        sums, differences = total(i1 + i2), np.abs(i1 - i2)
        r = _enough(np.where(sums > 0.0, total(differences) / sums, np.nan), n)
        r_esd = np.sqrt(total((differences - r[group] * (i1 + i2)) ** 2)) / sums
        cc = grouped_correlation(i1, i2, group, n_groups)
        k = total(i1) / total(i2)
        k = np.where(np.isfinite(k) & (k > 0.0), k, np.nan)
        factor = k[group]
        z = (i1 - factor * i2) / np.sqrt(v1 + factor**2 * v2)
        z_width = _enough(MAD_TO_SIGMA * grouped_median(np.abs(z), group, n_groups), n)
        return SpotAgreement(
            n,
            n_strong,
            log_spread,
            MAD_ESD * log_spread / np.sqrt(n_strong),
            _enough(grouped_median(error, strong_group, n_groups) / np.sqrt(2.0), n_strong),
            r,
            r_esd,
            cc,
            (1.0 - cc**2) / np.sqrt(n - 1.0),
            grouped_correlation(ln1, ln2, strong_group, n_groups),
            k,
            z_width,
            MAD_ESD * z_width / np.sqrt(n),
        )


def _enough(values: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.where(n >= FEWEST, values, np.nan)
