"""What is read of images is what dxtbx makes of them, for the map, the background, bad pixels and the beam level."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

GAIN, PEDESTAL = 3.0, 40.0


def counts_of(detector: str, mean: float = 30.0, n_images: int = 3, dtype=np.int32, **options):
    """Experiments whose images hold Poisson counts, and the counts, by image and panel."""
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageInMemory, with_images

    experiments = make_experiments(SeriesOptions(detector=detector, n_images=n_images, **options))
    rng = np.random.default_rng(5)
    shapes = [panel.get_image_size()[::-1] for panel in experiments[0].detector]
    images = [[rng.poisson(mean, shape).astype(dtype) for shape in shapes] for _ in range(n_images)]
    return with_images(experiments, [[ImageInMemory(image) for image in images]]), images


def set_maps(experiment, gain=None, pedestal=None):
    """Give the image set maps as dials.import lookup.gain= and lookup.pedestal= do."""
    from dxtbx import flumpy
    from dxtbx.format.image import ImageDouble

    for name, maps in (("gain", gain), ("pedestal", pedestal)):
        if maps is not None:
            image = ImageDouble(tuple(flumpy.from_numpy(np.ascontiguousarray(one, float)) for one in maps))
            getattr(experiment.imageset.external_lookup, name).data = image


def maps_of(experiment):
    rng = np.random.default_rng(6)
    shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
    return [rng.uniform(0.5, 4.0, s) for s in shapes], [rng.uniform(0.0, 9.0, s) for s in shapes]


def assert_is_dxtbx(experiment, i=0):
    """Photons are get_corrected_data where get_mask has it, NaN elsewhere; returns the latter's number."""
    from dxtbx import flumpy

    from dials_postrefine.files.images.pixels import Reader, static_mask

    found = np.concatenate([panel.ravel() for panel in Reader(experiment).photons(i)])
    found[static_mask(experiment) == 0] = np.nan
    imageset = experiment.imageset
    expected = np.concatenate([flumpy.to_numpy(panel).ravel() for panel in imageset.get_corrected_data(i)])
    mask = np.concatenate([flumpy.to_numpy(panel).ravel() for panel in imageset.get_mask(i)])
    np.testing.assert_array_equal(np.isfinite(found), mask)
    np.testing.assert_allclose(found[mask], expected[mask], rtol=1e-14)
    return np.count_nonzero(~mask)


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
@pytest.mark.parametrize("given", ["numbers", "gain", "pedestal", "both"])
@pytest.mark.parametrize("detector", ["ccd", "tiles"])
def test_photons_are_the_corrected_data_of_dxtbx(detector, given, dtype):
    experiments, images = counts_of(detector, dtype=dtype)
    experiment = experiments[0]
    for k, panel in enumerate(experiment.detector):
        panel.set_gain(1.5 + k)
        panel.set_pedestal(2.0 - k)
        panel.set_trusted_range((20, 45))
    images[0][0][:3, :5] = 20
    images[0][0][3:6, :5] = 45
    gain, pedestal = maps_of(experiment)
    set_maps(
        experiment, gain if given in ("gain", "both") else None, pedestal if given in ("pedestal", "both") else None
    )
    assert assert_is_dxtbx(experiment) > 30


def test_what_the_user_gives_wins_over_maps():
    from dials_postrefine.files.images.pixels import Reader

    experiments, images = counts_of("ccd")
    set_maps(experiments[0], *maps_of(experiments[0]))
    found = Reader(experiments[0], gain=2.0, pedestal=5.0).photons(1)[0]
    np.testing.assert_allclose(found, (images[1][0] - 5.0) / 2.0)
    gain, _ = maps_of(experiments[0])
    np.testing.assert_allclose(Reader(experiments[0], pedestal=5.0).photons(1)[0], (images[1][0] - 5.0) / gain[0])


