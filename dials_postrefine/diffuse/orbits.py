"""
The compiled loops over voxels and their symmetry mates.

The orbit of a voxel is the set of voxels of the grid that operations (n, 3, 3) take it to; its representative is the
one with the lowest address.  `rows` is what the loops need of a grid: see rows_of.
"""

from __future__ import annotations

import numba
import numpy as np

from dials_postrefine.diffuse.grid import Grid
from dials_postrefine.diffuse.kernels import (
    COUNT_SCALE,
    COUNTS,
    EXPOSURE,
    HALF_COUNTS,
    HALF_EXPOSURE,
    N_SUMS,
    PIXELS,
    SQUARES,
    VARIANCE,
    jit,
)

# Columns of the sums over pairs of which a correlation is made.
N_PAIR = 6
# Columns of shell_sums.
N_SHELL_SUMS = 10
(
    POSSIBLE,
    OBSERVED,
    OBSERVED_PIXELS,
    INTENSITY,
    SIGMA,
    ANISOTROPIC,
    ANISOTROPIC_SQ,
    SIGMA_SQ,
    CHI_SQ,
    FREEDOM,
) = range(N_SHELL_SUMS)


def rows_of(grid: Grid):
    """low and shape of the grid (5,), and its row_low, row_high and row_base."""
    return np.array([*grid.low, *grid.shape[:2]]), grid.row_low, grid.row_high, grid.row_base


@numba.njit(cache=True, nogil=True, inline="always")
def _address(x, y, z, rows):
    limits, row_low, row_high, row_base = rows
    i, j = x - limits[0], y - limits[1]
    if i < 0 or j < 0 or i >= limits[3] or j >= limits[4] or z < row_low[i, j] or z >= row_high[i, j]:
        return -1
    return row_base[i, j] + z


@jit
def orbit(x, y, z, operations, rows, out):
    """The distinct addresses of the orbit, out (n,); returns how many there are."""
    n = 0
    for o in range(len(operations)):
        m = operations[o]
        a = _address(
            m[0, 0] * x + m[0, 1] * y + m[0, 2] * z,
            m[1, 0] * x + m[1, 1] * y + m[1, 2] * z,
            m[2, 0] * x + m[2, 1] * y + m[2, 2] * z,
            rows,
        )
        if a < 0:
            continue
        known = False
        for p in range(n):
            known = known or out[p] == a
        if not known:
            out[n] = a
            n += 1
    return n


@jit
def _length(x, y, z, to_s):
    total = 0.0
    for k in range(3):
        s = to_s[k, 0] * x + to_s[k, 1] * y + to_s[k, 2] * z
        total += s * s
    return np.sqrt(total)


@jit
def radial_sums(sums, rows, to_s, edges):
    """
    Sums over all voxels by |s|, even edges (n + 1,): counts (photons), exposure (quanta), |s| times exposure, voxels
    that were observed, as (n, 4).
    """
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    out = np.zeros((n, 4))
    for i in range(limits[3]):
        for j in range(limits[4]):
            for z in range(row_low[i, j], row_high[i, j]):
                a = row_base[i, j] + z
                exposure = float(sums[a, EXPOSURE])
                if exposure <= 0.0:
                    continue
                s = _length(i + limits[0], j + limits[1], z, to_s)
                k = int(np.floor((s - first) / step))
                if 0 <= k < n:
                    out[k, 0] += sums[a, COUNTS] / COUNT_SCALE
                    out[k, 1] += exposure
                    out[k, 2] += exposure * s
                    out[k, 3] += 1.0
    return out


@jit
def add_pair(total, x, y):
    total[0] += 1.0
    total[1] += x
    total[2] += y
    total[3] += x * x
    total[4] += y * y
    total[5] += x * y


@jit
def compare_mates(sums, rows, to_s, operations, edges, profile_s, profile, exposure_scale):
    """
    How well mates agree, before they are averaged, by even shells of |s|, edges (n + 1,): sums over pairs (n, N_PAIR)
    of each voxel and the mean of its mates, of each voxel and its Friedel mate, both less the isotropic part, which is
    profile at profile_s; and of orbits the observed mates.
    """
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    laue, friedel, mates = np.zeros((n, N_PAIR)), np.zeros((n, N_PAIR)), np.zeros(n)
    found = np.empty(len(operations), np.int64)
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            for z in range(row_low[i, j], row_high[i, j]):
                a = row_base[i, j] + z
                if sums[a, EXPOSURE] <= 0:
                    continue
                s = _length(x, y, z, to_s)
                k = int(np.floor((s - first) / step))
                if k < 0 or k >= n:
                    continue
                isotropic = np.interp(s, profile_s, profile)
                own = sums[a, COUNTS] / COUNT_SCALE / (sums[a, EXPOSURE] / exposure_scale) - isotropic
                opposite = _address(-x, -y, -z, rows)
                if opposite > a and sums[opposite, EXPOSURE] > 0:
                    other = sums[opposite, COUNTS] / COUNT_SCALE / (sums[opposite, EXPOSURE] / exposure_scale)
                    add_pair(friedel[k], own, other - isotropic)
                counts, exposure, observed = 0.0, 0.0, 0
                for p in range(orbit(x, y, z, operations, rows, found)):
                    b = found[p]
                    if sums[b, EXPOSURE] > 0:
                        observed += 1
                        if b != a:
                            counts += sums[b, COUNTS] / COUNT_SCALE
                            exposure += sums[b, EXPOSURE] / exposure_scale
                mates[k] += 1.0
                if exposure > 0.0:
                    add_pair(laue[k], own, counts / exposure - isotropic)
    return laue, friedel, mates


