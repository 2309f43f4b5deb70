"""
Unmerged sums: what blocks of images gave to voxels, kept apart so that they can be scaled against each other.

The images of a series are cut into blocks of consecutive ones, MOST_BLOCKS in all series together.  What a block gave
to a voxel is one record: the voxel's address, the block, and the sums of columns.py, as integers, so that all records
of a voxel add up to its sums exactly, in any order.  A voxel is crossed by Ewald's sphere in a few blocks, so that
there are a few records for each.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from dials_postrefine.diffuse.map.compiled import jit

MOST_BLOCKS = 100
# Of one record: address, block and sums.
RECORD_BYTES = 4 + 4 + 8 * N_SUMS


@dataclass(frozen=True)
class Blocks:
    """
    The records (n,) of a map: voxel int32, block int32 and sums (n, N_SUMS) int64; the images of each block, (m, 2)
    series and place in it.
    """

    voxel: np.ndarray
    block: np.ndarray
    sums: np.ndarray
    images: list[np.ndarray]


def cut(n_images: list[int]) -> list[np.ndarray]:
    """
    The images of each block.

    Parameters
    ----------
    n_images : list of int
        Of each series, of which there are MOST_BLOCKS at most.

    Returns
    -------
    list of ndarray (m, 2)
        Series and place of the image in it; of one series each.
    """
    total = max(1, sum(n_images))
    found = []
    for k, n in enumerate(n_images):
        if n > 0:
            parts = min(n, max(1, MOST_BLOCKS * n // total))
            found += [np.stack([np.full(len(i), k), i], axis=1) for i in np.array_split(np.arange(n), parts)]
    return found


@jit
def take_out(sums, voxel, out):
    """
    Move the sums of some voxels to records, and leave zeros.

    Parameters
    ----------
    sums : (n_voxels, N_SUMS) int64
        Changed.
    voxel : (n,) int32
    out : (n, N_SUMS) int64
        Filled.
    """
    for k in range(len(voxel)):
        a = voxel[k]
        for column in range(sums.shape[1]):
            out[k, column] = sums[a, column]
            sums[a, column] = 0


@jit
def put_back(voxel, records, factor, offset, scales, sums):
    """
    Add records to sums, each scaled: n' = n - e d, e' = e g, of squares (n^2 - var n)/e those of n' and e'.

    Parameters
    ----------
    voxel : (n,) int32
    records : (n, N_SUMS) int64
    factor, offset : (n,)
        g and d.
    scales : tuple of two float
        Of exposure and squares, in quanta (MappingSettings.quanta).
    sums : (n_voxels, N_SUMS) int64
        Added to.
    """
    exposure_scale, square_scale = scales
    to_counts = COUNT_SCALE / exposure_scale
    for k in range(len(voxel)):
        a, g, d = voxel[k], factor[k], offset[k]
        record = records[k]
        counts, exposure, half_exposure = record[COUNTS], record[EXPOSURE], record[HALF_EXPOSURE]
        sums[a, PIXELS] += record[PIXELS]
        sums[a, VARIANCE] += record[VARIANCE]
        sums[a, COUNTS] += counts - np.int64(np.rint(d * exposure * to_counts))
        sums[a, EXPOSURE] += np.int64(np.rint(g * exposure))
        sums[a, HALF_COUNTS] += record[HALF_COUNTS] - np.int64(np.rint(d * half_exposure * to_counts))
        sums[a, HALF_EXPOSURE] += np.int64(np.rint(g * half_exposure))
        of_offset = (d * exposure / exposure_scale - 2.0 * counts / COUNT_SCALE) * d * square_scale
        sums[a, SQUARES] += np.int64(np.rint((record[SQUARES] + of_offset) / g))


@jit
def add_up(voxel, records, sums):
    """
    Add records to sums as they are.

    Parameters
    ----------
    voxel, records, sums
        As of put_back.
    """
    for k in range(len(voxel)):
        for column in range(records.shape[1]):
            sums[voxel[k], column] += records[k, column]


class BlockCollector:
    """Takes what a block of images has added to sums out of them."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def close_block(self, sums: np.ndarray, reached: np.ndarray) -> None:
        """
        Move what is in the sums to records.

        Parameters
        ----------
        sums : ndarray (n_voxels, N_SUMS) of int64
            Left with zeros.
        reached : ndarray (m,) of int64
            columns.make_reached; left with zeros.
        """
        pages = reached.nonzero()[0].astype(np.int32)
        voxels = (PAGE * pages[:, None] + np.arange(PAGE, dtype=np.int32)).ravel()
        voxels = voxels[voxels < len(sums)]
        voxels = voxels[sums[voxels, PIXELS] > 0]
        reached[:] = 0
        part = voxels, np.empty((len(voxels), N_SUMS), np.int64)
        take_out(sums, *part)
        self._parts.append(part)

    def finish(self, images: list[np.ndarray], sums: np.ndarray) -> Blocks:
        """
        All records.

        Parameters
        ----------
        images : list of ndarray (m, 2)
            Of each block that was closed, in their order.
        sums : ndarray (n_voxels, N_SUMS) of int64
            Filled with the sum of all records.

        Returns
        -------
        Blocks
        """
        for voxel, records in self._parts:
            add_up(voxel, records, sums)
        block = np.repeat(np.arange(len(self._parts), dtype=np.int32), [len(voxel) for voxel, _ in self._parts])
        voxel, records = (np.concatenate([part[k] for part in self._parts]) for k in (0, 1))
        self._parts = []
        return Blocks(voxel, block, records, images)
