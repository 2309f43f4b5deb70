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
from dials_postrefine.diffuse.map import rejection, scaling
from dials_postrefine.diffuse.map.columns import make_sums
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
    if settings.scale == "smooth":
        _, images = _pass(series, grid, replace(settings, scale="per_image", n_sigma=None), run, "Levels")
        series = _with_smooth_scales(series, images)
    if settings.n_sigma is None:
        return *_pass(series, grid, settings, run, "Images"), Rejection()
    automatic = settings.n_sigma == "auto"
    first = _pass(series, grid, replace(settings, n_sigma=None), run, "Images" if automatic else "First pass")
    if automatic:
        limit, chi_sq = rejection.automatic_limit(first[0], settings.quanta)
        if limit is None:
            return *first, Rejection(None, chi_sq)
        settings = replace(settings, n_sigma=limit)
    found = _pass(series, grid, settings, run, "Without outliers" if automatic else "Images", first[0])
    if automatic and part_rejected(found[1]) > rejection.MOST_REJECTED:
        return *first, Rejection(None, chi_sq, part_rejected(found[1]))
    return *found, Rejection(settings.n_sigma, chi_sq if automatic else None)


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
) -> tuple[np.ndarray, list[ImageResult]]:
    """One pass over all images, which is called `what`; first: the sums that outliers are compared with."""
    sums = make_sums(grid, shared=run.executor is not SerialExecutor)
    items = [(k, i) for k, one in enumerate(series) for i in range(one.n_images)]
    results = []
    try:
        with run.executor(_start_worker, (ImageMapper(series, grid, settings, sums, first),)) as executor:
            for result in executor.map(_map_image, items):
                if result.error is not None and not settings.allow_bad_images:
                    raise BadImage(f"image {result.number} of {series[result.series].identifier}: {result.error}")
                results.append(result)
                run.progress(what, len(results), len(items))
            executor.add_up(_sums)
    finally:
        _start_worker(None)  # where the worker was this process
    if all(result.error is not None for result in results):
        raise BadImage(results[0].error if results else "there is none")
    return sums, results


# What the initializer leaves in a worker.
_mapper: ImageMapper | None = None


def _start_worker(mapper: ImageMapper | None) -> None:
    global _mapper
    _mapper = mapper


def _sums() -> np.ndarray:
    return _mapper.sums


def _map_image(item: tuple[int, int]) -> ImageResult:
    return _mapper.map_image(*item)
