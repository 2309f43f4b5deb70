"""The error model: its parameters found again, and widths of one with them."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.stills.errormodel import FEWEST, ErrorModel, expected_counts, fit_error_model, slope_of_variance
from dials_postrefine.stills.merging import merge


def observe(model: ErrorModel, n_unique: int = 2000, each: int = 8, seed: int = 1):
    """Observations whose errors are those of a model: truth, and value, variance, relative, unique."""
    rng = np.random.default_rng(seed)
    truth = rng.exponential(size=n_unique) * 1000.0
    unique = np.repeat(np.arange(n_unique), each)
    variance = (50.0 + truth[unique]) * rng.uniform(0.5, 4.0, size=len(unique))
    relative = 10.0 ** rng.uniform(-4.0, -1.5, size=len(unique))
    sigma = np.sqrt(model.variance(variance, relative, truth[unique]))
    return truth, truth[unique] + sigma * rng.normal(size=len(unique)), variance, relative, unique


def fitted(value, variance, relative, unique, assumed=ErrorModel()):
    """As scaling.py does: mean, model, mean, model."""
    model = assumed
    mean = merge(value, variance, unique, unique.max() + 1).intensity[unique]
    for _ in range(2):
        weight = 1.0 / model.variance(variance, relative, mean)
        mean = merge(value, 1.0 / weight, unique, unique.max() + 1).intensity[unique]
        model = fit_error_model(value, variance, relative, mean, unique, weight, assumed)
    return model


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 0.0, 1.0), (1.5, 0.08, 1.0), (1.0, 0.03, 2.5), (8.0, 0.02, 0.0)])
def test_the_parameters_are_found_again(a, b, c):
    _, *observed = observe(ErrorModel(a, b, c))
    model = fitted(*observed)
    assert model.n >= FEWEST
    # between seeds a scatters by 2 %, b by 0.0025 and c by 0.06
    assert model.a == pytest.approx(a, rel=0.08)
    assert model.b == pytest.approx(b, rel=0.1, abs=0.02)
    assert model.c == pytest.approx(c, rel=0.1, abs=0.2)
    # 1600 differences determine a median absolute deviation to 3 %
    assert model.widths == pytest.approx(np.ones(10), abs=0.1)


def test_wild_values_do_not_move_it():
    _, value, *rest = observe(ErrorModel(1.5, 0.08, 1.0))
    wild = np.random.default_rng(7).random(len(value)) < 0.004
    model = fitted(np.where(wild, 20.0 * value, value), *rest)
    assert model.a == pytest.approx(1.5, rel=0.1)
    assert model.b == pytest.approx(0.08, abs=0.03)


def test_sigmas_of_the_mean_are_right():
    truth, value, variance, relative, unique = observe(ErrorModel(1.5, 0.08, 1.0))
    model = fitted(value, variance, relative, unique)
    merged = merge(value, model.variance(variance, relative, truth[unique]), unique, len(truth))
    # 2000 means determine the width of their residuals to 1.6 %
    assert np.std((merged.intensity - truth) / merged.sigma) == pytest.approx(1.0, abs=0.06)


def test_too_few_differences_leave_what_is_assumed():
    _, *observed = observe(ErrorModel(), n_unique=FEWEST // 10, each=5)
    assumed = ErrorModel(b=0.07)
    assert fitted(*observed, assumed) is assumed
    alone = np.arange(1000)  # nothing was observed twice
    ones = np.ones(1000)
    assert fit_error_model(ones, ones, ones, ones, alone, ones, assumed) is assumed
    none = np.zeros(0)
    assert fit_error_model(none, none, none, none, none.astype(int), none, assumed) is assumed


def test_no_value_is_above_what_its_truth_may_be():
    """The values of one truth in 100 000 draws: three standard deviations hold for 99.87 % of a normal error."""
    rng = np.random.default_rng(9)
    n, truth, model = 100_000, 500.0, ErrorModel(1.5, 0.3, 1.0)
    counts, relative = np.full(n, 400.0), np.full(n, 0.02)
    value = truth + np.sqrt(model.variance(counts, relative, np.full(n, truth))) * rng.normal(size=n)
    above = np.mean(model.at_least(value, counts, relative) > truth)
    assert above < 0.0015
    # and a wild value is wild however uncertain its scale
    assert model.at_least(np.array([1e5]), np.array([1e5]), np.array([0.02]))[0] > 30.0 * truth


@pytest.mark.parametrize("gain", [1.0, 4.5])
def test_the_slope_of_the_variances_is_the_gain(gain):
    rng = np.random.default_rng(2)
    background = 30.0
    counts = rng.exponential(200.0, size=5000)
    intensity = gain * (rng.poisson(counts + background) - background)
    variance = gain * (intensity + gain * background)
    assert slope_of_variance(intensity, variance) == pytest.approx(gain, rel=1e-9)
    wild = rng.random(5000) < 0.004
    # they are 4 % of the strongest tenth
    assert slope_of_variance(np.where(wild, 1e4, 1.0) * intensity, variance) == pytest.approx(gain, rel=0.04)


def test_there_is_no_slope_where_variances_do_not_grow():
    rng = np.random.default_rng(3)
    intensity = rng.exponential(size=1000)
    assert slope_of_variance(intensity, np.ones(1000)) == 0.0
    assert slope_of_variance(intensity, 1.0 / intensity) == 0.0
    assert slope_of_variance(np.zeros(1000), np.ones(1000)) == 0.0
    assert slope_of_variance(np.zeros(0), np.zeros(0)) == slope_of_variance(np.ones(1), np.ones(1)) == 0.0


def test_means_with_expected_counts_have_no_bias_and_those_with_observed_ones_have():
    """Weak counts on a background: what is too low by chance has too small a variance, and weighs too much."""
    rng = np.random.default_rng(4)
    truth, background, each, n_unique = 10.0, 5.0, 8, 4000
    unique = np.repeat(np.arange(n_unique), each)
    value = rng.poisson(truth + background, size=len(unique)) - background
    variance = np.maximum(value + 2.0 * background, 1.0)
    mean = merge(value, variance, unique, n_unique).intensity
    assert np.mean(mean) < truth - 0.5
    for _ in range(2):
        expected = expected_counts(variance, value, np.ones(len(value)), mean[unique])
        mean = merge(value, expected, unique, n_unique).intensity
    # 32 000 counts of variance 15 determine their mean to 0.022
    assert np.mean(mean) == pytest.approx(truth, abs=0.08)
