"""Simulated images: geometry against DIALS' own, corrections against their known limits, noise, files read back."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the images are those of dxtbx")
pytest.importorskip("dials.array_family.flex", reason="the images are those of dxtbx")

from cctbx import miller, sgtbx, uctbx
from dials.algorithms.integration import Corrections
from dials.algorithms.spot_prediction import PixelToMillerIndex
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import SimplePxMmStrategy
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_postrefine.simulate import image_files, image_models
from dials_postrefine.simulate import images as simulated
from dials_postrefine.simulate.diffuse import BraggPeaks, HaloIntensity, SmoothIntensity, polarisation
from dials_postrefine.simulate.image_models import SeriesOptions
from dials_postrefine.simulate.images import ImageOptions

pytestmark = pytest.mark.dials

BARE = ImageOptions(n_sub=1, n_phi=1, polarisation=False, efficiency=False)


def constant(h):
    return np.ones(len(h))


def models(**options):
    """Experiments with imagesets, without which DIALS predicts stills, but with no images in them."""
    experiments = image_models.make_experiments(SeriesOptions(**options))
    lengths = [e.scan.get_num_images() if e.scan else 1 for e in experiments]
    return simulated.with_images(experiments, [[simulated.ImageInMemory(None)] * n for n in lengths])


def smooth(experiment, **parameters):
    return simulated.intensity_of(SmoothIntensity, experiment.crystal, **parameters)


# Geometry


@pytest.mark.parametrize("detector", image_models.DETECTORS)
@pytest.mark.parametrize(
    "crystal",
    [{}, {"scan_varying": True}, {"goniometer": "multi"}, {"goniometer": "multi", "scan_varying": True}],
    ids=["static", "varying", "multi-axis", "multi-axis varying"],
)
def test_predicted_reflections_have_integer_indices(detector, crystal):
    (experiment,) = models(detector=detector, n_images=25, oscillation=0.2, first_image=3, start=10.0, **crystal)
    table = flex.reflection_table.from_predictions(experiment, dmin=1.7)
    panels, expected = flumpy.to_numpy(table["panel"]), flumpy.to_numpy(table["miller_index"].as_vec3_double())
    assert len(table) > 50
    for panel in np.unique(panels):
        x, y, z = flumpy.to_numpy(table["xyzcal.px"])[panels == panel].T
        found = simulated.miller_index_at(experiment, int(panel), x, y, z)
        # DIALS' way from millimetres to pixels is an approximate inverse of that from pixels to millimetres, and a
        # scan-varying prediction goes through the slice on a chord
        assert found == pytest.approx(expected[panels == panel], abs=1e-4)
    assert set(panels) == set(range(len(experiment.detector)))


@pytest.mark.parametrize("goniometer", ["single", "multi"])
def test_indices_at_any_pixel_are_those_of_dials(goniometer):
    (experiment,) = models(detector="tiles", goniometer=goniometer, start=-30.0, oscillation=3.0)
    dials = PixelToMillerIndex(
        experiment.beam, experiment.detector, experiment.goniometer, experiment.scan, experiment.crystal
    )
    rng = np.random.default_rng(1)
    for panel in range(4):
        x, y, z = rng.uniform(0, (100, 120, 10), (20, 3)).T
        expected = [dials.h(panel, *xyz) for xyz in zip(x, y, z)]
        assert simulated.miller_index_at(experiment, panel, x, y, z) == pytest.approx(np.array(expected), abs=1e-10)


def test_reflections_of_stills_are_off_by_their_distance_to_the_sphere():
    for experiment in models(goniometer="none", n_images=5, detector="ccd"):
        table = flex.reflection_table.from_predictions(experiment, dmin=1.7)
        x, y, z = flumpy.to_numpy(table["xyzcal.px"]).T
        a = np.array(experiment.crystal.get_A()).reshape(3, 3)
        q = flumpy.to_numpy(table["miller_index"].as_vec3_double()) @ a.T
        off = np.linalg.norm(simulated.miller_index_at(experiment, 0, x, y, z) @ a.T - q, axis=1)
        angle = np.abs(flumpy.to_numpy(table["delpsical.rad"]))
        assert off == pytest.approx(2 * np.linalg.norm(q, axis=1) * np.sin(angle / 2), rel=1e-6, abs=1e-12)


def test_sample_points_have_the_indices_of_their_pixels():
    (experiment,) = models(detector="tilted", scan_varying=True)
    (panel,) = simulated.sample_detector(experiment, ImageOptions(n_sub=1))
    s = panel.s.reshape(240, 200, 3)
    for y, x in ((0, 0), (17, 180), (239, 199)):
        h = simulated.miller_index_at(experiment, 0, np.array([x + 0.5]), np.array([y + 0.5]), np.array([4.3]))[0]
        assert simulated.setting_matrix(experiment, 4.3) @ h == pytest.approx(s[y, x], abs=1e-6)


def rectangle_solid_angle(panel) -> float:
    """Of the front of a panel: four rectangles with a corner at the foot of the normal from the sample."""
    x0, y0 = panel.get_normal_origin()
    width, height = panel.get_image_size_mm()
    d = panel.get_distance()

    def corner(x, y):
        return math.atan2(x * y, d * math.sqrt(x * x + y * y + d * d))

    ends = (-x0, width - x0), (-y0, height - y0)
    return sum(i * j * corner(ends[0][i > 0], ends[1][j > 0]) for i in (-1, 1) for j in (-1, 1))


@pytest.mark.parametrize("detector", image_models.DETECTORS)
@pytest.mark.parametrize("n_sub", [1, 3])
def test_solid_angles_add_up_to_that_of_a_rectangle(detector, n_sub):
    (experiment,) = models(detector=detector, pixel_size=1.6, image_size=(50, 60))
    options = dataclasses.replace(BARE, n_sub=n_sub)
    for panel in experiment.detector:
        panel.set_px_mm_strategy(SimplePxMmStrategy())
    for panel, image in zip(experiment.detector, simulated.expected_image(experiment, constant, 0, options)):
        assert image.shape == panel.get_image_size()[::-1]
        assert image.sum() == pytest.approx(rectangle_solid_angle(panel), rel=1e-4)


def test_a_reversed_panel_is_the_same_panel_upside_down():
    images = [
        simulated.expected_image(experiment, smooth(experiment), 2)[0]
        for experiment in (models(detector=name)[0] for name in ("flat", "reversed"))
    ]
    assert images[1][::-1] == pytest.approx(images[0], rel=1e-9)


# Corrections


def test_polarisation_is_that_of_dials_with_known_limits():
    (experiment,) = models(beam_tilt=2.0)
    beam = experiment.beam
    corrections = Corrections(beam, experiment.detector)  # without a goniometer lp is the polarisation alone
    s1 = np.random.default_rng(0).standard_normal((20, 3))
    s1 /= np.linalg.norm(s1, axis=1)[:, None]
    found = polarisation(s1, beam.get_s0(), beam.get_polarization_normal(), beam.get_polarization_fraction())
    assert found == pytest.approx(np.array([1 / corrections.lp(v) for v in s1]), rel=1e-10)

    s0, normal, p = np.array([0.0, 0.0, -0.7]), np.array([0.0, 1.0, 0.0]), 0.95
    in_plane, out_of_plane, forward = polarisation(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]]), s0, normal, p)
    assert in_plane / out_of_plane == pytest.approx((1 - p) / p)
    assert forward == pytest.approx(1.0)


def test_each_correction_can_be_switched_off():
    (experiment,) = models(detector="tilted")
    off = dataclasses.replace(BARE, solid_angle=False)
    panel, beam = experiment.detector[0], experiment.beam
    bare = simulated.expected_image(experiment, constant, 0, off)[0]
    assert bare == pytest.approx(np.full((240, 200), (0.4 / panel.get_distance()) ** 2))
    y, x = 31, 170
    r = np.array(panel.get_pixel_lab_coord((x + 0.5, y + 0.5)))
    d = np.linalg.norm(r)
    cos_w = abs(r @ np.array(panel.get_normal())) / d
    p = polarisation(r[None] / d, beam.get_s0(), beam.get_polarization_normal(), 0.95)[0]
    for changes, factor, tolerance in (
        # the pixel's image on the front of a thick sensor is a little smaller than the pixel
        ({"solid_angle": True}, cos_w * (panel.get_distance() / d) ** 2, 5e-3),
        ({"polarisation": True}, p, 1e-5),
        ({"efficiency": True}, 1 - math.exp(-panel.get_mu() * 0.45 / cos_w), 1e-5),
        ({"mu_air": 1e-3}, math.exp(-1e-3 * d), 1e-5),
        ({"exposure": 3.5}, 3.5, 1e-12),
    ):
        image = simulated.expected_image(experiment, constant, 0, dataclasses.replace(off, **changes))[0]
        assert image[y, x] / bare[y, x] == pytest.approx(factor, rel=tolerance), changes
    assert simulated.expected_image(experiment, constant, 0, off, scale=0.3)[0] == pytest.approx(0.3 * bare)


def test_background_neither_scales_nor_needs_a_crystal():
    (experiment,) = models()
    both = simulated.expected_image(experiment, smooth(experiment), 1, background=constant, scale=0.5)[0]
    crystal = simulated.expected_image(experiment, smooth(experiment), 1)[0]
    empty = simulated.expected_image(experiment, None, 1, background=constant)[0]
    assert both == pytest.approx(0.5 * crystal + empty)
    experiment.crystal = None
    assert (simulated.expected_image(experiment, smooth, 1, background=constant)[0] == empty).all()


def test_a_wide_slice_is_the_average_of_narrow_ones():
    wide = models(n_images=2, oscillation=4.0)[0]
    narrow = models(n_images=16, oscillation=0.5)[0]
    intensity = smooth(wide)
    found = simulated.expected_image(wide, intensity, 1, ImageOptions(n_sub=1, n_phi=8))[0]
    slices = [simulated.expected_image(narrow, intensity, k, ImageOptions(n_sub=1, n_phi=1))[0] for k in range(8, 16)]
    assert found == pytest.approx(np.mean(slices, axis=0), rel=1e-9)


def test_the_default_sampling_is_fine_enough():
    (experiment,) = models(oscillation=1.0)
    coarse = simulated.expected_image(experiment, smooth(experiment), 3)[0]
    fine = simulated.expected_image(experiment, smooth(experiment), 3, ImageOptions(n_sub=3, n_phi=8))[0]
    assert coarse == pytest.approx(fine, rel=2e-3)


def test_every_eighth_pixel_is_enough_for_a_smooth_intensity():
    experiment = image_models.make_experiments(SeriesOptions.pilatus_6m(modules=(1, 2)))[0]
    intensity = smooth(experiment)
    exact = simulated.expected_image(experiment, intensity, 0, ImageOptions(n_sub=1, n_phi=1))[0]
    spline = simulated.expected_image(experiment, intensity, 0, ImageOptions(n_sub=1, n_phi=1, step=8))[0]
    error = spline / exact - 1
    assert np.abs(error).max() < 0.03 and error.std() < 1e-3


# Intensities


@pytest.mark.parametrize(
    "symbol",
    [
        "P-1",
        "P2/m",
        "P112/m",
        "Immm",
        "P4/m",
        "P41212",
        "R-3:H",
        "R3:R",
        "P321",
        "P312",
        "P6/m",
        "P6122",
        "Im-3",
        "F432",
    ],
)
@pytest.mark.parametrize("kind", [SmoothIntensity, HaloIntensity, BraggPeaks])
def test_intensities_obey_the_laue_symmetry(symbol, kind):
    space_group = sgtbx.space_group_info(symbol).group()
    cell = space_group.average_unit_cell(uctbx.unit_cell((20, 23, 29, 75, 82, 97)))
    options = SeriesOptions(unit_cell=cell.parameters(), space_group=symbol, goniometer="none", n_images=1)
    intensity = simulated.intensity_of(kind, image_models.make_experiments(options)[0].crystal)
    values = []
    for h in ((1, 3, 6), (5, -2, 4), (0, 3, -1)):
        mates = [e.h() for e in miller.sym_equiv_indices(space_group, h).indices()]
        mates = np.array(mates + [tuple(-x for x in m) for m in mates], dtype=float)
        found = intensity(mates)
        assert found == pytest.approx(np.full(len(mates), found[0]), rel=1e-9)
        assert (found >= 0).all()
        values.append(found[0] / intensity.level * np.exp(intensity.b_factor / 2 * intensity.s_squared(mates[:1]))[0])
        # and between the integers, by the operators themselves
        fraction = np.array([np.array(h) + (0.13, 0.21, 0.4)])
        turned = np.concatenate([fraction @ w.T for w in intensity.operators])
        assert intensity(turned) == pytest.approx(np.full(len(turned), intensity(fraction)[0]), rel=1e-9)
    if kind is not HaloIntensity:  # the same at every integer
        assert np.ptp(values) > 1e-3


def test_the_cosines_average_out_and_are_never_negative():
    (experiment,) = models()
    intensity = smooth(experiment, contrast=1.0)
    h = np.random.default_rng(3).uniform(-10, 10, (20000, 3))
    ratio = intensity(h) / intensity.isotropic(h)
    assert ratio.min() >= 0 and ratio.mean() == pytest.approx(1.0, abs=0.01) and ratio.std() > 0.2


def test_bragg_peaks_are_at_integers_only():
    (experiment,) = models(detector="ccd")
    peaks = simulated.intensity_of(BraggPeaks, experiment.crystal, width=0.05)
    image = simulated.expected_image(experiment, peaks, 0)[0]
    y, x = (index[:40] for index in np.unravel_index(np.argsort(-image, axis=None), image.shape))
    h = simulated.miller_index_at(experiment, 0, x + 0.5, y + 0.5, np.full(len(x), 0.5))
    assert np.abs(h - np.rint(h)).max() < 0.15
    heights = peaks.heights(np.array([(i, j, k) for i in range(30) for j in range(30) for k in range(1, 30)], float))
    assert heights.mean() == pytest.approx(1.0, abs=0.03) and heights.std() == pytest.approx(1.0, abs=0.05)
    assert peaks(np.zeros((1, 3)))[0] == 0.0


# Values


@pytest.mark.parametrize("mean", [0.2, 5.0, 50.0])
def test_noise_is_that_of_counts_and_of_each_image_its_own(mean):
    (experiment,) = models()
    intensity = simulated.with_mean_counts(smooth(experiment), mean, experiment)
    samples = simulated.sample_detector(experiment)
    expected = [simulated.expected_image(experiment, intensity, k, samples=samples)[0] for k in (0, 1)]
    assert expected[0].mean() == pytest.approx(mean)
    counts = [simulated.simulate_image(experiment, intensity, k, seed=(4, 0), samples=samples)[0] for k in (0, 1)]
    pulls = [(n - e) / np.sqrt(e) for n, e in zip(counts, expected)]
    for pull, e in zip(pulls, expected):
        assert pull.mean() == pytest.approx(0.0, abs=4 / math.sqrt(pull.size))
        spread = math.sqrt(np.mean(2 + 1 / e) / pull.size)  # of the mean square of Poisson pulls
        assert np.mean(pull**2) == pytest.approx(1.0, abs=4 * spread)
    assert abs(np.mean(pulls[0] * pulls[1])) < 4 / math.sqrt(pulls[0].size)
    series = simulated.simulate_images(models(), intensity, seed=4)
    assert [(image[0] == n).all() for (_, image), n in zip(series, counts)] == [True, True]
    assert (simulated.simulate_image(experiment, intensity, 0, seed=(5, 0), samples=samples)[0] != counts[0]).any()


def test_gain_and_pedestal_are_those_that_dxtbx_takes_off():
    experiments = image_models.make_experiments(SeriesOptions(detector="ccd", gain=2.5, pedestal=40.0, n_images=2))
    intensity = simulated.with_mean_counts(smooth(experiments[0]), 100.0, experiments[0])
    (experiment,) = simulated.simulate_in_memory(experiments, intensity)
    corrected = experiment.imageset.get_corrected_data(0)[0].as_numpy_array()
    expected = simulated.expected_image(experiment, intensity, 0)[0]
    assert corrected.mean() == pytest.approx(100.0, abs=0.3)
    assert np.mean((corrected - expected) ** 2 / expected) == pytest.approx(1.0, abs=0.03)


def test_scales_are_those_of_the_images():
    experiments = image_models.make_experiments(SeriesOptions(goniometer="none", n_images=3))
    intensity = simulated.with_mean_counts(smooth(experiments[0]), 20.0, experiments[0])
    images = [image[0] for _, image in simulated.simulate_images(experiments, intensity, scales=(1.0, 0.5, 2.0))]
    for experiment, image, scale in zip(experiments, images, (1.0, 0.5, 2.0)):
        expected = simulated.expected_image(experiment, intensity)[0]
        assert image.sum() == pytest.approx(scale * expected.sum(), rel=0.005)


# Imagesets and files

SERIES = {
    "flat": {"n_images": 3},
    "ccd": {"n_images": 2, "detector": "ccd", "gain": 1.7, "pedestal": 30.0, "first_image": 12},
    "tilted, varying": {"n_images": 2, "detector": "tilted", "goniometer": "multi", "scan_varying": True},
    "stills": {"n_images": 3, "goniometer": "none"},
    "gaps": {"n_images": 2, "modules": (1, 2), "pixel_size": 0.172, "first_image": 7, "beam_tilt": 0.0},
    "tiles": {"n_images": 2, "modules": (1, 2), "pixel_size": 0.172, "detector": "tiles"},
    "tiles, stills": {"n_images": 2, "modules": (1, 2), "pixel_size": 0.172, "detector": "tiles", "goniometer": "none"},
}


def values_of(imageset, index):
    return [panel.as_numpy_array() for panel in imageset.get_raw_data(index)]


def make_series(name, folder):
    """The series in memory, and the .expt of the same on disk."""
    experiments = image_models.make_experiments(SeriesOptions(**SERIES[name]))
    intensity = simulated.with_mean_counts(smooth(experiments[0]), 3.0, experiments[0], ImageOptions(step=16))
    options = ImageOptions(n_sub=1, n_phi=1)
    in_memory = simulated.simulate_in_memory(experiments, intensity, options, seed=2)
    return in_memory, image_files.write_series(experiments, intensity, folder / "image", options, seed=2)


@pytest.mark.parametrize("name", list(SERIES))
def test_files_hold_the_values_bit_for_bit_and_the_models(name, tmp_path):
    in_memory, path = make_series(name, tmp_path)
    on_disk = ExperimentListFactory.from_json_file(str(path), check_format=True)
    assert len(on_disk) == len(in_memory)
    for ours, read, copy in zip(in_memory, on_disk, pickle.loads(pickle.dumps(in_memory))):
        assert ours.beam == read.beam and ours.detector == read.detector and ours.crystal == read.crystal
        assert ours.scan == read.scan and ours.goniometer == read.goniometer
        assert len(ours.imageset) == len(read.imageset) == len(copy.imageset)
        for k in range(len(ours.imageset)):
            values = values_of(ours.imageset, k)
            assert [v.shape for v in values] == [p.get_image_size()[::-1] for p in ours.detector]
            for other in (values_of(read.imageset, k), values_of(copy.imageset, k)):
                assert [(a == b).all() for a, b in zip(values, other)] == [True] * len(ours.detector)
            for mine, theirs, value in zip(ours.imageset.get_mask(k), read.imageset.get_mask(k), values):
                assert (mine.as_numpy_array() == theirs.as_numpy_array()).all()
                assert (mine.as_numpy_array() == (value >= 0)).all()
                assert (value < 0).mean() == pytest.approx(17 / 407 if name == "gaps" else 0.0)


def test_several_sweeps_have_files_of_their_own(tmp_path):
    experiments = image_models.make_experiments(SeriesOptions(n_images=2))
    experiments.extend(image_models.make_experiments(SeriesOptions(n_images=3, start=90.0, name="second")))
    path = image_files.write_series(experiments, smooth(experiments[0]), tmp_path / "image", BARE)
    assert [e.imageset.size() for e in ExperimentListFactory.from_json_file(str(path))] == [2, 3]
    assert len(list(tmp_path.glob("image_1_*.cbf"))) == 2 and len(list(tmp_path.glob("image_2_*.cbf"))) == 3


@pytest.mark.parametrize("name", ["flat", "tiles"])
def test_dials_shows_the_files(name, tmp_path, run_program):
    path = make_series(name, tmp_path)[1]
    shown = run_program("dials.show", path, "show_scan_varying=False", cwd=tmp_path, check=True).stdout
    assert "Space group: P 21 21 21" in shown and "image_#####.cbf" in shown


def test_dials_imports_an_untilted_series_with_its_models(tmp_path, run_program):
    (ours,), _ = make_series("gaps", tmp_path)
    images = sorted(tmp_path.glob("*.cbf"))
    run_program("dials.import", *images, "output.experiments=imported.expt", cwd=tmp_path, check=True)
    (imported,) = ExperimentListFactory.from_json_file(str(tmp_path / "imported.expt"), check_format=True)
    mine, theirs = ours.detector[0], imported.detector[0]
    assert theirs.get_d_matrix() == pytest.approx(mine.get_d_matrix(), abs=1e-6)
    assert theirs.get_mu() == mine.get_mu() and theirs.get_thickness() == mine.get_thickness()
    assert list(theirs.get_mask()) == list(mine.get_mask())
    assert imported.beam.get_s0() == pytest.approx(ours.beam.get_s0())
    assert imported.scan.get_image_range() == ours.scan.get_image_range() == (7, 8)
    assert imported.scan.get_oscillation() == pytest.approx(ours.scan.get_oscillation())
    assert imported.goniometer == ours.goniometer
    assert (imported.imageset.get_mask(0)[0].as_numpy_array() == (values_of(ours.imageset, 0)[0] >= 0)).all()


def test_a_broken_image_raises():
    experiments = image_models.make_experiments(SeriesOptions(n_images=2))
    whole = simulated.ImageInMemory([np.zeros((240, 200), dtype=np.int32)])
    (experiment,) = simulated.with_images(experiments, [[whole, simulated.ImageInMemory(None)]])
    assert experiment.imageset.get_raw_data(0)
    with pytest.raises(OSError, match="broken"):
        experiment.imageset.get_raw_data(1)


def test_options_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="detector='round' is not one of flat"):
        SeriesOptions(detector="round")
