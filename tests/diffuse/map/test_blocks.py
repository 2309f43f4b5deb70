"""Unmerged sums: exact, the same in any number of processes, placed where pixels are, scaled as pixels would be."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

from dials_postrefine.diffuse.map import blocks, mapping
from dials_postrefine.diffuse.map.columns import COUNT_SCALE, COUNTS, EXPOSURE, PIXELS, SQUARES, make_sums
from dials_postrefine.diffuse.map.grid import make_grid, voxels, voxels_at
from dials_postrefine.diffuse.map.places import find_places
from dials_postrefine.diffuse.map.records import MappingSettings


def test_images_are_cut_into_blocks_of_one_series():
    found = blocks.cut([250, 1, 40])
    assert len(found) <= blocks.MOST_BLOCKS
    assert [tuple(row) for block in found for row in block] == [
        (k, i) for k, n in enumerate((250, 1, 40)) for i in range(n)
    ]
    assert all(len(set(block[:, 0])) == 1 for block in found)


def test_scaled_records_are_the_sums_of_scaled_pixels():
    rng, quanta = np.random.default_rng(5), (2.0**28, 2.0**16)
    grid = make_grid(np.diag([0.1, 0.1, 0.1]), 3.0, subdivide=(1, 1, 1))
    n, e = rng.poisson(20.0, 50).astype(float), rng.uniform(0.5, 2.0, 50)
    g, d = 1.3, 2.5

    def row(n, e, variance):
        sums = np.zeros((1, 7), np.int64)
        for k, value, scale in (
            (COUNTS, n.sum(), COUNT_SCALE),
            (EXPOSURE, e.sum(), quanta[0]),
            (PIXELS, len(n), COUNT_SCALE),
            (3, variance.sum(), COUNT_SCALE),
            (SQUARES, ((n * n - variance) / e).sum(), quanta[1]),
            (5, n[:20].sum(), COUNT_SCALE),
            (6, e[:20].sum(), quanta[0]),
        ):
            sums[0, k] = round(value * scale)
        return sums

    sums = make_sums(grid)
    blocks.put_back(np.array([7], np.int32), row(n, e, n), np.array([g]), np.array([d]), quanta, sums)
    np.testing.assert_allclose(sums[7], row(n - e * d, e * g, n)[0], rtol=1e-6)
    assert not np.delete(sums, 7, axis=0).any()


@pytest.fixture(scope="module")
def files(simulate):
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    simulated = simulate(5.0, n_images=8, oscillation=1.0, detector="tiles")
    return make_series(simulated.experiments, ImageSettings(bragg="none"), 3.0)


@pytest.mark.cctbx
@pytest.mark.dials
def test_records_add_up_to_the_map_for_any_number_of_processes(files):
    from dials_postrefine.executors.processes import make_run

    grid = make_grid(files.reciprocal, 3.0, subdivide=(2, 2, 2))
    plain, images, _ = mapping.map_images(files.series, grid, MappingSettings())
    found = [mapping.map_blocks(files.series, grid, MappingSettings(), make_run(n)) for n in (1, 2)]
    for sums, same_images, _, records in found:
        np.testing.assert_array_equal(sums, plain)
        assert [one.level for one in same_images] == [one.level for one in images]
        total = make_sums(grid)
        np.add.at(total, records.voxel, records.sums)
        np.testing.assert_array_equal(total, plain)
    for name in ("voxel", "block", "sums"):
        np.testing.assert_array_equal(getattr(found[0][3], name), getattr(found[1][3], name))


@pytest.mark.cctbx
@pytest.mark.dials
def test_records_are_where_the_pixels_of_their_voxels_are(files):
    grid = make_grid(files.reciprocal, 3.0, subdivide=(2, 2, 2))
    _, _, _, records = mapping.map_blocks(files.series, grid, MappingSettings())
    x = voxels_at(grid, records.voxel)
    np.testing.assert_array_equal(x, voxels(grid)[records.voxel])
    places = find_places(records, x, grid, files.series)
    series = files.series[0]
    # by the middles of the panels' pixels, on the same images
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections

    pixels = make_pixels(series.panels, series.beam, Corrections())
    panel = np.repeat(np.arange(len(series.panels)), np.diff(pixels.starts))
    agree = []
    for i in range(series.n_images):
        h = (pixels.s1 - series.s0[i]) @ np.linalg.inv(series.middle[i]).T
        voxel = np.rint(h @ grid.to_voxel.T).astype(int)
        key = voxel @ [10**6, 10**3, 1]
        here = np.flatnonzero(records.block == i)
        for row in here[:: max(1, len(here) // 40)]:
            inside = key == x[row] @ np.array([10**6, 10**3, 1])
            if np.count_nonzero(inside) > 5:
                agree.append(np.mean(panel[inside] == places.panel[row]))
    assert len(agree) > 100 and np.mean(agree) > 0.85
