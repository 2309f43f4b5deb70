"""
Partiality p of a reciprocal-lattice point of radius r_s at the distance r_h from the Ewald sphere.

    hard_sphere   p = 1 - r_h^2/r_s^2 inside, 0 outside
    pearson_vii   p = u^-m,     u = 1 + a r_h^2/r_s^2,     a = 2 (2^(1/m) - 1)
    lorentzian    p = r_s^2 / (2 r_h^2 + r_s^2)            Pearson VII with m = 1
    gaussian      p = exp(-2 ln2 r_h^2/r_s^2)              Pearson VII with m -> infinity

The last three are one half at r_h = r_s/sqrt(2), for every exponent m.  With t = r_h/r_s,

    dp/dr_h = -2 m a t p/(u r_s),    dp/dr_s = 2 m a t^2 p/(u r_s),
    dp/dm = p (2 ln2 2^(1/m) t^2/(m u) - ln u).

A Profile takes r_h (n,) and r_s (scalar or (n,)) in 1/Angstrom and returns p, dp/dr_h and dp/dr_s, each (n,).  To add
one: write its function here and its line in PROFILES and START_RADIUS, and its number and formula in kernels.py; the
tests in tests/stills/test_partiality.py and test_batch.py pick it up.  Source: postrefinement.md, Model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TWO_LN2 = 2.0 * np.log(2.0)
USUAL_EXPONENT = 2.0  # of real stills (postrefinement.md)


def hard_sphere(r_h, r_s, m=None):
    """
    p = 1 - r_h^2/r_s^2 where |r_h| < r_s, else 0 with no gradient.

    Parameters
    ----------
    r_h : ndarray, shape (n,)
        1/Angstrom.
    r_s : float or ndarray, shape (n,)
        1/Angstrom.
    m : float, optional
        Of no meaning here.

    Returns
    -------
    p, dp_dr_h, dp_dr_s : ndarray, shape (n,)
        The derivatives in Angstrom.
    """
    ratio = r_h / r_s
    inside = np.abs(ratio) < 1.0
    ratio = np.where(inside, ratio, 0.0)
    p = np.where(inside, 1.0 - ratio**2, 0.0)
    return p, -2.0 * ratio / r_s, 2.0 * ratio**2 / r_s


def lorentzian(r_h, r_s, m=None):
    """
    p = r_s^2 / (2 r_h^2 + r_s^2).

    Parameters
    ----------
    r_h : ndarray, shape (n,)
        1/Angstrom.
    r_s : float or ndarray, shape (n,)
        1/Angstrom.
    m : float, optional
        Of no meaning here.

    Returns
    -------
    p, dp_dr_h, dp_dr_s : ndarray, shape (n,)
        The derivatives in Angstrom.
    """
    r_s_sq, r_h_sq = r_s * r_s, r_h * r_h
    inverse = 1.0 / (2.0 * r_h_sq + r_s_sq)
    factor = 4.0 * r_s * inverse * inverse
    return r_s_sq * inverse, -factor * r_s * r_h, factor * r_h_sq


def gaussian(r_h, r_s, m=None):
    """
    p = exp(-2 ln2 r_h^2/r_s^2).

    Parameters
    ----------
    r_h : ndarray, shape (n,)
        1/Angstrom.
    r_s : float or ndarray, shape (n,)
        1/Angstrom.
    m : float, optional
        Of no meaning here.

    Returns
    -------
    p, dp_dr_h, dp_dr_s : ndarray, shape (n,)
        The derivatives in Angstrom.
    """
    ratio = r_h / r_s
    p = np.exp(-TWO_LN2 * ratio**2)
    slope = 2.0 * TWO_LN2 * p * ratio / r_s
    return p, -slope, slope * ratio


def pearson_vii(r_h, r_s, m):
    """
    p = [1 + 2 (2^(1/m) - 1) r_h^2/r_s^2]^-m.

    Parameters
    ----------
    r_h : ndarray, shape (n,)
        1/Angstrom.
    r_s : float or ndarray, shape (n,)
        1/Angstrom.
    m : float
        The exponent, positive.

    Returns
    -------
    p, dp_dr_h, dp_dr_s : ndarray, shape (n,)
        The derivatives in Angstrom.
    """
    a = 2.0 * np.expm1(np.log(2.0) / m)
    ratio = r_h / r_s
    u = 1.0 + a * ratio**2
    p = np.exp(-m * np.log1p(a * ratio**2))
    slope = 2.0 * m * a * ratio * p / (u * r_s)
    return p, -slope, slope * ratio


PROFILES = {"pearson_vii": pearson_vii, "hard_sphere": hard_sphere, "lorentzian": lorentzian, "gaussian": gaussian}

# r_s starts at this many times RMS(r_h).  At r_s = RMS the hard sphere leaves 42 % of the spots of a uniform window at
# p = 0 without a gradient; sqrt(3) RMS is that window's edge.
START_RADIUS = {"pearson_vii": 1.0, "hard_sphere": np.sqrt(3.0), "lorentzian": 1.0, "gaussian": 1.0}


@dataclass(frozen=True)
class Profile:
    """
    A profile by its name, one of PROFILES.

    Parameters
    ----------
    name : str
    exponent : float
        m of Pearson VII, positive; of no meaning for the others.
    """

    name: str = "pearson_vii"
    exponent: float = USUAL_EXPONENT

    def __call__(self, r_h: np.ndarray, r_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """p, dp/dr_h and dp/dr_s, each (n,) (module docstring)."""
        return PROFILES[self.name](r_h, r_s, self.exponent)

    @property
    def start_radius(self) -> float:
        """What r_s starts at, in units of RMS(r_h)."""
        return START_RADIUS[self.name]

    def __str__(self) -> str:
        return f"{self.name}({self.exponent:.3g})" if self.name == "pearson_vii" else self.name


def find_profile(profile: Profile | str) -> Profile:
    """
    The profile, or the one of a name: of Pearson VII with the usual exponent.

    Parameters
    ----------
    profile : Profile or str
        A name is one of PROFILES.

    Returns
    -------
    Profile
    """
    return Profile(profile) if isinstance(profile, str) else profile