def test_pixels_without_a_gain_are_not_used_and_maps_of_another_size_are_refused():
    from dials.util import Sorry

    from dials_postrefine.files.images.pixels import Reader

    experiments, _ = counts_of("ccd")
    gain, _ = maps_of(experiments[0])
    gain[0][10, 20:30] = 0.0, -1.0, np.nan, np.inf, 1, 1, 1, 1, 1, 1
    set_maps(experiments[0], gain)
    reader = Reader(experiments[0])
    assert np.argwhere(np.isnan(reader.photons(0)[0])).tolist() == [[10, 20 + k] for k in range(4)]
    assert np.isfinite(reader.noise(3.0)).all()
    set_maps(experiments[0], [gain[0][:-1]])
    with pytest.raises(Sorry, match="gain map of the images"):
        Reader(experiments[0])


@pytest.mark.parametrize("detector", ["ccd", "tiles"])
def test_the_beam_level_is_of_photons_that_no_mask_takes_away(detector):
    from dxtbx import flumpy
    from dxtbx.format.image import ImageBool

    from dials_postrefine.files.images.beam_intensity import annulus_means

    experiments, images = counts_of(detector)
    experiment = experiments[0]
    mask = [np.ones(panel.get_image_size()[::-1], bool) for panel in experiment.detector]
    for panel in experiment.detector:
        panel.set_gain(GAIN)
        panel.set_pedestal(PEDESTAL)
    for k, (image, level) in enumerate(zip(images, (20.0, 40.0, 30.0))):
        for panel, good in zip(image, mask):
            panel[:] = GAIN * np.random.default_rng(k).poisson(level, panel.shape) + PEDESTAL
            panel[::7], good[::7] = 60_000, False
    experiment.imageset.external_lookup.mask.data = ImageBool(tuple(flumpy.from_numpy(good) for good in mask))
    np.testing.assert_allclose(annulus_means(experiment, 2.5, 6.0), [20.0, 40.0, 30.0], rtol=0.01)


def test_a_background_and_bad_pixels_are_seen_through_maps():
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments, images = counts_of("ccd", n_images=4)
    shape = images[0][0].shape
    gain, pedestal = np.ones(shape), np.zeros(shape)
    gain[:, ::10], pedestal[60:] = 5.0, 400.0  # columns that stand out as read, and do not as photons
    for image in images:
        image[0][:] = np.rint(image[0] * gain + pedestal)
        image[0][100, 101] = 30 * 100 + 400
    set_maps(experiments[0], [gain], [pedestal])
    series = make_series(experiments, ImageSettings(bragg="none"), 2.0, background=("empty.expt", experiments))
    bad = np.argwhere(series.series[0].usable.reshape(shape) == 0)
    assert bad.tolist() == [[i, j] for i in (99, 100, 101) for j in (100, 101, 102)]
    background = series.series[0].background.reshape(shape)
    assert background[:, ::10].mean() == pytest.approx(30.0, rel=0.01)
    assert background[60:].mean() == pytest.approx(30.0, rel=0.02)


@pytest.mark.parametrize("strategy", ["OffsetPxMmStrategy", "OffsetParallaxCorrectedPxMmStrategy"])
def test_distortion_maps_are_followed_at_every_pixel(strategy):
    import dxtbx.model
    from dxtbx import flumpy

    from dials_postrefine.diffuse.map.geometry import make_pixels
    from dials_postrefine.diffuse.map.records import Corrections
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments, _ = counts_of("tiles")
    detector = experiments[0].detector
    keys = []
    for amplitude in (0.5, 0.25):  # two maps that the dictionary of the detector does not tell from each other
        for panel in detector:
            n_fast, n_slow = panel.get_image_size()
            x, y = np.meshgrid(np.arange(n_fast), np.arange(n_slow))
            ripples = (amplitude * np.sin(2 * np.pi * x / 57), amplitude * np.cos(2 * np.pi * y / 57))
            maps = [flumpy.from_numpy(np.ascontiguousarray(ripple)) for ripple in ripples]
            physics = () if strategy == "OffsetPxMmStrategy" else (panel.get_mu(), panel.get_thickness())
            panel.set_px_mm_strategy(getattr(dxtbx.model, strategy)(*physics, *maps))
        series = make_series(experiments, ImageSettings(bragg="none", bad_pixels=False), 2.0).series[0]
        keys.append(series.detector)
        pixels = make_pixels(series.panels, series.beam, Corrections())
        for k, panel in enumerate(detector):
            n_fast, n_slow = panel.get_image_size()
            centres = np.stack(np.meshgrid(np.arange(n_fast) + 0.5, np.arange(n_slow) + 0.5), axis=-1).reshape(-1, 2)
            lab = flumpy.to_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(flumpy.vec_from_numpy(centres))))
            s1 = lab / np.linalg.norm(lab, axis=1)[:, None] / series.beam.wavelength
            np.testing.assert_allclose(pixels.s1[pixels.starts[k] : pixels.starts[k + 1]], s1, atol=2e-7)
    assert keys[0] != keys[1]


