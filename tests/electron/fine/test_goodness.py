"""Scale and backgrounds in closed form, and the derivatives of what they leave; the point spread; the detector."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import voigt_profile

from dials_postrefine.electron.fine.detector import Detector, deconvolve
from dials_postrefine.electron.fine.goodness import Comparison, correlation_weights
from dials_postrefine.electron.fine.pointspread import convolve, voigt_kernel


def data(seed=0):
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.1, 1.0, (3, 40))
    x = 50.0 * t + np.array([3.0, 5.0, 8.0])[:, None] + rng.normal(size=t.shape)
    w = rng.uniform(0.5, 2.0, t.shape)
    w[1, :7] = 0.0
    return t, x, w


def test_one_background_is_the_closed_form():
    t, x, w = data()
    s0, s1, s2, x0, x1 = w.sum(), (w * t).sum(), (w * t * t).sum(), (w * x).sum(), (w * t * x).sum()
    found = Comparison(x, w, multibackground=False).eliminate(t)
    assert found.scale == pytest.approx((x1 * s0 - s1 * x0) / (s2 * s0 - s1**2))
    assert found.background == pytest.approx((s2 * x0 - s1 * x1) / (s2 * s0 - s1**2))
    assert found.n == 2


def test_a_background_a_disk_is_the_closed_form():
    t, x, w = data()
    s, a, beta = w.sum(axis=1), (w * x).sum(axis=1), (w * t).sum(axis=1)
    c = ((w * x * t).sum() - (a * beta / s).sum()) / ((w * t * t).sum() - (beta**2 / s).sum())
    found = Comparison(x, w).eliminate(t)
    assert found.scale == pytest.approx(c)
    assert found.background == pytest.approx((a - c * beta) / s)
    assert found.residuals == pytest.approx(np.sqrt(w) * (c * t + found.background[:, None] - x))


@pytest.mark.parametrize("several", [(False, False), (True, False), (True, True)])
def test_projected_derivatives_give_the_gradient_of_chi2(several):
    t, x, w = data()
    comparison, change = Comparison(x, w, *several), np.random.default_rng(3).normal(size=t.shape)

    def chi2(h):
        return np.sum(comparison.eliminate(t + h * change).residuals ** 2)

    gradient = 2.0 * np.sum(comparison.eliminate(t).residuals * comparison.projected(t, change[None])[0])
    assert gradient == pytest.approx((chi2(1e-6) - chi2(-1e-6)) / 2e-6, rel=1e-5)


def test_weights_of_the_correlation_make_chi2_one_less_r_squared():
    t, x, w = data()
    used = w > 0.0
    together = Comparison(x, correlation_weights(x, used, False), False).eliminate(t)
    r = np.corrcoef(t[used], x[used])[0, 1]
    assert np.sum(together.residuals**2) == pytest.approx(1.0 - r**2)
    apart = Comparison(x, correlation_weights(x, used, True), True, True)
    assert apart.correlations(t)[1] == pytest.approx(np.corrcoef(t[1, 7:], x[1, 7:])[0, 1])
    assert np.sum(apart.eliminate(t).residuals ** 2) == pytest.approx(np.mean(1.0 - apart.correlations(t) ** 2))


def test_the_point_spread_is_a_voigt_profile_and_knows_its_derivatives():
    kernel = voigt_kernel(1.3, 0.4)
    r = np.hypot(*np.mgrid[-10:11, -10:11])
    profile = voigt_profile(r, 1.3, 0.4)
    assert kernel[0] == pytest.approx(profile / profile.sum(), rel=1e-12)
    for k, (up, down) in enumerate([((1.3 + 1e-6, 0.4), (1.3 - 1e-6, 0.4)), ((1.3, 0.4 + 1e-6), (1.3, 0.4 - 1e-6))]):
        numerical = (voigt_kernel(*up)[0] - voigt_kernel(*down)[0]) / 2e-6
        assert kernel[k + 1] == pytest.approx(numerical, abs=1e-8)


def test_a_convolution_keeps_what_is_constant_and_deconvolution_brings_back():
    assert convolve(np.full((2, 20, 20), 7.0), voigt_kernel(1.0, 0.2)[0]) == pytest.approx(np.full((2, 20, 20), 7.0))
    y, x = np.mgrid[:32, :32]
    image = 10.0 + 90.0 * np.exp(-((x - 16) ** 2 + (y - 14) ** 2) / 18.0)[None]
    kernel = voigt_kernel(1.2, 0.0, 6)[0]
    blurred = convolve(image, kernel)
    sharp = deconvolve(blurred, kernel, 30)
    assert np.abs(sharp - image).max() < 0.2 * np.abs(blurred - image).max()


def test_the_variance_is_that_of_the_published_detector():
    x = np.array([10.0, 1000.0])
    noise = 1.2 + 4e-5 * x + 3.15 / x
    assert Detector(3.15, 4e-5, 1.2, 2.2, 0.111).variance(x) == pytest.approx(0.111 * 2.2 * x * noise)
    deconvolved = Detector(3.15, 4e-5, 1.2, 2.2, 0.111, True).variance(x)
    assert deconvolved == pytest.approx(2.2 * x + 0.111 * 2.2 * x * (noise - 1.0))
