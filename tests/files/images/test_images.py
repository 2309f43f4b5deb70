"""Experiments and their images as arrays: geometry against DIALS' own prediction, corrections, masks."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

CASES = {
    "flat, static": {"detector": "flat"},
    "tilted, varying": {"detector": "tilted", "scan_varying": True},
    "reversed, multi-axis": {"detector": "reversed", "goniometer": "multi", "scan_varying": True},
    "tiles, multi-axis, varying": {"detector": "tiles", "goniometer": "multi", "scan_varying": True},
    "ccd, static": {"detector": "ccd"},
}


def experiments_of(**options):
    """Experiments of the simulator, with images of nothing."""
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageInMemory, with_images

    experiments = make_experiments(SeriesOptions(**{"n_images": 12, "oscillation": 0.5, **options}))
    empty = [
        [
            ImageInMemory([np.zeros(panel.get_image_size()[::-1], np.int32) for panel in e.detector])
            for _ in range(e.scan.get_num_images() if e.scan is not None else 1)
        ]
        for e in experiments
    ]
    return with_images(experiments, empty)


def read(experiments, **settings):
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    return make_series(experiments, ImageSettings(**{"bragg": "none", "bad_pixels": False, **settings}), 2.0)


def fractional_indices(experiment, series, panel, xyz):
    """h (n, 3) at places (pixels, images; n, 3): between what the mapper has at the centres of the pixels around."""
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections
    from dials_postrefine.files.dials.models import setting_matrix

    pixels = make_pixels(series.panels, series.beam, Corrections())
    start = np.asarray(pixels.starts)[panel]
    n_fast = np.array([p.shape[1] for p in series.panels])[panel]
    n_slow = np.array([p.shape[0] for p in series.panels])[panel]
    x, y = xyz[:, 0] - 0.5, xyz[:, 1] - 0.5
    i, j = np.clip(np.floor(y).astype(int), 0, n_slow - 2), np.clip(np.floor(x).astype(int), 0, n_fast - 2)
    u, v = y - i, x - j
    s1 = np.zeros((len(xyz), 3))
    for a in (0, 1):
        for b in (0, 1):
            weight = (u if a else 1.0 - u) * (v if b else 1.0 - v)
            s1 += weight[:, None] * pixels.s1[start + (i + a) * n_fast + j + b]
    image = np.floor(xyz[:, 2]).astype(int)
    settings = np.array([setting_matrix(experiment, k, z - k) for k, z in zip(image, xyz[:, 2])])
    beam = experiment.beam
    s0 = np.array([beam.get_s0()] * len(xyz))
    if beam.num_scan_points:
        points = np.array([beam.get_s0_at_scan_point(k) for k in range(beam.num_scan_points)])
        part = (xyz[:, 2] - image)[:, None]
        s0 = (1.0 - part) * points[image] + part * points[image + 1]
    return np.einsum("nij,nj->ni", np.linalg.inv(settings), s1 - s0)


def predicted(experiment):
    """The indices, panels and places (pixels, images) of DIALS' prediction, away from the ends of the scan."""
    from dials.array_family import flex
    from dxtbx import flumpy

    table = flex.reflection_table.from_predictions(experiment, dmin=2.0)
    xyz = flumpy.to_numpy(table["xyzcal.px"])
    h = np.array(table["miller_index"])
    first, last = experiment.scan.get_array_range()
    kept = (xyz[:, 2] > first + 0.5) & (xyz[:, 2] < last - 0.5)
    return h[kept], flumpy.to_numpy(table["panel"].as_int())[kept], xyz[kept]


@pytest.mark.parametrize("case", CASES)
def test_predicted_reflections_are_at_integer_indices(case):
    from dials_postrefine.files.dials.models import setting_matrix

    experiments = experiments_of(**CASES[case])
    h, panel, xyz = predicted(experiments[0])
    assert len(h) > 70
    series = read(experiments).series[0]
    np.testing.assert_allclose(fractional_indices(experiments[0], series, panel, xyz), h, atol=1e-3)
    # of an image the mapper has its middle
    middle = [setting_matrix(experiments[0], k, 0.5) for k in range(*experiments[0].scan.get_array_range())]
    np.testing.assert_array_equal(series.middle, middle)


