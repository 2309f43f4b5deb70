"""The limit of resolution that a map has where none is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

S0 = np.array([0.0, 0.0, -1.0])
SIZE, PIXEL, DISTANCE = 200, 0.5, 80.0


def detector(two_theta=0.0, shift=0.0):
    """A square panel on a two-theta arm about y (degrees), shifted along x (mm)."""
    from dxtbx.model import Detector

    panel = (found := Detector()).add_panel()
    c, s = np.cos(np.radians(two_theta)), np.sin(np.radians(two_theta))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    half = 0.5 * SIZE * PIXEL
    frame = [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (shift - half, half, -DISTANCE)]
    panel.set_frame(*[tuple(map(float, turn @ axis)) for axis in frame])
    panel.set_image_size((SIZE, SIZE))
    panel.set_pixel_size((PIXEL, PIXEL))
    return found


def seen(found):
    """d (Angstrom) of the corners of every tenth pixel."""
    step = range(0, SIZE + 1, 10)
    places = [np.array(found[0].get_pixel_lab_coord((x, y))) for x in step for y in step]
    return np.array([1.0 / np.linalg.norm(c / np.linalg.norm(c) - S0) for c in places])


def test_in_the_beam_it_is_what_the_edges_reach_all_around():
    from dials_postrefine.files.images.limits import detector_limit

    two_theta = np.arctan(0.5 * SIZE * PIXEL / DISTANCE)
    assert detector_limit(detector(), S0) == pytest.approx(0.5 / np.sin(0.5 * two_theta), rel=1e-6)


@pytest.mark.parametrize("options", [{"two_theta": 60.0}, {"shift": 55.0}, {"shift": 49.0}, {"two_theta": -100.0}])
def test_beside_the_beam_it_is_the_farthest_place(options):
    from dials_postrefine.files.images.limits import detector_limit

    found = detector(**options)
    assert detector_limit(found, S0) == pytest.approx(seen(found).min(), rel=1e-9)


def test_a_little_off_the_centre_it_is_the_nearest_edge():
    from dials_postrefine.files.images.limits import detector_limit

    two_theta = np.arctan((0.5 * SIZE * PIXEL - 10.0) / DISTANCE)
    assert detector_limit(detector(shift=10.0), S0) == pytest.approx(0.5 / np.sin(0.5 * two_theta), rel=1e-6)
