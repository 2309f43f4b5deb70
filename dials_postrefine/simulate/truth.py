"""How far merged intensities are from the true ones."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def r_to_truth(intensity: np.ndarray, truth: np.ndarray, d_star_sq: np.ndarray) -> tuple[float, np.ndarray]:
    """
    R of amplitudes against the truth after one scale and one isotropic B: without a reference neither is determined.

    R = sum |F - F_true| / sum F_true with F = k exp(-b d*^2) sqrt(max(I, 0)), k and b minimising R.

    Parameters
    ----------
    intensity : ndarray, shape (n,)
        NaN is left out.
    truth : ndarray, shape (n,)
        True intensities; those that are not positive are left out.
    d_star_sq : ndarray, shape (n,)
        In 1/Angstrom^2.

    Returns
    -------
    r : float
    f : ndarray, shape (n,)
        F, NaN of what was left out.
    """
    known = np.isfinite(intensity) & (truth > 0.0)
    root, f_true, x = np.sqrt(np.maximum(intensity[known], 0.0)), np.sqrt(truth[known]), d_star_sq[known]

    def r(parameters):
        return np.abs(np.exp(parameters[0] - parameters[1] * x) * root - f_true).sum() / f_true.sum()

    start = [np.log(f_true.sum() / root.sum()), 0.0]
    best = minimize(r, start, method="Nelder-Mead", options={"xatol": 1e-4})
    f = np.full(len(intensity), np.nan)
    f[known] = np.exp(best.x[0] - best.x[1] * x) * root
    return float(best.fun), f
