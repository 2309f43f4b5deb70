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

    from dials_postrefine.files.simulated_images import ImageInMemory, with_images

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

    from dials_postrefine.files.simulated_images import ImageInMemory, with_images

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
