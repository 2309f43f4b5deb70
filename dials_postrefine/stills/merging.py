"""
Merging of scaled observations, outliers, half sets and statistics by resolution shell.

    I = sum w_i I_i / sum w_i,   sigma^2 = 1 / sum w_i,   w_i = 1/var_i

over the observations of one unique index, as cctbx's merge_equivalents and hence dials.merge do.

    CC1/2    Pearson's correlation of two half sets' merged intensities (Karplus and Diederichs 2012)
    R_split  = 2^(-1/2) sum |I_1 - I_2| / (1/2 sum (I_1 + I_2))      (White et al. 2012)

Unique indices are numbered 0 to n_unique - 1; every function takes that number per observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.loops import medians_of_groups
from dials_postrefine.numerics.robust import MAD_TO_SIGMA
from dials_postrefine.numerics.shells import resolution_range
from dials_postrefine.stills.wilson import LEAST_PROBABLE, LEAST_PROBABLE_OF_TWO, WilsonPrior

FEWEST_FOR_MAD = 5
# A mean of the others must not be made of the vanishing remainder that taking a lattice's own weight off leaves.
MIN_OTHER_WEIGHT = 1e-6


@dataclass
class Merged:
    """Sums over each unique index: sum_w, sum_wi (sum of w I) and n, each (n_unique,)."""

    sum_w: np.ndarray
    sum_wi: np.ndarray
    n: np.ndarray

    @property
    def intensity(self) -> np.ndarray:
        """The merged intensity, NaN where nothing was observed."""
        return np.divide(self.sum_wi, self.sum_w, out=np.full(len(self.sum_w), np.nan), where=self.sum_w > 0.0)

    @property
    def sigma(self) -> np.ndarray:
        """Its standard deviation, NaN where nothing was observed."""
        return np.divide(1.0, np.sqrt(self.sum_w), out=np.full(len(self.sum_w), np.nan), where=self.sum_w > 0.0)


@dataclass
class MergedShell:
    """
    Statistics of one resolution shell, d in Angstrom; NaN where too little is there.

    cc_half and r_split compare half sets of one data set, cc_half_honest and r_split_honest those of
    crossvalidation.py.  Where Friedel pairs are apart, n_pairs, anom_completeness, cc_anom, cc_anom_honest and
    dano_over_sigma are of the differences I+ - I- (friedel.py); else these are 0 and NaN.
    """

    d_max: float
    d_min: float
    n_observations: int
    n_unique: int
    n_possible: int
    completeness: float
    multiplicity: float
    i_over_sigma: float
    cc_half: float
    r_split: float
    cc_reference: float
    cc_half_honest: float = np.nan
    r_split_honest: float = np.nan
    n_pairs: int = 0
    anom_completeness: float = np.nan
    cc_anom: float = np.nan
    cc_anom_honest: float = np.nan
    dano_over_sigma: float = np.nan


def merge(value: np.ndarray, variance: np.ndarray, unique: np.ndarray, n_unique: int) -> Merged:
    """
    Merge observations with the weights 1/variance (module docstring).

    Parameters
    ----------
    value, variance : ndarray, shape (n,)
    unique : ndarray of int, shape (n,)
        Number of the unique index.
    n_unique : int

    Returns
    -------
    Merged
    """
    weight = 1.0 / variance
    return Merged(
        np.bincount(unique, weight, n_unique),
        np.bincount(unique, weight * value, n_unique),
        np.bincount(unique, minlength=n_unique),
    )


def find_outliers(
    value: np.ndarray,
    variance: np.ndarray,
    unique: np.ndarray,
    n_unique: int,
    z_max: float = 6.0,
    prior: WilsonPrior | None = None,
    at_least: np.ndarray | None = None,
) -> np.ndarray:
    """
    Observations that can't be of their unique index.

    Of three or more observations one is out that is z_max times its expected spread from the median m, on either side:
    |I - m| > z_max max(sqrt(variance), 1.48 MAD), the median absolute deviation of the index counting where there are
    FEWEST_FOR_MAD.  Where no third one decides, Wilson statistics do: of two that differ by more than z_max times the
    spread of their difference the larger one is out if its probability is below LEAST_PROBABLE_OF_TWO, and what stands
    alone if it is below LEAST_PROBABLE (wilson.py).

    Parameters
    ----------
    value, variance : ndarray, shape (n,)
        Scaled observations.
    unique : ndarray of int, shape (n,)
        Number of the unique index.
    n_unique : int
    z_max : float
    prior : WilsonPrior, optional
        Without it nothing more than by the first rule is out.
    at_least : ndarray, shape (n,), optional
        The intensity that is at least there, whose probability counts: I - 3 sqrt(variance) unless given.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    median = medians_of_groups(value, unique, n_unique, False)
    n = np.bincount(unique, minlength=n_unique)
    off = np.abs(value - median[unique])
    mad = np.where(n >= FEWEST_FOR_MAD, MAD_TO_SIGMA * medians_of_groups(off, unique, n_unique, False), 0.0)
    out = (n >= 3)[unique] & (off > z_max * np.maximum(np.sqrt(variance), mad[unique]))
    if prior is None:
        return out
    good = ~out
    merged = merge(value[good], variance[good], unique[good], n_unique)
    lowest = value - 3.0 * np.sqrt(variance) if at_least is None else at_least
    probability = prior.probability(lowest, unique, prior.mean(merged.intensity))
    # the two of a pair are equally far from their median, which is their mean
    apart = 2.0 * off > z_max * np.sqrt(np.bincount(unique, variance, n_unique))[unique]
    larger_of_two = (n == 2)[unique] & apart & (value > median[unique])
    alone = (merged.n == 1)[unique] & good
    out[larger_of_two & (probability < LEAST_PROBABLE_OF_TWO)] = True
    out[alone & (probability < LEAST_PROBABLE)] = True
    return out


