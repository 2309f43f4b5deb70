"""
Images -> sums: the passes over all images, in one process, in several that share the sums, or in ranks of MPI whose
sums are added.

Nothing depends on other images (image.py), unless outliers are to be rejected or scales to be smooth, for which there
is a pass before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map import blocks, rejection, scaling
from dials_postrefine.diffuse.map.blocks import Blocks
from dials_postrefine.diffuse.map.columns import make_reached, make_sums
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.image import ImageMapper
from dials_postrefine.diffuse.map.records import ImageResult, MappingSettings
from dials_postrefine.diffuse.map.rejection import Rejection
from dials_postrefine.diffuse.map.series import Series
from dials_postrefine.numerics.grouped import rows_of_groups
from dials_postrefine.numerics.run import Run, SerialExecutor


def map_images(
    series: list[Series], grid: Grid, settings: MappingSettings, run: Run = Run()
) -> tuple[np.ndarray, list[ImageResult], Rejection]:
    """
    Add all images of all series to sums.

    Parameters
    ----------
    series : list of Series
    grid : Grid
    settings : MappingSettings
    run : Run
        Its progress is told of each image.

    Returns
    -------
    sums : ndarray (n_voxels, N_SUMS) of int64
        columns.py.
    images : list of ImageResult
        In the order of the images.
    rejection : Rejection
        What was done about outliers.

    Raises
    ------
    BadImage
        For the first image that can't be used unless settings allow it, and where there is none that can.
    """
    return _map(series, grid, settings, run)[:3]


def map_blocks(
    series: list[Series], grid: Grid, settings: MappingSettings, run: Run = Run()
) -> tuple[np.ndarray, list[ImageResult], Rejection, Blocks]:
    """
    As map_images, and what each block of images gave.

    Parameters
    ----------
    series, grid, settings, run
        As of map_images.

    Returns
    -------
    sums, images, rejection
        Of map_images.
    blocks : Blocks
        The records that the sums are made of.

    Raises
    ------
    BadImage
        As map_images.
    """
    return _map(series, grid, settings, run, blocks.cut([one.n_images for one in series]))


def _map(series, grid, settings, run, cut=()) -> tuple[np.ndarray, list[ImageResult], Rejection, Blocks | None]:
    """The passes; records of the blocks of images in cut, where there are some."""
    if settings.scale == "smooth":
        _, images, _ = _pass(series, grid, replace(settings, scale="per_image", n_sigma=None), run, "Levels")
        series = _with_smooth_scales(series, images)
    if settings.n_sigma is None:
        sums, images, records = _pass(series, grid, settings, run, "Images", cut=cut)
        return sums, images, Rejection(), records
    automatic = settings.n_sigma == "auto"
    what = "Images" if automatic else "First pass"
    first = _pass(series, grid, replace(settings, n_sigma=None), run, what, cut=cut if automatic else ())
    if automatic:
        limit, chi_sq = rejection.automatic_limit(first[0], settings.quanta)
        if limit is None:
            return first[0], first[1], Rejection(None, chi_sq), first[2]
        settings = replace(settings, n_sigma=limit)
    what = "Without outliers" if automatic else "Images"
    found = _pass(series, grid, settings, run, what, first[0], cut)
    done = Rejection(settings.n_sigma, chi_sq if automatic else None)
    if automatic and part_rejected(found[1]) > rejection.MOST_REJECTED:
        found, done = first, Rejection(None, chi_sq, part_rejected(found[1]))
    return found[0], found[1], done, found[2]


def part_rejected(images: Sequence[ImageResult]) -> float:
    """
    How much was rejected.

    Parameters
    ----------
    images : sequence of ImageResult

    Returns
    -------
    float
        The part of the pixels inside of the grid.
    """
    return sum(one.n_rejected for one in images) / max(1, sum(one.n_inside for one in images))


def _with_smooth_scales(series: list[Series], images: list[ImageResult]) -> list[Series]:
    level = np.array([result.level for result in images], dtype=float)
    rows = rows_of_groups(np.array([result.series for result in images], dtype=int), len(series))
    return [replace(one, scales=scaling.smooth(one.numbers, level[chosen])) for one, chosen in zip(series, rows)]


def _pass(
    series: list[Series],
    grid: Grid,
    settings: MappingSettings,
    run: Run,
    what: str,
    first: np.ndarray | None = None,
    cut: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, list[ImageResult], Blocks | None]:
    """
    One pass over all images, which is called `what`; first: the sums that outliers are compared with; cut: the images
    of the blocks that are to be kept apart, none for no records.
    """
    shared = run.executor is not SerialExecutor
    sums = make_sums(grid, shared)
    reached = make_reached(grid if cut else None, shared)
    collector = blocks.BlockCollector()
    every = [(k, i) for k, one in enumerate(series) for i in range(one.n_images)]
    parts = [[(int(k), int(i)) for k, i in images] for images in cut] or [every]
    results = []
    try:
        with run.executor(_start_worker, (ImageMapper(series, grid, settings, sums, first, reached),)) as executor:
            for items in parts:
                for result in executor.map(_map_image, items):
                    if result.error is not None and not settings.allow_bad_images:
                        raise BadImage(f"image {result.number} of {series[result.series].identifier}: {result.error}")
                    results.append(result)
                    run.progress(what, len(results), len(every))
                executor.add_up(_sums)
                executor.add_up(_reached)
                if cut:
                    collector.close_block(sums, reached)
    finally:
        _start_worker(None)  # where the worker was this process
    if all(result.error is not None for result in results):
        raise BadImage(results[0].error if results else "there is none")
    return sums, results, collector.finish(list(cut), sums) if cut else None


# What the initializer leaves in a worker.
_mapper: ImageMapper | None = None


def _start_worker(mapper: ImageMapper | None) -> None:
    global _mapper
    _mapper = mapper


def _sums() -> np.ndarray:
    return _mapper.sums


def _reached() -> np.ndarray:
    return _mapper.reached


def _map_image(item: tuple[int, int]) -> ImageResult:
    return _mapper.map_image(*item)