def test_a_beam_and_a_goniometer_that_change_during_the_scan_are_followed():
    from scitbx import matrix
    from scitbx.array_family import flex

    experiments = experiments_of(goniometer="multi", scan_varying=True)
    experiment = experiments[0]
    n = experiment.scan.get_num_images()
    s0, axis = matrix.col(experiment.beam.get_s0()), matrix.col((0.0, 1.0, 0.0))
    experiment.beam.set_s0_at_scan_points(
        flex.vec3_double([s0.rotate_around_origin(axis, 1e-4 * k, deg=False) for k in range(n + 1)])
    )
    setting = matrix.sqr(experiment.goniometer.get_setting_rotation())
    experiment.goniometer.set_setting_rotation_at_scan_points(
        flex.mat3_double([axis.axis_and_angle_as_r3_rotation_matrix(3e-4 * k, deg=False) * setting
                          for k in range(n + 1)])
    )  # fmt: skip
    h, panel, xyz = predicted(experiment)
    found = fractional_indices(experiment, read(experiments).series[0], panel, xyz)
    np.testing.assert_allclose(found, h, atol=1e-3)
    ends = np.array([experiment.beam.get_s0_at_scan_point(k) for k in (4, 5)])
    np.testing.assert_allclose(read(experiments).series[0].s0[4], ends.mean(axis=0))
    # which is not so for a beam that stays
    experiment.beam.reset_scan_points()
    assert np.abs(fractional_indices(experiment, read(experiments).series[0], panel, xyz) - h).max() > 5e-3


def test_stills_have_their_crystal_as_it_is():
    experiments = experiments_of(goniometer="none", n_images=2)
    for experiment, series in zip(experiments, read(experiments).series):
        np.testing.assert_allclose(series.middle[0], np.reshape(experiment.crystal.get_A(), (3, 3)))
        np.testing.assert_allclose(series.s0[0], experiment.beam.get_s0())


def test_steps_of_the_rotation_are_the_middles_of_equal_parts():
    from scitbx import matrix

    experiments = experiments_of(oscillation=3.0, goniometer="multi")
    series = read(experiments, phi_steps=3).series[0]
    goniometer = experiments[0].goniometer
    axis = matrix.col(goniometer.get_rotation_axis())
    for k, angle in enumerate((-1.0, 0.0, 1.0)):
        turn = np.reshape(axis.axis_and_angle_as_r3_rotation_matrix(angle, deg=True), (3, 3))
        np.testing.assert_allclose(series.settings[4, k], turn @ series.middle[4], atol=1e-9)


def test_a_range_of_images_keeps_their_places():
    experiments = experiments_of(scan_varying=True)
    every, some = read(experiments).series[0], read(experiments, image_range=(4, 6)).series[0]
    np.testing.assert_array_equal(some.numbers, [4, 5, 6])
    np.testing.assert_array_equal(some.middle, every.middle[3:6])


