"""
Where the dynamical factor d enters: before the data are scaled, or after.

Scaling that has not heard of multiple scattering takes some of it for a property of images or of the crystal's shape,
and what it calls outliers are often reflections with an unusual d.  Corrected intensities of either order are compared
with single scattering, and among themselves:

    R1 = sum|F - k F_kin|/sum F,  F = sqrt(I) of the strong ones (I > 3 sigma),  k = sum F F_kin/sum F_kin^2

and tau and R_meas of symmetry equivalents (spread/), with the variances of the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.spread.imagespread import r_meas
from dials_postrefine.electron.spread.spread import Tau, find_equivalents, fit_tau

STRONG = 3.0


@dataclass(frozen=True)
class Order:
    """One of the orders by name, with R1 to single scattering, tau and R_meas of its corrected intensities."""

    name: str
    r1: float
    tau: Tau
    r_meas: float


def measure_order(
    name: str, unique: np.ndarray, intensity: np.ndarray, variance: np.ndarray, kinematical: np.ndarray
) -> Order:
    """
    How well corrected intensities agree (module docstring).

    Parameters
    ----------
    name : str
    unique : ndarray of int, shape (n,)
    intensity, variance : ndarray, shape (n,)
        Corrected and scaled.
    kinematical : ndarray, shape (n,)
        Of whole reflections, on one scale.

    Returns
    -------
    Order

    Raises
    ------
    Unusable
        Where too few symmetry equivalents were observed.
    """
    equivalents = find_equivalents(unique, intensity, variance)
    strong = (intensity > STRONG * np.sqrt(variance)) & (kinematical > 0.0)
    f, f_kin = np.sqrt(intensity[strong]), np.sqrt(kinematical[strong])
    k = f @ f_kin / (f_kin @ f_kin) if len(f) else np.nan
    r1 = float(np.abs(f - k * f_kin).sum() / f.sum()) if len(f) else np.nan
    return Order(name, r1, fit_tau(equivalents), r_meas(equivalents))
