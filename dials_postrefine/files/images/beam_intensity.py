"""
How bright the beam was on each image: the mean photons of a pixel in an annulus about the beam, or the background.

    annulus      mean of the photons (pixels.py) at 1/d_max <= |s| < 1/d_min, over the pixels that can be trusted and
                 that no mask takes away
    background   median over the spots of an image of b/<b>, b the mean background of a spot (background.mean), <b> the
                 median b of the spots of like d* on all images

Either follows the beam where what scatters between the spots stays the same, and says less where it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dials.util import Sorry
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_postrefine.files.images.pixels import BadImage, Reader, static_mask
from dials_postrefine.numerics.grouped import grouped_median

SHELL = 50  # spots of like d* whose background is compared


def open_images(paths: list[str]):
    """The experiments of .expt files with their images, None where these can't be opened."""
    experiments = []
    for path in paths:
        try:
            experiments += list(ExperimentListFactory.from_json_file(path, check_format=True))
            for experiment in experiments:
                experiment.imageset.get_raw_data(0)
        except Exception:  # dxtbx raises anything where an image is missing or unknown
            return None
    return experiments


def annulus_means(
    experiment, d_min: float, d_max: float, progress: Callable[[str, int, int], None] | None = None
) -> np.ndarray:
    """
    The mean photons (n_images,) of the pixels between d_min and d_max (Angstrom) of each image, NaN of one that can't
    be read.

    Raises Sorry where no pixel lies there, and for masks or maps that do not fit the detector.
    """
    s0 = np.array(experiment.beam.get_s0())
    inside = [_annulus(panel, s0, d_min, d_max) for panel in experiment.detector]
    if not any(pixels.any() for pixels in inside):
        raise Sorry(f"No pixel lies between {d_max:g} and {d_min:g} Angstrom: set beam.annulus, or beam.intensity.")
    inside = np.concatenate([pixels.ravel() for pixels in inside]) & static_mask(experiment).astype(bool)
    read = Reader(experiment)
    n = len(experiment.imageset)
    found = np.full(n, np.nan)
    for i in range(n):
        try:
            photons = np.concatenate([panel.ravel() for panel in read.photons(i)])[inside]
        except BadImage:
            continue
        photons = photons[np.isfinite(photons)]
        if len(photons):
            found[i] = photons.mean()
        if progress:
            progress("Beam intensity", i + 1, n)
    return found


def _annulus(panel, s0: np.ndarray, d_min: float, d_max: float) -> np.ndarray:
    """Which pixels (slow, fast) of a flat panel are in the annulus."""
    n_fast, n_slow = panel.get_image_size()
    x, y = (size * (np.arange(n) + 0.5) for size, n in zip(panel.get_pixel_size(), (n_fast, n_slow)))
    x, y = x[None, :], y[:, None]
    origin, fast, slow = (np.array(v) for v in (panel.get_origin(), panel.get_fast_axis(), panel.get_slow_axis()))
    along = origin @ s0 + x * (fast @ s0) + y * (slow @ s0)
    square = origin @ origin + x**2 + y**2 + 2.0 * (x * (origin @ fast) + y * (origin @ slow) + x * y * (fast @ slow))
    s_sq = 2.0 * (s0 @ s0 - np.sqrt(s0 @ s0 / square) * along)
    return (s_sq >= d_max**-2) & (s_sq < d_min**-2)


def background_levels(background: np.ndarray, d_star_sq: np.ndarray, image: np.ndarray, n_images: int) -> np.ndarray:
    """
    The level (n_images,) of the background (n,) of spots on images (n,), about 1; NaN of an image without one.

    Backgrounds that are not positive are left out.
    """
    spots = np.flatnonzero(np.isfinite(background) & (background > 0.0))
    spots = spots[np.argsort(d_star_sq[spots], kind="stable")]
    if not len(spots):
        return np.full(n_images, np.nan)
    parts = np.array_split(spots, max(1, len(spots) // SHELL))
    ratio = np.concatenate([background[part] / np.median(background[part]) for part in parts])
    return grouped_median(ratio, image[spots], n_images)
