"""
Reflections -> where Bragg peaks lie on the images, as arrays (diffuse/map/bragg.py).

Predicted ones come from DIALS' own prediction with the profile model's sigma_b and sigma_m; the image range of a peak
is n sigma_m / |zeta| to both sides, zeta = m2 . (s1 x s0)/|s1 x s0|.  Observed ones have their bounding boxes.
"""

from __future__ import annotations

import numpy as np

from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.diffuse.map.series import Peaks
from dials_postrefine.files.dials import models

# Where the axis of rotation nearly lies in the plane of s0 and s1, a peak would never end.
SMALLEST_ZETA = 0.02
# Degrees of rotation beyond the scan in which peaks are predicted whose tails are on its images.
MOST_PADDING = 2.0


def predict_peaks(experiment, d_min: float, n_sigma: float) -> Peaks:
    """The peaks that the profile model of an experiment predicts, out to n_sigma.  Raises Sorry where it can't."""
    sigma_b = np.radians(experiment.profile.sigma_b())
    sigma_m = np.radians(experiment.profile.sigma_m())
    padding = min(MOST_PADDING, 3.0 * n_sigma * float(np.degrees(np.max(sigma_m))))
    try:
        table = flex.reflection_table.from_predictions(experiment, dmin=d_min, padding=padding)
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise Sorry(
            f"Peaks of {experiment.identifier} can't be predicted ({str(error).splitlines()[0]}): use mask.bragg=box."
        ) from error
    s1 = flumpy.to_numpy(table["s1"])
    pixel = flumpy.to_numpy(table["xyzcal.px"])
    unit = s1 / np.linalg.norm(s1, axis=1, keepdims=True)
    if experiment.is_still():
        images = np.tile([-np.inf, np.inf], (len(table), 1))
    else:
        first, end = experiment.scan.get_array_range()
        on_image = np.clip(np.floor(pixel[:, 2]).astype(int), first, end - 1) - first
        if np.ndim(sigma_b):  # of a scan-varying profile model
            sigma_b, sigma_m = (np.asarray(sigma)[np.minimum(on_image, len(sigma) - 1)] for sigma in (sigma_b, sigma_m))
        s0 = np.array([models.incident_beam(experiment, image) for image in range(first, end)])[on_image]
        axis = np.array([models.rotation_axis(experiment, image) for image in range(first, end)])[on_image]
        normal = np.cross(s1, s0)
        zeta = np.sum(normal * axis, axis=1) / np.linalg.norm(normal, axis=1)
        width = np.radians(experiment.scan.get_oscillation()[1])
        half = n_sigma * sigma_m / np.maximum(np.abs(zeta), SMALLEST_ZETA) / abs(width)
        images = pixel[:, 2:] + half[:, None] * np.array([-1.0, 1.0])
    panel = flumpy.to_numpy(table["panel"].as_int())
    ellipses = np.empty((len(panel), 3))
    for number in np.unique(panel):
        here = panel == number
        ellipses[here] = _ellipses(
            experiment.detector[int(number)], unit[here], n_sigma * np.broadcast_to(sigma_b, len(panel))[here]
        )
    return Peaks(panel, images, centres=np.ascontiguousarray(pixel[:, :2]), ellipses=ellipses)


def _ellipses(panel, unit: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """
    What is within angles (n,; rad) of directions (n, 3): a, b, c (n, 3) of a dx^2 + 2 b dx dy + c dy^2 < 1 in pixels.

    The direction u of what lies at the distance d turns by (e - u (u.e))/d with a step e on the panel.
    """
    plane = np.array(panel.get_normal())
    distance = np.abs(np.array(panel.get_origin()) @ plane) / np.abs(unit @ plane)
    axes = (panel.get_fast_axis(), panel.get_slow_axis())
    turns = []
    for axis, size in zip(axes, panel.get_pixel_size()):
        step = size * np.array(axis)
        turns.append((step - unit * (unit @ step)[:, None]) / (distance * radius)[:, None])
    x, y = turns
    return np.stack([np.sum(x * x, axis=1), np.sum(x * y, axis=1), np.sum(y * y, axis=1)], axis=1)


def observed_peaks(table, experiment) -> Peaks:
    """The bounding boxes of the reflections of an experiment.  Raises Sorry for a table without them."""
    if "bbox" not in table or "panel" not in table:
        raise Sorry("The reflections have no bounding boxes (bbox): give integrated ones, or another mask.bragg=.")
    boxes = np.stack([flumpy.to_numpy(part) for part in table["bbox"].parts()], axis=1).astype(np.int64)
    images = boxes[:, 4:].astype(float)
    if experiment.is_still():
        images = np.tile([-np.inf, np.inf], (len(boxes), 1))
    return Peaks(flumpy.to_numpy(table["panel"].as_int()), images, boxes=np.ascontiguousarray(boxes[:, :4]))
