"""What belongs to a beam is that of each series, and of each image where the beam moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

D_MIN = 2.2


def moving(simulate):
    """A sweep whose beam turns by 0.2 degrees an image about an oblique axis."""
    from scitbx import matrix
    from scitbx.array_family import flex

    experiments = simulate(20.0, n_images=5, oscillation=0.5).experiments
    s0, axis = matrix.col(experiments[0].beam.get_s0()), matrix.col((0.6, 0.8, 0.0))
    points = [s0.rotate_around_origin(axis, 0.2 * k, deg=True) for k in range(6)]
    experiments[0].beam.set_s0_at_scan_points(flex.vec3_double(points))
    return experiments


def test_limits_and_polarisation_follow_a_beam_that_moves(simulate):
    from dials_postrefine.diffuse.map import geometry
    from dials_postrefine.diffuse.map.columns import make_sums
    from dials_postrefine.diffuse.map.grid import make_grid
    from dials_postrefine.diffuse.map.image import ImageMapper
    from dials_postrefine.diffuse.map.records import Corrections, MappingSettings
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    files = make_series(moving(simulate), ImageSettings(bragg="none", bad_pixels=False), D_MIN)
    grid = make_grid(files.reciprocal, D_MIN, subdivide=(2, 2, 2))
    ring = (0.30, 0.33)
    settings = MappingSettings(scale="none", excluded=(ring,))
    (series,) = files.series
    mapper = ImageMapper([series], grid, settings, make_sums(grid))
    counts = set()
    for i in (0, 4, 2, 0):  # and back
        result = mapper.map_image(0, i)
        s1 = geometry.make_pixels(series.panels, series.beam, settings.corrections).s1.astype(float)
        s = np.linalg.norm(s1 - series.s0[i], axis=1)
        expected = np.count_nonzero((s < 1.0 / D_MIN) & ~((s > ring[0]) & (s < ring[1])))
        assert abs(result.n_inside - expected) <= 3  # by rounding to single precision
        counts.add(expected)
        # Kahn's factor from its definition
        unit, k = s1 * series.beam.wavelength, series.s0[i] / np.linalg.norm(series.s0[i])
        n = series.beam.normal - (series.beam.normal @ k) * k
        n /= np.linalg.norm(n)
        p, m = series.beam.fraction, np.cross(n, k)
        polarised = p * (1.0 - (unit @ m) ** 2) + (1.0 - p) * (1.0 - (unit @ n) ** 2)
        without = geometry.make_pixels(series.panels, series.beam, Corrections(polarization=False)).weight
        np.testing.assert_allclose(mapper.pixels.weight / without, polarised, rtol=1e-5)
    assert max(counts) - min(counts) > 50


def test_the_air_is_that_of_each_wavelength_in_any_order(simulate):
    from dxtbx.model.experiment_list import ExperimentList

    from dials_postrefine.diffuse.map.grid import make_grid
    from dials_postrefine.diffuse.map.mapping import map_images
    from dials_postrefine.diffuse.map.records import MappingSettings
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.files.images.geometry import air_attenuation
    from dials_postrefine.programs.diffuse_map.series import make_series

    parts = [
        simulate(20.0, n_images=2, wavelength=wavelength, name=name).experiments[0]
        for wavelength, name in ((1.0, "short"), (1.9, "long"))
    ]
    parts[1].crystal = parts[0].crystal
    found = []
    for order in (parts, parts[::-1]):
        files = make_series(ExperimentList(order), ImageSettings(bragg="none", bad_pixels=False), 3.0)
        for experiment, series in zip(order, files.series):
            assert series.beam.mu_air == air_attenuation(experiment.beam.get_wavelength())
        grid = make_grid(files.reciprocal, 3.0, subdivide=(2, 2, 2))
        found.append(map_images(files.series, grid, MappingSettings(scale="none"))[0])
        np.testing.assert_array_equal(found[0], found[-1])
    away = [replace(one, beam=replace(one.beam, mu_air=0.0)) for one in files.series]
    assert not np.array_equal(map_images(away, grid, MappingSettings(scale="none"))[0], found[0])


def test_fewer_scan_points_than_images_are_refused(simulate):
    from dials.util import Sorry

    from dials_postrefine.files.dials.models import check_goniometers

    experiments = moving(simulate)
    check_goniometers(experiments)
    points = [experiments[0].beam.get_s0_at_scan_point(k) for k in range(4)]
    experiments[0].beam.set_s0_at_scan_points(points)
    with pytest.raises(Sorry, match="beam of .* has 4 scan points where its 5 images need 6"):
        check_goniometers(experiments)
    experiments[0].beam.reset_scan_points()
    experiments[0].crystal.set_A_at_scan_points([experiments[0].crystal.get_A()] * 8)
    with pytest.raises(Sorry, match="crystal of .* has 8 scan points where its 5 images need 6"):
        check_goniometers(experiments)


def test_a_range_of_images_holds_for_scans_of_no_width(simulate):
    from dials.util import Sorry

    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments = simulate(20.0, n_images=5, oscillation=0.0).experiments
    settings = ImageSettings(bragg="none", bad_pixels=False, image_range=(2, 4))
    (series,) = make_series(experiments, settings, D_MIN).series
    np.testing.assert_array_equal(series.numbers, [2, 3, 4])
    with pytest.raises(Sorry, match="image_range=7 9 has no image of the experiments, which have 1 to 5"):
        make_series(experiments, replace(settings, image_range=(7, 9)), D_MIN)
    stills = simulate(20.0, n_images=2, goniometer="none").experiments
    with pytest.raises(Sorry, match="can't choose among stills without a scan"):
        make_series(stills, settings, D_MIN)
