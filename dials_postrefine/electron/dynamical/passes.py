"""
Observations of parts of rocking curves -> whole passes of reflections through the Ewald sphere, with their factors.

A frame that overlaps others (numerics/frames.py) has what was seen of a reflection in its own interval.  The frames
that follow one another and have one index are a pass: with the scale c of each frame by single scattering,

    c_f = (sum F_obs F_kin/sum F_kin^2)^2,     O = sum I_obs/c,   P = sum I_dyn/c,   G = sum I_kin/c

F = sqrt(max(I, 0)), sums over the strong observations of the frame, and over the frames of the pass.  O/G <G>_h is what
the whole reflection would have on one scale, <G>_h the mean of its symmetry equivalents, and P/G its dynamical factor.
Passes of which less than SEEN was seen, of what the best equivalent has, are left out.  A count that is in m frames is
not m counts: variances are times m = 2 p/step, where that is above one.

Frames that tile a sweep have whole reflections on one scale already, and their observations are taken as they are.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.electron.dynamical.explained import Factored
from dials_postrefine.electron.dynamical.results import DynamicalFit
from dials_postrefine.numerics.frames import FrameData, Frames
from dials_postrefine.numerics.grouped import grouped_mean

SEEN = 0.5


def whole_reflections(data: FrameData, fit: DynamicalFit) -> Factored:
    """
    Intensities on one scale with the factors of a fit (module docstring).

    Parameters
    ----------
    data : FrameData
    fit : DynamicalFit

    Returns
    -------
    Factored
    """
    if data.frames.tile:
        with np.errstate(divide="ignore", invalid="ignore"):
            return Factored(data.unique, data.frame, data.intensity, data.variance, fit.factor)
    scale = frame_scales(data, fit.kinematical, fit.observed)[data.frame]
    known = np.isfinite(fit.kinematical) & np.isfinite(fit.dynamical) & (scale > 0.0)
    data, scale = data.select(known), scale[known]
    one = number_passes(data)
    n = int(one.max()) + 1 if len(one) else 0
    observed, predicted, seen = (
        np.bincount(one, values / scale, n) for values in (data.intensity, fit.dynamical[known], fit.kinematical[known])
    )
    variance = overlap(data.frames) * np.bincount(one, data.variance / scale**2, n)
    first = np.unique(one, return_index=True)[1]
    unique, n_unique = data.unique[first], int(data.unique.max(initial=-1)) + 1
    best = np.zeros(n_unique)
    np.maximum.at(best, unique, seen)
    whole = np.flatnonzero((seen > 0.0) & (seen >= SEEN * best[unique]))
    unique = unique[whole]
    seen_part = seen[whole] / grouped_mean(seen[whole], unique, n_unique)[unique]
    middle = np.rint(grouped_mean(data.frame.astype(float), one, n)).astype(np.int64)[whole]
    return Factored(
        unique, middle, observed[whole] / seen_part, variance[whole] / seen_part**2, predicted[whole] / seen[whole]
    )


def frame_scales(data: FrameData, calculated: np.ndarray, some: np.ndarray) -> np.ndarray:
    """
    c_f (module docstring).

    Parameters
    ----------
    data : FrameData
        n observations.
    calculated : ndarray, shape (n,)
    some : ndarray of bool, shape (n,)
        The strong ones.

    Returns
    -------
    ndarray, shape (f,)
        0 of a frame without a strong observation.
    """
    some = some & np.isfinite(calculated)
    f_obs, f_calc = (np.sqrt(np.maximum(one[some], 0.0)) for one in (data.intensity, calculated))
    frame, n = data.frame[some], data.frames.n
    top, below = np.bincount(frame, f_obs * f_calc, n), np.bincount(frame, f_calc**2, n)
    return np.divide(top, below, out=np.zeros(n), where=below > 0.0) ** 2


def number_passes(data: FrameData) -> np.ndarray:
    """
    Which pass each observation is of: one index in frames of one sweep that follow one another.

    Parameters
    ----------
    data : FrameData

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 on.
    """
    sweep = data.frames.sweep[data.frame]
    order = np.lexsort((data.frame, sweep, *data.h.T))
    key = np.column_stack([data.h, sweep])[order]
    frame = data.frame[order]
    new = np.ones(data.n, dtype=bool)
    new[1:] = np.any(key[1:] != key[:-1], axis=1) | (np.diff(frame) > 1)
    found = np.empty(data.n, dtype=np.int64)
    found[order] = np.cumsum(new) - 1
    return found


def overlap(frames: Frames) -> float:
    """
    In how many frames an angle of a rotation is: m (module docstring).

    Parameters
    ----------
    frames : Frames

    Returns
    -------
    float
        1 or above.
    """
    if frames.n < 2 or frames.motion != "rotation":
        return 1.0
    step = np.abs(np.diff(frames.angle))[np.diff(frames.sweep) == 0]
    step = step[step > 0.0]
    return max(1.0, 2.0 * float(np.median(frames.semi_width)) / float(np.median(step))) if len(step) else 1.0
