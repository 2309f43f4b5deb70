"""
Friedel pairs kept apart: which unique indices are a pair, their differences, and what one says of the other.

Of an acentric reflection the intensities I+ (of the index in the asymmetric unit) and I- (of its opposite) are two
unique indices, a pair; a centric reflection is none.  The difference D = I+ - I- is small: with the structure factor F
of all scattering but the anomalous and F'' of that, D = 4 |F| |F''| sin(angle between them), so that over the
reflections of a resolution shell

    <D> = 0,     <D^2> = 2 s I        s = 4 <|F''|^2> the same for all of the shell, I the mean of I+ and I-

(North 1965, Acta Cryst. 18, 212).  s is found from the merged data themselves, by shell, as what is left of D^2 above
the variances of I+ and I-,

    s = sum w (D^2 - v+ - v-) / sum w 2 I,    w = 1/(v+ + v- + 2 s I)^2, at least 0.

What a lattice is fitted to
---------------------------
A fit moves each calculated intensity towards the observed one by a fraction h of their difference, the leverage, and
the scaled observation by as much towards the reference; with six parameters for sixty reflections h is 0.1 on average
and 0.2 for the strong ones.  Fitted to the mean of I+ and I-, the lattices lose that part of D.  Fitted to means of
I+ and I- apart they keep it, but each is of half as many observations, whose errors go into the parameters.  Between
them is what is most probable by Bayes: I- is one observation more of I+, with the variance v- + t of the prior
D ~ N(0, t), and I+ one more of I-.  With t = 2 s I the parameters have least error, but of D a part is taken off that
no cycle brings back, (1 - h)/(1 - h l) being left where l of the difference is in the reference; so the prior is wider,
t = WIDER 2 s I.  For 300 simulated stills of 62 reflections, 7 of each hand (benchmarks/anomalous.py, means of 8 seeds
with an esd of 0.02), slope of D on the true one and their correlation:

    fitted to        means of pairs   WIDER = 1   10      20      50      apart    the true I+ and I-
    slope            0.829            0.895       0.956   0.967   0.975   0.982    0.993
    CC               0.547            0.560       0.556   0.553   0.549   0.544    0.615

What no other lattice has observed of its own hand is fitted to the mean of the other hand alone, and loses its part of
D; without it in the fits the slope is higher, and the correlation lower.  With 200 such stills this is more: slope
0.949 and CC 0.464, where fits to means of pairs give 0.824 and 0.456.  Of 300 that the model describes, with a ratio of
5 %, it is 0.986 and 0.864, and by means of pairs 0.915 and 0.864.

Where the mean of a pair is known from elsewhere, a reference that does not tell them apart, I+ and I- are fitted to
that mean plus and minus half of l D, l = t/(t + v+ + v-).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.shells import equal_number_edges, shell_of
from dials_postrefine.stills.merging import Merged, MergedShell

N_SHELLS = 10
FEWEST_IN_SHELL = 40
N_ROUNDS = 4
WIDER = 50.0  # times the variance of D, its prior has


@dataclass(frozen=True)
class FriedelPairs:
    """
    The pairs of n_unique unique indices.

    Attributes
    ----------
    other : ndarray of int, shape (n_unique,)
        The number of the other one of the pair; -1 where it was never observed, and of a centric reflection.
    minus : ndarray of bool, shape (n_unique,)
        Which of them are the I- of their pair.
    """

    other: np.ndarray
    minus: np.ndarray

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of I+ and of I- of the pairs of which both are there, (n_pairs,) each."""
        plus = np.flatnonzero((self.other >= 0) & ~self.minus)
        return plus, self.other[plus]

    def one_of_pair(self) -> np.ndarray:
        """One number for both of a pair, (n_unique,): that of I+ where it is there."""
        return np.where(self.minus & (self.other >= 0), self.other, np.arange(len(self.other)))

    def differences(self, intensity: np.ndarray) -> np.ndarray:
        """D (n_pairs,) of intensities (n_unique,)."""
        plus, minus = self.pairs()
        return intensity[plus] - intensity[minus]


