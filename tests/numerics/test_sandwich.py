"""The sandwich estimators: against the textbook's formulas, and against the scatter of repeated fits."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.sandwich import sandwich_clusters, sandwich_hc1, sandwich_hc3


def straight_line(n: int, rng: np.random.Generator, scatter: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The residuals of a line fitted with equal weights to data of other scatter, their derivatives, and the line."""
    design = np.column_stack([np.ones(n), np.linspace(0.0, 1.0, n)])
    y = design @ (1.0, 2.0) + scatter * rng.normal(size=n)
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return design @ found - y, design, found


def test_of_least_squares_they_are_the_formulas_of_white_and_of_mackinnon_and_white():
    n = 40
    u, j, _ = straight_line(n, np.random.default_rng(0), np.linspace(0.1, 2.0, n))
    inverse = np.linalg.inv(j.T @ j)
    hat = np.diag(j @ inverse @ j.T)
    hc0 = inverse @ (j.T * u**2) @ j @ inverse
    assert sandwich_hc1(u, j, "linear") == pytest.approx(hc0 * n / (n - 2))
    assert sandwich_hc3(u, j, "linear") == pytest.approx(inverse @ (j.T * (u / (1.0 - hat)) ** 2) @ j @ inverse)
    assert sandwich_hc1(u, -j, "linear") == pytest.approx(sandwich_hc1(u, j, "linear"))


@pytest.mark.parametrize("loss", LOSSES)
def test_of_many_observations_they_are_the_same(loss):
    rng = np.random.default_rng(1)
    n = 20_000
    u, j = rng.standard_t(4.0, n), np.column_stack([np.ones(n), rng.normal(size=n)])
    assert sandwich_hc1(u, j, loss) == pytest.approx(sandwich_hc3(u, j, loss), rel=5e-3, abs=1e-8)


@pytest.mark.parametrize("estimator", [sandwich_hc1, sandwich_hc3])
def test_they_give_the_scatter_of_repeated_fits_with_wrong_weights(estimator):
    rng, n = np.random.default_rng(2), 300
    scatter = 0.2 + 2.0 * np.linspace(0.0, 1.0, n)
    fits = [straight_line(n, rng, scatter) for _ in range(400)]
    claimed = np.mean([np.sqrt(np.diag(estimator(u, j, "linear"))) for u, j, _ in fits], axis=0)
    # 400 fits determine a standard deviation to 3.5 %
    assert claimed == pytest.approx(np.std([found for *_, found in fits], axis=0), rel=0.12)


def test_a_restraint_counts_as_one_observation():
    rng = np.random.default_rng(3)
    u, j = rng.normal(size=50), rng.normal(size=(50, 2))
    free = sandwich_hc3(u, j, "linear", np.full(2, np.inf))
    assert np.array_equal(free, sandwich_hc3(u, j, "linear"))
    assert sandwich_hc3(u, j, "linear", np.array([1e-3, np.inf]))[0, 0] == pytest.approx(1e-6, rel=1e-3)
    # what no observation tells, its restraint does
    assert sandwich_hc3(u, j * (1.0, 0.0), "linear", np.array([np.inf, 0.5]))[1, 1] == pytest.approx(0.25)


def test_what_the_data_do_not_determine_has_an_infinite_variance():
    assert np.all(np.isinf(np.diag(sandwich_hc3(np.zeros(2), np.ones((2, 2)), "linear"))))
    same = np.ones((10, 2))
    assert np.all(np.isinf(np.diag(sandwich_hc3(np.ones(10), same, "linear"))))


def test_of_clusters_it_is_the_scatter_of_repeated_fits():
    """Of a mean whose observations share errors by eights, which the plain esd does not see."""
    rng = np.random.default_rng(6)
    n_clusters, size = 40, 8
    design = np.column_stack([np.ones(n_clusters * size), np.repeat(rng.normal(size=n_clusters), size)])
    inverse = np.linalg.inv(design.T @ design)
    found, variances = [], []
    for _ in range(400):
        y = np.repeat(rng.normal(size=n_clusters), size) + 0.3 * rng.normal(size=len(design))
        a = inverse @ design.T @ y
        scores = (design * (y - design @ a)[:, None]).reshape(n_clusters, size, 2).sum(axis=1)
        found.append(a)
        variances.append(np.diag(sandwich_clusters(scores, inverse)))
    assert np.sqrt(np.mean(variances, axis=0)) == pytest.approx(np.std(found, axis=0), rel=0.1)


def test_of_one_cluster_nothing_is_known():
    assert np.isinf(sandwich_clusters(np.ones((1, 2)), np.eye(2))).all()


def test_of_clusters_of_one_it_is_that_of_white():
    u, j, _ = straight_line(40, np.random.default_rng(0), np.linspace(0.1, 2.0, 40))
    found = sandwich_clusters(j * u[:, None], np.linalg.inv(j.T @ j))
    assert found * 39.0 / 40.0 == pytest.approx(sandwich_hc1(u, j, "linear") * 38.0 / 40.0)
