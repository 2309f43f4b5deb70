"""
The compiled loops over the pixels of an image: in which voxel they are, the profile of the image, strong pixels.

gathering.py has those that add pixels to the sums.  An address is that of a voxel, or says why there is none: OUTSIDE
(of the limits, of the detector, not to be trusted), BRAGG (masked), REJECTED (outlier).

Arrays that belong together come as NamedTuples, which numba takes as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dials_postrefine.diffuse.map.compiled import inlined, jit

OUTSIDE, BRAGG, REJECTED = -1, -2, -3

# Pixels of which one block in so many makes the profile of an image; a prime, not to follow the columns.
BLOCK = 251
NO_SHELL = 255
# More voxels than any pixel is away from the first.
FAR = 1 << 20


class PanelImage(NamedTuple):
    """
    One panel of n pixels on one image.

    values (n,) as they were read: photons are (value - pedestal) / gain, and it can be trusted if low <= value < high;
    s1 (n, 3), 1/Angstrom, weight (n,) Omega P eps air, sr, and shell (n,) of |s|, NO_SHELL outside of all; the time of
    exposure, s; background (n,) and its variance, photons / s, and noise (n,), the variance by reading, photons^2, each
    empty where there is none.
    """

    values: np.ndarray
    gain: float
    pedestal: float
    low: float
    high: float
    s1: np.ndarray
    weight: np.ndarray
    shell: np.ndarray
    time: float
    background: np.ndarray
    background_variance: np.ndarray
    noise: np.ndarray


class Placement(NamedTuple):
    """
    From s1 to fractional indices h = to_h s1 + h_0 and to voxel coordinates x = to_x s1 + x_0, at one moment; box: how
    near to integers all of h are in a Bragg peak, 0 for no such mask.
    """

    to_h: np.ndarray
    h_0: np.ndarray
    to_x: np.ndarray
    x_0: np.ndarray
    box: float


@jit
def shells_of(s1, s0, edges, shell):
    """
    The shell of each pixel by |s1 - s0|.

    Parameters
    ----------
    s1 : (n, 3); s0 : (3,)
        1/Angstrom.
    edges : (n_shells + 1,)
        Even steps of |s|.
    shell : (n,) uint8
        Filled; NO_SHELL for pixels outside of all shells.
    """
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    for i in range(len(shell)):
        x, y, z = s1[i, 0] - s0[0], s1[i, 1] - s0[1], s1[i, 2] - s0[2]
        k = np.floor((np.sqrt(x * x + y * y + z * z) - first) / step)
        shell[i] = int(k) if 0.0 <= k < n else NO_SHELL


@jit
def locate(image, usable, bragg, placement, rows, out):
    """
    The address of the voxel of each pixel.

    Parameters
    ----------
    image : PanelImage
    usable : (n,) uint8
        1, or 0 if masked, or 2 if out of range; pixels that are not usable, or whose values can't be trusted, are
        OUTSIDE.
    bragg : (n,) uint8, or empty
        Marks the pixels of Bragg peaks; those within the box of the placement are BRAGG as well.
    placement : Placement
    rows : grid.Rows
    out : (n,) int32
        Filled with addresses.

    Returns
    -------
    tuple of int
        The numbers of pixels inside, of those that are Bragg, of masked ones, and of those that can't be trusted.
    """
    s1, values, low, high = image.s1, image.values, image.low, image.high
    to_h, h_0, to_x, x_0, box = placement
    limits, row_low, row_high, row_base = rows
    low_0, low_1, low_2, shape_0, shape_1 = limits
    n_inside, n_bragg, n_masked, n_untrusted = 0, 0, 0, 0
    marked = bragg.size > 0
    # Rounded by cutting off what is positive thanks to FAR.
    far_0, far_1, far_2 = x_0[0] + 0.5 - low_0 + FAR, x_0[1] + 0.5 - low_1 + FAR, x_0[2] + 0.5 + FAR
    for i in range(len(out)):
        address = OUTSIDE
        value = values[i]
        if usable[i] == 0:
            n_masked += 1
        elif usable[i] == 1 and not low <= value < high:
            n_untrusted += 1
        elif usable[i] == 1:
            x, y, z = s1[i, 0], s1[i, 1], s1[i, 2]
            a = int(to_x[0, 0] * x + to_x[0, 1] * y + to_x[0, 2] * z + far_0) - FAR
            b = int(to_x[1, 0] * x + to_x[1, 1] * y + to_x[1, 2] * z + far_1) - FAR
            c = int(to_x[2, 0] * x + to_x[2, 1] * y + to_x[2, 2] * z + far_2) - FAR
            if 0 <= a < shape_0 and 0 <= b < shape_1 and row_low[a, b] <= c < row_high[a, b]:
                n_inside += 1
                if (marked and bragg[i]) or (box > 0.0 and _near_integers(to_h, h_0, x, y, z, box)):
                    address = BRAGG
                    n_bragg += 1
                else:
                    address = row_base[a, b] + c
        out[i] = address
    return n_inside, n_bragg, n_masked, n_untrusted


@inlined
def _near_integers(to_h, h_0, x, y, z, box):
    h = to_h[0, 0] * x + to_h[0, 1] * y + to_h[0, 2] * z + h_0[0]
    k = to_h[1, 0] * x + to_h[1, 1] * y + to_h[1, 2] * z + h_0[1]
    l = to_h[2, 0] * x + to_h[2, 1] * y + to_h[2, 2] * z + h_0[2]  # noqa: E741
    return abs(h - np.floor(h + 0.5)) < box and abs(k - np.floor(k + 0.5)) < box and abs(l - np.floor(l + 0.5)) < box


@jit
def profile(address, image, axes, first, every, out):
    """
    Add a panel's pixels to the profile of the image: sums of

        n, e, e c, e s, e c^2, e c s, e s^2, n c, n s        e = time weight, c = cos 2 phi, s = sin 2 phi

    and of pixels, all that are inside and those that are Bragg, phi the azimuth about the beam from m towards n.

    Parameters
    ----------
    address : (n,) int32
    image : PanelImage
    axes : tuple of two (3,)
        The unit vectors n and m (geometry.polarization_axes).
    first : int
        The number of the panel's first pixel in the detector.
    every : int
        One block of pixels in so many is looked at.
    out : (n_shells, records.N_PROFILE)
        Added to.
    """
    values, s1, weight, shell, time = image.values, image.s1, image.weight, image.shell, image.time
    gain, pedestal, background = image.gain, image.pedestal, image.background
    n, m = axes
    subtract = background.size > 0
    for start in range((-(first // BLOCK) % every) * BLOCK - first % BLOCK, len(address), every * BLOCK):
        for i in range(max(start, 0), min(start + BLOCK, len(address))):
            k = shell[i]
            if k == NO_SHELL:
                continue
            if address[i] == BRAGG:
                out[k, 9] += 1.0
                out[k, 10] += 1.0
            if address[i] < 0:
                continue
            out[k, 9] += 1.0
            e = time * weight[i]
            count = (values[i] - pedestal) / gain
            if subtract:
                count -= time * background[i]
            x = s1[i, 0] * m[0] + s1[i, 1] * m[1] + s1[i, 2] * m[2]
            y = s1[i, 0] * n[0] + s1[i, 1] * n[1] + s1[i, 2] * n[2]
            r_sq = x * x + y * y
            if r_sq == 0.0:  # in the beam there is no azimuth
                r_sq = 1.0
            c, s = (x * x - y * y) / r_sq, 2.0 * x * y / r_sq
            out[k, 0] += count
            out[k, 1] += e
            out[k, 2] += e * c
            out[k, 3] += e * s
            out[k, 4] += e * c * c
            out[k, 5] += e * c * s
            out[k, 6] += e * s * s
            out[k, 7] += count * c
            out[k, 8] += count * s


@jit
def strong_pixels(address, image, mean, n_sigma, out):
    """
    The pixels inside of the grid that exceed what their shell leads to expect by n_sigma of its noise (Poisson's law
    and reading) and three photons.

    Parameters
    ----------
    address : (n,) int32
    image : PanelImage
    mean : (n_shells,)
        Photons per exposure of each shell.
    n_sigma : float
    out : (m,) int64
        Filled with the numbers of pixels, m at most.

    Returns
    -------
    int
        How many there are.
    """
    values, weight, shell, time = image.values, image.weight, image.shell, image.time
    gain, pedestal, noise = image.gain, image.pedestal, image.noise
    n_strong = 0
    for i in range(len(address)):
        if (address[i] < 0 and address[i] != BRAGG) or shell[i] == NO_SHELL:
            continue
        mu = max(0.0, mean[shell[i]] * time * weight[i])
        excess = (values[i] - pedestal) / gain - mu - 3.0
        variance = mu + noise[i] if noise.size else mu
        if excess > 0.0 and excess * excess > n_sigma * n_sigma * variance:
            out[n_strong] = i
            n_strong += 1
            if n_strong == len(out):
                break
    return n_strong


@jit
def mark_near_integers(s1, to_h, h_0, box, out):
    """
    Mark the pixels near reciprocal-lattice points.

    Parameters
    ----------
    s1 : (n, 3)
        1/Angstrom.
    to_h : (3, 3); h_0 : (3,)
        Indices are h = to_h s1 + h_0.
    box : float
        How far all of them are from integers at most.
    out : (n,) uint8
        Set to 1 there.
    """
    for i in range(len(out)):
        if _near_integers(to_h, h_0, s1[i, 0], s1[i, 1], s1[i, 2], box):
            out[i] = 1
