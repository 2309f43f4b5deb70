"""
Electrons of an energy E: wavelength and relativistic mass.

    lambda = h/sqrt(2 m e E (1 + e E/(2 m c^2))),      gamma_rel = 1 + e E/(m c^2)

(CODATA by scipy; 12.2643/sqrt(E (1 + 0.97848e-6 E)) Angstrom within 1e-5), E in volts.
"""

from __future__ import annotations

import math

from scipy import constants

REST_ENERGY = constants.m_e * constants.c**2 / constants.e  # volts


def wavelength(energy: float) -> float:
    """
    The wavelength.

    Parameters
    ----------
    energy : float
        Volts.

    Returns
    -------
    float
        Angstrom.
    """
    momentum_sq = 2.0 * constants.m_e * constants.e * energy * (1.0 + energy / (2.0 * REST_ENERGY))
    return 1e10 * constants.h / math.sqrt(momentum_sq)


def wave_number(energy: float) -> float:
    """
    K = 1/lambda.

    Parameters
    ----------
    energy : float
        Volts.

    Returns
    -------
    float
        1/Angstrom.
    """
    return 1.0 / wavelength(energy)


def relativistic_mass(energy: float) -> float:
    """
    gamma_rel: the mass over that at rest.

    Parameters
    ----------
    energy : float
        Volts.

    Returns
    -------
    float
    """
    return 1.0 + energy / REST_ENERGY


def energy_of(wavelength_: float) -> float:
    """
    The energy of a wavelength, as experiments have it.

    Parameters
    ----------
    wavelength_ : float
        Angstrom.

    Returns
    -------
    float
        Volts.
    """
    pc = constants.h * constants.c / (1e-10 * wavelength_ * constants.e)
    return math.sqrt(pc**2 + REST_ENERGY**2) - REST_ENERGY
