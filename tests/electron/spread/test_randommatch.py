"""The test of pairs against random ones: calibration, power, the formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm

from dials_postrefine.electron.spread import randommatch
from dials_postrefine.electron.spread.pairs import find_pairs


def test_the_ratio_is_that_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    for rho in (0.2, 0.9):
        related = multivariate_normal([0.0, 0.0], [[1.0, rho], [rho, 1.0]]).logpdf(np.stack([x, y], axis=1))
        independent = norm.logpdf(x) + norm.logpdf(y)
        np.testing.assert_allclose(randommatch.ln_likelihood_ratio(x, y, rho), related - independent, rtol=1e-9)


def test_scores_have_mean_zero_and_unit_width_in_each_shell():
    rng = np.random.default_rng(1)
    shell = rng.integers(0, 3, 500)
    x = randommatch.standard_scores(rng.normal(5.0 * shell, 1.0 + shell), shell, 3)
    for k in range(3):
        assert x[shell == k].mean() == pytest.approx(0.0, abs=1e-12) and x[shell == k].std() == pytest.approx(1.0)


def test_the_pooled_correlation_is_that_of_the_mates():
    rng = np.random.default_rng(2)
    rho = 0.7
    common = rng.normal(size=4000)
    unique = np.repeat(np.arange(4000), 3)
    x = np.sqrt(rho) * common[unique] + np.sqrt(1.0 - rho) * rng.normal(size=len(unique))
    found, n = randommatch.pooled_correlation(x, unique)
    assert found == pytest.approx(rho, abs=0.02) and n == len(unique)
    pairs = [(x[unique == u][i], x[unique == u][j]) for u in range(300) for i in range(3) for j in range(3) if i != j]
    a, b = np.array(pairs).T
    few, _ = randommatch.pooled_correlation(x[unique < 300], unique[unique < 300])
    assert few == pytest.approx(np.sum(a * b) / np.sum(a * a))


def permuted(images, seed):
    """Intensities of other spots in place of their own."""
    order = np.random.default_rng(seed).permutation(len(images.h))
    return images.select(np.ones(len(order), dtype=bool), images.intensity[order], images.variance[order])


def test_p_of_random_pairs_is_uniform(make_images):
    """One pair a data set, as pairs of one share images and are not independent."""
    p = []
    for seed in range(150):
        images = permuted(make_images(seed, n_images=6, n_spots=40, largest=2), seed)
        pairs = find_pairs(images, "laue", 5)
        p.append(randommatch.compare_with_random(pairs, n_permutations=199, seed=seed).p[0])
    assert kstest(p, "uniform").pvalue > 0.01


def test_mates_are_told_from_random_pairs_and_random_ones_are_not(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2, tau=0.3)
    found = randommatch.compare_with_random(find_pairs(images, "laue", 5))
    assert found.auc > 0.95 and np.median(found.p) < 0.01 and np.median(found.posterior) > 0.95


def test_random_pairs_have_an_auc_of_a_half_within_its_esd(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2)
    found = [
        randommatch.compare_with_random(find_pairs(permuted(images, seed), "laue", 5), n_permutations=99)
        for seed in range(60)
    ]
    pulls = np.array([(one.auc - 0.5) / one.auc_esd for one in found])
    assert abs(np.mean([one.auc for one in found]) - 0.5) < 0.03
    assert 0.7 < np.sqrt(np.mean(pulls**2)) < 1.4
    assert abs(np.mean([one.rho for one in found])) < 0.02


def test_the_auc_is_the_probability_of_the_higher_ratio(make_images):
    images = make_images(n_images=5, n_spots=30, largest=2, tau=0.8, error=0.5)
    pairs = find_pairs(images, "laue", 3)
    found = randommatch.compare_with_random(pairs, n_permutations=99, seed=3)
    # p counts the permutations of the same pair: close to it, and the mean over the pairs closer
    assert np.mean(1.0 - found.p) == pytest.approx(found.auc, abs=0.05)


def test_the_same_seed_gives_the_same_numbers(make_images):
    pairs = find_pairs(make_images(tau=0.8, error=0.5), "laue", 3)
    one, same, other = (randommatch.compare_with_random(pairs, n_permutations=99, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.p, same.p)
    assert (one.p != other.p).any()


def test_residuals_that_are_not_normal_are_told(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2, tau=0.2)
    found = randommatch.compare_with_random(find_pairs(images, "laue", 3))
    assert found.p_normal < 1e-3 and found.kurtosis > 0.0
