"""
Free reflections: unique indices that no fit has seen, and what they say of each lattice.

A fraction of the indices of the asymmetric unit, and with them their whole symmetry orbits, takes no part in any fit,
in the means, scales and error model that lead to it, or in where the cycles stop; it is the same for every lattice and
does not depend on what was observed: an index is free if a hash of it and the seed says so.  It is merged all the same,
once the fits are done.  With the amplitudes a = sign(I) sqrt|I|, over a lattice's free reflections,

    CC_free = Pearson's correlation of a_obs and a_calc,      R_free = sum |a_obs - a_calc| / sum |a_obs|.

Amplitudes, because of intensities a few strong or wild ones make up most of both.  `after` is the refined lattice,
`before` the unrefined one: theta = 0, B = 0, r_s = RMS(r_h), and as scale (sum a_obs a_calc / sum a_calc^2)^2 over the
working reflections.  Both are compared with the same reference, the external one or the mean of the other lattices.

A lattice is worse, and goes back to its unrefined geometry, if CC_free falls and R_free rises by more than chance: with
d_i = |a_obs - a_after|_i - |a_obs - a_before|_i, whose sum is the change of R_free's numerator,

    t = <d> / (s_d / sqrt(n)),   1 - T_(n-1)(t) < SIGNIFICANCE,      T Student's distribution.

The two residuals of a reflection share its error of measurement, so that differences tell more than the figures do.
Of lattices for which refining changes nothing one in twenty or less goes back.  Without the test far too many would:
of 376 simulated stills that the fit has truly improved (those of benchmarks/accuracy.py, self-merged, 27 free
reflections each) CC_free falls for 21, and the test sends back none; of 368 with 5 free reflections each, 100 and 3.
To send back all of them takes R of the amplitudes against the truth from 0.084 to 0.091, and from 0.118 to 0.167.  Of
lattices turned away from the truth on purpose, by 0.05, 0.08 and 0.12 degrees, the test finds 23, 34 and 53 % by 5 % of
the reflections, 34, 51 and 73 % by 10 %, and 46, 74 and 92 % by 20 %.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.correlation import grouped_correlation
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.firstmean import start_partialities
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_others

SIGNIFICANCE = 0.05
FEWEST = 3  # for a verdict, as for a correlation


@dataclass
class FreeAgreement:
    """
    Each lattice (L,) and the free reflections: their number n, CC_free and R_free before and after, whether it is worse
    and whether it was reverted to its unrefined geometry.  NaN of too few, or where there was no fit.  predicted (n,):
    what the refined lattices calculate for each observation, (0,) where nothing was held out.
    """

    n: np.ndarray
    cc_before: np.ndarray
    cc_after: np.ndarray
    r_before: np.ndarray
    r_after: np.ndarray
    worse: np.ndarray
    reverted: np.ndarray
    predicted: np.ndarray


def no_agreement(n_lattices: int) -> FreeAgreement:
    """
    The agreement where nothing was held out.

    Parameters
    ----------
    n_lattices : int

    Returns
    -------
    FreeAgreement
    """
    unknown, no = np.full(n_lattices, np.nan), np.zeros(n_lattices, dtype=bool)
    return FreeAgreement(np.zeros(n_lattices, dtype=int), unknown, unknown, unknown, unknown, no, no, np.zeros(0))


def free_set(h: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """
    Which indices are free.

    Parameters
    ----------
    h : ndarray of int, shape (n, 3)
        Miller indices of the asymmetric unit.
    fraction : float
        How many of them, from 0 to 1; the free ones of a smaller fraction are among those of a larger one.
    seed : int

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    limit = fraction * 2.0**64
    digests = (hashlib.md5(f"{seed} {i} {j} {k}".encode()).digest() for i, j, k in h.tolist())
    return np.array([int.from_bytes(digest[:8], "big") < limit for digest in digests], dtype=bool)


