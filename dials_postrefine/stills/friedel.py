"""
Friedel pairs kept apart: which unique index is the mate of which, their differences, and what one says of the other.

Of an acentric reflection the intensities I+ (of the index in the asymmetric unit) and I- (of its opposite) are two
unique indices, each the other's mate; a centric reflection has none.  The difference D = I+ - I- is small: with the
structure factor F of all scattering but the anomalous and F'' of that, D = 4 |F| |F''| sin(angle between them), so
that over the reflections of a resolution shell

    <D> = 0,     <D^2> = 2 s I        s = 4 <|F''|^2> the same for all of the shell, I the mean of I+ and I-

(North 1965, Acta Cryst. 18, 212).  s is found from the merged data themselves, by shell, as what is left of D^2 above
the variances of I+ and I-,

    s = sum w (D^2 - v+ - v-) / sum w 2 I,    w = 1/(v+ + v-)^2, at least 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.stills.merging import Merged, MergedShell


@dataclass(frozen=True)
class FriedelMates:
    """
    The mates of n_unique unique indices.

    Attributes
    ----------
    mate : ndarray of int, shape (n_unique,)
        The number of the mate; -1 where it was never observed, and of a centric reflection, which has none.
    minus : ndarray of bool, shape (n_unique,)
        Which of them are the I- of their pair.
    """

    mate: np.ndarray
    minus: np.ndarray

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of I+ and of I- of the pairs of which both are there, (n_pairs,) each."""
        plus = np.flatnonzero((self.mate >= 0) & ~self.minus)
        return plus, self.mate[plus]

    def one_of_pair(self) -> np.ndarray:
        """One number for both of a pair, (n_unique,): that of I+ where it is there."""
        return np.where(self.minus & (self.mate >= 0), self.mate, np.arange(len(self.mate)))

    def differences(self, intensity: np.ndarray) -> np.ndarray:
        """D (n_pairs,) of intensities (n_unique,)."""
        plus, minus = self.pairs()
        return intensity[plus] - intensity[minus]


def add_anomalous_statistics(
    shells: Sequence[MergedShell],
    merged: Merged,
    halves: Sequence[tuple[Merged, Merged] | None],
    mates: FriedelMates,
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
    mates : FriedelMates
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.
    complete_pairs : ndarray, shape (k,)
        d*^2 of every possible pair, in 1/Angstrom^2.
    edges : ndarray, shape (s + 1,)
        Of the shells, in d*^2.
    """
    plus, minus = mates.pairs()
    variance = merged.sigma[plus] ** 2 + merged.sigma[minus] ** 2
    ratio = np.abs(mates.differences(merged.intensity)) / np.sqrt(variance)
    found = [None if pair is None else [mates.differences(half.intensity) for half in pair] for pair in halves]
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
