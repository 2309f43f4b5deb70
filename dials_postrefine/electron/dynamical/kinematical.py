"""
What single scattering would give in the place of the dynamical intensities.

    I_kin = |U_h|^2 weight int_start^end t sinc^2(pi s t) dphi,      int t sinc^2(pi s t) ds = F(s),
    F(s) = Si(2 pi s t)/pi - sin^2(pi s t)/(pi^2 s t)

so that a curve that was seen as a whole has |U_h|^2 weight/|ds/dphi|.  The interval is cut where s is known, and each
piece is (F(s_2) - F(s_1))/(s_2 - s_1) dphi.
"""

from __future__ import annotations

import numpy as np
from scipy.special import sici

from dials_postrefine.electron.bloch.potential import Scattering, coefficients
from dials_postrefine.numerics.frames import (
    FrameData,
    excitation_errors_in_the_middle,
    slopes_of_excitation,
)
from dials_postrefine.scattering.electron_atoms import ElectronAtoms

PIECES = 32  # of half a turn of a precession


def kinematical_intensities(
    data: FrameData, atoms: ElectronAtoms, scattering: Scattering, thickness: float
) -> np.ndarray:
    """
    I_kin of all observations.

    Parameters
    ----------
    data : FrameData
        In the setting of the atoms.
    atoms : ElectronAtoms
    scattering : Scattering
    thickness : float
        Angstrom.

    Returns
    -------
    ndarray, shape (n,)
    """
    u, _ = coefficients(atoms, data.frames.a_matrix[0], data.h, scattering)
    s = excitation_errors_in_the_middle(data)
    if data.frames.motion == "precession":
        half_turn = np.linspace(0.0, np.pi, PIECES + 1)
        reach = data.d_star * np.sin(data.frames.semi_width[data.frame])
        of_node = s[:, None] + reach[:, None] * np.cos(half_turn)
        angle = 2.0 * np.diff(half_turn) * np.ones((data.n, 1))
    else:
        slope = slopes_of_excitation(data)
        of_node = s[:, None] + slope[:, None] * np.stack([data.start, data.end], axis=1)
        angle = (data.end - data.start)[:, None]
    along = np.diff(of_node, axis=1)
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    curve = np.sum(
        (_integral(of_node[:, :-1] + along, thickness) - _integral(of_node[:, :-1], thickness)) / along * angle, axis=1
    )
    return np.abs(u) ** 2 * data.weight * curve


def _integral(s: np.ndarray, thickness: float) -> np.ndarray:
    """F (module docstring)."""
    x = np.pi * s * thickness
    safe = np.where(np.abs(x) < 1e-9, 1e-9, x)
    return (sici(2.0 * safe)[0] - np.sin(safe) ** 2 / safe) / np.pi