def compare(
    stills: Stills, settings: FitSettings, held_out: np.ndarray, reference: np.ndarray, refined: np.ndarray
) -> FreeAgreement:
    """
    CC_free and R_free before and after (module docstring).

    Parameters
    ----------
    stills : Stills
        L lattices, n observations.
    settings : FitSettings
        Of the fits: what the unrefined lattices start from follows from it.
    held_out : ndarray of bool, shape (n_unique,)
        The free indices.
    reference : ndarray, shape (n,)
        Full intensity that each observation is compared with, NaN where there is none.
    refined : ndarray, shape (n,)
        What the refined lattices calculate, NaN where there was no fit.

    Returns
    -------
    FreeAgreement
        In which no lattice is reverted yet.
    """
    n_lattices = stills.n_lattices
    free = np.flatnonzero(held_out[stills.unique] & np.isfinite(reference))
    lattice = stills.lattice()[free]
    observed = signed_root(stills.intensity[free])
    unrefined = unrefined_intensities(stills, settings, held_out, reference)[free]
    before, after = signed_root(unrefined), signed_root(refined[free])
    off_before, off_after = np.abs(observed - before), np.abs(observed - after)
    total = np.bincount(lattice, np.abs(observed), n_lattices)
    with np.errstate(invalid="ignore", divide="ignore"):
        r_before = np.bincount(lattice, off_before, n_lattices) / total
        r_after = np.bincount(lattice, off_after, n_lattices) / total
    n = np.bincount(lattice, minlength=n_lattices)
    cc_before, cc_after = (grouped_correlation(observed, a, lattice, n_lattices) for a in (before, after))
    # where all that is calculated is the same there is no correlation left
    falls = np.nan_to_num(cc_after) < cc_before
    worse = falls & (probability(off_after - off_before, lattice, n_lattices) < SIGNIFICANCE)
    return FreeAgreement(n, cc_before, cc_after, r_before, r_after, worse, np.zeros(n_lattices, dtype=bool), refined)


def mean_cc_free(stills: Stills, held_out: np.ndarray, scaled: Scaled, mean: WeightedMean) -> float:
    """
    The mean CC_free of the accepted lattices, each compared with the mean of the others.

    Parameters
    ----------
    stills : Stills
    held_out : ndarray of bool, shape (n_unique,)
        The free indices.
    scaled : Scaled
    mean : WeightedMean
        Of all observations, as is scaled, the free ones among them.

    Returns
    -------
    float
        NaN where there is none.
    """
    reference = mean_of_others(stills, mean)
    free = np.flatnonzero(held_out[stills.unique] & np.isfinite(reference) & scaled.kept)
    observed = signed_root(stills.intensity[free])
    calculated = signed_root(scaled.partiality[free] * scaled.scale[free] * reference[free])
    found = grouped_correlation(observed, calculated, stills.lattice()[free], stills.n_lattices)
    return float(np.mean(found[np.isfinite(found)])) if np.isfinite(found).any() else np.nan


def unrefined_intensities(
    stills: Stills, settings: FitSettings, held_out: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """
    What the unrefined lattices calculate (module docstring).

    Parameters
    ----------
    stills, settings, held_out, reference
        As `compare` takes them.

    Returns
    -------
    ndarray, shape (n,)
        NaN where there is no reference or no scale.
    """
    p, shape = start_partialities(stills, settings)
    intensity, lattice = shape * p * reference, stills.lattice()
    working = np.isfinite(intensity) & ~held_out[stills.unique]
    a, b = signed_root(stills.intensity[working]), signed_root(intensity[working])
    ab, bb = (np.bincount(lattice[working], products, stills.n_lattices) for products in (a * b, b * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(ab > 0.0, (ab / bb) ** 2, np.nan)
    return scale[lattice] * intensity


def probability(d: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    The probability that <d> of each group is so large by chance (module docstring).

    Parameters
    ----------
    d : ndarray, shape (n,)
    group : ndarray of int, shape (n,)
        The group of each, 0 to n_groups - 1.
    n_groups : int

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN of fewer than FEWEST.
    """
    n = np.bincount(group, minlength=n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, d, n_groups) / n
        variance = np.bincount(group, (d - mean[group]) ** 2, n_groups) / (n - 1)
        t = mean / np.sqrt(variance / n)
    return np.where(n >= FEWEST, stdtr(np.maximum(n - 1.0, 1.0), -t), np.nan)
