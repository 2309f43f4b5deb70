"""
Absorption by thermal diffuse scattering: f' of an Einstein crystal.

    f'(s) = 2 gamma_rel lambda int f(|s/2 + q|) f(|s/2 - q|) [1 - exp(-2 B (q^2 - s^2/4))] d^2q

(Hall and Hirsch 1965; Bird and King 1990, Acta Cryst. A46, 202), so that U' is made as U is, with exp(-B s^2) and the
phases of the atoms.  f' is in Angstrom for electrons at rest, as f; f'(0) is by the optical theorem half of what one
atom scatters diffusely, times K.  With f = sum_i a_i exp(-b_i s^2) the integral over the plane is elementary:

    f'(s) = 2 pi gamma_rel lambda sum_ij a_i a_j { exp(-b_i b_j/p s^2)/p - exp(-d_ij s^2)/(p + 2B) }

with p = b_i + b_j and d_ij = (p - 2B)/4 - (b_i - b_j)^2/(4 (p + 2B)), and with w = p + 2B

    df'/dB = 2 pi gamma_rel lambda sum_ij a_i a_j exp(-d_ij s^2) { s^2 [(b_i - b_j)^2/(2 w) - w/2] + 2 }/w^2

The plane stands for the Ewald sphere.  An ion's charge is not in it: f' comes from the core, and the Gaussians of the
neutral atom are taken.
"""

from __future__ import annotations

import numpy as np


def einstein_factor(s_sq: np.ndarray, a: np.ndarray, b: np.ndarray, debye_waller: float, strength: float) -> np.ndarray:
    """
    f' (module docstring) of one atom.

    Parameters
    ----------
    s_sq : ndarray, shape (n,)
        1/Angstrom^2.
    a, b : ndarray, shape (m,)
        The Gaussians of f; Angstrom, Angstrom^2.
    debye_waller : float
        B, Angstrom^2.
    strength : float
        gamma_rel lambda, Angstrom.

    Returns
    -------
    ndarray, shape (n,)
        Angstrom.
    """
    p = b[:, None] + b
    elastic = b[:, None] * b / p
    x = np.asarray(s_sq, dtype=float)[..., None, None]
    wider, damped, _ = _damping(b, debye_waller)
    terms = np.exp(-elastic * x) / p - np.exp(-damped * x) / wider
    return 2.0 * np.pi * strength * np.sum(a[:, None] * a * terms, axis=(-2, -1))


def einstein_factor_slope(
    s_sq: np.ndarray, a: np.ndarray, b: np.ndarray, debye_waller: float, strength: float
) -> np.ndarray:
    """
    df'/dB (module docstring) of one atom.

    Parameters
    ----------
    s_sq : ndarray, shape (n,)
        1/Angstrom^2.
    a, b : ndarray, shape (m,)
        The Gaussians of f; Angstrom, Angstrom^2.
    debye_waller : float
        B, Angstrom^2.
    strength : float
        gamma_rel lambda, Angstrom.

    Returns
    -------
    ndarray, shape (n,)
        1/Angstrom.
    """
    x = np.asarray(s_sq, dtype=float)[..., None, None]
    wider, damped, by_b = _damping(b, debye_waller)
    terms = np.exp(-damped * x) * (x * by_b * wider + 2.0) / wider**2
    return 2.0 * np.pi * strength * np.sum(a[:, None] * a * terms, axis=(-2, -1))


def _damping(b: np.ndarray, debye_waller: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w = p + 2B, d_ij and dd_ij/dB, shape (m, m) each."""
    p = b[:, None] + b
    wider = p + 2.0 * debye_waller
    square = (b[:, None] - b) ** 2
    return wider, (p - 2.0 * debye_waller) / 4.0 - square / (4.0 * wider), square / (2.0 * wider**2) - 0.5
