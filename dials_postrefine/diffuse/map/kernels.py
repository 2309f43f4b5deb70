"""
The compiled loops over pixels and voxels.

Sums are integers, multiples of a quantum for each quantity, so that they are exact: neither the order of the images nor
the number of processes, nor adding two maps, changes a bit (floats are added up within an image alone, in the order of
its pixels).  Their columns:

    COUNTS        sum f n               photons, less the background
    EXPOSURE      sum f e               __init__.py, eq. 1
    PIXELS        sum f
    VARIANCE      sum f^2 var(n)
    SQUARES       sum f (n^2 - var(n)) / e      for chi^2, see orbits.shell_sums
    HALF_COUNTS   COUNTS and EXPOSURE of one half of the data
    HALF_EXPOSURE

f is the part of a pixel in a voxel: 1, or where the rotation within an image is followed in steps the part of them.
An address is that of a voxel, or says why there is none: OUTSIDE (of the limits, of the detector, not to be trusted),
BRAGG (masked), REJECTED (outlier).
"""

from __future__ import annotations

import numba
import numpy as np

N_SUMS = 7
COUNTS, EXPOSURE, PIXELS, VARIANCE, SQUARES, HALF_COUNTS, HALF_EXPOSURE = range(N_SUMS)
OUTSIDE, BRAGG, REJECTED = -1, -2, -3

# Fixed point: counts, pixels and variances in 2^-16.
COUNT_SCALE = 2.0**16
# No single contribution to a sum may be larger, lest it overflows.
LARGEST = 2.0**52
# Pixels of which one block in so many makes the profile of an image; a prime, not to follow the columns.
BLOCK = 251
# Sums of a shell in the profile of an image.
N_PROFILE = 11
NO_SHELL = 255
# More voxels than any pixel is away from the first.
FAR = 1 << 20

jit = numba.njit(cache=True, nogil=True)


@jit
def see_panel(slow, fast, nodes, normal, n, m, constants, s1, weight):
    """geometry.see of one panel: fills s1 (slow, fast, 3) and weight (slow, fast)."""
    area, fixed, fraction, depth, mu_air, inverse_wavelength = constants
    n_slow, n_fast = weight.shape
    step_slow = slow[1] - slow[0]
    step_fast = fast[1] - fast[0]
    x = np.empty(3)
    for i in range(n_slow):
        a = min(int((i + 0.5) / step_slow), len(slow) - 2)
        u = (i + 0.5 - slow[a]) / step_slow
        for j in range(n_fast):
            b = min(int((j + 0.5) / step_fast), len(fast) - 2)
            v = (j + 0.5 - fast[b]) / step_fast
            d_sq = 0.0
            for k in range(3):
                x[k] = (1.0 - u) * ((1.0 - v) * nodes[a, b, k] + v * nodes[a, b + 1, k]) + u * (
                    (1.0 - v) * nodes[a + 1, b, k] + v * nodes[a + 1, b + 1, k]
                )
                d_sq += x[k] * x[k]
            d = np.sqrt(d_sq)
            cosine = abs(x[0] * normal[0] + x[1] * normal[1] + x[2] * normal[2]) / d
            value = fixed if fixed > 0.0 else area * cosine / d_sq
            if fraction >= 0.0:
                along_n = (x[0] * n[0] + x[1] * n[1] + x[2] * n[2]) / d
                along_m = (x[0] * m[0] + x[1] * m[1] + x[2] * m[2]) / d
                value *= fraction * (1.0 - along_m * along_m) + (1.0 - fraction) * (1.0 - along_n * along_n)
            if depth > 0.0 and cosine > 0.0:
                value *= 1.0 - np.exp(-depth / cosine)
            if mu_air > 0.0:
                value *= np.exp(-mu_air * d)
            weight[i, j] = value
            for k in range(3):
                s1[i, j, k] = x[k] / d * inverse_wavelength


@jit
def shells_of(s1, s0, edges, shell):
    """The shell of each pixel by |s1 - s0|: edges (n + 1,) even steps; NO_SHELL outside of them."""
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    for i in range(len(shell)):
        x, y, z = s1[i, 0] - s0[0], s1[i, 1] - s0[1], s1[i, 2] - s0[2]
        k = np.floor((np.sqrt(x * x + y * y + z * z) - first) / step)
        shell[i] = int(k) if 0.0 <= k < n else NO_SHELL


@jit
def locate(s1, usable, values, low, high, to_h, h_0, to_x, x_0, box, bragg, limits, row_low, row_high, row_base, out):
    """
    The address of the voxel of each pixel, out (n,) int32.  usable (n,): 1, or 0 if masked, or 2 if out of range.

    h = to_h s1 + h_0 are its fractional indices, x = to_x s1 + x_0 its voxel coordinates; pixels that are not usable
    (n,), or whose values are below low, or not below high, are OUTSIDE; those with all |h - round h| < box, or marked
    in bragg (n,), are BRAGG (box <= 0, size 0: none).  limits: low and shape of the grid (5,).  Returns the numbers of
    pixels that are inside, that are Bragg, that are masked, and whose values can't be trusted.
    """
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