@dataclass(frozen=True)
class DifferencePrior:
    """The prior of D: its variance t (n_unique,), of both of a pair."""

    variance: np.ndarray

    def intensity(
        self, unique: np.ndarray, this: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """
        What is most probable of unique indices (module docstring).

        Parameters
        ----------
        unique : ndarray of int, shape (n,)
            Numbers of the indices.
        this, other : pair of ndarray, shape (n,)
            Their sums of weights and of weight times value, and those of the others of their pairs, zero where there is
            nothing.

        Returns
        -------
        ndarray, shape (n,)
            NaN where nothing is known.
        """
        weight, weighted = with_other(this, other, self.variance[unique])
        return np.divide(weighted, weight, out=np.full(len(weight), np.nan), where=weight > 0.0)


@dataclass(frozen=True)
class CentredPrior(DifferencePrior):
    """The same where the means of the pairs are known from elsewhere: centre (n_unique,), NaN where unknown."""

    centre: np.ndarray

    def intensity(
        self, unique: np.ndarray, this: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """The means plus and minus half of D (module docstring), as DifferencePrior takes and returns them."""
        return about_centre(self.centre[unique], this, other, self.variance[unique])


def prior_variance(pairs: FriedelPairs, sum_w: np.ndarray, intensity: np.ndarray, d_star_sq: np.ndarray) -> np.ndarray:
    """
    The variance t of the prior of D (module docstring).

    Parameters
    ----------
    pairs : FriedelPairs
        Of n_unique indices.
    sum_w, intensity : ndarray, shape (n_unique,)
        Sums of weights, being inverse variances, and merged intensities, NaN where there is none.
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.

    Returns
    -------
    ndarray, shape (n_unique,)
        The same for both of a pair; zero where the data show no difference, or no pair.
    """
    weight = np.where(np.isfinite(intensity), sum_w, 0.0)
    both = pairs.one_of_pair()
    total = np.bincount(both, weight, len(both))[both]
    weighted = np.bincount(both, weight * np.nan_to_num(intensity), len(both))[both]
    mean = np.maximum(np.divide(weighted, total, out=np.zeros(len(both)), where=total > 0.0), 0.0)
    plus, minus = pairs.pairs()
    known = (weight[plus] > 0.0) & (weight[minus] > 0.0)
    plus, minus = plus[known], minus[known]
    if not len(plus):
        return np.zeros(len(both))
    variance = 1.0 / weight[plus] + 1.0 / weight[minus]
    edges = equal_number_edges(d_star_sq[plus], N_SHELLS, FEWEST_IN_SHELL)
    shell, n = shell_of(d_star_sq[plus], edges), len(edges) - 1
    excess = (intensity[plus] - intensity[minus]) ** 2 - variance
    strength = np.zeros(n)
    for _ in range(N_ROUNDS):
        weight = (variance + 2.0 * strength[shell] * mean[plus]) ** -2.0
        found = np.bincount(shell, weight * excess, n)
        norm = np.bincount(shell, weight * 2.0 * mean[plus], n)
        strength = np.maximum(np.divide(found, norm, out=np.zeros(n), where=norm > 0.0), 0.0)
    return WIDER * 2.0 * mean * strength[shell_of(d_star_sq, edges)]


def with_other(
    this: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Sums of weights and of weight times value (n,) of indices, and with them what the others of their pairs say (module
    docstring).

    Parameters
    ----------
    this, other : pair of ndarray, shape (n,)
        These sums of the indices themselves, and of the others of their pairs, zero where there is nothing.
    variance : ndarray, shape (n,)
        t.

    Returns
    -------
    pair of ndarray, shape (n,)
    """
    there = other[0] > 0.0
    value = np.divide(other[1], other[0], out=np.zeros(len(there)), where=there)
    weight = np.divide(other[0], 1.0 + variance * other[0], out=np.zeros(len(there)), where=there)
    return this[0] + weight, this[1] + weight * value


def about_centre(
    centre: np.ndarray,
    this: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    variance: np.ndarray,
) -> np.ndarray:
    """
    Intensities (n,) of which the mean of a pair is known, and the difference from what was observed (module docstring).

    Parameters
    ----------
    centre : ndarray, shape (n,)
        The means, NaN where unknown.
    this, other, variance
        As with_other takes them.

    Returns
    -------
    ndarray, shape (n,)
    """
    both = (this[0] > 0.0) & (other[0] > 0.0)
    value, of_other = (np.divide(sums[1], sums[0], out=np.zeros(len(both)), where=both) for sums in (this, other))
    product = variance * this[0] * other[0]
    share = np.divide(product, product + this[0] + other[0], out=np.zeros(len(both)), where=both)
    return centre + 0.5 * share * (value - of_other)


def add_anomalous_statistics(
    shells: Sequence[MergedShell],
    merged: Merged,
    halves: Sequence[tuple[Merged, Merged] | None],
    pairs: FriedelPairs,
    d_star_sq: np.ndarray,
    complete_pairs: np.ndarray,
    edges: np.ndarray,
) -> None:
    """
    Add what the differences D say to the statistics of shells: how many of the possible pairs are complete, CC_anom,
    which is the correlation of D between half sets, and the mean |D|/sigma(D).

    Parameters
    ----------
    shells : sequence of s + 1 MergedShell
        As merging.shell_statistics gives them, the last of all shells together; changed in place.
    merged : Merged
        Over n_unique indices.
    halves : sequence of two pairs of Merged
        Its half sets, and the independently refined ones (crossvalidation.py), None where there are none.
    pairs : FriedelPairs
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.
    complete_pairs : ndarray, shape (k,)
        d*^2 of every possible pair, in 1/Angstrom^2.
    edges : ndarray, shape (s + 1,)
        Of the shells, in d*^2.
    """
    plus, minus = pairs.pairs()
    variance = merged.sigma[plus] ** 2 + merged.sigma[minus] ** 2
    ratio = np.abs(pairs.differences(merged.intensity)) / np.sqrt(variance)
    found = [None if pair is None else [pairs.differences(half.intensity) for half in pair] for pair in halves]
    ranges = [*zip(edges[:-1], edges[1:]), (edges[0], edges[-1])]

    def agreement(pair: Sequence[np.ndarray] | None, inside: np.ndarray) -> float:
        if pair is None:
            return np.nan
        both = inside & np.isfinite(pair[0]) & np.isfinite(pair[1])
        return correlation(pair[0][both], pair[1][both])

    for shell, (low, high) in zip(shells, ranges):
        inside = (d_star_sq[plus] >= low) & (d_star_sq[plus] < high)
        measured = inside & np.isfinite(ratio)
        n_possible = int(np.count_nonzero((complete_pairs >= low) & (complete_pairs < high)))
        shell.n_pairs = int(np.count_nonzero(measured))
        shell.anom_completeness = shell.n_pairs / n_possible if n_possible else np.nan
        shell.dano_over_sigma = float(np.mean(ratio[measured])) if shell.n_pairs else np.nan
        shell.cc_anom, shell.cc_anom_honest = (agreement(pair, inside) for pair in found)