@pytest.mark.parametrize("detector", ["flat", "tilted", "tiles"])
def test_polarisation_and_efficiency_are_those_of_dials(detector):
    from dataclasses import replace

    from dials.algorithms.integration import Corrections as TheirCorrections

    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections

    experiments = experiments_of(detector=detector)
    series = read(experiments).series[0]
    full = Corrections()
    pixels = make_pixels(series.panels, series.beam, full)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(pixels.weight), 300, replace=False)
    panel = np.searchsorted(pixels.starts, chosen, side="right") - 1
    s1 = pixels.s1[chosen].astype(float)
    for name in ("polarization", "efficiency"):
        without = make_pixels(series.panels, series.beam, replace(full, **{name: False})).weight
        ours = (pixels.weight / without)[chosen]
        experiment = experiments[0]
        theirs = TheirCorrections(experiment.beam, experiment.goniometer, experiment.detector)
        if name == "efficiency":
            expected = np.array([theirs.qe(tuple(s), int(p)) for s, p in zip(s1, panel)])
        else:
            lp = np.array([theirs.lp(tuple(s)) for s in s1])
            s0 = np.array(experiment.beam.get_s0())
            axis = np.array(experiment.goniometer.get_rotation_axis())
            lorentz = np.abs(np.cross(s1, s0) @ axis) / np.linalg.norm(s0) ** 2
            expected = lorentz / lp
        np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_solid_angles_of_a_panel_add_up_to_that_of_the_rectangle():
    """Van Oosterom and Strackee, IEEE Trans. Biomed. Eng. 1983, 30, 125: of two triangles."""
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections

    experiments = experiments_of(detector="tilted", thickness=0.0001)
    series = read(experiments).series[0]
    only = Corrections(polarization=False, efficiency=False, air=False)
    total = make_pixels(series.panels, series.beam, only).weight.sum(dtype=float)
    panel = experiments[0].detector[0]
    n_fast, n_slow = panel.get_image_size()
    corners = [np.array(panel.get_pixel_lab_coord(c)) for c in ((0, 0), (n_fast, 0), (n_fast, n_slow), (0, n_slow))]
    corners = [c / np.linalg.norm(c) for c in corners]

    def triangle(a, b, c):
        return 2.0 * np.arctan2(abs(a @ np.cross(b, c)), 1.0 + a @ b + b @ c + c @ a)

    expected = triangle(corners[0], corners[1], corners[2]) + triangle(corners[0], corners[2], corners[3])
    assert total == pytest.approx(expected, rel=1e-4)


def test_air_absorbs_as_tables_say():
    """NIST's dry air near sea level: 2.996 cm^2/g at 12.0 keV (from 5.120 at 10 and 1.614 at 15), 1.205 mg/cm^3."""
    from dials_postrefine.files.images.geometry import air_attenuation

    assert air_attenuation(12.39842 / 10.0) == pytest.approx(5.120 * 1.205e-3 / 10.0, rel=0.05)
    assert air_attenuation(12.39842 / 15.0) == pytest.approx(1.614 * 1.205e-3 / 10.0, rel=0.05)


def test_ice_rings_are_where_ice_is():
    from iotbx.phil import parse

    from dials_postrefine.files.images.crystals import ice_rings

    scope = parse("cell = 4.498,4.498,7.338,90,90,120\n.type = unit_cell\ngroup = 194\n.type = space_group").extract()
    rings = ice_rings(scope.cell, scope.group, 0.002, 1.5)
    centres = [1.0 / np.sqrt(0.5 * (low**2 + high**2)) for low, high in rings]
    for d in (3.90, 3.67, 3.44, 2.67, 2.25, 2.07, 1.95, 1.92, 1.88, 1.72):  # the strongest of ice
        assert min(abs(d - centre) for centre in centres) < 0.01
    assert all(high**2 - low**2 == pytest.approx(0.002) for low, high in rings)


def spots_in_memory(**options):
    """A sweep with Bragg peaks of known width on little else: experiments, smooth part and all, by image."""
    from dials_postrefine.simulate.diffuse import BraggPeaks
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageInMemory, ImageOptions, expected_image, intensity_of, with_images

    experiments = make_experiments(SeriesOptions(**{"n_images": 6, "oscillation": 0.5, "pixel_size": 0.2, **options}))
    peaks = intensity_of(BraggPeaks, experiments[0].crystal, level=1e9, width=0.02)
    images = [expected_image(experiments[0], peaks, k, ImageOptions(n_sub=3, n_phi=8)) for k in range(6)]
    filled = with_images(experiments, [[ImageInMemory([np.rint(p).astype(np.int32) for p in i]) for i in images]])
    return filled, images


