"""
The detector: the variance of what it counts, and a deconvolution.

    1/DQE = A + Delta x + var_B/x,      raw: sigma^2 = m g x/DQE,      deconvolved: g x + m g x (1/DQE - 1)

(Zuo 2000, Microscopy Research and Technique 49, 245), x counts above the dark current, g counts an electron, m the
mixing of neighbouring pixels by the detector's point spread.  Lucy and Richardson (1974, Astronomical Journal 79, 745):

    y <- y (P^T (x/P y)),     y = x at first, positive
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.fine.pointspread import convolve

LEAST = 1.0  # counts, below which the variance does not fall


@dataclass(frozen=True)
class Detector:
    """var_B, Delta, A, g and m (module docstring), and whether the data were deconvolved."""

    var_b: float
    delta: float
    a: float
    gain: float
    m: float
    deconvolved: bool = False

    def variance(self, counts: np.ndarray) -> np.ndarray:
        """sigma^2 of counts."""
        x = np.maximum(counts, LEAST)
        noise = self.a + self.delta * x + self.var_b / x
        if self.deconvolved:
            return self.gain * x + self.m * self.gain * x * np.maximum(noise - 1.0, 0.0)
        return self.m * self.gain * x * noise


def deconvolve(images: np.ndarray, kernel: np.ndarray, n_iterations: int) -> np.ndarray:
    """
    Images without the point spread of the detector (module docstring).

    Parameters
    ----------
    images : ndarray, shape (d, y, x)
    kernel : ndarray, shape (2 h + 1, 2 h + 1)
        P, of the sum 1.
    n_iterations : int

    Returns
    -------
    ndarray, shape (d, y, x)
    """
    x = np.maximum(images, 1e-6)
    y, turned = x.copy(), kernel[::-1, ::-1]
    for _ in range(n_iterations):
        y *= convolve(x / np.maximum(convolve(y, kernel), 1e-9), turned)
        y = np.maximum(y, 1e-9)
    return y
