"""The series of the exponential: its Bessel functions, and exponentials that scipy makes otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.special import jv

from dials_postrefine.electron.bloch.chebyshev import (
    bessel_functions,
    interval,
    n_terms,
    propagate,
    propagate_tridiagonal,
)


def test_bessel_functions_are_scipys():
    size = np.array([0.0, 1e-9, 2e-8, 1e-4, 0.7, 30.0, 411.3, 2500.0])
    terms = n_terms(size.max())
    expected = jv(np.arange(terms), size[:, None])
    np.testing.assert_allclose(bessel_functions(size, terms), expected, rtol=0, atol=2e-13)


@pytest.mark.parametrize("size", [1e-6, 0.1, 3.0, 40.0, 900.0, 20000.0])
def test_no_term_that_is_left_out_matters(size):
    n = n_terms(size)
    assert np.abs(jv(np.arange(n, n + 50), size)).max() < 1e-15


def hermitian(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    m = 0.03 * (rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n)))
    return m + np.conj(m.T) - np.diag(rng.exponential(size=n))


@pytest.mark.parametrize("real", [True, False])
def test_the_series_is_the_exponential(real):
    m, angle = hermitian(40, 0), np.array([0.0, 1e-9, 3.0, 200.0])
    if real:
        m = m.real.copy()
    expected = np.array([expm(1j * a * m)[:, 0] for a in angle]).T
    np.testing.assert_allclose(propagate(m, angle), expected, rtol=0, atol=1e-11)


def test_the_interval_holds_the_eigenvalues():
    for seed in range(5):
        m = hermitian(30, seed)
        centre, half_width = interval(m)
        assert np.abs(np.linalg.eigvalsh(m) - centre).max() <= half_width


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_the_series_of_a_tridiagonal_matrix(n):
    rng = np.random.default_rng(n)
    diagonal, beside = rng.normal(size=n), rng.normal(size=n - 1)
    t = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    angle = np.array([0.0, 0.3, 70.0])
    centre, half_width = interval(t)
    real, imaginary = propagate_tridiagonal(diagonal, beside, (centre, half_width), angle)
    found = (real + 1j * imaginary) * np.exp(1j * centre * angle)
    expected = np.array([expm(1j * a * t)[:, 0] for a in angle]).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_absorption_loses_few_digits():
    """Down to 1 % of the electrons."""
    m, angle = hermitian(30, 1) + 0.03j * np.eye(30), np.array([80.0])
    expected = expm(80.0j * m)[:, 0]
    assert 0.003 < np.sum(np.abs(expected) ** 2) < 0.02
    np.testing.assert_allclose(propagate(m, angle)[:, 0], expected, rtol=0, atol=1e-12)
