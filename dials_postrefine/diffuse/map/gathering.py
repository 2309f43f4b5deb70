"""
The compiled loops that add the pixels of an image to the sums of a map, or tell which of them are outliers.

What a loop needs of a NamedTuple it takes out first: to hand one on in each turn would count references to all of its
arrays, and take twice the time.

Floats are added up within an image alone, in the order of its pixels; what goes to the sums of the map is rounded to
integers first (columns.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dials_postrefine.diffuse.map.columns import (
    COUNT_SCALE,
    COUNTS,
    EXPOSURE,
    HALF_COUNTS,
    HALF_EXPOSURE,
    LARGEST,
    PAGE,
    PIXELS,
    SQUARES,
    VARIANCE,
)
from dials_postrefine.diffuse.map.compiled import inlined, jit
from dials_postrefine.diffuse.map.kernels import REJECTED


class Pending(NamedTuple):
    """
    Voxels that pixels of the next row may reach again: their addresses, voxel (n,) int32, each at its remainder by n, a
    power of two, or -1; and their sums (n, 4) of counts, weights, pixels and squares.
    """

    voxel: np.ndarray
    sums: np.ndarray


class Gathered(NamedTuple):
    """What is to be added to the sums: voxel (m,) int32 and its sums (m, 5), columns COUNTS to SQUARES."""

    voxel: np.ndarray
    sums: np.ndarray


@jit
def gather(address, image, factor, first, pending, gathered):
    """
    Collect what pixels of one voxel add up to, where each pixel is in one voxel and nothing is taken off it.

    The sums of neighbours in a row go to `pending`, where those of the rows before are if it names their voxel; what
    was there of another voxel goes to `gathered`, as all does after the last pixel.

    Parameters
    ----------
    address : (n,) int32
    image : PanelImage
    factor : float
        The exposure of a pixel is e = factor weight.
    first : int
        The pixel to begin with.
    pending : Pending
        Empty (-1) at first and at last.
    gathered : Gathered
        Filled from its beginning.

    Returns
    -------
    tuple of int
        How many voxels were gathered, and the pixel to go on with.
    """
    values, weight, gain, pedestal = image.values, image.weight, image.gain, image.pedestal
    waiting, sums = pending
    voxel, out = gathered
    inverse_gain = 1.0 / gain
    last, k, room = -1, 0, len(voxel) - len(waiting) - 1
    counts, weights, pixels, squares = 0.0, 0.0, 0.0, 0.0
    for i in range(first, len(address)):
        a = address[i]
        if a < 0:
            continue
        if a != last:
            if last >= 0:
                slot = last & (len(waiting) - 1)
                if waiting[slot] != last:
                    if waiting[slot] >= 0:
                        voxel[k] = waiting[slot]
                        _put_pending(out[k], sums[slot], factor)
                        k += 1
                    waiting[slot] = last
                    sums[slot, 0], sums[slot, 1] = counts, weights
                    sums[slot, 2], sums[slot, 3] = pixels, squares
                else:
                    sums[slot, 0] += counts
                    sums[slot, 1] += weights
                    sums[slot, 2] += pixels
                    sums[slot, 3] += squares
                if k == room:
                    return k, i
            last = a
            counts, weights, pixels, squares = 0.0, 0.0, 0.0, 0.0
        n = (values[i] - pedestal) * inverse_gain
        w = weight[i]
        counts += n
        weights += w
        pixels += 1.0
        squares += (n * n - n) / w
    if last >= 0:
        voxel[k] = last
        _put(out[k], counts, factor * weights, pixels, counts, squares / factor)
        k += 1
    for slot in range(len(waiting)):
        if waiting[slot] >= 0:
            voxel[k] = waiting[slot]
            _put_pending(out[k], sums[slot], factor)
            waiting[slot] = -1
            k += 1
    return k, len(address)


@inlined
def _put_pending(out, sums, factor):
    out[COUNTS] = out[VARIANCE] = sums[0]
    out[EXPOSURE] = factor * sums[1]
    out[PIXELS] = sums[2]
    out[SQUARES] = sums[3] / factor


@jit
def gather_shared(address, image, offset, dwell, factor, first, gathered):
    """
    As gather, of pixels that voxels share or from which something is taken off.

    Parameters
    ----------
    address : (n_steps, n) int32
        The voxels that a pixel sweeps in equal parts of the time.
    image : PanelImage
    offset : (n_shells + 1,), or empty
        An isotropic part of n/e that is taken off.
    dwell : float
        How many images a pixel stays in a voxel: the background taken off in them is one measurement.
    factor, first, gathered
        As of gather.

    Returns
    -------
    tuple of int
        How many voxels were gathered, and the pixel to go on with.
    """
    values, weight, gain, pedestal, time = image.values, image.weight, image.gain, image.pedestal, image.time
    background, background_variance = image.background, image.background_variance
    noise, shell = image.noise, image.shell
    voxel, out = gathered
    n_steps, n_pixels = address.shape
    has_background = background.size > 0
    k = 0
    for i in range(first, n_pixels):
        if k + n_steps > len(voxel):
            return k, i
        for step in range(n_steps):
            f = _part(address, step, i)
            if f == 0.0:
                continue
            a = address[step, i]
            e = factor * weight[i]
            n = (values[i] - pedestal) / gain
            variance = n
            if noise.size:
                variance += noise[i]
            n -= _taken_off(i, e, time, background, shell, offset)
            if has_background:
                variance += time * time * background_variance[i] * dwell
            voxel[k] = a
            _put(out[k], f * n, f * e, f, f * f * variance, f * (n * n - variance) / e)
            k += 1
    return k, n_pixels


@inlined
def _part(address, step, i):
    """The part f of pixel i that is in its voxel of this step; 0 for none, and for one that an earlier step had."""
    a, n_steps, same = address[step, i], address.shape[0], 0
    if a >= 0:
        for other in range(n_steps):
            if address[other, i] == a:
                if other < step:
                    return 0.0
                same += 1
    return same / n_steps


@inlined
def _taken_off(i, e, time, background, shell, offset):
    """
    The photons that are taken off those of pixel i before they go to the sums: its background and, e offset, the
    isotropic part of its image; both passes ask here, so that they expect the same.
    """
    n = 0.0
    if background.size > 0:
        n += time * background[i]
    if offset.size > 0:
        n += e * offset[shell[i]]
    return n


@inlined
def _put(run, counts, exposure, pixels, variance, squares):
    run[COUNTS], run[EXPOSURE], run[PIXELS], run[VARIANCE], run[SQUARES] = counts, exposure, pixels, variance, squares


@jit
def add(gathered, n, scales, half, sums, reached):
    """
    Add what was gathered to the sums of the map.

    Parameters
    ----------
    gathered : Gathered
    n : int
        How many of its voxels there are.
    scales : tuple of two float
        Of exposure and of squares, in quanta (MappingSettings.quanta).
    half : bool
        Whether the image belongs to the first half.
    sums : (n_voxels, N_SUMS) int64
        Added to.
    reached : (m,) int64, or empty
        Set to 1 for the pages of voxels that are added to (columns.make_reached).
    """
    exposure_scale, square_scale = scales
    voxel, gathered_sums = gathered
    for k in range(n):
        a = voxel[k]
        if reached.size > 0:
            reached[a // PAGE] = 1
        counts = np.int64(np.floor(gathered_sums[k, COUNTS] * COUNT_SCALE + 0.5))
        exposure = np.int64(gathered_sums[k, EXPOSURE] * exposure_scale + 0.5)
        sums[a, COUNTS] += counts
        sums[a, EXPOSURE] += exposure
        sums[a, PIXELS] += np.int64(gathered_sums[k, PIXELS] * COUNT_SCALE + 0.5)
        sums[a, VARIANCE] += np.int64(np.floor(gathered_sums[k, VARIANCE] * COUNT_SCALE + 0.5))
        squares = min(max(gathered_sums[k, SQUARES] * square_scale, -LARGEST), LARGEST)
        sums[a, SQUARES] += np.int64(np.floor(squares + 0.5))
        if half:
            sums[a, HALF_COUNTS] += counts
            sums[a, HALF_EXPOSURE] += exposure


@jit
def reject(address, image, offset, factor, scales, n_sigma, sums):
    """
    Mark as REJECTED the pixels whose deviance against the other pixels of their voxels, sums of a first pass, is
    beyond n_sigma: |n - mu| of Poisson's law as sqrt(2 (n ln(n/mu) - n + mu)), two-sided.

        mu = max(0, e m + t) + e / E      m = sum_v f_v (C_v - f_v (n - t)) / (E_v - f_v e) / sum_v f_v

    C_v and E_v are the sums of COUNTS and EXPOSURE of a voxel v in which the pixel has the part f_v, t what is taken
    off it before it goes there (gather_shared), so that both passes have one model; E is the smallest of the E_v - f_v
    e, whose own uncertainty counts as that of one photon more among them.  Voxels that have less than the pixel itself
    from others can't tell.

    With a variance by reading, n + noise is compared with mu + noise, which has the mean and the variance of what was
    read.

    Parameters
    ----------
    address : (n_steps, n) int32
        Changed.
    image : PanelImage
    offset, factor
        As of gather_shared.
    scales : tuple of two float
        As of add.
    n_sigma : float
        The limit.
    sums : (n_voxels, N_SUMS) int64
        Those of the first pass.

    Returns
    -------
    int
        How many of the pixels that have a voxel in the first part of the rotation are rejected.
    """
    values, weight, gain, pedestal, noise = image.values, image.weight, image.gain, image.pedestal, image.noise
    time, background, shell = image.time, image.background, image.shell
    rejected = 0
    n_steps = address.shape[0]
    for i in range(address.shape[1]):
        n = (values[i] - pedestal) / gain
        e = factor * weight[i]
        taken = _taken_off(i, e, time, background, shell, offset)
        total, parts, fewest = 0.0, 0.0, np.inf
        for step in range(n_steps):
            f = _part(address, step, i)
            if f == 0.0:
                continue
            a = address[step, i]
            others = sums[a, EXPOSURE] / scales[0] - f * e
            if others < e:  # too few others to tell
                continue
            total += f * (sums[a, COUNTS] / COUNT_SCALE - f * (n - taken)) / others
            parts += f
            fewest = min(fewest, others)
        if parts == 0.0:
            continue
        mu = max(0.0, e * total / parts + taken) + e / fewest
        if noise.size:
            n, mu = n + noise[i], mu + noise[i]
        deviance = mu - n if n <= 0.0 else n * np.log(n / mu) - n + mu
        if 2.0 * deviance > n_sigma * n_sigma:
            rejected += address[0, i] >= 0
            for step in range(n_steps):
                address[step, i] = REJECTED
    return rejected
