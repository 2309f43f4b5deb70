"""reject.n_sigma=Auto: accidents go, good pixels stay, and what is no accident is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")


@pytest.fixture(scope="module")
def counts(simulate):
    """The experiments of a simulated sweep, and its images as arrays."""
    from dials_postrefine.simulate.images import simulate_images

    simulated = simulate(60.0, n_images=6, oscillation=0.1)
    images = [[np.array(p) for p in image] for _, image in simulate_images(simulated.experiments, simulated.intensity)]
    return simulated.experiments, images


@pytest.fixture()
def mapped(counts, make_map):
    """A function: images, n_sigma -> the map of them."""
    from dials_postrefine.simulate.images import ImageInMemory, with_images

    def make(images, n_sigma, **reading):
        experiments = with_images(counts[0], [[ImageInMemory(image) for image in images]])
        return make_map(experiments, n_sigma=n_sigma, reading=reading)

    return make


def spoilt(images, n=200, factor=1.0, seed=4):
    """The images times a factor, with n bright pixels in each."""
    rng = np.random.default_rng(seed)
    images = [[np.array(panel * factor) for panel in image] for image in images]
    for image in images:
        image[0].ravel()[rng.choice(image[0].size, n, replace=False)] += 1000 * factor
    return images


def n_rejected(found):
    return sum(image.n_rejected for image in found.images)


def test_good_pixels_lose_nothing(counts, mapped):
    kept, automatic = mapped(counts[1], None), mapped(counts[1], "auto")
    assert n_rejected(automatic) == 0
    np.testing.assert_array_equal(automatic.sums, kept.sums)


@pytest.mark.parametrize("factor", [1.0, 6.0], ids=["gain known", "gain forgotten"])
def test_accidents_are_rejected_and_nothing_else(counts, mapped, factor):
    """With a forgotten gain all pixels are wide, which is no accident: the limit is wider by as much."""
    clean = mapped(spoilt(counts[1], 0, factor), None)
    found = mapped(spoilt(counts[1], 200, factor), "auto")
    part = sum(i.n_inside for i in clean.images) / (6 * counts[1][0][0].size)
    assert n_rejected(found) == pytest.approx(part * 200 * 6, rel=0.1)
    assert found.map.shells[-1].chi_sq == pytest.approx(clean.map.shells[-1].chi_sq, rel=0.1)


def test_too_many_are_no_accidents(counts, mapped):
    images = spoilt(counts[1], int(0.05 * counts[1][0][0].size))
    kept, automatic = mapped(images, None), mapped(images, "auto")
    assert kept.map.shells[-1].chi_sq > 2.0 and n_rejected(automatic) == 0
    np.testing.assert_array_equal(automatic.sums, kept.sums)


def test_the_limit_follows_the_median_voxel_and_not_the_accidents():
    """Poisson counts have chi^2 1, times 4 they have 4; with one wild pixel the mean alone rises."""
    from dials_postrefine.diffuse.map import columns, rejection

    quanta = (2.0**20, 2.0**16)

    def sums_of(pixels, factor=1.0):
        n = pixels * factor
        sums = np.zeros((len(n), columns.N_SUMS), np.int64)
        sums[:, columns.COUNTS] = n.sum(axis=1) * columns.COUNT_SCALE
        sums[:, columns.VARIANCE] = n.sum(axis=1) * columns.COUNT_SCALE
        sums[:, columns.PIXELS] = n.shape[1] * columns.COUNT_SCALE
        sums[:, columns.EXPOSURE] = n.shape[1] * quanta[0]
        sums[:, columns.SQUARES] = (n**2 - n).sum(axis=1) * quanta[1]
        return sums

    pixels = np.random.default_rng(1).poisson(40.0, (2000, 30)).astype(float)
    chi_sq, freedom = rejection.chi_squared(sums_of(pixels), quanta)
    by_hand = ((pixels - pixels.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / pixels.mean(axis=1)
    np.testing.assert_allclose(chi_sq, by_hand, rtol=1e-4)
    assert (freedom == 29.0).all()
    assert rejection.automatic_limit(sums_of(pixels), quanta) == (None, pytest.approx(1.0, abs=0.03))
    limit, mean = rejection.automatic_limit(sums_of(pixels, 4.0), quanta)
    assert limit == pytest.approx(8.0 * 2.0, rel=0.05) and mean == pytest.approx(4.0, rel=0.05)
    pixels[::10, 0] = 5000.0
    limit, mean = rejection.automatic_limit(sums_of(pixels), quanta)
    assert limit == pytest.approx(8.0, rel=0.05) and mean > 100.0
    assert rejection.automatic_limit(np.zeros((5, columns.N_SUMS), np.int64), quanta) == (None, None)
