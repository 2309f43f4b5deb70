"""
Amplitudes from intensities, without phases: in roots no strong or wild intensity outweighs all others.

    amplitudes     sqrt(max(I, 0))       what R factors of amplitudes are made of
    signed_root    sign(I) sqrt|I|       keeps what is negative by chance, so that means of nothing are nothing
"""

from __future__ import annotations

import numpy as np


def amplitudes(intensity: np.ndarray) -> np.ndarray:
    """
    sqrt(max(I, 0)).

    Parameters
    ----------
    intensity : ndarray
        In any unit.

    Returns
    -------
    ndarray
        Of the same shape; NaN stays NaN.
    """
    return np.sqrt(np.maximum(intensity, 0.0))


def signed_root(intensity: np.ndarray) -> np.ndarray:
    """
    sign(I) sqrt|I|.

    Parameters
    ----------
    intensity : ndarray
        In any unit.

    Returns
    -------
    ndarray
        Of the same shape; NaN stays NaN.
    """
    return np.sign(intensity) * np.sqrt(np.abs(intensity))
