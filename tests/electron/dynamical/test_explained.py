"""The share of the spread that predicted factors explain, of data that were made with a known one."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.electron.dynamical.explained import Factored, compare_images, explain
from dials_postrefine.electron.errors import Unusable


def simulate(seed, predicted=0.3, other=0.2, n_unique=120, n_equivalents=6, error=0.03, slope=1.0):
    """
    Observations whose intensities vary by factors of relative width `predicted`, and by others of width `other` that no
    model knows; slope: the power of the predicted ones that is in the data.
    """
    rng = np.random.default_rng(seed)
    unique = np.repeat(np.arange(n_unique), n_equivalents)
    n = len(unique)
    image = rng.permuted(np.tile(np.arange(20), n // 20 + 1))[:n]
    j = rng.gamma(1.0, 100.0, n_unique)[unique] + 5.0
    # gamma distributed: mean 1, the standard deviation as told
    factor = rng.gamma(predicted**-2, predicted**2, n)
    spread = rng.gamma(other**-2, other**2, n) if other else np.ones(n)
    true = j * factor**slope * spread
    variance = (error * j) ** 2 + 1.0
    return Factored(unique, image, true + np.sqrt(variance) * rng.normal(size=n), variance, factor)


@pytest.mark.parametrize("predicted, other", [(0.3, 0.15), (0.2, 0.2), (0.15, 0.3), (0.4, 0.0)])
def test_a_known_share_is_recovered(predicted, other):
    truth = predicted**2 / (predicted**2 + other**2 * (1.0 + predicted**2))
    found = explain(simulate(1, predicted, other))
    assert found.share.low <= truth <= found.share.high + 0.01
    assert found.share.value == pytest.approx(truth, abs=0.12)
    assert found.before.tau == pytest.approx(np.hypot(predicted, other), rel=0.15)
    assert found.after.tau == pytest.approx(other, abs=0.03)
    assert found.slope.low < 1.0 < found.slope.high
    # r^2 is the share of the variance of logarithms, but for counting
    assert found.correlation.value**2 == pytest.approx(truth, abs=0.12)


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    truth = 0.3**2 / (0.3**2 + 0.2**2 * (1.0 + 0.3**2))
    shares = [explain(simulate(seed, n_unique=60)).share for seed in range(25)]
    inside = sum(one.low <= truth <= one.high for one in shares)
    assert inside >= 21  # of 25 at 95 % fewer come in 1 case of 100
    assert np.std([one.value for one in shares]) == pytest.approx(
        np.mean([one.high - one.low for one in shares]) / 3.92, rel=0.5
    )


def test_factors_of_something_else_explain_nothing():
    observed = simulate(2)
    rng = np.random.default_rng(0)
    other = Factored(
        *(getattr(observed, n) for n in ("unique", "image", "intensity", "variance")), observed.factor.copy()
    )
    rng.shuffle(other.factor)
    found = explain(other)
    assert found.share.high < 0.0 and found.correlation.low < 0.0 < found.correlation.high
    assert found.r_meas_after > found.r_meas_before


def test_a_model_of_half_the_size():
    """Predicted factors whose square is what happened: the slope is 2, and half of the logarithm is left."""
    found = explain(simulate(3, predicted=0.15, other=0.0, slope=2.0))
    assert found.slope.value == pytest.approx(2.0, abs=0.05)
    assert found.share.value == pytest.approx(0.75, abs=0.05)


def test_without_excess_there_is_no_share():
    observed = simulate(4, predicted=0.3, other=0.0)
    same = Factored(
        observed.unique,
        observed.image,
        100.0 + np.random.default_rng(1).normal(size=len(observed.image)),
        np.ones(len(observed.image)),
        observed.factor,
    )
    assert np.isnan(explain(same).share.value)


def test_scales_of_factors_and_of_indices_do_not_count():
    observed = simulate(5)
    scaled = Factored(
        observed.unique, observed.image, 7.0 * observed.intensity, 49.0 * observed.variance, 0.1 * observed.factor
    )
    one, two = explain(observed), explain(scaled)
    assert two.share.value == pytest.approx(one.share.value, abs=1e-6)
    assert two.correlation.value == pytest.approx(one.correlation.value, abs=1e-12)


def test_observations_without_a_factor_are_left_out_and_counted():
    observed = simulate(6)
    factor = observed.factor.copy()
    factor[:5] = np.nan, np.inf, 0.0, 1e4, 1e-4
    found = explain(Factored(observed.unique, observed.image, observed.intensity, observed.variance, factor))
    assert found.n_left_out == 5 and found.before.n <= len(factor) - 5
    with pytest.raises(Unusable, match="No observation has a dynamical factor"):
        explain(Factored(observed.unique, observed.image, observed.intensity, observed.variance, np.zeros(len(factor))))


def test_pairs_of_images_by_hand():
    """Two images with three indices in common, of which one is weak; a third one with none."""
    used = Factored(
        unique=np.array([0, 0, 1, 1, 2, 2, 3, 3, 4]),
        image=np.array([1, 0, 0, 1, 0, 1, 0, 1, 2]),
        intensity=np.array([10.0, 20.0, 30.0, 10.0, 1.0, 9.0, 8.0, 8.0, 5.0]),
        variance=np.full(9, 0.25),
        factor=np.array([1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    )
    found = compare_images(used, 3.0, 3, 10)
    assert found.a.tolist() == [0] and found.b.tolist() == [1] and found.before.n.tolist() == [3]
    ratio = np.log([2.0, 3.0, 1.0])
    assert found.correlation[0] == pytest.approx(1.0)
    assert found.before.log_spread[0] == pytest.approx(
        1.4826 * np.median(np.abs(ratio - np.median(ratio))) / np.sqrt(2)
    )
    assert found.after.log_spread[0] == pytest.approx(0.0, abs=1e-12)
    assert found.after.r[0] == pytest.approx(0.0, abs=1e-12)
    assert compare_images(used, 3.0, 4, 10).a.tolist() == []
