"""tau and its interval: the likelihood against quadrature, recovery of known spreads, groups and predictions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread import spread
from dials_postrefine.simulate.electrons import simulate_equivalents


def equivalents_of(tau, seed=0, n_unique=120, multiplicity=4, **options):
    sim = simulate_equivalents(np.random.default_rng((seed, int(1000 * tau))), n_unique, multiplicity, tau, **options)
    return spread.find_equivalents(sim.unique, sim.intensity, sim.variance)


def likelihood(intensity, variance, tau):
    """L of one index by scipy's quadrature, between the zeros of the integrand on both sides."""
    error = variance.mean()

    def integrand(j):
        v = variance + (tau * j) ** 2
        return np.prod(np.exp(-0.5 * (intensity - j) ** 2 / v) / np.sqrt(v)) / np.sqrt(j * j + error)

    mean = intensity.mean()
    points = mean + np.sqrt(error) * np.array([-50.0, -5.0, -1.0, 0.0, 1.0, 5.0, 50.0])
    ends = [-1e4 * (abs(mean) + np.sqrt(error)), *points, 1e4 * (abs(mean) + np.sqrt(error))]
    tolerances = {"epsabs": 1e-9 * integrand(mean), "epsrel": 1e-7, "limit": 500}
    return sum(quad(integrand, a, b, **tolerances)[0] for a, b in zip(ends, ends[1:]))


@pytest.mark.parametrize(
    ("intensity", "variance"),
    [
        ([1.0, 1.2, 0.9, 1.1], [0.01, 0.02, 0.01, 0.015]),
        ([10.0, 14.0, 5.0, 9.0, 11.0, 3.0], [0.2] * 6),
        ([0.05, -0.1, 0.2], [0.01] * 3),
    ],
)
def test_the_likelihood_is_the_integral(intensity, variance):
    intensity, variance = np.array(intensity), np.array(variance)
    equivalents = spread.find_equivalents(np.zeros(len(intensity), dtype=int), intensity, variance)
    found = spread.ln_likelihoods(equivalents)[:, 0]
    chosen = [k for k in range(0, len(spread.GRID), 8) if spread.GRID[k] < 1.5]
    expected = np.array([np.log(likelihood(intensity, variance, spread.GRID[k])) for k in chosen])
    # a factor is free; the interval ends where ln L is lower by 1.92
    np.testing.assert_allclose(found[chosen] - found[chosen[0]], expected - expected[0], atol=2e-3, rtol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.05, 0.2, 0.5])
def test_tau_is_recovered_within_its_interval(tau):
    found = [spread.fit_tau(equivalents_of(tau, seed)) for seed in range(100)]
    inside = np.mean([one.low <= tau <= one.high for one in found])
    assert 0.90 <= inside <= 0.98
    mean, esd = np.mean([one.tau for one in found]), np.std([one.tau for one in found]) / np.sqrt(100)
    if tau:
        assert abs(mean - tau) < max(3.0 * esd, 0.005 * tau)
        assert not any(one.low == 0.0 for one in found)
    else:
        assert np.mean([one.low == 0.0 for one in found]) >= 0.9


def test_the_interval_of_a_tau_of_zero_touches_zero():
    found = spread.fit_tau(equivalents_of(0.0))
    assert found.low == 0.0 and 0.0 < found.high < 0.05


def test_with_two_mates_each_tau_is_not_biased():
    found = [spread.fit_tau(equivalents_of(0.3, seed, n_unique=400, multiplicity=2)).tau for seed in range(20)]
    assert np.mean(found) == pytest.approx(0.3, abs=3.0 * np.std(found) / np.sqrt(20))


def test_all_intensities_times_a_number_have_the_same_tau():
    equivalents = equivalents_of(0.2)
    scaled = spread.find_equivalents(equivalents.unique, 1e4 * equivalents.intensity, 1e8 * equivalents.variance)
    one, other = spread.fit_tau(equivalents), spread.fit_tau(scaled)
    assert (one.tau, one.low, one.high) == pytest.approx((other.tau, other.low, other.high), rel=1e-6)


