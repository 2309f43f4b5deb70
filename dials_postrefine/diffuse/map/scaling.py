"""
The scale k_m of an image, in three ways.  In the first an image has only itself to look at, so that maps can be added.

per image   k_m = mean over shells of (sum n / sum e): the isotropic level of the image, in photons / (s sr).
            Divided by it, images have one level, and the merged map gets the mean of all k_m back (merging.py)
smooth      the same as a smooth function of the image's number: needs all images of a series first
given       by somebody else, for instance dials.scale
"""

from __future__ import annotations

import numpy as np


def level(profile: np.ndarray) -> float:
    """
    The level k of an image: the mean over shells of (sum n / sum e).

    Parameters
    ----------
    profile : ndarray (n_shells, N_PROFILE)
        Of kernels.profile.

    Returns
    -------
    float
        Photons / (s sr); NaN where it has no pixel.
    """
    exposure = profile[:, 1]
    exposed = exposure > 0.0
    return float(np.mean(profile[exposed, 0] / exposure[exposed])) if exposed.any() else np.nan


def smooth(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """
    Levels as a smooth function of the number of the image.

    Parameters
    ----------
    numbers : ndarray (n,)
        Of the images of one series.
    levels : ndarray (n,)
        NaN where an image has none.

    Returns
    -------
    ndarray (n,)
        A smoothing spline of ln k, whose smoothness generalised cross-validation chooses; of fewer than five levels
        their geometric mean.
    """
    from scipy.interpolate import make_smoothing_spline

    known = np.isfinite(levels) & (levels > 0.0)
    if np.count_nonzero(known) < 5:
        return np.full(len(levels), np.exp(np.mean(np.log(levels[known]))) if known.any() else np.nan)
    return np.exp(make_smoothing_spline(numbers[known], np.log(levels[known]))(numbers))
