"""
The model of one lattice: calculated intensities and their derivatives by the parameters.

    I_calc = G exp(-2 B d*^2) p(r_h, r_s) I_ref,      exp(-2 B d*^2) = exp(-8 B sin^2(theta)/lambda^2)

B (A^2) is a quarter of the conventional one.  The parameter vector is

    x = (ln G, B, theta_x, theta_y, ln r_s)

with ln G and ln r_s because G and r_s are positive (p depends on r_s^2, so that a free r_s can converge to -r_s).
`rs` refines the first four, `rs_hybrid` then all five.  The derivatives follow by the chain rule

    dI/dlnG = I,  dI/dB = -2 d*^2 I,  dI/dtheta = G e I_ref dp/dr_h dr_h/dtheta,  dI/dln r_s = G e I_ref dp/dr_s r_s

with p from partiality.py and r_h from geometry.py.  Source: postrefinement.md, Model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.rotations import rotate, rotate_with_derivatives
from dials_postrefine.stills.geometry import excitation, excitation_with_derivatives
from dials_postrefine.stills.partiality import PROFILES

PARAMETERS = ("scale", "b_factor", "theta_x", "theta_y", "radius")
LN_SCALE, B_FACTOR, THETA_X, THETA_Y, LN_RADIUS = range(5)

# The parameters that each round of a model refines.
ROUNDS = {"rs": (PARAMETERS[:4],), "rs_hybrid": (PARAMETERS[:4], PARAMETERS)}

# exp(-2 B d*^2) of a trial step must stay a number: the exponent is clipped here, far beyond any accepted B.
MAX_EXPONENT = 50.0


@dataclass
class Observations:
    """
    The observations of one lattice, n reflections.

    q (n, 3) scattering vectors A_ref h in 1/Angstrom, q_sq = |q|^2 (n,), s0 (3,) in 1/Angstrom, intensity and variance
    (n,) corrected for polarisation and detector efficiency, reference (n,) full intensities, NaN where there is none.
    """

    q: np.ndarray
    q_sq: np.ndarray
    s0: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    reference: np.ndarray

    def select(self, mask: np.ndarray) -> Observations:
        """The observations where mask (n,) holds."""
        return Observations(
            self.q[mask], self.q_sq[mask], self.s0, self.intensity[mask], self.variance[mask], self.reference[mask]
        )

    def __len__(self) -> int:
        return len(self.q_sq)


def scale_factor(x: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    """G exp(-2 B d*^2), shape (n,)."""
    return np.exp(np.clip(x[LN_SCALE] - 2.0 * x[B_FACTOR] * q_sq, -MAX_EXPONENT, MAX_EXPONENT))


def scale_variance(x: np.ndarray, covariance: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    """
    The variance of G exp(-2 B d*^2), shape (n,), from the covariance (5, 5) of x.

    (G e)^2 (C_00 - 4 d*^2 C_01 + 4 d*^4 C_11), by first-order propagation.
    """
    relative = (
        covariance[LN_SCALE, LN_SCALE]
        - 4.0 * q_sq * covariance[LN_SCALE, B_FACTOR]
        + 4.0 * q_sq**2 * covariance[B_FACTOR, B_FACTOR]
    )
    return scale_factor(x, q_sq) ** 2 * np.maximum(relative, 0.0)


def partiality(x: np.ndarray, observations: Observations, profile: str) -> np.ndarray:
    """p(r_h, r_s), shape (n,)."""
    r_h = excitation(observations.q, observations.q_sq, observations.s0, rotate(x[THETA_X], x[THETA_Y]))
    return PROFILES[profile](r_h, np.exp(x[LN_RADIUS]))[0]


def calculate(x: np.ndarray, observations: Observations, profile: str) -> np.ndarray:
    """I_calc, shape (n,)."""
    return scale_factor(x, observations.q_sq) * partiality(x, observations, profile) * observations.reference


def calculate_with_jacobian(x: np.ndarray, observations: Observations, profile: str) -> tuple[np.ndarray, np.ndarray]:
    """I_calc (n,) and its derivatives by all of x (n, 5)."""
    r_h, dr_x, dr_y = excitation_with_derivatives(
        observations.q, observations.q_sq, observations.s0, rotate_with_derivatives(x[THETA_X], x[THETA_Y])
    )
    r_s = np.exp(x[LN_RADIUS])
    p, dp_dr_h, dp_dr_s = PROFILES[profile](r_h, r_s)
    full = scale_factor(x, observations.q_sq) * observations.reference
    jacobian = np.empty((len(p), 5))
    jacobian[:, LN_SCALE] = i_calc = full * p
    jacobian[:, B_FACTOR] = -2.0 * observations.q_sq * i_calc
    slope = full * dp_dr_h
    jacobian[:, THETA_X] = slope * dr_x
    jacobian[:, THETA_Y] = slope * dr_y
    jacobian[:, LN_RADIUS] = full * dp_dr_s * r_s
    return i_calc, jacobian
