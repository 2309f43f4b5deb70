"""Kernels of liquid-like motions as sums of a few functions of the distance."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.diffuse.model.kernels import N_X, PRECISE, SeparatedKernel, correlation_of


@pytest.mark.parametrize("order", [None, 2])
@pytest.mark.parametrize("kernel", ["exponential", "gaussian"])
def test_the_sum_is_the_kernel_anywhere_in_the_window(kernel, order):
    limit, r = 3.0, np.random.default_rng(1).uniform(1.2, 70.0, 500)
    separated = SeparatedKernel(8.0, limit, 80.0, kernel, order)
    assert len(separated.functions) < 22
    functions, x = separated.tabulate(r), np.linspace(0.0, limit, N_X + 1)
    for gamma in (2.1, 5.0, 9.3, 31.0):
        assert separated.covers(limit, gamma) and not separated.covers(limit, 33.0)
        coefficients = separated.coefficients(gamma)
        for k in (N_X // 7, N_X // 2, N_X):
            decay = np.exp(-r / gamma) if kernel == "exponential" else np.exp(-0.5 * (r / gamma) ** 2)
            y = x[k] * decay
            wanted, slope = (np.expm1(y), np.exp(y)) if order is None else (y + 0.5 * y**2, 1.0 + y)
            size = np.expm1(x[k])
            assert np.abs(functions @ coefficients[k, 0] - wanted).max() < 3.0 * PRECISE * size
            assert np.abs(functions @ coefficients[k, 1] - slope * decay).max() < 30.0 * PRECISE * np.exp(x[k])
    step = 1e-4
    up, down, here = (separated.coefficients(9.0 + one) for one in (step, -step, 0.0))
    np.testing.assert_allclose(here[:, 2], (up[:, 0] - down[:, 0]) / (2.0 * step), atol=1e-6 * np.abs(here[:, 0]).max())
    inside = slice(1, -1)
    by_x = (here[2:, 0] - here[:-2, 0]) / (x[2:] - x[:-2])[:, None]
    np.testing.assert_allclose(here[inside, 1], by_x, atol=1e-5 * np.abs(here[:, 1]).max())


def test_within_the_nearest_distance_the_correlation_is_smooth():
    r = np.array([0.0, 0.5, 1.0999, 1.1, 1.1001, 4.0])
    value, slope = correlation_of(r, 5.0, "exponential")
    assert np.all(np.diff(value) < 0.0) and value[0] < 1.0
    assert value[-1] == pytest.approx(np.exp(-0.8)) and slope[-1] == pytest.approx(np.exp(-0.8) * 4.0 / 25.0)
