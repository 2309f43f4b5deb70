"""
The compiled loops over voxels and their symmetry equivalents.

The orbit of a voxel is the set of voxels of the grid that operations (n, 3, 3) take it to, its equivalents and itself;
its representative is the one with the lowest address.  `rows` is what the loops need of a grid: grid.Rows.
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
    N_SUMS,
    PAGE,
    PIXELS,
    SQUARES,
    VARIANCE,
)
from dials_postrefine.diffuse.map.compiled import inlined, jit
from dials_postrefine.numerics.indices import INDEX_BASE

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


class Shells(NamedTuple):
    """Shells of |s|: to_s (3, 3) from voxel coordinates to s, and edges (n + 1,), even steps, 1/Angstrom."""

    to_s: np.ndarray
    edges: np.ndarray


class RadialCurve(NamedTuple):
    """A function of |s|, linear between points: s (n,) 1/Angstrom, value (n,)."""

    s: np.ndarray
    value: np.ndarray


@inlined
def _address(x, y, z, rows):
    limits, row_low, row_high, row_base = rows
    i, j = x - limits[0], y - limits[1]
    if i < 0 or j < 0 or i >= limits[3] or j >= limits[4] or z < row_low[i, j] or z >= row_high[i, j]:
        return -1
    return row_base[i, j] + z


@jit
def orbit(x, y, z, operations, rows, out):
    """
    The distinct addresses of an orbit.

    Parameters
    ----------
    x, y, z : int
        Voxel coordinates.
    operations : (n, 3, 3) int64
        symmetry.operations.
    rows : grid.Rows
    out : (n,) int64
        Filled with addresses.

    Returns
    -------
    int
        How many there are.
    """
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
            if out[p] == a:
                known = True
                break
        if not known:
            out[n] = a
            n += 1
    return n


@jit
def representatives(x, y, operations, rows):
    """
    From where to where along z the voxels x y z represent their orbits.

    The representative is the one with the smallest p.x, p = (INDEX_BASE^2, INDEX_BASE, 1), which orders voxels as their
    addresses do: (R' p - p).x >= 0 for all operations R, for each of which z is on one side of a bound.

    Parameters
    ----------
    x, y : int
        Voxel coordinates.
    operations, rows
        As of orbit.

    Returns
    -------
    low, high : int
        low <= z < high.
    """
    limits, row_low, row_high, row_base = rows
    i, j = x - limits[0], y - limits[1]
    low, high = row_low[i, j], row_high[i, j]
    for o in range(len(operations)):
        m = operations[o]
        w_x = INDEX_BASE * (INDEX_BASE * (m[0, 0] - 1) + m[1, 0]) + m[2, 0]
        w_y = INDEX_BASE * (INDEX_BASE * m[0, 1] + m[1, 1] - 1) + m[2, 1]
        w_z = INDEX_BASE * (INDEX_BASE * m[0, 2] + m[1, 2]) + m[2, 2] - 1
        constant = w_x * x + w_y * y
        if w_z > 0:
            low = max(low, -(constant // w_z))  # the smallest z with w_z z >= -constant
        elif w_z < 0:
            high = min(high, constant // -w_z + 1)
        elif constant < 0:
            return 0, 0
    return low, max(low, high)


@jit
def _length(x, y, z, to_s):
    total = 0.0
    for k in range(3):
        s = to_s[k, 0] * x + to_s[k, 1] * y + to_s[k, 2] * z
        total += s * s
    return np.sqrt(total)


@jit
def radial_sums(sums, rows, shells):
    """
    Sums over all voxels by shells of |s|.

    Parameters
    ----------
    sums : (n_voxels, N_SUMS) int64
    rows : grid.Rows
    shells : Shells
        Of n shells.

    Returns
    -------
    (n, 5)
        Counts (photons), exposure (quanta), |s| times exposure, voxels that were observed, variance of the counts.
    """
    to_s, edges = shells
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    out = np.zeros((n, 5))
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
                    out[k, 4] += sums[a, VARIANCE] / COUNT_SCALE
    return out


@jit
def add_pair(total, x, y):
    """
    Add a pair of values to sums: 1, x, y, x^2, y^2, x y (numerics.correlation_from_sums).

    Parameters
    ----------
    total : (N_PAIR,) float64
        The sums, changed in place.
    x, y : float
    """
    total[0] += 1.0
    total[1] += x
    total[2] += y
    total[3] += x * x
    total[4] += y * y
    total[5] += x * y


@jit
def compare_equivalents(sums, rows, shells, operations, isotropic, exposure_scale):
    """
    How well symmetry equivalents agree, before they are averaged, less the isotropic part.

    Parameters
    ----------
    sums : (n_voxels, N_SUMS) int64
    rows : grid.Rows
    shells : Shells
        Of n shells.
    operations : (m, 3, 3) int64
        Of the Laue class.
    isotropic : RadialCurve
        The isotropic part, in the units of sum n / sum e.
    exposure_scale : float
        Quanta of exposure (MappingSettings.quanta).

    Returns
    -------
    laue, friedel : (n, N_PAIR)
        Sums over pairs of a voxel and the mean of its equivalents, and over Friedel pairs.
    observed : (n,)
        How many voxels are observed.
    """
    to_s, edges = shells
    isotropic_s, isotropic_value = isotropic
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    laue, friedel, observed = np.zeros((n, N_PAIR)), np.zeros((n, N_PAIR)), np.zeros(n)
    found = np.empty(len(operations), np.int64)
    values, weights = np.empty(len(operations)), np.empty(len(operations))
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            low, high = representatives(x, y, operations, rows)
            for z in range(low, high):
                s = _length(x, y, z, to_s)
                k = int(np.floor((s - first) / step))
                if k < 0 or k >= n:
                    continue
                n_found, n_equivalent, counts, exposure = orbit(x, y, z, operations, rows, found), 0, 0.0, 0.0
                for p in range(n_found):
                    a = found[p]
                    if sums[a, EXPOSURE] > 0:
                        values[n_equivalent] = sums[a, COUNTS] / COUNT_SCALE
                        weights[n_equivalent] = sums[a, EXPOSURE] / exposure_scale
                        counts, exposure = counts + values[n_equivalent], exposure + weights[n_equivalent]
                        n_equivalent += 1
                observed[k] += n_equivalent
                if n_equivalent < 2:
                    continue
                level = np.interp(s, isotropic_s, isotropic_value)
                for p in range(n_equivalent):
                    others = (counts - values[p]) / (exposure - weights[p])
                    add_pair(laue[k], values[p] / weights[p] - level, others - level)
    for i in range(limits[3]):
        for j in range(limits[4]):
            for z in range(row_low[i, j], row_high[i, j]):
                a = row_base[i, j] + z
                if sums[a, EXPOSURE] <= 0:
                    continue
                b = _address(-i - limits[0], -j - limits[1], -z, rows)
                if b <= a or sums[b, EXPOSURE] <= 0:
                    continue
                s = _length(i + limits[0], j + limits[1], z, to_s)
                k = int(np.floor((s - first) / step))
                if k < 0 or k >= n:
                    continue
                level = np.interp(s, isotropic_s, isotropic_value)
                add_pair(
                    friedel[k],
                    sums[a, COUNTS] / COUNT_SCALE / (sums[a, EXPOSURE] / exposure_scale) - level,
                    sums[b, COUNTS] / COUNT_SCALE / (sums[b, EXPOSURE] / exposure_scale) - level,
                )
    return laue, friedel, observed


@jit
def fold(sums, rows, operations, proper):
    """
    Add up orbits in place: all equivalents get the sums of all.

    Parameters
    ----------
    sums : (n_voxels, N_SUMS) int64
        Changed.
    rows : grid.Rows
    operations : (n, 3, 3) int64
    proper : (n,) bool, or empty
        If given, the half sets are the equivalents by these operations and by the others, in place of those in the
        sums.
    """
    limits, row_low, row_high, row_base = rows
    found, rotated = np.empty(len(operations), np.int64), np.empty(len(operations), np.int64)
    rotations = operations[proper] if proper.size > 0 else operations
    total = np.empty(N_SUMS, np.int64)
    # of a few images most equivalents have nothing, which is told sooner of a page of voxels than of each
    occupied = np.zeros(len(sums) // PAGE + 1, np.bool_)
    for a in range(len(sums)):
        if sums[a, PIXELS] > 0:
            occupied[a // PAGE] = True
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            low, high = representatives(x, y, operations, rows)
            for z in range(low, high):
                n = orbit(x, y, z, operations, rows, found)
                total[:] = 0
                for p in range(n):
                    if occupied[found[p] // PAGE]:
                        for column in range(N_SUMS):
                            total[column] += sums[found[p], column]
                if total[PIXELS] == 0:
                    continue
                if proper.size > 0:
                    total[HALF_COUNTS], total[HALF_EXPOSURE] = 0, 0
                    for p in range(orbit(x, y, z, rotations, rows, rotated)):
                        total[HALF_COUNTS] += sums[rotated[p], COUNTS]
                        total[HALF_EXPOSURE] += sums[rotated[p], EXPOSURE]
                for p in range(n):
                    for column in range(N_SUMS):
                        sums[found[p], column] = total[column]


@jit
def shell_sums(sums, rows, shells, operations, isotropic, offset, scales):
    """
    Statistics by shell, over representatives of folded sums.

    chi^2 of N pixels is N - 1 + [sum (n^2 - var n)/e - ((sum n)^2 - var(sum n)) / sum e] / mean(var n / e): by the
    law of Poisson both terms in the bracket are sum e I^2 on average, at any count, whether or not pixels are shared.

    Parameters
    ----------
    sums : (n_voxels, N_SUMS) int64
        After fold.
    rows : grid.Rows
    shells : Shells
        Of n shells.
    operations : (m, 3, 3) int64
    isotropic, offset : RadialCurve
        The isotropic part that is in the sums, and what was taken off images, in the units of sum n / sum e.
    scales : tuple of two float
        Quanta of exposure and squares (MappingSettings.quanta).

    Returns
    -------
    out : (n, N_SHELL_SUMS)
    halves : (n, N_PAIR)
        Sums over pairs of half sets, less the isotropic part.
    """
    to_s, edges = shells
    isotropic_s, isotropic_value = isotropic
    offset_s, offset_value = offset
    exposure_scale, square_scale = scales
    limits, row_low, row_high, row_base = rows
    first, step, n = edges[0], edges[1] - edges[0], len(edges) - 1
    out, halves = np.zeros((n, N_SHELL_SUMS)), np.zeros((n, N_PAIR))
    for i in range(limits[3]):
        for j in range(limits[4]):
            x, y = i + limits[0], j + limits[1]
            low, high = representatives(x, y, operations, rows)
            for z in range(low, high):
                a = row_base[i, j] + z
                s = _length(x, y, z, to_s)
                k = int(np.floor((s - first) / step))
                if k < 0 or k >= n:
                    continue
                out[k, POSSIBLE] += 1.0
                if sums[a, EXPOSURE] <= 0:
                    continue
                level = np.interp(s, isotropic_s, isotropic_value)
                counts, exposure = sums[a, COUNTS] / COUNT_SCALE, sums[a, EXPOSURE] / exposure_scale
                pixels, variance = sums[a, PIXELS] / COUNT_SCALE, sums[a, VARIANCE] / COUNT_SCALE
                expected = max(variance, min(1.0, max(0.0, level) * exposure))
                intensity, sigma = counts / exposure, np.sqrt(expected) / exposure
                out[k, OBSERVED] += 1.0
                out[k, OBSERVED_PIXELS] += pixels
                out[k, INTENSITY] += intensity + np.interp(s, offset_s, offset_value)
                out[k, SIGMA] += sigma
                out[k, ANISOTROPIC] += intensity - level
                out[k, ANISOTROPIC_SQ] += (intensity - level) ** 2
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
                        half / half_exposure - level,
                        (counts - half) / (exposure - half_exposure) - level,
                    )
    return out, halves