def shadowed(n_images: int = 6):
    """A series about the second of three axes, in whose image set dxtbx has a shadow that moves; its masks (n, ...)."""
    from dxtbx import flumpy
    from dxtbx.imageset import ImageSequence, ImageSetData, MemReader
    from dxtbx.masking import GoniometerShadowMasker
    from scitbx.array_family import flex

    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageInMemory

    options = SeriesOptions(goniometer="multi", n_images=n_images, oscillation=15.0)
    experiments = make_experiments(options)
    experiment = experiments[0]
    shape = experiment.detector[0].get_image_size()[::-1]
    images = [ImageInMemory([np.full(shape, 10 + k, np.int32)]) for k in range(n_images)]
    corners = flex.vec3_double([(x, y, -40.0) for x, y in ((2, 2), (2, 14), (14, 14), (14, 2))])  # mm, on the phi axis
    masker = GoniometerShadowMasker(experiment.goniometer, corners, flex.size_t(4, 0))
    data = ImageSetData(MemReader(images), masker)
    models = (experiment.beam, experiment.detector, experiment.goniometer, experiment.scan)
    experiment.imageset = ImageSequence(data, *models)
    masks = np.array([flumpy.to_numpy(experiment.imageset.get_mask(k)[0]) for k in range(n_images)])
    part = [1.0 - mask.mean() for mask in masks]
    assert experiment.imageset.has_dynamic_mask() and max(part) > 0.02 and max(part) - min(part) > 0.01
    return experiments, masks


def test_a_shadow_that_moves_is_masked_on_each_image_where_it_is():
    from dials_postrefine.diffuse.map import columns
    from dials_postrefine.diffuse.map.grid import make_grid
    from dials_postrefine.diffuse.map.mapping import map_images
    from dials_postrefine.diffuse.map.records import MappingSettings
    from dials_postrefine.files.images.beam_intensity import annulus_means
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.files.images.pixels import Reader
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments, masks = shadowed()
    experiment, n = experiments[0], len(masks)
    read = Reader(experiment)
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(np.isfinite(read.photons(k)[0]), mask)
    # the map: so many pixels of so many photons
    files = make_series(experiments, ImageSettings(bragg="none", bad_pixels=False), 1.2)
    grid = make_grid(files.reciprocal, 1.2, subdivide=(1, 1, 1))
    sums, images, _ = map_images(files.series, grid, MappingSettings())
    assert [image.n_untrusted for image in images] == [np.count_nonzero(~mask) for mask in masks]
    assert sums[:, columns.PIXELS].sum() / columns.COUNT_SCALE == np.count_nonzero(masks)
    expected = sum((10 + k) * np.count_nonzero(mask) for k, mask in enumerate(masks))
    assert sums[:, columns.COUNTS].sum() / columns.COUNT_SCALE == pytest.approx(expected, rel=1e-9)
    # the beam level is not pulled down by the shadow
    assert annulus_means(experiment, 2.5, 6.0) == pytest.approx(10.0 + np.arange(n))
    # the background of a pixel is that of the images on which it is not in the shadow
    own = make_series(
        experiments, ImageSettings(bragg="none", bad_pixels=False), 1.2, background=("empty", experiments)
    )
    one, seen = own.series[0], masks.sum(axis=0)
    rate = np.einsum("k,kij->ij", 10.0 + np.arange(n), masks) / np.maximum(seen, 1)
    assert one.background.reshape(seen.shape) == pytest.approx(rate, rel=1e-6)
    assert np.array_equal(one.usable.reshape(seen.shape) != 0, seen > 0)
