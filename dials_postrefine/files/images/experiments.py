"""
Experiments with images, and what belongs to them: which of their images are used, the time of each, their reflections,
the mask of their Bragg peaks, scale factors, and which images are of several crystals.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.images import exposure
from dials_postrefine.files.images.opened_images import check_images, open_experiments
from dials_postrefine.files.images.pixels import Reader, first_line
from dials_postrefine.numerics.grouped import grouped_mean, rows_of_groups


@dataclass(frozen=True)
class ImageSettings:
    """
    How images are read: the first and last to use (None: all), parts of an image's rotation (None: one until
    the size of voxels is known), mask of Bragg peaks
    ("auto", "profile", "refl", "box", "none") with the extent of a peak (sigma) and of the box (indices), whether scale
    factors are wanted of the reflections, a mask file, how much masks may take away, and gain, pedestal and
    polarisation fraction in place of those of the models or maps; the read noise (counts rms); exposure times (s) in
    place of those of the scans, one or one an experiment, and of the background; how images are brought to one scale
    (MappingSettings.scale); whether to look for bad pixels; counts from which on pixels are not to be trusted.
    """

    image_range: tuple[int, int] | None = None
    phi_steps: int | None = 1
    bragg: str = "auto"
    n_sigma: float = 4.0
    box: float = 0.25
    scales: bool = False
    mask_file: str | None = None
    max_masked: float = 0.5
    gain: float | None = None
    pedestal: float | None = None
    read_noise: float = 0.0
    polarization_fraction: float | None = None
    background_scale: float = 1.0
    exposure_time: tuple[float, ...] | None = None
    background_exposure_time: float | None = None
    scale: str = "none"
    bad_pixels: bool = True
    max_counts: float | None = None


def read_with_reflections(paths: Sequence[str], reflection_paths: Sequence[str]) -> tuple[Any, list[Any]]:
    """
    The experiments of all files in one list, with their images, and the reflections of each (None where there are
    none).

    Raises Sorry with one sentence for what can't be used.
    """
    lists = [read_with_images(path) for path in paths]
    # not of the reflections: with them or without, in each part of a series, an experiment has the same identifier
    identifiers = models.set_identifiers(lists, paths=list(zip(paths, reflection_paths)))
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    check_images(experiments, ", ".join(paths))
    _check(experiments)
    return experiments, reflections_by_experiment(reflection_paths, identifiers, experiments)


def read_with_images(path: str):
    """An experiment list with its images, of which some may be missing.  Raises Sorry where it can't be opened."""
    models.read_experiments(path)  # which says what is wrong with a damaged file
    try:
        return open_experiments(path)
    except Exception as error:  # dxtbx raises anything where an image is damaged or unknown
        raise Sorry(
            f"The images behind {path} can't be opened ({first_line(error)}): they must lie where the file says."
        ) from error


def _check(experiments) -> None:
    if not len(experiments):
        raise Sorry("The .expt files hold no experiments: give refined ones, with their images.")
    for model in ("crystal", "beam", "detector"):
        n = sum(getattr(experiment, model) is None for experiment in experiments)
        if n:
            todo = "index and refine the images first" if model == "crystal" else "import the images again"
            raise Sorry(f"{n} of {len(experiments)} experiments have no {model}: {todo}.")
    models.check_goniometers(experiments)


def reflections_by_experiment(paths, identifiers, experiments) -> list[Any]:
    """The reflections of each experiment, None where there are none."""
    if not paths:
        return [None] * len(experiments)
    table = tables.join_tables(paths, [tables.read_table(path) for path in paths], identifiers)
    tables.forget_identifiers(table)  # with which each selection would look at all of them
    rows = rows_of_groups(flumpy.to_numpy(table["id"]), len(experiments))
    return [table.select(flumpy.from_numpy(chosen.astype(np.uint64))) for chosen in rows]


def kind_of_mask(wanted: str, experiment, table) -> str:
    """The mask of Bragg peaks, "profile", "refl", "box" or "none", of auto the best there is.  Raises Sorry."""
    has_profile = (
        experiment.profile is not None and hasattr(experiment.profile, "sigma_b") and models.rotates(experiment)
    )
    if wanted == "auto":
        return "profile" if has_profile else "refl" if table is not None and "bbox" in table else "box"
    if wanted == "profile" and not has_profile:
        raise Sorry(
            f"{experiment.identifier} has no profile model of a sweep (as dials.integrate makes it): give "
            "integrated.expt, or another mask.bragg=."
        )
    if wanted == "refl" and table is None:
        raise Sorry("mask.bragg=refl needs the reflections: give their .refl, or another mask.bragg=.")
    return wanted


