"""
Polarisation by two numbers in which the factor P is linear.

With unit vectors s0 along the beam, n the normal of the plane of polarisation, e = n x s0 in that plane and s to a
spot, the factor of files/dials/tables.py (Kahn et al., J. Appl. Cryst. 15 (1982) 330; DIALS,
algorithms/integration/corrections.h) is

    P = (1 - 2 f)(1 - (n.s)^2) + f (1 + (s0.s)^2) = 1 - (s_e^2 + s_n^2)/2 - Q (s_e^2 - s_n^2)/2,    Q = 2 f - 1

and where the plane is turned by psi about s0, from e to n, right-handed,

    P = 1 - (s_e^2 + s_n^2)/2 - [Q (s_e^2 - s_n^2) + U 2 s_e s_n]/2,    Q + i U = (2 f - 1) exp(2 i psi)

(Stokes parameters).  s_e^2 - s_n^2 = sin^2(2 theta) cos(2 phi): a wrong fraction shows in the azimuth phi of the
residuals, and a wrong direction in its sin(2 phi).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.stills.systematics.deviations import Recording

TURNED = 4.0  # esds of U from which on the fraction is taken in the direction found, and not in that of the models


@dataclass(frozen=True)
class Stokes:
    """P of each observation as constant (n,) + slopes (n, 2) . (Q, U), and (Q, U) as the models have them."""

    constant: np.ndarray
    slopes: np.ndarray
    model: np.ndarray

    def factor(self, stokes: np.ndarray) -> np.ndarray:
        """P (n,), kept off zero."""
        return np.maximum(self.constant + self.slopes @ stokes, 1e-3)


def stokes_of(recording: Recording, rows: np.ndarray, lattice: np.ndarray) -> Stokes | None:
    """
    P of observations as it is linear in Q and U.

    Parameters
    ----------
    recording : Recording
    rows, lattice : ndarray of int, shape (n,)
        The observations, and the lattice of each.

    Returns
    -------
    Stokes or None
        None where some are not polarised.
    """
    fraction = recording.fraction[lattice]
    if not np.isfinite(fraction).all() or not len(rows):
        return None
    s, s0, normal = recording.s1[rows], recording.s0[lattice], recording.normal[lattice]
    s_e, s_n = np.einsum("ij,ij->i", s, np.cross(normal, s0)), np.einsum("ij,ij->i", s, normal)
    slopes = -0.5 * np.column_stack([s_e**2 - s_n**2, 2.0 * s_e * s_n])
    return Stokes(1.0 - 0.5 * (s_e**2 + s_n**2), slopes, np.array([2.0 * float(np.mean(fraction)) - 1.0, 0.0]))


def fraction_and_direction(stokes: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Fraction f and direction psi of Q and U; a fraction below one half is polarisation along n.

    Parameters
    ----------
    stokes : ndarray, shape (2,)
        Q and U.
    covariance : ndarray, shape (2, 2)

    Returns
    -------
    values, esds : ndarray, shape (2,)
        f and psi (radians, within +-pi/4); the esd of psi is infinite of no polarisation at all.
    """
    q, u = stokes
    length = float(np.hypot(q, u))
    psi = 0.5 * float(np.arctan(u / q)) if q else 0.25 * np.pi * float(np.sign(u))
    along = np.array([np.cos(2.0 * psi), np.sin(2.0 * psi)])
    across = np.array([-along[1], along[0]])
    psi_esd = 0.5 * float(np.sqrt(across @ covariance @ across)) / length if length > 0.0 else np.inf
    if not abs(u) > TURNED * np.sqrt(covariance[1, 1]):
        along = np.array([1.0, 0.0])
    fraction = 0.5 * (1.0 + float(along @ stokes))
    return np.array([fraction, psi]), np.array([0.5 * float(np.sqrt(along @ covariance @ along)), psi_esd])
