"""
What exp(i a M) makes of the incident beam, for many a, by products of M with vectors alone.

    exp(i a M) e_0 = exp(i a c) sum_k (2 - delta_k0) i^k J_k(a d) T_k(x) e_0,    x = (M - c)/d

(Tal-Ezer and Kosloff 1984, J. Chem. Phys. 81, 3967).  The eigenvalues of the Hermitian part lie in c - d to c + d, by
Gershgorin's circles.  T_k follows from T_{k+1} = 2 x T_k - T_{k-1} and is the same for all a; the Bessel functions come
from J_{k-1} = 2 k/z J_k - J_{k+1}, downwards and normalised by J_0 + 2 sum J_2k = 1.  Beyond k = a d they fall faster
than any exponential, and the sum ends where they are below 1e-15.

A step costs n^2, or n where M is tridiagonal (intensities.py).  It is exact with absorption, too: the terms then grow
as exp(a U'_0), which the crystal takes back, to 12 digits where it lets 1 % of the electrons pass.
"""

from __future__ import annotations

import math

import numpy as np

from dials_postrefine.numerics.compiled import compiler

jit = compiler()


def propagate(m: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """
    The first column of exp(i a M).

    Parameters
    ----------
    m : ndarray, shape (n, n)
        Hermitian, or nearly.
    angle : ndarray, shape (t,)
        a >= 0.

    Returns
    -------
    ndarray of complex, shape (n, t)
    """
    centre, half_width = interval(m)
    terms = n_terms(half_width * angle.max())
    twice = (2.0 / half_width) * m
    twice[np.arange(len(m)), np.arange(len(m))] -= 2.0 * centre / half_width
    vectors = np.zeros((terms, len(m)), dtype=twice.dtype)
    vectors[0, 0] = 1.0
    vectors[1] = 0.5 * twice[:, 0]
    for k in range(1, terms - 1):
        np.dot(twice, vectors[k], out=vectors[k + 1])
        vectors[k + 1] -= vectors[k - 1]
    even, odd = _sums(vectors, half_width * angle)
    return (even + 1j * odd) * np.exp(1j * centre * angle)


def propagate_tridiagonal(
    diagonal: np.ndarray, beside: np.ndarray, limits: tuple[float, float], angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The first column of exp(i a (T - c)) for a real symmetric tridiagonal T.

    Parameters
    ----------
    diagonal, beside : ndarray, shape (n,) and (n - 1,)
        Of T.
    limits : (float, float)
        c and d, for any matrix of the same eigenvalues.
    angle : ndarray, shape (t,)
        a >= 0.

    Returns
    -------
    real, imaginary : ndarray, shape (n, t)
    """
    centre, half_width = limits
    terms = n_terms(half_width * angle.max())
    vectors = _tridiagonal_vectors((diagonal - centre) / half_width, beside / half_width, terms)
    return _sums(vectors, half_width * angle)


def interval(m: np.ndarray) -> tuple[float, float]:
    """
    c and d (module docstring); of the whole matrix, which absorption widens a little.

    Parameters
    ----------
    m : ndarray, shape (n, n)
        Hermitian, or nearly.

    Returns
    -------
    centre, half_width : float
        c and d, in the unit of M; d is above zero.
    """
    diagonal = np.diagonal(m)
    radius = np.abs(m).sum(axis=1) - np.abs(diagonal)
    low, high = float((diagonal.real - radius).min()), float((diagonal.real + radius).max())
    return 0.5 * (low + high), max(0.5 * (high - low), 1e-12)


def n_terms(size: float) -> int:
    """
    An order from which on |J_k(size)| < 1e-15: in the tail, as Airy's function of (k - size)/(size/2)^(1/3).

    Parameters
    ----------
    size : float
        a d >= 0 (module docstring).

    Returns
    -------
    int
    """
    return int(math.ceil(size + 12.0 * size ** (1.0 / 3.0) + 20.0))


def _sums(vectors: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums over even and odd k, less the factor i of the latter, (n, t) each."""
    even, odd = _coefficients(size, len(vectors))
    return np.dot(even, vectors[::2]).T, np.dot(odd, vectors[1::2]).T


@jit
def bessel_functions(size: np.ndarray, terms: int) -> np.ndarray:
    """
    J_k(z) for k = 0 to terms - 1.

    Parameters
    ----------
    size : ndarray, shape (t,)
        z >= 0.
    terms : int
        At least n_terms of the largest z.

    Returns
    -------
    ndarray, shape (t, terms)
    """
    found = np.zeros((len(size), terms))
    for i in range(len(size)):
        z = size[i]
        if z < 1e-8:
            found[i, 0] = 1.0
            found[i, 1] = 0.5 * z
            continue
        start = min(terms, int(z + 12.0 * z ** (1.0 / 3.0) + 20.0))
        # J_start is above 1e-200, so that nothing overflows on the way to J_0
        above, here, total = 0.0, 1e-100, 0.0
        twice = 2.0 / z
        for k in range(start, 0, -1):
            above, here = here, k * twice * here - above
            found[i, k - 1] = here
        for j in range(2, start, 2):
            total += found[i, j]
        scale = 1.0 / (2.0 * total + found[i, 0])
        for j in range(start):
            found[i, j] *= scale
    return found


@jit
def _coefficients(size: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """(2 - delta_k0) i^k J_k for even k, and for odd k less a factor of i, (t, terms/2) each."""
    functions = bessel_functions(size, terms)
    even, odd = np.empty((len(size), (terms + 1) // 2)), np.empty((len(size), terms // 2))
    for i in range(len(size)):
        sign = 2.0
        for k in range(terms // 2):
            even[i, k], odd[i, k] = sign * functions[i, 2 * k], sign * functions[i, 2 * k + 1]
            sign = -sign
        if terms % 2:
            even[i, terms // 2] = sign * functions[i, terms - 1]
        even[i, 0] *= 0.5
    return even, odd


@jit
def _tridiagonal_vectors(diagonal: np.ndarray, beside: np.ndarray, terms: int) -> np.ndarray:
    """T_k(x) e_0 for k = 0 to terms - 1, shape (terms, n); after k steps the vector has reached element k."""
    n = len(diagonal)
    vectors = np.zeros((terms, n))
    vectors[0, 0] = 1.0
    vectors[1, 0] = diagonal[0]
    if n > 1:
        vectors[1, 1] = beside[0]
    for k in range(1, terms - 1):
        before, here, after = vectors[k - 1], vectors[k], vectors[k + 1]
        last = min(n, k + 2)
        for j in range(last):
            after[j] = 2.0 * diagonal[j] * here[j] - before[j]
        for j in range(1, last):
            after[j] += 2.0 * beside[j - 1] * here[j - 1]
        for j in range(last - 1):
            after[j] += 2.0 * beside[j] * here[j + 1]
    return vectors
