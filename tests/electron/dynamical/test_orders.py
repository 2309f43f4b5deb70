"""Orders of correction and scaling, of intensities that are made."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.electron.dynamical.orders import measure_order


def test_r1_and_tau_of_what_was_made():
    rng = np.random.default_rng(0)
    unique = np.repeat(np.arange(200), 5)
    kinematical = rng.gamma(2.0, 40.0, 200)[unique] + 5.0
    sigma = 0.01 * kinematical
    # amplitudes are off by 10 % to either side, on a scale of their own
    intensity = 3.0 * kinematical * np.where(np.arange(1000) % 2, 0.9, 1.1) ** 2
    found = measure_order("some", unique, intensity, sigma**2, kinematical)
    assert found.r1 == pytest.approx(0.1, abs=0.005)
    assert found.tau.tau == pytest.approx(0.2, rel=0.1)  # of intensities
    same = measure_order("same", unique, 3.0 * kinematical, sigma**2, kinematical)
    assert same.r1 == pytest.approx(0.0, abs=1e-12) and same.tau.tau < 0.01 and same.r_meas < 1e-12
