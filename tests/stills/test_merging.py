"""Merging against cctbx, outliers, half sets and statistics of shells."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import crystal, miller
from cctbx.array_family import flex

from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.merging import Merged, find_outliers, merge, r_split, shell_statistics
from dials_postrefine.stills.wilson import WilsonPrior


@pytest.fixture
def observations():
    rng = np.random.default_rng(0)
    unique = rng.integers(0, 50, size=400)
    unique[unique == 17] = 16  # nothing observed of 17
    return rng.normal(100.0, 30.0, size=400), rng.uniform(1.0, 9.0, size=400), unique


def test_merging_is_that_of_cctbx(observations):
    value, variance, unique = observations
    symmetry = crystal.symmetry(unit_cell=(10, 11, 12, 90, 90, 90), space_group_symbol="P1")
    indices = flex.miller_index([(1, 1, int(i) + 1) for i in unique])
    array = miller.set(symmetry, indices, anomalous_flag=False).array(
        data=flex.double(value), sigmas=flex.sqrt(flex.double(variance))
    )
    equivalents = array.merge_equivalents(use_internal_variance=False)
    expected = {
        h[2] - 1: (i, s, n)
        for h, i, s, n in zip(
            equivalents.array().indices(),
            equivalents.array().data(),
            equivalents.array().sigmas(),
            equivalents.redundancies().data(),
        )
    }
    merged = merge(value, variance, unique, 50)
    assert set(np.flatnonzero(merged.n)) == set(expected)
    for i, (intensity, sigma, n) in expected.items():
        assert (merged.intensity[i], merged.sigma[i], merged.n[i]) == pytest.approx((intensity, sigma, n))
    assert np.isnan(merged.intensity[17]) and np.isnan(merged.sigma[17])


def test_outliers_are_far_from_the_others_on_either_side():
    #                  six about 10, one wild and one dead             two that differ, twice  three, one off
    value = np.array([10.0, 11.0, 9.0, 10.0, 10.5, 9.5, 400.0, -350.0, 10.0, 500.0, 10.0, 17.0, 10.0, 10.5, 19.0, 14.0])
    unique = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4])
    out = find_outliers(value, np.ones(len(value)), unique, 5, z_max=6.0)
    assert list(np.flatnonzero(out)) == [6, 7, 14]  # of a pair nobody knows which


def test_of_two_that_differ_the_larger_is_out_where_it_is_improbable():
    rng = np.random.default_rng(5)
    n = 400  # a mean intensity of 100, and pairs that agree but for three
    truth = np.clip(100.0 * rng.exponential(size=n), 1.0, 400.0)
    value, unique = np.repeat(truth, 2), np.repeat(np.arange(n), 2)
    value[[20, 21]] = 50.0, 600.0  # exp(-6) is less than 1e-2
    value[[40, 41]] = 300.0, 50.0  # exp(-3) is not
    value[[60, 61]] = 600.0, 601.0
    prior = WilsonPrior(np.linspace(0.01, 0.2, n), np.ones(n), np.zeros(n, dtype=bool))
    out = find_outliers(value, np.ones(2 * n), unique, n, 6.0, prior)
    assert list(np.flatnonzero(out)) == [21]


def test_the_scatter_of_the_index_itself_counts_where_it_is_larger():
    value = np.array([0.0, 50.0, 100.0, 150.0, 200.0, 210.0, 1000.0])
    unique = np.zeros(7, dtype=int)
    out = find_outliers(value, np.ones(7), unique, 1, z_max=6.0)
    # median 150, median absolute deviation 60: the limit is 6 x 1.48 x 60 = 534, far beyond 6 sigma
    assert list(np.flatnonzero(out)) == [6]


def test_what_stands_alone_is_judged_by_wilson_statistics():
    rng = np.random.default_rng(4)
    n = 2000
    d_star_sq = rng.uniform(0.01, 0.25, size=n)
    centric = rng.random(n) < 0.1
    epsilon = np.where(rng.random(n) < 0.1, 4.0, 1.0)
    sigma = 1000.0 * np.exp(-8.0 * d_star_sq)
    e_sq = np.where(centric, rng.normal(size=n) ** 2, rng.exponential(size=n))
    value = epsilon * sigma * e_sq
    wild = np.arange(n) < 40
    value[wild] = (epsilon * sigma * rng.uniform(15.0, 60.0, size=n))[wild]  # erfc(sqrt(15/2)) = 1e-4
    out = find_outliers(value, np.ones(n), np.arange(n), n, 6.0, WilsonPrior(d_star_sq, epsilon, centric))
    assert out[wild].mean() > 0.9
    # of 1960 values 0.2 are expected beyond a probability of 1e-4
    assert np.count_nonzero(out[~wild]) <= 2
    # the same value is not out where another observation agrees with it
    twice = np.concatenate([value, value[wild]]), np.concatenate([np.arange(n), np.arange(40)])
    out = find_outliers(twice[0], np.ones(n + 40), twice[1], n, 6.0, WilsonPrior(d_star_sq, epsilon, centric))
    assert not out[n:].any() and not out[:40].any()


def test_r_split_by_its_formula():
    rng = np.random.default_rng(1)
    a = rng.exponential(size=200)
    b = a + 0.1 * rng.normal(size=200)
    assert r_split(a, b) == pytest.approx(np.sqrt(2.0) * np.abs(a - b).sum() / (a + b).sum())
    assert r_split(a, a) == 0.0
    assert np.isnan(r_split(-a, -a))


def test_shell_statistics_count_and_compare():
    d_star_sq = np.array([0.01, 0.02, 0.03, 0.20, 0.21, 0.22])
    complete = np.array([0.01, 0.02, 0.03, 0.035, 0.20, 0.21, 0.22, 0.225])
    first = Merged(np.full(6, 4.0), 4.0 * np.arange(6.0), np.full(6, 2))
    second = Merged(np.full(6, 4.0), 4.0 * np.arange(6.0)[::-1], np.full(6, 1))
    merged = Merged(first.sum_w + second.sum_w, first.sum_wi + second.sum_wi, first.n + second.n)
    edges = np.array([0.005, 0.1, 0.25])
    low, high, overall = shell_statistics(merged, (first, second), None, d_star_sq, complete, edges)
    assert (low.n_unique, low.n_possible, low.n_observations) == (3, 4, 9)
    assert (low.completeness, low.multiplicity) == (0.75, 3.0)
    assert (low.d_max, low.d_min) == pytest.approx((0.005**-0.5, 0.1**-0.5))
    assert low.cc_half == high.cc_half == overall.cc_half == pytest.approx(-1.0)
    assert overall.i_over_sigma == pytest.approx(2.5 * np.sqrt(8.0))
    assert np.isnan(overall.cc_reference)
    to_itself = shell_statistics(merged, (first, second), np.arange(6.0), d_star_sq, complete, edges)
    assert np.isnan(to_itself[0].cc_reference)  # all merged intensities are the same


def test_r_to_truth_ignores_scale_and_b_and_nothing_else():
    rng = np.random.default_rng(0)
    d_star_sq, truth = rng.uniform(0.01, 0.2, size=500), rng.exponential(1000.0, size=500)
    same = 7.0 * np.exp(-3.0 * d_star_sq) * truth
    r, f = r_to_truth(np.where(np.arange(500) % 2, same, np.nan), truth, d_star_sq)
    assert r < 1e-3 and np.isnan(f[::2]).all()
    assert f[1::2] == pytest.approx(np.sqrt(truth[1::2]), rel=1e-2)
    noisy = same * np.exp(rng.normal(0.0, 0.2, size=500))
    r, f = r_to_truth(noisy, truth, d_star_sq)
    # of an amplitude, sigma(ln F) = 0.1, the mean absolute deviation is 0.08
    assert r == pytest.approx(0.08, abs=0.01)
    assert np.abs(f - np.sqrt(truth)).sum() / np.sqrt(truth).sum() == pytest.approx(r)
