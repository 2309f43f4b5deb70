"""
Which pixels belong to Bragg peaks.

Either a box about each reciprocal-lattice point, |h - round h| < box in all three indices, tested pixel by pixel as it
is located; or peaks: for each reflection a place on the detector and a range of images.  The place is the ellipse of
pixels whose direction is within an angle of the predicted one (n sigma_b of DIALS' profile model), or a box of pixels
(the bounding box of an integrated reflection).  The range of images is n sigma_m / |zeta| to both sides of the
predicted one, or that of the bounding box.  Source: Kabsch, Acta Cryst. 2010, D66, 133.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map import kernels
from dials_postrefine.diffuse.map.geometry import Panel


@dataclass(frozen=True)
class Peaks:
    """
    The peaks of a series: panel (m,), images from and to (m, 2), numbers in the scan array with parts of images.

    Either centres (m, 2) fast and slow (pixels) and ellipses (m, 3) about them, a, b, c of
    a dx^2 + 2 b dx dy + c dy^2 < 1, or boxes (m, 4) int: fast from and to, slow from and to (pixels).
    """

    panel: np.ndarray
    images: np.ndarray
    centres: np.ndarray | None = None
    ellipses: np.ndarray | None = None
    boxes: np.ndarray | None = None


def mark(peaks: Peaks, image: float, panels: list[Panel], starts: np.ndarray, out: np.ndarray) -> None:
    """
    Mark in out (n_pixels,) uint8 the pixels that peaks cover on the image from `image` to `image` + 1, and no
    others; starts: the first pixel of each panel.
    """
    out[:] = 0
    mark_also(peaks, image, panels, starts, out)


def mark_also(peaks: Peaks, image: float, panels: list[Panel], starts: np.ndarray, out: np.ndarray) -> None:
    """As mark, beside what is marked: for the peaks of several crystals."""
    here = np.flatnonzero((peaks.images[:, 0] < image + 1.0) & (peaks.images[:, 1] > image))
    for number in np.unique(peaks.panel[here]):
        panel, start = panels[number], starts[number]
        own = here[peaks.panel[here] == number]
        if peaks.boxes is not None:
            kernels.mark_boxes(start, panel.shape, np.ascontiguousarray(peaks.boxes[own]), out)
            continue
        kernels.mark_ellipses(start, panel.shape, peaks.centres[own], peaks.ellipses[own], out)
