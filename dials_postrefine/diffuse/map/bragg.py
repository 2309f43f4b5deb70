"""
Which pixels belong to Bragg peaks.

Either a box about each reciprocal-lattice point, |h - round h| < box in all three indices, tested pixel by pixel as it
is located; or peaks: for each reflection a place on the detector and a range of images.  The place is the ellipse of
pixels whose direction is within an angle of the predicted one (n sigma_b of DIALS' profile model), or a box of pixels
(the bounding box of an integrated reflection).  The range of images is n sigma_m / |zeta| to both sides of the
predicted one, or that of the bounding box.  Source: Kabsch, Acta Cryst. 2010, D66, 133.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.map.compiled import jit
from dials_postrefine.diffuse.map.series import Panel, Peaks


def mark(peaks: Peaks, image: float, panels: list[Panel], starts: np.ndarray, out: np.ndarray) -> None:
    """
    Mark the pixels that peaks cover on an image, beside what is marked.

    Parameters
    ----------
    peaks : Peaks
    image : float
        It reaches from `image` to `image` + 1 in the array of the scan.
    panels : list of Panel
    starts : ndarray (n_panels + 1,)
        The first pixel of each panel (geometry.Pixels.starts).
    out : ndarray (n_pixels,) of uint8
        Set to 1 where a peak is.
    """
    here = np.flatnonzero((peaks.images[:, 0] < image + 1.0) & (peaks.images[:, 1] > image))
    for number in np.unique(peaks.panel[here]):
        panel, start = panels[number], starts[number]
        rows = here[peaks.panel[here] == number]
        if len(peaks.boxes):
            _mark_boxes(start, panel.shape, np.ascontiguousarray(peaks.boxes[rows]), out)
        else:
            _mark_ellipses(start, panel.shape, peaks.centres[rows], peaks.ellipses[rows], out)


@jit
def _mark_ellipses(first_pixel, shape, centres, ellipses, out):
    """
    Mark in out (n,) the pixels of a panel of shape (slow, fast) whose middles are in ellipses: centres (m, 2) fast and
    slow, a dx^2 + 2 b dx dy + c dy^2 < 1 of ellipses (m, 3) of a, b, c (pixels).  first_pixel: of the panel in out.
    """
    n_slow, n_fast = shape
    for k in range(len(centres)):
        x, y = centres[k, 0], centres[k, 1]
        a, b, c = ellipses[k, 0], ellipses[k, 1], ellipses[k, 2]
        half_y = np.sqrt(a / (a * c - b * b))
        for i in range(max(0, int(np.ceil(y - half_y - 0.5))), min(n_slow, int(np.floor(y + half_y + 0.5)))):
            dy = i + 0.5 - y
            middle, square = x - b * dy / a, (b * dy / a) ** 2 - (c * dy * dy - 1.0) / a
            if square <= 0.0:
                continue
            half_x = np.sqrt(square)
            row = first_pixel + i * n_fast
            for j in range(
                max(0, int(np.ceil(middle - half_x - 0.5))), min(n_fast, int(np.floor(middle + half_x + 0.5)))
            ):
                out[row + j] = 1


@jit
def _mark_boxes(first_pixel, shape, boxes, out):
    """Mark in out (n,) the pixels in boxes (m, 4), fast from and to, slow from and to, of a panel of shape."""
    for box in range(len(boxes)):
        for i in range(max(0, boxes[box, 2]), min(shape[0], boxes[box, 3])):
            for j in range(max(0, boxes[box, 0]), min(shape[1], boxes[box, 1])):
                out[first_pixel + i * shape[1] + j] = 1
