"""
The sums of a map: an array (n_voxels, N_SUMS) of int64, one row a voxel (grid.py), with the columns

    COUNTS        sum f n               photons, less the background
    EXPOSURE      sum f e               diffuse/__init__.py, eq. 1
    PIXELS        sum f
    VARIANCE      sum f^2 var(n)
    SQUARES       sum f (n^2 - var(n)) / e      for chi^2, see orbits.shell_sums
    HALF_COUNTS   COUNTS and EXPOSURE of one half of the data
    HALF_EXPOSURE

f is the part of a pixel in a voxel: 1, or where the rotation within an image is followed in steps the part of them.
Sums are integers, multiples of a quantum for each quantity, so that they are exact: neither the order of the images nor
the number of processes, nor adding two maps, changes a bit.
"""

from __future__ import annotations

import mmap

import numpy as np

from dials_postrefine.diffuse.map.grid import Grid

N_SUMS = 7
COUNTS, EXPOSURE, PIXELS, VARIANCE, SQUARES, HALF_COUNTS, HALF_EXPOSURE = range(N_SUMS)

# Fixed point: counts, pixels and variances in 2^-16.
COUNT_SCALE = 2.0**16
# Exposures and squares as integers: s sr where scales are near 1 (False), photons where they are levels of images.
QUANTA = {False: (2.0**52, 2.0**-10), True: (2.0**28, 2.0**16)}
# No single contribution to a sum may be larger, lest it overflows.
LARGEST = 2.0**52
# Voxels of which one number tells whether any was reached.
PAGE = 256


def make_sums(grid: Grid, shared: bool = False) -> np.ndarray:
    """
    Sums of nothing.

    Parameters
    ----------
    grid : Grid
        The voxels.
    shared : bool
        Whether forked processes are to add to the same memory.

    Returns
    -------
    ndarray (n_voxels, N_SUMS) of int64
        Zeros, for which memory is taken as voxels are reached; if shared, also where they are only read.
    """
    return _zeros(grid.n_voxels * N_SUMS, shared).reshape(-1, N_SUMS)


def make_reached(grid: Grid | None, shared: bool = False) -> np.ndarray:
    """
    Which voxels were added to, by pages of PAGE: a number above zero where any was, so that those of several sums can
    be added up.

    Parameters
    ----------
    grid : Grid or None
        None where nobody asks.
    shared : bool
        As of make_sums.

    Returns
    -------
    ndarray (m,) of int64
        Zeros; empty where nobody asks.
    """
    return np.empty(0, np.int64) if grid is None else _zeros(grid.n_voxels // PAGE + 1, shared)


def _zeros(size: int, shared: bool) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, 8 * size), np.int64) if shared else np.zeros(size, np.int64)
