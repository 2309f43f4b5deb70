"""
Partiality p of a reciprocal-lattice point of radius r_s at the distance r_h from the Ewald sphere.

    hard_sphere   p = 1 - r_h^2/r_s^2 inside, 0 outside
    lorentzian    p = r_s^2 / (2 r_h^2 + r_s^2)
    gaussian      p = exp(-2 ln2 r_h^2/r_s^2)

The last two are one half at r_h = r_s/sqrt(2).  Each function takes r_h (n,) and r_s (scalar or (n,)) in 1/Angstrom and
returns p, dp/dr_h and dp/dr_s, each (n,).  To add a profile: write its function here and its line in PROFILES and
START_RADIUS; the finite-difference test in tests/stills/test_partiality.py picks it up.  Source: postrefinement.md.
"""

from __future__ import annotations

import numpy as np

TWO_LN2 = 2.0 * np.log(2.0)


def hard_sphere(r_h, r_s):
    """p = 1 - r_h^2/r_s^2 where |r_h| < r_s, else 0 with no gradient."""
    ratio = r_h / r_s
    inside = np.abs(ratio) < 1.0
    ratio = np.where(inside, ratio, 0.0)
    p = np.where(inside, 1.0 - ratio**2, 0.0)
    return p, -2.0 * ratio / r_s, 2.0 * ratio**2 / r_s


def lorentzian(r_h, r_s):
    """p = r_s^2 / (2 r_h^2 + r_s^2)."""
    r_s_sq, r_h_sq = r_s * r_s, r_h * r_h
    inverse = 1.0 / (2.0 * r_h_sq + r_s_sq)
    factor = 4.0 * r_s * inverse * inverse
    return r_s_sq * inverse, -factor * r_s * r_h, factor * r_h_sq


def gaussian(r_h, r_s):
    """p = exp(-2 ln2 r_h^2/r_s^2)."""
    ratio = r_h / r_s
    p = np.exp(-TWO_LN2 * ratio**2)
    slope = 2.0 * TWO_LN2 * p * ratio / r_s
    return p, -slope, slope * ratio


PROFILES = {"hard_sphere": hard_sphere, "lorentzian": lorentzian, "gaussian": gaussian}

# r_s starts at this many times RMS(r_h).  At r_s = RMS the hard sphere leaves 42 % of the spots of a uniform window at
# p = 0 without a gradient; sqrt(3) RMS is that window's edge.
START_RADIUS = {"hard_sphere": np.sqrt(3.0), "lorentzian": 1.0, "gaussian": 1.0}
