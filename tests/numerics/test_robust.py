"""Losses by finite differences and scipy, and what wild values do to widths, slopes and ratios."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import median_abs_deviation

from dials_postrefine.numerics.robust import (
    HUBER_K,
    LOSSES,
    STUDENT_NU,
    loss_derivatives,
    robust_ratio,
    robust_width,
    slope_through_origin,
)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_the_loss_agree_with_central_differences(name):
    rho = LOSSES[name]
    u = np.linspace(0.05, 6.0, 77)
    assert not np.any(np.abs(u - HUBER_K) < 1e-3)
    step = 1e-5
    f = lambda u: 0.5 * rho(u * u)[0]  # noqa: E731
    value, weight, curvature = rho(u * u)
    assert weight * u == pytest.approx((f(u + step) - f(u - step)) / (2 * step), rel=1e-7)
    second = (rho((u + step) ** 2)[1] * (u + step) - rho((u - step) ** 2)[1] * (u - step)) / (2 * step)
    assert curvature == pytest.approx(second, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_by_z_agree_with_central_differences_and_with_the_curvature(name):
    z = np.linspace(0.05, 30.0, 77)
    assert not np.any(np.abs(z - HUBER_K**2) < 1e-3)
    step = 1e-5
    rho, first, second = loss_derivatives(name, z)
    assert np.array_equal(rho, LOSSES[name](z).rho) and np.array_equal(first, LOSSES[name](z).weight)
    numeric = (loss_derivatives(name, z + step)[1] - loss_derivatives(name, z - step)[1]) / (2 * step)
    assert second == pytest.approx(numeric, rel=1e-6, abs=1e-9)
    assert LOSSES[name](z).curvature == pytest.approx(first + 2.0 * z * second, abs=1e-12)


def test_known_values_of_the_losses():
    z = np.array([0.0, 1.0, 4.0, 100.0])
    assert LOSSES["linear"](z).rho.tolist() == z.tolist()
    assert LOSSES["huber"](z).rho == pytest.approx([0.0, 1.0, 4 * 1.345 - 1.345**2, 20 * 1.345 - 1.345**2])
    assert LOSSES["student_t"](z).weight == pytest.approx([1.25, 1.0, 0.625, 5.0 / 104.0])
    assert LOSSES["student_t"](np.array([STUDENT_NU])).curvature == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["huber", "student_t"])
def test_scipy_finds_the_minimum_of_the_loss_with_its_derivatives(name):
    rng = np.random.default_rng(4)
    y = 3.0 + rng.standard_t(3.0, 500)
    found = least_squares(lambda x: y - x, [0.0], loss=lambda z: loss_derivatives(name, z), xtol=1e-14).x[0]
    grid = np.linspace(2.5, 3.5, 20_001)
    best = grid[np.argmin([LOSSES[name]((y - x) ** 2).rho.sum() for x in grid])]
    assert found == pytest.approx(best, abs=1e-4)


def test_the_width_is_a_standard_deviation_that_wild_values_do_not_change():
    rng = np.random.default_rng(0)
    values = rng.normal(0.0, 2.5, (20_001, 2))
    values[:100] = 1e9
    assert robust_width(values[:, 0]) == pytest.approx(2.5, rel=0.03)
    assert robust_width(values, axis=0) == pytest.approx([2.5, 2.5], rel=0.03)
    about = values[:, 0] - np.median(values[:, 0])
    assert robust_width(about) == pytest.approx(1.4826 * median_abs_deviation(values[:, 0]))
    assert np.isnan(robust_width(np.array([])))


def test_the_slope_through_the_origin_is_that_of_the_bulk():
    rng = np.random.default_rng(5)
    x = rng.exponential(size=1000)
    y = 3.0 * x + 0.1 * rng.normal(size=1000)
    assert slope_through_origin(y, x) == pytest.approx(3.0, abs=0.01)
    y[:10] += 1e3
    assert slope_through_origin(y, x) == pytest.approx(3.0, abs=0.05)
    assert np.isnan(slope_through_origin(y, np.zeros(1000)))


def test_a_ratio_is_that_of_the_sums_and_wild_values_are_clipped():
    rng = np.random.default_rng(3)
    x = rng.exponential(size=4000)
    y = 0.3 * x + 0.05 * rng.normal(size=4000)
    assert robust_ratio(y, x)[0] == pytest.approx(y.sum() / x.sum(), abs=5e-4)
    y[::100] += 1e4
    assert robust_ratio(y, x)[0] == pytest.approx(0.3, abs=0.01) and y.sum() / x.sum() > 50.0
    assert np.isnan(robust_ratio(np.ones(5), -np.ones(5))).all()


def test_the_esd_of_a_ratio_is_its_scatter():
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = rng.exponential(size=400)
        y = 0.5 * x * (1.0 + 0.2 * rng.normal(size=400)) + 0.03 * rng.normal(size=400)
        y[rng.random(400) < 0.01] *= 50.0
        found.append(robust_ratio(y, x))
    ratio, esd = np.transpose(found)
    # 300 draws determine a standard deviation to 4 %
    assert np.mean(esd) == pytest.approx(np.std(ratio), rel=0.15)
