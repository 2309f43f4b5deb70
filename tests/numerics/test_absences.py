"""Absences: as strong as the others or nothing but noise, and no verdict on a few."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.numerics.absences import N_SHELLS, weigh_absences


@pytest.mark.parametrize(("share", "strong"), [(0.0, False), (0.05, False), (1.0, True)])
@pytest.mark.parametrize("n_absent", [12, 4000])
def test_absences_are_weighed_against_the_others(share, strong, n_absent):
    """Absent reflections with this share of the others' intensity, exponential as Wilson's, I/sigma 8 on average."""
    rng = np.random.default_rng(7)
    n = 8000
    absent, shell = np.arange(n) < n_absent, rng.integers(0, N_SHELLS, n)
    level = 8.0 * np.exp(-shell / 10.0)
    ratio = np.where(absent, share, 1.0) * level * rng.exponential(size=n) + rng.normal(size=n)
    found = weigh_absences(ratio, shell, absent)
    assert found.n == n_absent
    assert abs(found.ratio - share) < 4.0 * found.ratio_esd
    assert found.i_over_sigma == pytest.approx(ratio[:n_absent].mean())
    assert n_absent == 12 or found.strong == strong  # twelve of exponential spread can not always tell


def test_a_few_absences_tell_nothing():
    assert not weigh_absences(np.array([9.0, 8.0, 7.0]), np.zeros(3, dtype=int), np.array([True, False, False])).strong
    assert not weigh_absences(np.ones(3), np.zeros(3, dtype=int), np.ones(3, dtype=bool)).strong


def test_absences_are_compared_with_the_others_of_their_own_shells():
    """R = sum of the absent over what the others of their shells have on average, shell by shell."""
    ratio = np.array([10.0, 14.0, 6.0, 2.0, 4.0, 1.0, 50.0])
    shell = np.array([0, 0, 0, 1, 1, 1, 2])
    absent = np.array([False, False, True, False, False, True, False])
    found = weigh_absences(ratio, shell, absent)
    assert found.ratio == pytest.approx((6.0 + 1.0) / (12.0 + 3.0))
    assert (found.i_over_sigma, found.i_over_sigma_others) == pytest.approx((3.5, 7.5))
