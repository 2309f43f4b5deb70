"""
Images without crystal -> the mean photons a second of each pixel, to be taken off, and their variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dials.util import Sorry

from dials_postrefine.files.images import exposure
from dials_postrefine.files.images.experiments import ImageSettings, make_reader, read_with_images
from dials_postrefine.files.images.opened_images import check_images
from dials_postrefine.files.images.pixels import BadImage, static_mask

# How far (mm) the detectors of data and background may be apart.
SAME_PLACE = 0.5


def read_background(path: str) -> tuple[str, Any]:
    """The name and the experiments of a background.  Raises Sorry for experiments without detector or beam."""
    experiments = read_with_images(path)
    check_images(experiments, path)
    if not len(experiments):
        raise Sorry(f"{path} has no experiments: give one made from images of the background.")
    if any(experiment.detector is None or experiment.beam is None for experiment in experiments):
        raise Sorry(f"{path} has no detector or no beam: import its images again.")
    return path, experiments


def mean_background(
    background: tuple[str, Any], experiment, settings: ImageSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The mean of a background's images on the detector of an experiment: photons / s and their variance, float32, and
    which pixels were measured, bool (n_pixels,) each.  Raises Sorry where it does not fit, or an image can't be used.
    """
    path, experiments = background
    n_pixels = sum(int(np.prod(panel.get_image_size())) for panel in experiment.detector)
    counts, read_variance, time = np.zeros(n_pixels), np.zeros(n_pixels), np.zeros(n_pixels)
    for other in experiments:
        if not experiment.detector.is_similar_to(
            other.detector, origin_tolerance=SAME_PLACE, fast_axis_tolerance=1e-3, slow_axis_tolerance=1e-3,
            ignore_trusted_range=True,
        ):  # fmt: skip
            raise Sorry(f"{path} is of another detector, or of another place of it, than {experiment.identifier}.")
        n = len(other.imageset)
        times = exposure.known_times(other.scan, n)
        if settings.background_exposure_time is not None:
            times = np.full(n, settings.background_exposure_time)
        if np.isnan(times).any():
            raise Sorry(f"{path} has images of unknown exposure time: give background.exposure_time=, in seconds.")
        read = make_reader(other, settings)
        noise = read.noise(settings.read_noise)
        good = static_mask(other, None).astype(bool)
        for i in range(n):
            try:
                photons = np.concatenate([panel.ravel() for panel in read.photons(i)])
            except BadImage as error:
                raise Sorry(f"Image {i + 1} of {path} can't be used: {error}.") from error
            measured = good & np.isfinite(photons)
            counts[measured] += photons[measured]
            read_variance[measured] += noise[measured]
            time[measured] += times[i]
    measured = time > 0.0
    rate = np.divide(counts, time, out=np.zeros_like(counts), where=measured)
    variance = np.divide(np.maximum(counts, 1.0) + read_variance, time**2, out=np.zeros_like(counts), where=measured)
    scale = settings.background_scale
    return (scale * rate).astype(np.float32), (scale**2 * variance).astype(np.float32), measured
