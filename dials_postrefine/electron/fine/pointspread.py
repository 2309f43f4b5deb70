"""
The point spread of a LARBED pattern: a radial Voigt profile.

    P(r) ~ Re w(z),   z = (r + i gamma)/(sigma sqrt 2),   w(z) = exp(-z^2) erfc(-iz),   w' = -2 z w + 2i/sqrt(pi)

r, sigma (of the Gaussian) and gamma (of the Lorentzian) in pixels, on a square of 2 h + 1 pixels, normalised to the sum
1.  Beyond the edge of an image the pixels at the edge go on.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve
from scipy.special import wofz


def voigt_kernel(sigma: float, gamma: float, half_width: int = 10, step: int = 1) -> np.ndarray:
    """
    P and its derivatives.

    Parameters
    ----------
    sigma, gamma : float
        Pixels.
    half_width : int
        h.
    step : int
        Of images of which every so manieth row and column is taken: r is in the pixels of the whole ones.

    Returns
    -------
    ndarray, shape (3, 2 h + 1, 2 h + 1)
        P, dP/dsigma, dP/dgamma.
    """
    axis = np.arange(-half_width, half_width + 1, dtype=float)
    r = step * np.hypot(axis[:, None], axis)
    z = (r + 1j * gamma) / (sigma * np.sqrt(2.0))
    w = wofz(z)
    slope = -2.0 * z * w + 2j / np.sqrt(np.pi)
    profile = w.real
    by_sigma, by_gamma = np.real(-slope * z / sigma), np.real(1j * slope / (sigma * np.sqrt(2.0)))
    total = profile.sum()
    normalised = profile / total
    return np.array(
        [normalised, *((one - normalised * one.sum()) / total for one in (by_sigma, by_gamma))],
    )


def convolve(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """
    Images with a point spread.

    Parameters
    ----------
    images : ndarray, shape (..., y, x)
    kernel : ndarray, shape (2 h + 1, 2 h + 1)

    Returns
    -------
    ndarray, shape (..., y, x)
    """
    half = kernel.shape[0] // 2
    flat = images.reshape(-1, *images.shape[-2:])
    padded = np.pad(flat, ((0, 0), (half, half), (half, half)), mode="edge")
    return fftconvolve(padded, kernel[None], mode="valid", axes=(1, 2)).reshape(images.shape)