@jit
def fold(sums, rows, operations, proper_half):
    """
    Add up orbits in place: the representative gets the sums of all.

    proper_half (n,) bool: the half sets are the mates by these operations and the others, in place of the halves in the
    sums; empty for the latter.
    """
    limits, row_low, row_high, row_base = rows
    found = np.empty(len(operations), np.int64)
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            for z in range(row_low[i, j], row_high[i, j]):
                a = row_base[i, j] + z
                n = orbit(x, y, z, operations, rows, found)
                lowest = True
                for p in range(n):
                    lowest = lowest and found[p] >= a
                if not lowest:
                    continue
                if proper_half.size > 0:
                    for p in range(n):
                        b = found[p]
                        sums[b, HALF_COUNTS], sums[b, HALF_EXPOSURE] = 0, 0
                    n_proper = orbit(x, y, z, operations[proper_half], rows, found)
                    for p in range(n_proper):
                        b = found[p]
                        sums[b, HALF_COUNTS], sums[b, HALF_EXPOSURE] = sums[b, COUNTS], sums[b, EXPOSURE]
                    n = orbit(x, y, z, operations, rows, found)
                for p in range(n):
                    b = found[p]
                    if b != a:
                        for column in range(N_SUMS):
                            sums[a, column] += sums[b, column]


@jit
def gather(sums, rows, operations, i, out):
    """The sums of the representatives of the voxels of a plane, the i-th along the first axis: out (n1, n2, N_SUMS)."""
    limits, row_low, row_high, row_base = rows
    found = np.empty(len(operations), np.int64)
    out[:] = 0
    for j in range(limits[4]):
        for z in range(row_low[i, j], row_high[i, j]):
            lowest = row_base[i, j] + z
            for p in range(orbit(i + limits[0], j + limits[1], z, operations, rows, found)):
                lowest = min(lowest, found[p])
            out[j, z - limits[2]] = sums[lowest]


@jit
def shell_sums(sums, rows, to_s, operations, edges, profile_s, profile, offset_s, offset, scales):
    """
    Sums over representatives of folded sums by even shells of |s|, edges (n + 1,): out (n, N_SHELL_SUMS), and of pairs
    of half sets, less the isotropic part, (n, N_PAIR).  offset at offset_s is what was taken off images.  scales: of
    exposure and squares, in quanta.

    chi^2 of N pixels is N - 1 + [sum (n^2 - var n)/e - ((sum n)^2 - var(sum n)) / sum e] / mean(var n / e): by the
    law of Poisson both terms in the bracket are sum e I^2 on average, at any count, whether or not pixels are shared.
    """
    exposure_scale, square_scale = scales
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    out, halves = np.zeros((n, N_SHELL_SUMS)), np.zeros((n, N_PAIR))
    found = np.empty(len(operations), np.int64)
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            for z in range(row_low[i, j], row_high[i, j]):
                a = row_base[i, j] + z
                s = _length(x, y, z, to_s)
                k = int(np.floor((s - first) / step))
                if k < 0 or k >= n:
                    continue
                lowest = a
                for p in range(orbit(x, y, z, operations, rows, found)):
                    lowest = min(lowest, found[p])
                if lowest != a:
                    continue
                out[k, POSSIBLE] += 1.0
                if sums[a, EXPOSURE] <= 0:
                    continue
                isotropic = np.interp(s, profile_s, profile)
                counts, exposure = sums[a, COUNTS] / COUNT_SCALE, sums[a, EXPOSURE] / exposure_scale
                pixels, variance = sums[a, PIXELS] / COUNT_SCALE, sums[a, VARIANCE] / COUNT_SCALE
                expected = max(variance, min(1.0, max(0.0, isotropic) * exposure))
                intensity, sigma = counts / exposure, np.sqrt(expected) / exposure
                out[k, OBSERVED] += 1.0
                out[k, OBSERVED_PIXELS] += pixels
                out[k, INTENSITY] += intensity + np.interp(s, offset_s, offset)
                out[k, SIGMA] += sigma
                out[k, ANISOTROPIC] += intensity - isotropic
                out[k, ANISOTROPIC_SQ] += (intensity - isotropic) ** 2
                out[k, SIGMA_SQ] += sigma * sigma
                if pixels > 1.0 and variance > 0.0:
                    squares = sums[a, SQUARES] / square_scale
                    excess = squares - (counts * counts - variance) / exposure
                    out[k, CHI_SQ] += pixels - 1.0 + excess * exposure / max(variance, counts)
                    out[k, FREEDOM] += pixels - 1.0
                half_exposure = sums[a, HALF_EXPOSURE] / exposure_scale
                if half_exposure > 0.0 and exposure - half_exposure > 0.0:
                    half = sums[a, HALF_COUNTS] / COUNT_SCALE
                    add_pair(
                        halves[k],
                        half / half_exposure - isotropic,
                        (counts - half) / (exposure - half_exposure) - isotropic,
                    )
    return out, halves
