"""The minimiser alone, on problems whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Objective, minimise
from dials_postrefine.numerics.robust import LOSSES


def line(x, y):
    """Residuals of a straight line on abscissae x, and their derivatives."""
    design = np.column_stack([np.ones_like(x), x])
    return lambda p: (design @ p - y, design)


def test_a_straight_line_comes_out_as_numpy_has_it():
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 1.0, 50)
    y = 2.0 + 3e4 * x + rng.normal(size=50)
    minimum = minimise(
        Objective(line(x, y), norm=float(y @ y)), np.zeros(2), [0, 1], iterations=Iterations(step_threshold=1e-12)
    )
    assert minimum.x == pytest.approx(np.polyfit(x, y, 1)[::-1], rel=1e-9)


def test_fixed_parameters_stay_and_have_no_variance():
    x = np.linspace(0.0, 1.0, 50)
    minimum = minimise(Objective(line(x, 1.0 + x)), np.array([0.0, 1.0]), [0])
    assert minimum.x == pytest.approx([1.0, 1.0]) and minimum.x[1] == 1.0
    assert np.all(minimum.covariance[1] == 0.0)


def test_rosenbrock_far_from_its_minimum_in_badly_scaled_parameters():
    # the second parameter's column is 1e4 times the first one's
    def both(p):
        u = np.array([10.0 * (1e4 * p[1] - p[0] ** 2), 1.0 - p[0]])
        return u, np.array([[-20.0 * p[0], 1e5], [-1.0, 0.0]])

    minimum = minimise(Objective(both), np.array([-1.2, 1e-4]), [0, 1], iterations=Iterations(n_max=200))
    assert minimum.x == pytest.approx([1.0, 1e-4], rel=1e-5)


def test_bounds_hold_and_are_reported():
    x = np.linspace(0.0, 1.0, 50)
    bounds = Bounds(np.array([-0.5, -np.inf]), np.array([0.5, np.inf]))
    minimum = minimise(Objective(line(x, 1.0 + x)), np.zeros(2), [0, 1], bounds)
    assert minimum.x[0] <= 0.5 and list(minimum.at_bound) == [True, False]
    inside = minimise(Objective(line(x, 0.3 + x)), np.zeros(2), [0, 1], bounds)
    assert inside.x == pytest.approx([0.3, 1.0]) and not inside.at_bound.any()


def test_a_step_ends_at_a_bound_and_others_go_on_from_there():
    """The minimum with the first parameter at its limit, as a fit of the second one alone has it; and back inside."""
    x = np.linspace(0.0, 1.0, 50)
    bounds = Bounds(np.array([-0.5, -np.inf]), np.array([0.5, np.inf]), hold=True)
    objective = Objective(line(x, 1.0 + x))
    precise = Iterations(step_threshold=1e-9)
    minimum = minimise(objective, np.zeros(2), [0, 1], bounds, precise)
    alone = minimise(objective, np.array([0.5, 0.0]), [1], iterations=precise)
    assert minimum.x[0] == 0.5 and minimum.x == pytest.approx(alone.x, abs=1e-6)
    inside = minimise(Objective(line(x, 0.3 + x)), np.array([0.5, -4.0]), [0, 1], bounds, precise)
    assert inside.x == pytest.approx([0.3, 1.0])


def test_linear_loss_is_pulled_by_an_outlier_and_the_robust_ones_are_not():
    rng = np.random.default_rng(1)
    x = np.linspace(0.0, 1.0, 200)
    y = 1.0 + x + 0.01 * rng.normal(size=200)
    y[::40] += 50.0
    found = {}
    for loss in LOSSES:
        objective = Objective(lambda p: tuple(part / 0.01 for part in line(x, y)(p)), loss, norm=float(y @ y) / 1e-4)
        found[loss] = minimise(objective, np.zeros(2), [0, 1]).x
    assert np.abs(found["linear"] - 1.0).max() > 0.5
    assert np.abs(found["huber"] - 1.0).max() < 0.02
    assert np.abs(found["student_t"] - 1.0).max() < 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_the_sandwich_gives_the_scatter_of_repeated_fits_with_wrong_weights(loss):
    rng = np.random.default_rng(2)
    x = np.linspace(0.0, 1.0, 300)
    sigma = 0.2 + 2.0 * x  # the weights say 1 everywhere
    found, claimed = [], []
    for _ in range(300):
        y = 1.0 + x + sigma * rng.normal(size=len(x))
        minimum = minimise(Objective(line(x, y), loss, norm=float(y @ y)), np.ones(2), [0, 1])
        found.append(minimum.x)
        claimed.append(np.sqrt(np.diag(minimum.covariance)))
    # 300 fits determine a standard deviation to 4 %
    assert np.mean(claimed, axis=0) == pytest.approx(np.std(found, axis=0), rel=0.12)
