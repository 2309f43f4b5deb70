"""
Images -> sums, scaled against each other by symmetry equivalents where that can be done (scale.model=auto and full).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from dials.util import Sorry

from dials_postrefine.diffuse.map import blocks, equivalents
from dials_postrefine.diffuse.map.diagnosis import Diagnosis, diagnose
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.mapping import map_blocks, map_images
from dials_postrefine.diffuse.map.records import ImageResult, MappingSettings
from dials_postrefine.diffuse.map.rejection import Rejection
from dials_postrefine.files.images.geometry import oscillation
from dials_postrefine.numerics.run import Run
from dials_postrefine.programs.diffuse_map.series import SeriesFiles

logger = logging.getLogger("dials.diffuse_map")

# With fewer images there is little to compare.
FEWEST_IMAGES = 6


@dataclass
class Mapped:
    """
    Sums, what each image gave, what was done about outliers, and of the terms by which images were scaled against each
    other the names, and how equivalents agreed before and after (None where it was not tried).
    """

    sums: np.ndarray
    images: list[ImageResult]
    rejection: Rejection
    scaled_by: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None


def map_and_scale(
    model: str,
    files: SeriesFiles,
    grid: Grid,
    settings: MappingSettings,
    operations: np.ndarray,
    run: Run,
    memory: float,
) -> Mapped:
    """
    Map the images of files; model: scale.model; operations of the map's symmetry; memory (bytes) that is there.

    Raises Sorry where model="full" can't be done, and BadImage.
    """
    hindrance = _hindrance(files, grid, memory) if model in ("auto", "full") else "it is not asked for"
    if hindrance is not None:
        if model == "full":
            raise Sorry(f"scale.model=full can't be done, as {hindrance}: use scale.model=auto or per_image.")
        if model == "auto":
            logger.info("Images are scaled by their levels alone (scale.model=auto), as %s", hindrance)
        return Mapped(*map_images(files.series, grid, settings, run))
    sums, images, rejection, records = map_blocks(files.series, grid, settings, run)
    scaling = equivalents.scale(records, sums, grid, files.series, operations, settings.quanta, run)
    return Mapped(sums, images, rejection, tuple(one.term.name for one in scaling.kept), diagnose(scaling))


def _hindrance(files: SeriesFiles, grid: Grid, memory: float) -> str | None:
    """Why images can't be scaled by equivalents, None where they can."""
    if len(files.series) > blocks.MOST_BLOCKS // 2:
        return f"there are {len(files.series)} experiments, which is too many"
    if min(one.n_images for one in files.series) < FEWEST_IMAGES:
        return f"there are experiments of fewer than {FEWEST_IMAGES} images"
    needed = 2.0 * blocks.RECORD_BYTES * expected_records(files, grid)
    if needed > memory:
        return f"the sums of blocks of images need {needed / 2**30:.1f} GB more, {memory / 2**30:.1f} GB are free"
    return None


def expected_records(files: SeriesFiles, grid: Grid) -> float:
    """About how many records there are: of each block the voxels on Ewald's sphere, and those that it sweeps."""
    size = abs(np.linalg.det(grid.to_s)) ** (1.0 / 3.0)
    radius = 1.0 / grid.d_min / size
    total = 0.0
    parts = blocks.cut([one.n_images for one in files.series])
    for images in parts:
        swept = math.radians(oscillation(files.experiments[int(images[0, 0])])) * len(images)
        total += min(float(grid.n_voxels), 1.5 * math.pi * radius**2 + 4.0 / 3.0 * swept * radius**3)
    return total
