"""Where the signal of a map ends: CC1/2 of its anisotropic part by shell."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.diffuse.model.agreement import correlations_of_halves


def test_halves_agree_as_halves_that_were_drawn():
    """Of two halves of the data, each with twice the variance of the noise, and of noise alone."""
    random = np.random.default_rng(3)
    s = random.uniform(0.05, 0.7, 40000)
    signal = 5.0 * random.normal(size=len(s)) * np.maximum(0.0, 0.5 - s)
    halves = 300.0 * np.exp(-3.0 * s) + signal + np.sqrt(2.0) * random.normal(size=(2, len(s)))
    edges, cc = correlations_of_halves(halves.mean(axis=0), np.ones(len(s)), s)
    shell = np.searchsorted(edges, s)
    for k in (0, 5, 15, 25, 35):
        one, other = (half[shell == k] for half in halves)
        x = s[shell == k]
        one, other = (y - np.polyval(np.polyfit(x, y, 1), x) for y in (one, other))
        assert cc[k] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=0.08)
    assert cc[0] > 0.6 and abs(cc[-1]) < 0.1