@pytest.mark.parametrize("options", [{}, {"goniometer": "multi", "scan_varying": True, "detector": "tiles"}])
def test_predicted_peaks_cover_the_spots(options):
    from dials.algorithms.profile_model.gaussian_rs import Model

    from dials_postrefine.diffuse.map import bragg
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections

    experiments, images = spots_in_memory(**options)
    # 0.02 of an index of 18 A are 0.064 degrees of 1/1 A, and 0.25 degrees of 1/4 A
    experiments[0].profile = Model(None, 3, 0.07, 0.28, deg=True)
    series = read(experiments, bragg="profile", n_sigma=4.0).series[0]
    pixels = make_pixels(series.panels, series.beam, Corrections())
    s = np.linalg.norm(pixels.s1 - series.s0[0], axis=1)
    inside = (s < 1 / 2.1) & (s > 1 / 4.0)
    marks = np.zeros(len(pixels.weight), np.uint8)
    covered, total, n_marked = 0.0, 0.0, 0
    for k, image in enumerate(images):
        marks[:] = 0
        bragg.mark(series.peaks, series.z[k], series.panels, pixels.starts, marks)
        values = np.concatenate([panel.ravel() for panel in image])
        covered += values[inside & (marks == 1)].sum()
        total += values[inside].sum()
        n_marked += np.count_nonzero(marks[inside])
    assert covered / total > 0.99
    assert n_marked < 0.5 * 6 * np.count_nonzero(inside)


@pytest.mark.parametrize("options", [{}, {"detector": "tiles"}])
def test_peaks_are_the_pixels_within_the_angle(options):
    from dials.algorithms.profile_model.gaussian_rs import Model

    from dials_postrefine.diffuse.map import bragg
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections
    from dials_postrefine.files.images.bragg_peaks import predict_peaks

    experiments, _ = spots_in_memory(**options)
    sigma_b, n_sigma = 0.15, 4.0
    experiments[0].profile = Model(None, 3, sigma_b, 0.28, deg=True)
    series = read(experiments, bragg="none").series[0]
    peaks = predict_peaks(experiments[0], 2.1, n_sigma)
    peaks.images[:] = -np.inf, np.inf
    one = len(peaks.panel) // 2
    chosen = slice(one, one + 1)
    peaks = bragg.Peaks(peaks.panel[chosen], peaks.images[chosen], peaks.centres[chosen], peaks.ellipses[chosen])
    pixels = make_pixels(series.panels, series.beam, Corrections())
    marks = np.zeros(len(pixels.weight), np.uint8)
    marks[:] = 0
    bragg.mark(peaks, 0, series.panels, pixels.starts, marks)
    panel = experiments[0].detector[int(peaks.panel[0])]
    direction = np.array(panel.get_pixel_lab_coord(tuple(peaks.centres[0])))
    start, stop = pixels.starts[peaks.panel[0] : peaks.panel[0] + 2]
    unit = pixels.s1[start:stop] * experiments[0].beam.get_wavelength()
    angle = np.arccos(np.clip(unit @ direction / np.linalg.norm(direction), -1.0, 1.0))
    within = angle < np.radians(n_sigma * sigma_b)
    assert within.sum() > 50 and marks.sum() == marks[start:stop].sum()
    assert np.count_nonzero(within != marks[start:stop]) <= 0.05 * within.sum()


def test_boxes_of_reflections_are_masked_and_nothing_else():
    from dials.array_family import flex

    from dials_postrefine.diffuse.map import bragg
    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections
    from dials_postrefine.files.images.bragg_peaks import observed_peaks

    experiments = experiments_of()
    series = read(experiments).series[0]
    table = flex.reflection_table()
    table["bbox"] = flex.int6([(10, 14, 20, 23, 2, 5), (-3, 2, 238, 244, 0, 12)])
    table["panel"] = flex.size_t([0, 0])
    pixels = make_pixels(series.panels, series.beam, Corrections())
    peaks = observed_peaks(table, experiments[0])
    marks = np.zeros(len(pixels.weight), np.uint8)
    for image, expected in ((1, 4), (2, 16), (4, 16), (5, 4)):
        marks[:] = 0
        bragg.mark(peaks, float(image), series.panels, pixels.starts, marks)
        assert marks.sum() == expected
    shape = series.panels[0].shape
    marks[:] = 0
    bragg.mark(peaks, 2.0, series.panels, pixels.starts, marks)
    assert marks.reshape(shape)[20:23, 10:14].all() and marks.reshape(shape)[238:240, 0:2].all()


