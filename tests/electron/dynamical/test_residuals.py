"""R1 by groups, the error of a model, and the likelihood ratio of two models, of data made with known ones."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.electron.dynamical.residuals import (
    amplitude_residuals,
    compare_models,
    model_error,
    scaled_by_itself,
)


def test_r1_by_hand():
    found = amplitude_residuals(
        np.array([4.0, 9.0, -1.0, 16.0]), np.array([1.0, 9.0, 4.0, 25.0]), np.array([0, 0, 0, -1]), 2
    )
    # |2 - 1| + |3 - 3| + |0 - 2| over 2 + 3 + 0; the last one is of no group, and the second group has none
    assert found[0] == pytest.approx(3.0 / 5.0) and np.isnan(found[1])


def simulated(seed, error=0.2, n=3000):
    rng = np.random.default_rng(seed)
    true = rng.gamma(1.0, 100.0, n)
    variance = true + 4.0
    frame = rng.integers(0, 30, n)
    return true, variance, true + np.sqrt(variance + (error * true) ** 2) * rng.normal(size=n), frame


@pytest.mark.parametrize("error", [0.0, 0.1, 0.3])
def test_the_error_of_a_model_is_recovered(error):
    true, variance, observed, _ = simulated(0, error)
    assert model_error(observed, variance, true) == pytest.approx(error, abs=0.02)


def test_the_right_model_wins_by_more_than_chance():
    true, variance, observed, frame = simulated(1)
    rng = np.random.default_rng(7)
    # wrong by 30 % of a tenth of the reflections
    wrong = true * np.where(np.arange(len(true)) % 10 == 0, 1.3, 1.0)
    found = compare_models(observed, variance, wrong, true, frame)
    assert found.total > 5.0 * found.deviation > 0.0
    # each of a tenth of the observations tells more than each of the others
    tenth = np.arange(len(true)) % 10 == 0
    assert found.log_ratio[tenth].mean() > 5.0 * abs(found.log_ratio[~tenth].mean())
    assert compare_models(observed, variance, true, wrong, frame).total == pytest.approx(-found.total, rel=1e-6)
    # two models that are wrong in the same way: what is between them is chance
    one, other = (true * np.exp(0.1 * rng.normal(size=len(true))) for _ in range(2))
    found = compare_models(observed, variance, one, other, frame)
    assert abs(found.total) < 3.0 * found.deviation


def test_the_deviation_is_that_of_repeated_experiments():
    """Lambda of data that are made anew varies by what its sd says, its mean being that of one model over the other."""
    totals, deviations = [], []
    for seed in range(60):
        true, variance, observed, frame = simulated(seed, n=600)
        rng = np.random.default_rng(1000 + seed)
        one, other = (true * np.exp(0.15 * rng.normal(size=len(true))) for _ in range(2))
        found = compare_models(observed, variance, one, other, frame)
        totals.append(found.total)
        deviations.append(found.deviation)
    assert np.mean(deviations) == pytest.approx(np.std(totals), rel=0.3)
    assert np.isnan(compare_models(observed, variance, one, other, np.zeros(len(one), int)).deviation)


def test_single_scattering_has_the_scale_and_b_that_fit_it_best():
    true, _, _, _ = simulated(2)
    d_star = np.random.default_rng(3).uniform(0.2, 1.8, len(true))
    calculated = true * 7.0 * np.exp(0.5 * 1.5 * d_star**2)
    found = scaled_by_itself(true, calculated, d_star, np.arange(len(true)) % 3 > 0)
    np.testing.assert_allclose(found, true, rtol=1e-12)