@numba.njit(cache=True, nogil=True, inline="always")
def _near_integers(to_h, h_0, x, y, z, box):
    h = to_h[0, 0] * x + to_h[0, 1] * y + to_h[0, 2] * z + h_0[0]
    k = to_h[1, 0] * x + to_h[1, 1] * y + to_h[1, 2] * z + h_0[1]
    l = to_h[2, 0] * x + to_h[2, 1] * y + to_h[2, 2] * z + h_0[2]  # noqa: E741
    return abs(h - np.floor(h + 0.5)) < box and abs(k - np.floor(k + 0.5)) < box and abs(l - np.floor(l + 0.5)) < box


@jit
def profile(address, values, s1, weight, shell, n, m, gain, pedestal, background, time, first, every, out):
    """
    Add a panel's pixels to the profile of the image, out (n_shells, N_PROFILE): sums of

        n, e, e c, e s, e c^2, e c s, e s^2, n c, n s        e = time weight, c = cos 2 phi, s = sin 2 phi

    and of pixels, all that are inside and those that are Bragg, over one block of pixels in `every`, phi the azimuth
    about the beam from m towards n; background (n,) or empty is photons a second.  first: the number of the panel's
    first pixel.
    """
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
def gather(address, values, weight, gain, pedestal, factor, first, held, held_sums, voxel, runs):
    """
    Collect from the pixel `first` on what pixels of one voxel add up to: the voxels, voxel (m,) int32, and the sums,
    runs (m, 5) of columns COUNTS to SQUARES.  Returns how many there are, and the pixel to go on with.

    address (n,) of voxels; e = factor weight.  The sums of neighbours in a row go to held_sums (n_held, 4), where those
    of the rows before are if held (n_held,) int32 names their voxel, at its remainder by n_held, a power of two; what
    was there of another voxel goes to the runs, as all does that is held after the last pixel.  held is -1 at first and
    at last.
    """
    inverse_gain = 1.0 / gain
    last, k, room = -1, 0, len(voxel) - len(held) - 1
    counts, weights, pixels, squares = 0.0, 0.0, 0.0, 0.0
    for i in range(first, len(address)):
        a = address[i]
        if a < 0:
            continue
        if a != last:
            if last >= 0:
                slot = last & (len(held) - 1)
                if held[slot] != last:
                    if held[slot] >= 0:
                        voxel[k] = held[slot]
                        _put_held(runs, k, held_sums, slot, factor)
                        k += 1
                    held[slot] = last
                    held_sums[slot, 0], held_sums[slot, 1] = counts, weights
                    held_sums[slot, 2], held_sums[slot, 3] = pixels, squares
                else:
                    held_sums[slot, 0] += counts
                    held_sums[slot, 1] += weights
                    held_sums[slot, 2] += pixels
                    held_sums[slot, 3] += squares
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
        _put(runs[k], counts, factor * weights, pixels, counts, squares / factor)
        k += 1
    for slot in range(len(held)):
        if held[slot] >= 0:
            voxel[k] = held[slot]
            _put_held(runs, k, held_sums, slot, factor)
            held[slot] = -1
            k += 1
    return k, len(address)


@numba.njit(cache=True, nogil=True, inline="always")
def _put_held(runs, k, held_sums, slot, factor):
    runs[k, COUNTS] = runs[k, VARIANCE] = held_sums[slot, 0]
    runs[k, EXPOSURE] = factor * held_sums[slot, 1]
    runs[k, PIXELS] = held_sums[slot, 2]
    runs[k, SQUARES] = held_sums[slot, 3] / factor


@jit
def gather_shared(
    address,
    values,
    weight,
    shell,
    offset,
    gain,
    pedestal,
    background,
    background_variance,
    noise,
    dwell,
    factor,
    time,
    first,
    voxel,
    runs,
):
    """
    As gather, of pixels that voxels share or from which something is taken off.

    address (n_steps, n): the voxels that a pixel sweeps in equal parts of the time; offset (n_shells + 1,) or empty: an
    isotropic part of n/e that is taken off; background (n,) or empty, its variance, photons a second; noise (n,) or
    empty: the variance by reading a pixel, photons^2; dwell: how many images a pixel stays in a voxel.
    """
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
            _put(runs[k], f * n, f * e, f, f * f * variance, f * (n * n - variance) / e)
            k += 1
    return k, n_pixels


@numba.njit(cache=True, nogil=True, inline="always")
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


@numba.njit(cache=True, nogil=True, inline="always")
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


