"""The agreement of matched spots against plain loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import median_abs_deviation, pearsonr

from dials_postrefine.electron.spread.agreement import FEWEST, measure_agreement


@pytest.fixture(scope="module")
def spots():
    rng = np.random.default_rng(0)
    n, group = 300, rng.integers(0, 7, 300)
    group[group == 5] = 4  # one of the groups is empty
    true = rng.exponential(size=n)
    v1, v2 = 0.1**2 * (true + 0.1), 0.15**2 * (true + 0.1)
    i1 = true + np.sqrt(v1) * rng.normal(size=n)
    i2 = 1.3 * true * rng.lognormal(0.0, 0.2, n) + np.sqrt(v2) * rng.normal(size=n)
    return i1, v1, i2, v2, group


def test_each_number_is_what_its_formula_says(spots):
    found = measure_agreement(*spots, 7)
    for k in range(7):
        i1, v1, i2, v2 = (one[spots[4] == k] for one in spots[:4])
        if not len(i1):
            assert found.n[k] == 0 and np.isnan([found.r[k], found.cc[k], found.log_spread[k], found.z_width[k]]).all()
            continue
        both = (i1 > 3.0 * np.sqrt(v1)) & (i2 > 3.0 * np.sqrt(v2))
        ratio = np.log(i1[both] / i2[both])
        error = np.sqrt(v1 / i1**2 + v2 / i2**2)[both]
        factor = i1.sum() / i2.sum()
        z = (i1 - factor * i2) / np.sqrt(v1 + factor**2 * v2)
        assert (found.n[k], found.n_strong[k]) == (len(i1), both.sum())
        assert found.log_spread[k] == pytest.approx(1.4826 * median_abs_deviation(ratio) / np.sqrt(2.0))
        assert found.expected[k] == pytest.approx(np.median(error) / np.sqrt(2.0))
        assert found.r[k] == pytest.approx(np.abs(i1 - i2).sum() / (i1 + i2).sum())
        assert found.cc[k] == pytest.approx(pearsonr(i1, i2)[0])
        assert found.cc_log[k] == pytest.approx(pearsonr(np.log(i1[both]), np.log(i2[both]))[0])
        assert found.k[k] == pytest.approx(factor)
        assert found.z_width[k] == pytest.approx(1.4826 * np.median(np.abs(z)))


def test_esds_are_the_scatter_of_repeated_measurements():
    rng = np.random.default_rng(1)
    groups, m = 3000, 40
    group = np.repeat(np.arange(groups), m)
    true = rng.normal(5.0, 1.0, groups * m)
    v = np.full(groups * m, 0.01**2)
    i1, i2 = (true * rng.lognormal(0.0, 0.1, len(true)) for _ in range(2))
    found = measure_agreement(i1, v, i2, v, group, groups)
    assert found.log_spread.mean() == pytest.approx(0.1, rel=0.03)
    assert found.log_spread_esd.mean() == pytest.approx(found.log_spread.std(), rel=0.08)
    assert found.r_esd.mean() == pytest.approx(found.r.std(), rel=0.08)
    assert found.cc_esd.mean() == pytest.approx(found.cc.std(), rel=0.08)


def test_errors_that_are_right_have_z_of_width_one():
    rng = np.random.default_rng(2)
    true = rng.exponential(size=20000)
    v = 0.05**2 * (true + 0.1)
    i1, i2 = (true + np.sqrt(v) * rng.normal(size=len(true)) for _ in range(2))
    found = measure_agreement(i1, v, i2, v, np.zeros(len(true), dtype=int), 1)
    assert found.z_width[0] == pytest.approx(1.0, abs=4.0 * found.z_width_esd[0])


def test_a_group_of_too_few_spots_has_no_numbers():
    few = np.ones(FEWEST - 1)
    found = measure_agreement(few, few, few, few, np.zeros(len(few), dtype=int), 1)
    assert found.n[0] == FEWEST - 1 and np.isnan([found.log_spread[0], found.r[0], found.cc[0]]).all()
