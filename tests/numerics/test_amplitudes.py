"""Roots of intensities: known values, and what they are for."""

from __future__ import annotations

import numpy as np

from dials_postrefine.numerics.amplitudes import amplitudes, signed_root

INTENSITY = np.array([4.0, 0.0, -9.0, np.nan, 0.25])


def test_known_values():
    np.testing.assert_array_equal(amplitudes(INTENSITY), [2.0, 0.0, 0.0, np.nan, 0.5])
    np.testing.assert_array_equal(signed_root(INTENSITY), [2.0, 0.0, -3.0, np.nan, 0.5])


def test_a_signed_root_keeps_the_order_and_leads_back():
    intensity = np.sort(np.random.default_rng(0).normal(size=(4, 25)), axis=1)
    root = signed_root(intensity)
    assert root.shape == intensity.shape and (np.diff(root, axis=1) > 0.0).all()
    np.testing.assert_allclose(root * np.abs(root), intensity, rtol=1e-15)


def test_means_of_nothing_are_nothing_with_the_sign_and_are_not_without():
    noise = np.random.default_rng(1).normal(size=40_000)
    assert abs(signed_root(noise).mean()) < 4.0 * signed_root(noise).std() / 200.0
    assert amplitudes(noise).mean() > 0.4