def test_bad_pixels_are_found_and_peaks_are_not():
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series
    from dials_postrefine.simulate.images import ImageInMemory, with_images

    experiments, images = spots_in_memory(oscillation=8.0)
    rng = np.random.default_rng(1)
    filled = []
    for image in images:
        panel = rng.poisson(image[0] + 30.0).astype(np.int32)
        panel[40:90, 50] = 20_000
        panel[120, 130] = 0
        filled.append(ImageInMemory([panel]))
    experiments = with_images(experiments, [filled])
    files = make_series(experiments, ImageSettings(bragg="none"), 2.0)
    bad = files.series[0].usable.reshape(files.series[0].panels[0].shape) == 0
    expected = np.zeros_like(bad)
    expected[39:91, 49:52] = True
    expected[119:122, 129:132] = True
    np.testing.assert_array_equal(bad, expected)
    assert files.n_bad == expected.sum()


def test_masks_of_dials_are_used(run_program, tmp_path):
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import read_series
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments

    path = write_series(make_experiments(SeriesOptions(n_images=2)), None, tmp_path / "image")
    run_program(
        "dials.generate_mask",
        path,
        "untrusted.rectangle=10,30,40,70",
        "output.mask=pixels.mask",
        cwd=tmp_path,
        check=True,
    )
    settings = ImageSettings(bragg="none", bad_pixels=False, mask_file=str(tmp_path / "pixels.mask"))
    files = read_series([str(path)], [], None, settings)
    shape = files.series[0].panels[0].shape
    masked = files.series[0].usable.reshape(shape) == 0
    assert masked[41:69, 11:29].all() and np.count_nonzero(masked) == pytest.approx(20 * 30, rel=0.1)


def test_scale_factors_of_reflections_become_those_of_images():
    from dials.array_family import flex
    from dials.util import Sorry

    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments = experiments_of()
    table = flex.reflection_table()
    z = np.repeat(np.arange(12) + 0.5, 4)
    factor = 1.0 + 0.1 * np.floor(z)
    factor[:4] = 0.0  # none on the first image
    table["xyzcal.px"] = flex.vec3_double(np.stack([z * 0, z * 0, z], axis=1).tolist())
    table["inverse_scale_factor"] = flex.double(factor.tolist())
    settings = ImageSettings(bragg="none", bad_pixels=False, scales=True)
    found = make_series(experiments, settings, 2.0, reflections=[table]).series[0].scales
    np.testing.assert_allclose(found, [1.1, *(1.0 + 0.1 * np.arange(1, 12))])
    del table["inverse_scale_factor"]
    with pytest.raises(Sorry, match="from_refl needs the reflections"):
        make_series(experiments, settings, 2.0, reflections=[table])


@pytest.mark.parametrize("limits", [(0.0, 1000.0), (-1.0, 1000.0), (-10.0, 65535.0), (5.0, 6.0)])
@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_values_are_trusted_where_the_installed_dxtbx_trusts_them(limits, dtype):
    from dxtbx import flumpy

    experiments = experiments_of()
    panel = experiments[0].detector[0]
    panel.set_trusted_range(limits)
    low, high = read(experiments).series[0].panels[0].trusted
    values = np.array([limits[0] + d for d in (-1, 0, 1)] + [limits[1] + d for d in (-1, 0, 1)], dtype)
    if dtype is np.float64:
        values = np.concatenate([values, [np.nextafter(v, w) for v in limits for w in (-np.inf, np.inf)]])
    full = np.full(panel.get_image_size()[::-1], values[2])
    full[0, : len(values)] = values
    expected = flumpy.to_numpy(panel.get_trusted_range_mask(flumpy.from_numpy(full)))[0, : len(values)].copy()
    expected &= values != -1.0  # what was not measured, also where limits belong to the range
    np.testing.assert_array_equal((low <= values) & (values < high), expected)