def test_tau_of_groups_of_indices_is_that_of_their_data_alone():
    equivalents = equivalents_of(0.3, n_unique=200)
    group = np.arange(equivalents.n_unique) % 2
    found = spread.fit_by_unique(equivalents, spread.ln_likelihoods(equivalents), group, 2)
    for k, one in enumerate(found):
        own = equivalents.at(group.astype(float)) == k
        alone = spread.fit_tau(
            spread.find_equivalents(equivalents.unique[own], equivalents.intensity[own], equivalents.variance[own])
        )
        assert (one.tau, one.low, one.high, one.n) == pytest.approx((alone.tau, alone.low, alone.high, alone.n))


def test_weighted_means_solve_their_equation():
    equivalents, tau = equivalents_of(0.4), 0.4
    mean, total = spread.weighted_means(equivalents, tau)
    for k in range(0, equivalents.n_unique, 17):
        own = slice(*equivalents.offsets[k : k + 2])
        weight = 1.0 / (equivalents.variance[own] + (tau * mean[k]) ** 2)
        assert mean[k] == pytest.approx(np.sum(weight * equivalents.intensity[own]) / weight.sum(), rel=1e-5)
        assert total[k] == pytest.approx(weight.sum(), rel=1e-5)


def test_what_mates_predict_is_a_probability():
    sim = simulate_equivalents(np.random.default_rng(3), 1, 5, 0.3)
    equivalents = spread.find_equivalents(sim.unique, sim.intensity, sim.variance)
    predicted = spread.predict_from_equivalents(equivalents, 0.3)
    first = spread.Predictions(
        equivalents.intensity[:1], equivalents.variance[:1], predicted.nodes[:, :1], predicted.ln_a[:, :1]
    )

    def density(x):
        first.intensity = np.array([x])
        return float(np.exp(first.ln_density(0.3)[0]))

    mean = equivalents.mean[0]
    ends = mean * np.array([-20.0, 0.0, 2.0, 20.0])
    total = sum(quad(density, a, b, limit=200)[0] for a, b in zip(ends, ends[1:])) / np.sqrt(2.0 * np.pi)
    assert total == pytest.approx(1.0, abs=1e-3)


def test_the_slope_is_the_derivative():
    predicted = spread.predict_from_equivalents(equivalents_of(0.2), 0.2)
    tau, step = 0.3, 1e-5
    above, below = (predicted.ln_density(tau * np.exp(s)) for s in (step, -step))
    np.testing.assert_allclose(predicted.slope(np.array(tau)), (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


def test_tau_of_an_image_is_recovered():
    rng = np.random.default_rng(1)
    sim = simulate_equivalents(rng, 150, 6, 0.05)
    image = rng.integers(0, 4, len(sim.unique))
    noisy = image == 3
    sim.intensity[noisy] += 0.5 * sim.true[sim.unique[noisy]] * rng.normal(size=noisy.sum())
    equivalents = spread.find_equivalents(sim.unique, sim.intensity, sim.variance)
    predicted = spread.predict_from_equivalents(equivalents, spread.fit_tau(equivalents).tau)
    found = spread.fit_by_observation(equivalents, spread.ln_densities(predicted), image[equivalents.row], 4)
    assert found[3].low < 0.5 < found[3].high
    assert all(one.high < 0.2 for one in found[:3])
    assert sum(one.n for one in found) == len(equivalents.row)


def test_no_mates_is_an_error():
    with pytest.raises(Unusable, match="symmetry equivalents"):
        spread.find_equivalents(np.arange(5), np.ones(5), np.ones(5))


def test_of_many_observations_an_even_sample_is_taken():
    unique = np.repeat(np.arange(1000), 4)
    equivalents = spread.find_equivalents(unique, np.ones(4000), np.ones(4000), most=400)
    assert len(equivalents.row) == 400 and equivalents.n_unique == 100
    assert np.all(np.diff(np.unique(equivalents.unique)) == 10)
