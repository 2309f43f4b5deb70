"""Each cause is found where it is put in, and with its size; none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from dials_postrefine.electron.spread import spread
from dials_postrefine.electron.spread.causes import ImageFactors, _test_beam, _test_images, find_causes
from dials_postrefine.simulate.electrons import simulate_equivalents

N_IMAGES = 60


def analyse(seed=0, tau=0.1, n_unique=200, image_spread=0.0, beam_slope=0.0, by_angle=0.0, by_intensity=0.0):
    """
    Mates on 60 images: factors of the images that vary by image_spread or follow the beam, or tau that doubles with
    1/by_angle degrees to the zone axis, or falls with the rank of the intensity.
    """
    rng = np.random.default_rng(seed)
    sim = simulate_equivalents(rng, n_unique, 8, 0.0)
    n = len(sim.unique)
    image = rng.integers(0, N_IMAGES, n)
    angle = rng.uniform(0.0, 20.0, N_IMAGES)
    beam = rng.lognormal(0.0, 0.2, N_IMAGES)
    true = sim.true[sim.unique]
    rank = np.argsort(np.argsort(sim.true))[sim.unique] / n_unique
    own = tau * 2.0 ** (by_angle * (angle[image] - 10.0)) * np.exp(by_intensity * (rank - 0.5))
    factor = 1.0 + image_spread * rng.normal(size=N_IMAGES) + beam_slope * np.log(beam / beam.mean())
    intensity = true * factor[image] * (1.0 + own * rng.normal(size=n)) + np.sqrt(sim.variance) * rng.normal(size=n)
    equivalents = spread.find_equivalents(sim.unique, intensity, sim.variance)
    found = spread.fit_tau(equivalents).tau
    predicted = spread.predict_from_equivalents(equivalents, found)
    ln_p = spread.ln_densities(predicted)
    causes = find_causes(equivalents, predicted, ln_p, found, image[equivalents.row], beam, np.radians(angle))
    return causes, {cause.name: cause for cause in causes.ranked}, factor


def test_without_a_cause_nothing_gains():
    gains = []
    for seed in range(8):
        _, found, _ = analyse(seed)
        gains += [found[name].gain for name in ("zone axis", "images", "beam", "intensity")]
        assert found["images"].value < 0.03
    # twice the gain is chi squared of one degree of freedom (that of images is zero in half of all cases): 0.5 on
    # average, 3.3 in one of a hundred
    assert np.mean(gains) < 1.0 and np.max(gains) < 6.0


def test_p_of_null_draws_is_uniform():
    """
    400 draws without a cause.  Of the variance s^2 >= 0 of images: p is 1 in half of them, and uniform from 0 to 1/2 in
    the others (the square of s falls below zero by chance, and s is then zero).  Of the beam: uniform from 0 to 1.
    """
    rng = np.random.default_rng(0)
    images, beam = [], []
    for _ in range(400):
        esd = rng.uniform(0.02, 0.06, 150)
        factors = ImageFactors(esd * rng.normal(size=150), esd)
        images.append(_test_images(factors, 0.1).p)
        beam.append(_test_beam(factors, rng.normal(size=150)).p)
    images = np.array(images)
    without = images == 1.0
    assert binomtest(int(without.sum()), 400, 0.53).pvalue > 0.01  # a half, and some more of 150 images
    assert kstest(2.0 * images[~without], "uniform").pvalue > 0.01
    assert kstest(beam, "uniform").pvalue > 0.01


def test_the_variance_between_images_is_recovered():
    causes, found, factor = analyse(tau=0.05, image_spread=0.15)
    assert causes.ranked[0].name == "images"
    cause = found["images"]
    assert cause.low < factor.std() < cause.high and cause.p < 1e-6
    known = np.isfinite(causes.factors.excess)
    pulls = (1.0 + causes.factors.excess - factor / factor.mean())[known] / causes.factors.esd[known]
    assert np.corrcoef(causes.factors.excess[known], factor[known])[0, 1] > 0.9
    assert abs(np.median(pulls)) < 1.0


def test_the_slope_with_the_beam_is_recovered():
    _, found, _ = analyse(tau=0.05, beam_slope=0.6, n_unique=400)
    cause = found["beam"]
    assert cause.low < 0.6 < cause.high and cause.value == pytest.approx(0.6, abs=0.12)
    assert cause.p < 1e-6 and cause.share > 0.5


@pytest.mark.parametrize("slope", [-0.08, 0.08])
def test_tau_that_depends_on_the_zone_axis_is_found(slope):
    causes, found, _ = analyse(tau=0.2, by_angle=slope, n_unique=400)
    cause = found["zone axis"]
    assert causes.ranked[0].name == "zone axis" and cause.p < 1e-6
    assert cause.low < slope * np.log(2.0) < cause.high
    expected = [0.2 * 2.0 ** (slope * (x - 10.0)) for x in cause.x_at]
    assert cause.tau_at == pytest.approx(expected, rel=0.25)


def test_tau_that_depends_on_the_intensity_is_found():
    _, found, _ = analyse(tau=0.3, by_intensity=-1.5, n_unique=400)
    cause = found["intensity"]
    assert cause.low < -1.5 < cause.high and cause.p < 1e-6


def test_what_can_not_be_tested_is_said():
    sim = simulate_equivalents(np.random.default_rng(0), 100, 4, 0.2)
    equivalents = spread.find_equivalents(sim.unique, sim.intensity, sim.variance)
    tau = spread.fit_tau(equivalents).tau
    predicted = spread.predict_from_equivalents(equivalents, tau)
    image = np.arange(len(equivalents.row)) % 6
    causes = find_causes(
        equivalents, predicted, spread.ln_densities(predicted), tau, image, np.full(6, np.nan), np.full(6, 0.1)
    )
    assert causes.untested == {
        "zone axis": "it is the same of all observations",
        "beam": "the beam intensity of the images is not known",
    }


def test_leaving_out_the_noisiest_observations_lowers_a_tau_that_they_make():
    rng = np.random.default_rng(4)
    sim = simulate_equivalents(rng, 200, 6, 0.05)
    weak = sim.true[sim.unique] < np.median(sim.true)
    sim.intensity[weak] += 0.5 * sim.true[sim.unique][weak] * rng.normal(size=weak.sum())
    equivalents = spread.find_equivalents(sim.unique, sim.intensity, sim.variance)
    tau = spread.fit_tau(equivalents).tau
    predicted = spread.predict_from_equivalents(equivalents, tau)
    image = np.arange(len(equivalents.row)) % 10
    causes = find_causes(
        equivalents,
        predicted,
        spread.ln_densities(predicted),
        tau,
        image,
        np.full(10, np.nan),
        np.linspace(0.1, 0.2, 10),
    )
    fractions = dict(causes.left_out)
    assert fractions[0.05].n > fractions[0.5].n
    assert fractions[0.5].tau < 0.6 * tau
