"""
The absolute scale of a map (electrons^2 a unit cell) by the method of Norman, Acta Cryst. 1957, 10, 370,

    k = int (sum f^2 + S) s^2 ds / int I s^2 ds,

from s = |s| where atoms scatter as if they were alone, as I is by then without interference on average: k I is what a
unit cell scatters, with its incoherent part S.  Krogh-Moe's (1956) term of the mean density belongs to the scattering
about the origin, which no map has observed, and is left out.  Where Bragg peaks are masked I lacks their part, so that
with a mean B the coherent part expected is sum f^2 (1 - exp(-B s^2 / 2)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# From 1/d on, 1/Angstrom; and parts of the range from whose scatter the esd is, at most and at least.
LOWEST, MOST_PARTS, FEWEST_PARTS = 0.35, 8, 3


@dataclass(frozen=True)
class AbsoluteScale:
    """
    What a map is to be multiplied by to be in electrons^2 a unit cell, with its esd, by which the parts of the range
    d_max to d_min (Angstrom) differ; the part of it that is incoherent there.
    """

    factor: float
    esd: float
    d_max: float
    d_min: float
    incoherent: float


def absolute_scale(
    s: np.ndarray, intensity: np.ndarray, coherent: np.ndarray, incoherent: np.ndarray, b_factor: float = 0.0
) -> AbsoluteScale | None:
    """
    The scale of an isotropic part.

    Parameters
    ----------
    s, intensity : ndarray (n,)
        1/Angstrom, in ascending order, and what is observed.
    coherent, incoherent : ndarray (n,)
        Of the atoms in a unit cell, electrons^2.
    b_factor : float
        B of the Bragg peaks that are not in the intensity, Angstrom^2; 0: none is missing.

    Returns
    -------
    AbsoluteScale, or None
        None where the map does not reach far enough.
    """
    used = np.flatnonzero((s >= LOWEST) & np.isfinite(intensity))
    n_parts = min(len(used), MOST_PARTS)
    if n_parts < FEWEST_PARTS:
        return None
    s, intensity, coherent, incoherent = (one[used] for one in (s, intensity, coherent, incoherent))
    if b_factor > 0.0:
        coherent = coherent * (1.0 - np.exp(-0.5 * b_factor * s * s))
    weight = s * s * np.gradient(s)
    expected, observed = weight * (coherent + incoherent), weight * intensity
    parts = np.array_split(np.arange(len(s)), n_parts)
    ratios = np.array([[expected[part].sum(), observed[part].sum()] for part in parts])
    if (ratios[:, 1] <= 0.0).any():
        return None
    factor = float(expected.sum() / observed.sum())
    residual = ratios[:, 0] - factor * ratios[:, 1]
    esd = float(np.sqrt(np.sum(residual**2) * n_parts / (n_parts - 1.0)) / observed.sum())
    part = float(np.sum(weight * incoherent) / expected.sum())
    return AbsoluteScale(factor, esd, float(1.0 / s[0]), float(1.0 / s[-1]), part)
