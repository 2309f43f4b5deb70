"""
The exposure times of images: which are known, and where the ratio of two of them matters that is not.

    e = t k Omega P eps air          (diffuse/__init__.py, eq. 1)

The time t of an image is unknown where its scan has none, zero (every NeXus file without a frame time), less, or what
is no number; it is NaN then.  An unknown time can't be set in proportion to another one.  Where it need not be, 1 s
will do:

    one series, none of its times known     only the unit of the map depends on it, if all are the same
    each image scaled by its own level      t k is what the image says, whatever t
    a smooth function of the levels         the same, if of each series all times are known, or none

With a background, whose counts are taken off in proportion to times, all must be known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials.util import Sorry

# What an unknown time is where it does not matter, s.
ONE = 1.0


def known_times(scan, n: int) -> np.ndarray:
    """The exposure times (n,) of the images of a scan or None, s; NaN where they are unknown."""
    unknown = np.full(n, np.nan)
    if scan is None:
        return unknown
    try:
        times = np.array(scan.get_exposure_times(), float)
    except RuntimeError:  # of the newest dxtbx, for a scan without
        return unknown
    if len(times) != n:
        return unknown
    return np.where(np.isfinite(times) & (times > 0.0), times, np.nan)


def given_times(times: Sequence[np.ndarray], given: Sequence[float] | None) -> list[np.ndarray]:
    """
    The times of the images of each experiment, in place of them those that are given, s.

    given: one for all experiments, or one for each.  Raises Sorry for another number of them.
    """
    if not given:
        return list(times)
    if len(given) not in (1, len(times)):
        raise Sorry(
            f"exposure_time= has {len(given)} values for {len(times)} experiments: give one, or one for each of them."
        )
    return [np.full(len(known), float(t)) for known, t in zip(times, np.resize(given, len(times)))]


def settle(
    times: Sequence[np.ndarray], names: Sequence[str], runs: Sequence, scale: str, background: bool
) -> tuple[list[np.ndarray], bool, list[str]]:
    """
    Times to calculate with, whether all were known, and remarks.

    times: of each series, s, NaN where unknown; names of the series; runs: the same for series that were measured in
    one go (stills of one image each); scale: "none", "per_image", "smooth" or "from_refl"; background: whether one is
    taken off.  Raises Sorry where the ratio of an unknown time to another one matters.
    """
    unknown = [np.isnan(series) for series in times]
    n, n_images = sum(int(series.sum()) for series in unknown), sum(len(series) for series in unknown)
    if not n:
        return list(times), True, []
    example = next(name for name, series in zip(names, unknown) if series.any())
    what = f"The exposure time of {n} of {n_images} images is unknown ({example}{' and others' * (n > 1)})"
    if background:
        raise Sorry(f"{what}, so that a background can't be taken off in proportion: give exposure_time=, in seconds.")
    uniform = all(series.all() or not series.any() for series in unknown)
    alone = n == n_images and len(set(runs)) == 1
    if not (alone or scale == "per_image" or (scale == "smooth" and uniform)):
        raise Sorry(
            f"{what}, and their scale to other images depends on it: give exposure_time=, in seconds, one for each "
            "experiment, or scale.model=per_image."
        )
    filled = [np.where(series, ONE, time) for series, time in zip(unknown, times)]
    return filled, False, [remark(n, n_images, alone and scale in ("none", "from_refl"))]


def remark(n: int, n_images: int, alone: bool) -> str:
    """What is said of unknown exposure times of n of so many images; alone: whether they are taken for equal."""
    start = f"The exposure time of {n} of {n_images} images is unknown and taken for {ONE:g} s: "
    if alone:
        return start + "the map is right but for its unit if they are all equal; else give exposure_time=."
    return start + "the map does not depend on it, the levels of these images do; exposure_time= gives it."


def check_addable(known: Sequence[bool], series: Sequence[frozenset[str]], scale: str, paths: Sequence[str]) -> None:
    """
    Raises Sorry where maps are added of which one has unknown times and their ratio to those of the others matters.

    known: whether the times of each map are; series: the identifiers of its experiments.
    """
    if all(known) or len(known) < 2 or scale in ("per_image", "smooth"):
        return
    if not any(known) and len(set(series)) == 1 and len(series[0]) == 1:  # parts of one series
        return
    path = next(path for path, told in zip(paths, known) if not told)
    raise Sorry(
        f"{path} is of images whose exposure time is unknown, which nothing can be set in proportion to: make it again "
        "with exposure_time=, or all with scale.model=per_image."
    )
