"""
Simulated intensities of symmetry equivalents in electron diffraction: kinematical, but for a spread of known size.

    I_i = J_h (1 + a f(n_i))^2 (1 + tau x) + sqrt(v_i) y,     f(n) = sqrt(2) sin(2 pi nu theta/90 deg),  x, y ~ N(0, 1)

J_h is the intensity of the unique index, v_i the variance of the counts, theta the angle between the beam and the c
axis of either sense, which no operation of a Laue class with one main axis changes, and a the rms of the smooth
dependence of amplitudes on orientation.  Nothing here knows of dials_postrefine.electron, which it is to test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OSCILLATIONS = 3.0  # nu, of f from 0 to 90 degrees


@dataclass
class SimulatedEquivalents:
    """Observations: number of the unique index, intensity, variance (n,), and the true J of each index (n_unique,)."""

    unique: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    true: np.ndarray


def simulate_equivalents(
    rng: np.random.Generator, n_unique: int, multiplicity: int, tau: float, error: float = 0.03, floor: float = 0.02
) -> SimulatedEquivalents:
    """
    Equivalents of acentric intensities of mean 1: each index is observed 1 + Poisson(multiplicity - 1) times, with
    v = error^2 J + floor^2.
    """
    true = rng.exponential(size=n_unique)
    unique = np.repeat(np.arange(n_unique), 1 + rng.poisson(multiplicity - 1, n_unique))
    variance = error**2 * true[unique] + floor**2
    intensity = observe(rng, true[unique], variance, tau)
    return SimulatedEquivalents(unique, intensity, variance, true)


def observe(rng: np.random.Generator, expected: np.ndarray, variance: np.ndarray, tau: float) -> np.ndarray:
    """Intensities (n,) that scatter about the expected ones (module docstring, a = 0)."""
    x, y = rng.normal(size=(2, len(expected)))
    return expected * (1.0 + tau * x) + np.sqrt(variance) * y


def dependence(theta: np.ndarray) -> np.ndarray:
    """f (n,) of the angle theta (n,; rad) between the beam and the c axis; its rms is 1 over whole periods."""
    return np.sqrt(2.0) * np.sin(4.0 * OSCILLATIONS * theta)