def image_numbers(experiment) -> np.ndarray:
    """The numbers (n,) of the images of an experiment: those of its scan, or from 1."""
    first = experiment.scan.get_image_range()[0] if experiment.scan is not None else 1
    return first + np.arange(len(experiment.imageset))


def chosen_images(experiment, settings: ImageSettings) -> np.ndarray:
    """Which images of an experiment are used, counted from 0."""
    numbers = image_numbers(experiment)
    if settings.image_range is None:
        return np.arange(len(numbers))
    first, last = settings.image_range
    return np.flatnonzero((numbers >= first) & (numbers <= last))


def choose_range(experiments, reflections, settings: ImageSettings):
    """
    The experiments that have images in the range, and their reflections; stills may have none, sweeps must have some.
    Raises Sorry.
    """
    if settings.image_range is None:
        return experiments, reflections
    first, last = settings.image_range
    wanted = f"image_range={first} {last}"
    kept = []
    for k, experiment in enumerate(experiments):
        if experiment.scan is None and len(experiment.imageset) == 1:
            raise Sorry(f"{wanted} can't choose among stills without a scan ({experiment.identifier}): leave it out.")
        if len(chosen_images(experiment, settings)):
            kept.append(k)
        elif models.rotates(experiment):
            numbers = image_numbers(experiment)
            raise Sorry(f"{wanted} has no image of {experiment.identifier}, which has {numbers[0]} to {numbers[-1]}.")
    if not kept:
        numbers = [image_numbers(experiment) for experiment in experiments]
        low, high = min(n[0] for n in numbers), max(n[-1] for n in numbers)
        raise Sorry(f"{wanted} has no image of the experiments, which have {low} to {high}.")
    return type(experiments)([experiments[k] for k in kept]), [reflections[k] for k in kept]


def exposure_times(
    experiments, settings: ImageSettings, with_background: bool
) -> tuple[list[np.ndarray], bool, list[str]]:
    """The exposure times of the images that are used, whether all are known, and remarks (exposure.py)."""
    every = [exposure.known_times(e.scan, len(e.imageset)) for e in experiments]
    every = exposure.given_times(every, settings.exposure_time)
    times = [known[chosen_images(e, settings)] for known, e in zip(every, experiments)]
    runs = ["stills" if len(e.imageset) == 1 else k for k, e in enumerate(experiments)]
    names = [e.identifier for e in experiments]
    return exposure.settle(times, names, runs, settings.scale, with_background)


def make_reader(experiment, settings: ImageSettings, chosen=None) -> Reader:
    """What reads the chosen images (all for None) of an experiment."""
    return Reader(experiment, chosen, settings.gain, settings.pedestal)


def image_keys(imageset) -> list[tuple[str, int] | None]:
    """What tells the images of a set from all others: file and place in it; None for images that are in no file."""
    indices = imageset.indices()
    keys: list[tuple[str, int] | None] = []
    for i in range(len(imageset)):
        path = imageset.get_path(i)
        keys.append((os.path.realpath(path), int(indices[i])) if path and os.path.exists(path) else None)
    return keys


def image_scales(table, experiment, first: int, n_images: int) -> np.ndarray:
    """
    The mean inverse scale factor (n_images,) of the reflections on each image, of which `first` is the first one in the
    array of the scan.  Raises Sorry for reflections without.
    """
    if table is None or "inverse_scale_factor" not in table:
        raise Sorry(
            f"scale.model=from_refl needs the reflections of {experiment.identifier} as dials.scale writes them: give "
            "scaled.refl, or another scale.model=."
        )
    factor = flumpy.to_numpy(table["inverse_scale_factor"])
    z = flumpy.to_numpy(table["xyzcal.px"])[:, 2]
    good = np.isfinite(factor) & (factor > 0.0)
    if not good.any():
        raise Sorry(f"No reflection of {experiment.identifier} has a scale factor: use another scale.model=.")
    image = np.floor(z[good]).astype(int) - first
    inside = (image >= 0) & (image < n_images)
    image, factor = image[inside], factor[good][inside]
    n = np.bincount(image, minlength=n_images)
    known = n > 0
    if not known.any():
        raise Sorry(
            f"No image of {experiment.identifier} has reflections with a scale factor: use another scale.model=."
        )
    mean = grouped_mean(factor, image, n_images)
    return np.interp(np.arange(n_images), np.flatnonzero(known), mean[known])
