"""Maps of images whose values are not photons: maps of gain and pedestal, and read noise."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]


def set_maps(experiment, gain=None, pedestal=None):
    """Give the image set maps as dials.import lookup.gain= and lookup.pedestal= do."""
    from dxtbx import flumpy
    from dxtbx.format.image import ImageDouble

    for name, maps in (("gain", gain), ("pedestal", pedestal)):
        if maps is not None:
            image = ImageDouble(tuple(flumpy.from_numpy(np.ascontiguousarray(one, float)) for one in maps))
            getattr(experiment.imageset.external_lookup, name).data = image


def test_maps_of_gain_and_pedestal_give_the_map_of_photons(simulate, make_map, unique_voxels):
    plain = make_map(simulate(20.0, detector="ccd", oscillation=0.4, n_images=6).experiments)
    experiments = simulate(20.0, detector="ccd", oscillation=0.4, n_images=6).experiments
    experiment = experiments[0]
    shape = experiment.detector[0].get_image_size()[::-1]
    rng = np.random.default_rng(6)
    gain, pedestal = 2.0 ** rng.integers(0, 3, shape), rng.integers(0, 50, shape).astype(float)
    from dxtbx import flumpy

    from dials_postrefine.simulate.images import ImageInMemory, with_images

    images = [flumpy.to_numpy(experiment.imageset.get_raw_data(i)[0]) for i in range(6)]
    images = [ImageInMemory([(image * gain + pedestal).astype(np.int32)]) for image in images]
    experiments = with_images(experiments, [images])
    set_maps(experiments[0], [gain], [pedestal])
    mapped = make_map(experiments)
    np.testing.assert_array_equal(mapped.sums, plain.sums)


@pytest.mark.parametrize("how", ["numbers", "map"])
def test_read_noise_is_in_sigma_chi_squared_and_rejection(simulate, make_map, unique_voxels, how):
    """Signed data of a CCD: a photon a pixel, and a noise of 10 counts or 5 photons rms."""
    from dxtbx import flumpy

    from dials_postrefine.simulate.images import ImageInMemory, with_images

    simulated = simulate(1.0, detector="ccd", oscillation=0.4, n_images=12)
    experiment = simulated.experiments[0]
    rng = np.random.default_rng(7)
    images = []
    for i in range(12):
        counts = flumpy.to_numpy(experiment.imageset.get_raw_data(i)[0])
        images.append(ImageInMemory([2.0 * counts + rng.normal(0.0, 10.0, counts.shape)]))
    experiment.detector[0].set_trusted_range((-1000, 100_000))
    experiments = with_images(simulated.experiments, [images])
    if how == "map":
        set_maps(experiments[0], [np.full(counts.shape, 2.0)])
    else:
        experiments[0].detector[0].set_gain(2.0)
    reading = {"read_noise": 10.0, "bad_pixels": False}
    found = make_map(experiments, subdivide=(1, 1, 1), reading=reading)
    x, intensity, sigma, _, pixels = unique_voxels(found.map)
    z = ((intensity - simulated.truth(found.grid, x)) / sigma)[pixels > 20]
    assert len(z) > 200
    assert np.std(z) == pytest.approx(1.0, abs=0.08) and abs(z.mean()) < 0.15
    assert found.map.shells[-1].chi_sq == pytest.approx(1.0, abs=0.03)
    rejecting = make_map(experiments, subdivide=(1, 1, 1), reading=reading, n_sigma=4.0)
    n = sum(image.n_rejected for image in rejecting.images) / sum(image.n_inside for image in rejecting.images)
    assert n < 1e-3
    # sums stay exact: two runs on halves add up to one on all, whatever the number of processes
    np.testing.assert_array_equal(make_map(experiments, subdivide=(1, 1, 1), reading=reading, nproc=2).sums, found.sums)
    parts = [
        make_map(experiments, subdivide=(1, 1, 1), reading={**reading, "image_range": part}).sums
        for part in ((1, 5), (6, 12))
    ]
    np.testing.assert_array_equal(parts[0] + parts[1], found.sums)


def test_every_pixel_is_averaged_or_counted_by_reason(simulate, make_map):
    """Masked, untrusted, hot, under a Bragg peak, outside of the limits, on ice: the sums have all others, once."""
    from dials_postrefine.diffuse.map import columns
    from dials_postrefine.report.diffuse.summary import count_pixels
    from dials_postrefine.simulate.images import with_images

    simulated = simulate(20.0, detector="ccd", oscillation=0.4, n_images=6)
    experiment = simulated.experiments[0]
    n_fast, n_slow = experiment.detector[0].get_image_size()
    s0 = experiment.beam.get_s0()
    resolution = experiment.detector[0].get_resolution_at_pixel
    d = np.array([[resolution(s0, (j + 0.5, i + 0.5)) for j in range(n_fast)] for i in range(n_slow)])
    inside = (d > 2.2) & ~((d > 3.0) & (d < 3.2))
    experiment.detector[0].set_trusted_range((-1, 60_000))
    experiment.detector[0].add_mask(5, 10, 55, 40)
    masked = np.zeros(d.shape, dtype=bool)
    masked[10:40, 5:55] = True
    rng = np.random.default_rng(2)
    images = [changed_image(experiment, i, rng) for i in range(6)]
    images[3].values = None  # damaged
    experiments = with_images(simulated.experiments, [images])
    reading = {"bragg": "box", "box": 0.2, "bad_pixels": False}
    found = make_map(experiments, 2.2, (1, 1, 1), reading=reading, n_sigma=8.0, excluded=((1 / 3.2, 1 / 3.0),))
    pixels, used = count_pixels(found.images), 5 * inside.sum()
    not_used = pixels["not_used"]
    assert pixels["n_input"] == 6 * d.size == pixels["n_averaged"] + sum(not_used.values())
    assert pixels["n_averaged"] == found.sums[:, columns.PIXELS].sum() / columns.COUNT_SCALE
    assert not_used["of images that could not be used"] == d.size
    assert not_used["masked"] == pytest.approx(5 * (masked & inside).sum(), abs=30)  # by rounding at the limits
    bad = sum(int((one.bad & inside & ~masked).sum()) for k, one in enumerate(images) if k != 3)
    assert not_used["outside of the trusted range, or in a shadow"] == pytest.approx(bad, abs=3)
    outside = not_used["outside of the limits of resolution, or on ice rings"]
    assert outside == pytest.approx(5 * d.size - used, rel=0.01)
    assert not_used["Bragg peaks"] == pytest.approx(0.4**3 * used, rel=0.1)
    hot = sum(int((one.hot & inside & ~masked).sum()) for k, one in enumerate(images) if k != 3)
    assert 0.85 * hot < not_used["rejected as outliers"] <= hot


def changed_image(experiment, i: int, rng):
    """The i-th image with 1 % of its pixels out of the trusted range, bad, and 0.2 % hot."""
    from dxtbx import flumpy

    from dials_postrefine.simulate.images import ImageInMemory

    values = flumpy.to_numpy(experiment.imageset.get_raw_data(i)[0]).copy()
    chance = rng.random(values.shape)
    bad, hot = chance < 0.01, chance > 0.998
    values[bad] = rng.choice([-7, 70_000], bad.sum())
    values[hot] += 500
    image = ImageInMemory([values])
    image.bad, image.hot = bad, hot
    return image
