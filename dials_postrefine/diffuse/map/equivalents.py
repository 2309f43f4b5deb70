"""
Unmerged sums (blocks.py), scaled against each other by symmetry equivalents (fitting_terms.py), and merged.

    n' = n - e d,       e' = e g,

so that n'/e' estimates I of n/e = g I + d.  g has the mean 1, weighted by exposure; of offsets the part that does not
change is not seen by equivalents, and stays.  Of more records than MOST_RECORDS whole orbits are drawn by a hash; the
terms are applied to all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map import blocks as unmerged
from dials_postrefine.diffuse.map import fitting_terms
from dials_postrefine.diffuse.map.blocks import Blocks
from dials_postrefine.diffuse.map.columns import COUNT_SCALE, COUNTS, EXPOSURE, VARIANCE
from dials_postrefine.diffuse.map.fitting_terms import FittedTerm, UnmergedRecords
from dials_postrefine.diffuse.map.grid import Grid, voxels_at
from dials_postrefine.diffuse.map.places import Places, find_places
from dials_postrefine.diffuse.map.series import Series
from dials_postrefine.diffuse.map.terms import make_terms
from dials_postrefine.numerics.indices import INDEX_BASE
from dials_postrefine.numerics.run import Run

MOST_RECORDS = 250_000
# Orbits that are held out together: those in a cube of so many voxels.
CUBE = 4
N_GROUPS = 512
N_SHELLS = 50
PIECE = 1 << 18
# With fewer records that have an equivalent nothing is fitted.
FEWEST = 2000


@dataclass(frozen=True)
class Scaling:
    """
    What was fitted: the terms kept and all that were tried, how many records there are and how many of those were
    fitted to; and the observations and places of these, with the state (g, d) after.
    """

    kept: list[FittedTerm]
    tried: list[FittedTerm]
    n_records: int
    observed: UnmergedRecords
    places: Places
    state: tuple[np.ndarray, np.ndarray]


def scale(
    blocks: Blocks,
    sums: np.ndarray,
    grid: Grid,
    series: list[Series],
    operations: np.ndarray,
    quanta: tuple[float, float],
    run: Run = Run(),
) -> Scaling:
    """
    Scale records against each other, and make the sums of them.

    Parameters
    ----------
    blocks : Blocks
    sums : ndarray (n_voxels, N_SUMS) of int64
        The sum of the records; changed to that of the scaled ones where terms were kept.
    grid : Grid
    series : list of Series
    operations : ndarray (n, 3, 3) of int64
        Of the symmetry by which equivalents are compared.
    quanta : tuple of two float
        Of exposure and squares (MappingSettings.quanta).
    run : Run
        Its progress is told of each term.

    Returns
    -------
    Scaling
    """
    level = _levels(blocks, grid, quanta)
    rows, orbit, group = _choose(blocks, grid, operations)
    chosen = Blocks(blocks.voxel[rows], blocks.block[rows], blocks.sums[rows], blocks.images)
    places = find_places(chosen, voxels_at(grid, chosen.voxel), grid, series)
    exposure = chosen.sums[:, EXPOSURE] / quanta[0]
    of_shell = level(places.s)
    counted = np.maximum(chosen.sums[:, VARIANCE] / COUNT_SCALE, np.maximum(of_shell * exposure, 1e-9) * 0.1)
    observed = UnmergedRecords(
        chosen.sums[:, COUNTS] / COUNT_SCALE / exposure, counted / exposure**2, orbit, group, of_shell
    )
    kept: list[FittedTerm] = []
    tried: list[FittedTerm] = []
    if len(rows) >= FEWEST:
        kept, tried = fitting_terms.fit(observed, places, make_terms(places), run.progress)
    state = fitting_terms.evaluate(kept, places, of_shell)
    if kept:
        mean = float(np.sum(exposure * state[0]) / np.sum(exposure))
        sums[:] = 0
        for start in range(0, len(blocks.voxel), PIECE):
            part = slice(start, start + PIECE)
            piece = Blocks(blocks.voxel[part], blocks.block[part], blocks.sums[part], blocks.images)
            where = find_places(piece, voxels_at(grid, piece.voxel), grid, series)
            factor, offset = fitting_terms.evaluate(kept, where, level(where.s))
            unmerged.put_back(piece.voxel, piece.sums, factor / mean, offset, quanta, sums)
        state = state[0] / mean, state[1]
    return Scaling(kept, tried, len(blocks.voxel), observed, places, state)


def _levels(blocks: Blocks, grid: Grid, quanta: tuple[float, float]):
    """The level L as a function of |s|: sum n / sum e by shell, smoothed by linear interpolation."""
    low, high = 1.0 / grid.d_max, 1.0 / grid.d_min
    total = np.zeros((3, N_SHELLS))
    for start in range(0, len(blocks.voxel), PIECE):
        part = slice(start, start + PIECE)
        s = np.linalg.norm(voxels_at(grid, blocks.voxel[part]) @ grid.to_s.T, axis=1)
        k = np.clip(((s - low) / (high - low) * N_SHELLS).astype(int), 0, N_SHELLS - 1)
        exposure = blocks.sums[part, EXPOSURE] / quanta[0]
        for row, what in zip(total, (blocks.sums[part, COUNTS] / COUNT_SCALE, exposure, exposure * s)):
            row += np.bincount(k, what, minlength=N_SHELLS)
    counts, exposure, weighted = total[:, total[1] > 0.0]
    mean = float(counts.sum() / max(exposure.sum(), 1e-300))
    levels = np.maximum(counts / exposure, 1e-3 * abs(mean) + 1e-300)
    return lambda s: np.interp(s, weighted / exposure, levels)


def _choose(blocks: Blocks, grid: Grid, operations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The records (n,) that are fitted to, the orbits that they belong to, numbered, and the groups of these."""
    voxel, of_voxel = np.unique(blocks.voxel, return_inverse=True)
    x = voxels_at(grid, voxel).astype(np.int64)
    weights = np.array([INDEX_BASE * INDEX_BASE, INDEX_BASE, 1])
    key = np.min([x @ (operation.T @ weights) for operation in operations], axis=0)
    _, first, orbit = np.unique(key, return_index=True, return_inverse=True)
    orbit = orbit[of_voxel]
    n_records = np.bincount(orbit)
    representative = x[first]
    drawn = _hash(representative @ weights) / 2.0**32 * n_records[n_records > 1].sum() < MOST_RECORDS
    rows = np.flatnonzero((drawn & (n_records > 1))[orbit] & (blocks.sums[:, EXPOSURE] > 0))
    rows = rows[np.argsort(orbit[rows], kind="stable")]
    group = (_hash((representative // CUBE) @ weights) // np.uint64(2**32 // N_GROUPS)).astype(np.int64)
    numbered = np.unique(orbit[rows], return_inverse=True)[1]
    return rows, numbered, group[orbit[rows]]


def _hash(key: np.ndarray) -> np.ndarray:
    """Integers below 2^32 that look drawn at random, the same for the same key (Knuth's multiplication, twice)."""
    value = key.astype(np.int64).astype(np.uint64)
    for _ in range(2):
        value = (value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return value >> np.uint64(32)