@numba.njit(cache=True, nogil=True, inline="always")
def _put(run, counts, exposure, pixels, variance, squares):
    run[COUNTS], run[EXPOSURE], run[PIXELS], run[VARIANCE], run[SQUARES] = counts, exposure, pixels, variance, squares


@jit
def add(voxel, runs, n, scales, half, sums):
    """
    Add the first n of what was gathered to the sums (n_voxels, N_SUMS), and if half to those of the first half.

    scales: those of exposure and of squares, in quanta.
    """
    exposure_scale, square_scale = scales
    for k in range(n):
        a = voxel[k]
        counts = np.int64(np.floor(runs[k, COUNTS] * COUNT_SCALE + 0.5))
        exposure = np.int64(runs[k, EXPOSURE] * exposure_scale + 0.5)
        sums[a, COUNTS] += counts
        sums[a, EXPOSURE] += exposure
        sums[a, PIXELS] += np.int64(runs[k, PIXELS] * COUNT_SCALE + 0.5)
        sums[a, VARIANCE] += np.int64(np.floor(runs[k, VARIANCE] * COUNT_SCALE + 0.5))
        squares = min(max(runs[k, SQUARES] * square_scale, -LARGEST), LARGEST)
        sums[a, SQUARES] += np.int64(np.floor(squares + 0.5))
        if half:
            sums[a, HALF_COUNTS] += counts
            sums[a, HALF_EXPOSURE] += exposure


@jit
def reject(
    address, values, weight, shell, offset, gain, pedestal, background, noise, factor, time, scales, n_sigma, sums
):
    """
    Mark as REJECTED the pixels whose deviance against the other pixels of their voxels, sums of a first pass, is
    beyond n_sigma: |n - mu| of Poisson's law as sqrt(2 (n ln(n/mu) - n + mu)), two-sided.  Returns how many of those
    that have a voxel in the first part of the rotation.

        mu = max(0, e m + t) + e / E      m = sum_v f_v (C_v - f_v (n - t)) / (E_v - f_v e) / sum_v f_v

    C_v and E_v are the sums of COUNTS and EXPOSURE of a voxel v in which the pixel has the part f_v, t what is taken
    off it before it goes there (gather_shared), so that both passes have one model; E is the smallest of the E_v - f_v
    e, whose own uncertainty counts as that of one photon more among them.  Voxels that have less than the pixel itself
    from others can't tell.

    With a variance by reading, noise (n,) or empty, n + noise is compared with mu + noise, which has the mean and the
    variance of what was read.
    """
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


@jit
def strong_pixels(address, values, weight, shell, gain, pedestal, time, mean, noise, n_sigma, out):
    """
    The numbers of the pixels, out (n,), inside of the grid that exceed mean (n_shells,), the photons per exposure of
    their shell, by n_sigma of its Poisson noise and the variance by reading, noise (n,) or empty, and three photons;
    returns how many there are.
    """
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
def mark_ellipses(first_pixel, shape, centres, ellipses, out):
    """
    Mark in out (n,) the pixels of a panel of shape (slow, fast) whose middles are in ellipses: centres (m, 2) fast and
    slow, a dx^2 + 2 b dx dy + c dy^2 < 1 of ellipses (m, 3) of a, b, c (pixels).  first_pixel: of the panel in out.
    """
    n_slow, n_fast = shape
    for k in range(len(centres)):
        x, y = centres[k, 0], centres[k, 1]
        a, b, c = ellipses[k, 0], ellipses[k, 1], ellipses[k, 2]
        half_y = np.sqrt(a / (a * c - b * b))
        for i in range(max(0, int(np.ceil(y - half_y - 0.5))), min(n_slow, int(np.floor(y + half_y + 0.5)))):
            dy = i + 0.5 - y
            middle, square = x - b * dy / a, (b * dy / a) ** 2 - (c * dy * dy - 1.0) / a
            if square <= 0.0:
                continue
            half_x = np.sqrt(square)
            row = first_pixel + i * n_fast
            for j in range(
                max(0, int(np.ceil(middle - half_x - 0.5))), min(n_fast, int(np.floor(middle + half_x + 0.5)))
            ):
                out[row + j] = 1


@jit
def mark_near_integers(s1, to_h, h_0, box, out):
    """Mark in out (n,) the pixels of s1 (n, 3) whose indices h = to_h s1 + h_0 are within box of integers."""
    for i in range(len(out)):
        if _near_integers(to_h, h_0, s1[i, 0], s1[i, 1], s1[i, 2], box):
            out[i] = 1


@jit
def mark_boxes(first_pixel, shape, boxes, out):
    """Mark in out (n,) the pixels in boxes (m, 4), fast from and to, slow from and to, of a panel of shape."""
    for box in range(len(boxes)):
        for i in range(max(0, boxes[box, 2]), min(shape[0], boxes[box, 3])):
            for j in range(max(0, boxes[box, 0]), min(shape[1], boxes[box, 1])):
                out[first_pixel + i * shape[1] + j] = 1