def r_split(a: np.ndarray, b: np.ndarray) -> float:
    """
    R_split of two half sets (module docstring).

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        Their merged intensities of the same indices.

    Returns
    -------
    float
        NaN where their sum is not positive.
    """
    total = 0.5 * float(np.sum(a + b))
    return float(np.sum(np.abs(a - b))) / (np.sqrt(2.0) * total) if total > 0.0 else np.nan


def shell_statistics(
    merged: Merged,
    halves: tuple[Merged, Merged],
    reference: np.ndarray | None,
    d_star_sq: np.ndarray,
    complete_d_star_sq: np.ndarray,
    edges: np.ndarray,
    independent: tuple[Merged, Merged] | None = None,
) -> list[MergedShell]:
    """
    Statistics shell by shell, and last of all shells together.

    Parameters
    ----------
    merged : Merged
        Over n_unique indices.
    halves : pair of Merged
        Its two half sets.
    reference : ndarray, shape (n_unique,), or None
        External intensities, NaN where unknown.
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.
    complete_d_star_sq : ndarray, shape (m,)
        Of every possible unique index.
    edges : ndarray, shape (s + 1,)
        Of the shells, in d*^2.
    independent : pair of Merged, optional
        The independently refined half sets (crossvalidation.py).

    Returns
    -------
    list of s + 1 MergedShell
    """
    intensity, sigma = merged.intensity, merged.sigma
    pairs = [tuple(half.intensity for half in pair) for pair in (halves, independent) if pair is not None]
    ranges = [*zip(edges[:-1], edges[1:]), (edges[0], edges[-1])]
    shells = []
    for low, high in ranges:
        d_max, d_min = resolution_range(low, high)
        inside = (d_star_sq >= low) & (d_star_sq < high)
        measured = inside & (merged.n > 0)
        agreement = []
        for first, second in pairs:
            both = inside & np.isfinite(first) & np.isfinite(second)
            agreement.append((correlation(first[both], second[both]), r_split(first[both], second[both])))
        n_unique = int(np.count_nonzero(measured))
        n_observations = int(merged.n[inside].sum())
        n_possible = int(np.count_nonzero((complete_d_star_sq >= low) & (complete_d_star_sq < high)))
        to_reference = measured & np.isfinite(reference) if reference is not None else np.zeros_like(measured)
        shells.append(
            MergedShell(
                d_max=d_max,
                d_min=d_min,
                n_observations=n_observations,
                n_unique=n_unique,
                n_possible=n_possible,
                completeness=n_unique / n_possible if n_possible else np.nan,
                multiplicity=n_observations / n_unique if n_unique else np.nan,
                i_over_sigma=float(np.mean(intensity[measured] / sigma[measured])) if n_unique else np.nan,
                cc_half=agreement[0][0],
                r_split=agreement[0][1],
                cc_reference=(
                    correlation(intensity[to_reference], reference[to_reference]) if reference is not None else np.nan
                ),
                cc_half_honest=agreement[-1][0] if independent is not None else np.nan,
                r_split_honest=agreement[-1][1] if independent is not None else np.nan,
            )
        )
    return shells
