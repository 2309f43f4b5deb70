"""The azimuthal residual of the images of a map."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the loops over voxels are compiled by numba")

from dials_postrefine.diffuse.map.merging import azimuthal_residual
from dials_postrefine.diffuse.map.records import N_SHELLS, ImageResult


def image(number: int, level: float, a: float, b: float) -> ImageResult:
    """An image whose shells are level (1 + a cos 2 phi + b sin 2 phi), all round."""
    phi = np.linspace(0.0, 2.0 * np.pi, 360, endpoint=False)
    c, s = np.cos(2.0 * phi), np.sin(2.0 * phi)
    counts = level * (1.0 + a * c + b * s)
    one = [counts, np.ones(360), c, s, c * c, c * s, s * s, counts * c, counts * s]
    profile = np.zeros((N_SHELLS, 11))
    profile[:, :9] = np.sum(one, axis=1)
    return ImageResult(0, number, level=level, profile=profile)


@pytest.mark.parametrize("bad_level", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("bad_counts", [0.0, np.nan])
def test_an_image_without_a_level_does_not_void_the_residual(bad_level, bad_counts):
    edges = np.linspace(0.1, 0.5, N_SHELLS + 1)
    good = [image(1, 50.0, 0.03, -0.02), image(2, 500.0, 0.03, -0.02)]
    bad = image(3, 1.0, 0.5, 0.5)
    bad.level = bad_level
    bad.profile[:, [0, 7, 8]] *= bad_counts
    found = azimuthal_residual([*good, bad], edges, np.linspace(0.1, 0.5, 4))
    assert len(found) == 4
    for residual in found:
        assert residual == pytest.approx((0.03, -0.02))
