"""The map of simulated images is the intensity that they were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.diffuse.map.records import Corrections

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

KINDS = {
    "stills": {"goniometer": "none", "n_images": 12},
    "fine slices": {"oscillation": 0.4, "n_images": 12},
    "wide slices": {"oscillation": 3.0, "n_images": 12},
}
SHELLS = 6


def compare(simulated, found, unique_voxels):
    """Pulls of voxels with twenty photons or more, and by shells the sum of counts over what it should be."""
    grid = found.grid
    x, intensity, sigma, counts, pixels = unique_voxels(found.map)
    truth = simulated.truth(grid, x)
    with np.errstate(invalid="ignore"):
        expected = truth * counts / intensity
    enough = expected > 20.0
    pulls = ((intensity - truth) / sigma)[enough]
    s = np.linalg.norm(x @ grid.to_s.T, axis=1)
    shell = np.minimum((s * grid.d_min * SHELLS).astype(int), SHELLS - 1)
    with np.errstate(invalid="ignore"):
        exposure = np.where(counts > 0, counts / intensity, 0.0)
    ratio = np.bincount(shell, counts) / np.bincount(shell, exposure * truth)
    return pulls, ratio, np.bincount(shell, counts) ** -0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", [0.2, 1.0, 5.0, 50.0])
def test_pulls_have_unit_variance_and_no_shell_is_biased(simulate, make_map, unique_voxels, kind, mean):
    steps = 6 if kind == "wide slices" else 1
    detector = {0.2: "tiles", 1.0: "tilted", 5.0: "reversed", 50.0: "tiles"}[mean]
    simulated = simulate(mean, {"n_phi": 2 * steps}, detector=detector, scan_varying=kind != "stills", **KINDS[kind])
    found = make_map(
        simulated.experiments, subdivide=(4, 4, 4) if mean > 20.0 else (2, 2, 2), reading={"phi_steps": steps}
    )
    pulls, ratio, error = compare(simulated, found, unique_voxels)
    assert len(pulls) > 300
    # a step within a wide slice is followed, but neighbours share counts: their pulls are not independent
    assert np.std(pulls) == pytest.approx(1.0, abs=0.06 if steps == 1 else 0.12)
    assert (np.abs(ratio - 1.0) < 0.01 + 3.0 * error).all()
    assert found.map.shells[-1].chi_sq == pytest.approx(1.0, abs=0.03)


def test_a_ccd_with_gain_and_pedestal_and_no_thickness(simulate, make_map, unique_voxels):
    simulated = simulate(5.0, detector="ccd", gain=2.5, pedestal=40.0, oscillation=0.4)
    found = make_map(simulated.experiments)
    pulls, ratio, error = compare(simulated, found, unique_voxels)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.06)
    assert (np.abs(ratio - 1.0) < 0.01 + 3.0 * error).all()


def profile_ratio(a, b):
    """Of two maps of the same images: the isotropic part of the first over that of the second, and |s|."""
    np.testing.assert_allclose(a.map.radial.s, b.map.radial.s, rtol=0.02)
    return a.map.radial.s, a.map.radial.intensity / b.map.radial.intensity


@pytest.fixture(scope="module")
def flat(simulate):
    """Images with all corrections in them, air too, and few enough photons lost to see each."""
    return simulate(20.0, {"mu_air": 2e-3}, detector="flat", beam_tilt=0.0, n_images=6, polarization_fraction=0.95)


ALL = {"mu_air": 2e-3}


def without(name):
    return {**ALL, "corrections": Corrections(**{name: False})}


def two_theta(s, wavelength=1.0):
    return 2.0 * np.arcsin(0.5 * wavelength * s)


def test_without_the_solid_angle_the_cube_of_the_cosine_is_left(flat, make_map):
    s, ratio = profile_ratio(make_map(flat.experiments, **without("solid_angle")), make_map(flat.experiments, **ALL))
    np.testing.assert_allclose(ratio, np.cos(two_theta(s)) ** 3, rtol=0.02)
    assert ratio[-1] < 0.8


def test_without_the_efficiency_the_sensor_absorbs_more_at_the_edge(flat, make_map):
    s, ratio = profile_ratio(make_map(flat.experiments, **without("efficiency")), make_map(flat.experiments, **ALL))
    panel = flat.experiments[0].detector[0]
    depth = panel.get_mu() * panel.get_thickness()
    np.testing.assert_allclose(ratio, 1.0 - np.exp(-depth / np.cos(two_theta(s))), rtol=0.003)
    assert ratio[-1] / ratio[0] > 1.01


def test_without_the_air_the_longer_way_absorbs_more(flat, make_map):
    s, ratio = profile_ratio(make_map(flat.experiments, **without("air")), make_map(flat.experiments, **ALL))
    distance = flat.experiments[0].detector[0].get_distance()
    np.testing.assert_allclose(ratio, np.exp(-2e-3 * distance / np.cos(two_theta(s))), rtol=0.003)
    assert ratio[-1] / ratio[0] < 0.99


def test_without_polarisation_the_azimuth_shows_it_and_with_it_does_not(flat, make_map):
    corrected, raw = (
        make_map(flat.experiments, **ALL).map.shells,
        make_map(flat.experiments, **without("polarization")).map.shells,
    )
    for good, bad in zip(corrected[3:-1], raw[3:-1]):
        s = 0.5 * (1.0 / good.d_max + 1.0 / good.d_min)
        sine_sq = np.sin(two_theta(s)) ** 2
        expected = -(2.0 * 0.95 - 1.0) * 0.5 * sine_sq / (1.0 - 0.5 * sine_sq)
        # a few images of an anisotropic crystal have a preferred azimuth of their own, the same in both
        assert bad.cos_2phi - good.cos_2phi == pytest.approx(expected, abs=0.15 * abs(expected) + 0.002)
    assert raw[-2].cos_2phi - corrected[-2].cos_2phi < -0.04


def test_levels_of_images_are_found_and_taken_out(simulate, make_map, unique_voxels):
    given = [1.0, 0.7, 1.3, 0.9, 2.0, 1.1]
    simulated = simulate(5.0, n_images=6, oscillation=0.1, scales=given)
    found = make_map(simulated.experiments, scale="per_image")
    scales = np.array([image.scale for image in found.images])
    np.testing.assert_allclose(scales / scales.mean(), np.array(given) / np.mean(given), rtol=0.02)
    pulls, _, _ = compare(simulated, found, unique_voxels)
    mean = np.mean(given)
    x, intensity, sigma, _, _ = unique_voxels(found.map)
    pulls = (intensity / mean - simulated.truth(found.grid, x)) / (sigma / mean)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)
    none = make_map(simulated.experiments, scale="none").map.shells[-1].chi_sq
    assert found.map.shells[-1].chi_sq == pytest.approx(1.0, abs=0.03) and none > 1.15


def test_scales_that_drift_are_smoothed(simulate, make_map):
    given = 1.0 + 0.4 * np.sin(np.arange(30) / 8.0)
    simulated = simulate(0.2, n_images=30, oscillation=0.1, scales=given.tolist())
    for_each = make_map(simulated.experiments, scale="per_image").images
    smooth = make_map(simulated.experiments, scale="smooth").images

    def off(images):
        scales = np.array([image.scale for image in images])
        return np.std(scales / scales.mean() / (given / given.mean()))

    assert off(smooth) < 0.7 * off(for_each) and off(smooth) < 0.03


def test_a_background_is_taken_off_with_its_error(simulate, make_map, unique_voxels):
    from dials_postrefine.files.images.crystals import point_group_rotations
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, simulate_in_memory

    def air(s):
        return 4e5 * np.exp(-20.0 * np.linalg.norm(s, axis=-1) ** 2)

    simulated = simulate(5.0, n_images=6, oscillation=0.4, exposure=1.0, background=air)
    plain = make_map(simulated.experiments)
    biased = compare(simulated, plain, unique_voxels)[1]
    empty = simulate_in_memory(
        make_experiments(SeriesOptions(n_images=4, oscillation=0.4, exposure=3.0, name="empty")),
        None, ImageOptions(), seed=9, background=air,
    )  # fmt: skip
    files = make_series(simulated.experiments, ImageSettings(bragg="none"), 2.2, background=("empty.expt", empty))
    from types import SimpleNamespace

    from dials_postrefine.diffuse.map import mapping, merging, symmetry

    settings = replace(plain.settings, corrections=Corrections(air=False))  # there is none in the images
    sums, images, _ = mapping.map_images(files.series, plain.grid, settings)
    laue = symmetry.operations(plain.grid, point_group_rotations(files.space_group), "laue")
    found = SimpleNamespace(
        map=merging.merge(sums, images, plain.grid, plain.settings, laue, laue), grid=plain.grid, images=images
    )
    pulls, ratio, error = compare(simulated, found, unique_voxels)
    assert np.abs(biased - 1.0).max() > 0.05
    assert (np.abs(ratio - 1.0) < 0.01 + 5.0 * error).all()
    assert np.std(pulls) == pytest.approx(1.0, abs=0.08)


def test_a_radial_offset_of_images_leaves_no_rings(simulate, make_map):
    """A ring of an isotropic background that comes and goes: without offset it makes voxels of images differ."""
    from dials_postrefine.simulate.images import ImageInMemory, simulate_images, with_images

    simulated = simulate(5.0, n_images=6, oscillation=0.1)

    def ring(strength):
        return lambda s: strength * np.exp(-(((np.linalg.norm(s, axis=-1) - 0.3) / 0.02) ** 2))

    level = simulated.intensity.level
    odd = [
        a for _, a in simulate_images(simulated.experiments, simulated.intensity, seed=1, background=ring(3.0 * level))
    ]
    even = [a for _, a in simulate_images(simulated.experiments, simulated.intensity, seed=2)]
    images = [ImageInMemory(odd[i] if i % 2 else even[i]) for i in range(6)]
    experiments = with_images(simulated.experiments, [images])
    plain, offset = (make_map(experiments, radial_offset=on).map for on in (False, True))
    assert plain.shells[-1].chi_sq > 1.3
    assert offset.shells[-1].chi_sq < 1.0 + 0.3 * (plain.shells[-1].chi_sq - 1.0)
    # the mean of what was taken off is put back
    np.testing.assert_allclose([s.mean for s in offset.shells[2:]], [s.mean for s in plain.shells[2:]], rtol=0.05)


def test_outliers_are_rejected_to_either_side_and_nothing_else_is(simulate, make_map):
    from dials_postrefine.simulate.images import ImageInMemory, simulate_images, with_images

    simulated = simulate(60.0, n_images=6, oscillation=0.1)
    images = [
        [np.array(panel) for panel in image] for _, image in simulate_images(simulated.experiments, simulated.intensity)
    ]
    clean = make_map(with_images(simulated.experiments, [[ImageInMemory(i) for i in images]]), n_sigma=5.0)
    rng = np.random.default_rng(4)
    for image in images:
        bright, dark = (rng.choice(images[0][0].size, 200, replace=False) for _ in range(2))
        image[0].ravel()[dark] = 0
        image[0].ravel()[bright] += 300
    spoilt = with_images(simulated.experiments, [[ImageInMemory(i) for i in images]])
    kept, rejected = make_map(spoilt), make_map(spoilt, n_sigma=5.0)
    n = sum(image.n_rejected for image in rejected.images)
    n_clean = sum(image.n_rejected for image in clean.images)
    n_inside = sum(image.n_inside for image in clean.images)
    assert n_clean < 1e-4 * n_inside
    part = n_inside / (6 * images[0][0].size)
    assert 0.9 * part * 400 * 6 < n < 1.05 * part * 400 * 6
    assert kept.map.shells[-1].chi_sq > 2.0
    assert rejected.map.shells[-1].chi_sq == pytest.approx(clean.map.shells[-1].chi_sq, abs=0.15)
