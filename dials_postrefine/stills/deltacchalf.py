"""
Delta CC1/2: what each lattice does to the precision of the merge.

CC1/2 by the sigma-tau method, without random half sets, from the n_h scaled observations x of each unique index:

    m_h   = sum x/n_h                            the mean
    e_h   = sum (x - m_h)^2/(n_h (n_h - 1))      its variance, half of that of a half set's mean
    CC1/2 = (s_y^2 - s_e^2)/(s_y^2 + s_e^2),     s_y^2 the variance of the m_h, s_e^2 the mean of the e_h

over the indices of n_h > 1 in each resolution shell, and the mean of the shells weighted by their numbers of indices:
with equal weights, as dials.compute_delta_cchalf does, because a lattice that the merge gives little weight is no
better for it.  Of a lattice

    delta CC1/2 = CC1/2(all) - CC1/2(all without it),

negative where the data would agree better without it.  The sums over the observations change by the lattice's own, so
that all lattices together cost one pass over the data.  Lattices below mean - stdcutoff times standard deviation of
delta CC1/2 are rejected as in dials.scale (filtering.method=deltacchalf), the worst first and not more than
max_percent_removed of the observations.  Source: Assmann, Brehm and Diederichs (2016), J. Appl. Cryst. 49, 1021-1028.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.shells import equal_volume_edges, shell_of
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.scaling import Scaled, scaled_values

N_SHELLS = 10


@dataclass(frozen=True)
class DeltaCCHalfFilter:
    """When a lattice is rejected: standard deviations below the mean, and percent of the observations at most."""

    stdcutoff: float = 4.0
    max_percent_removed: float = 10.0


def harmful_lattices(stills: Stills, scaled: Scaled, used: np.ndarray, settings: DeltaCCHalfFilter) -> np.ndarray:
    """
    The lattices without which what was merged agrees better (module docstring).

    Parameters
    ----------
    stills : Stills
    scaled : Scaled
        What the lattices' parameters say of the observations.
    used : ndarray of bool, shape (n,)
        Which of them were merged.
    settings : DeltaCCHalfFilter

    Returns
    -------
    ndarray of int
        Their numbers, the worst first.
    """
    used = used & ~stills.absent[stills.unique]
    lattice = stills.lattice()[used]
    n = np.bincount(lattice, minlength=stills.n_lattices)
    present = np.flatnonzero(n)
    if len(present) < 2:
        return present[:0]
    value = scaled_values(stills, scaled, used)[0]
    whole, without = cc_half_without_each(value, stills.unique[used], lattice, resolution_shells(stills, used))
    delta = (whole - without)[present]
    known = np.isfinite(delta)  # without some lattices nothing is left to correlate
    if np.count_nonzero(known) < 2:
        return present[:0]
    limit = delta[known].mean() - settings.stdcutoff * delta[known].std(ddof=1)
    worst = present[np.argsort(delta, kind="stable")]
    worst = worst[: np.count_nonzero(delta < limit)]
    return worst[np.cumsum(n[worst]) <= settings.max_percent_removed / 100.0 * len(value)]


def resolution_shells(stills: Stills, used: np.ndarray) -> np.ndarray:
    """
    The resolution shell of each unique index, N_SHELLS of equal volume.

    Parameters
    ----------
    stills : Stills
    used : ndarray of bool, shape (n,)
        The observations that count: d*^2 of an index is the mean over those of its own.

    Returns
    -------
    ndarray of int, shape (n_unique,)
    """
    n = np.bincount(stills.unique[used], minlength=stills.n_unique)
    d_star_sq = grouped_mean(stills.q_sq[used], stills.unique[used], stills.n_unique, empty=0.0)
    return shell_of(d_star_sq, equal_volume_edges(d_star_sq[n > 0], N_SHELLS))


def cc_half_without_each(
    value: np.ndarray, unique: np.ndarray, lattice: np.ndarray, shell: np.ndarray
) -> tuple[float, np.ndarray]:
    """
    CC1/2 of all observations, and without each lattice (module docstring).

    Parameters
    ----------
    value : ndarray, shape (n,)
        Scaled observations.
    unique, lattice : ndarray of int, shape (n,)
        The unique index and the lattice of each.
    shell : ndarray of int, shape (n_unique,)
        The shell of each unique index, 0 to S - 1.

    Returns
    -------
    whole : float
    without : ndarray, shape (L,)
        NaN where no index is left.
    """
    n_unique, n_shells, n_lattices = len(shell), int(shell.max()) + 1, int(lattice.max()) + 1
    n = np.bincount(unique, minlength=n_unique)
    mean = grouped_mean(value, unique, n_unique, empty=0.0)
    off = value - mean[unique]  # these sum up to nothing: no digits are lost where a lattice's own are taken off
    squares = np.bincount(unique, off**2, n_unique)
    measured = n > 0
    centre = grouped_mean(mean[measured], shell[measured], n_shells, empty=0.0)
    y = mean - centre[shell]

    def add_up(n, y, squares, place, size):
        """Number of indices with n > 1, and their sums of y, y^2 and e = squares/(n (n - 1)): (4, size)."""
        counted = n > 1
        error = np.maximum(squares, 0.0) / np.maximum(n * (n - 1), 1)
        return np.array([np.bincount(place, counted * term, size) for term in (np.ones(len(y)), y, y**2, error)])

    # the indices of each lattice, and what the other lattices leave of them
    pair, group = np.unique(lattice.astype(np.int64) * n_unique + unique, return_inverse=True)
    index, k = pair % n_unique, pair // n_unique
    n_left = n[index] - np.bincount(group)
    shift = -np.bincount(group, off) / np.maximum(n_left, 1)
    squares_left = squares[index] - np.bincount(group, off**2) - n_left * shift**2

    whole = add_up(n, y, squares, shell, n_shells)
    place, size = k * n_shells + shell[index], n_lattices * n_shells
    with_it = add_up(n[index], y[index], squares[index], place, size)
    change = add_up(n_left, y[index] + shift, squares_left, place, size) - with_it
    without = whole[:, None] + change.reshape(4, n_lattices, n_shells)
    return float(_mean_cc_half(whole)), _mean_cc_half(without)


def _mean_cc_half(sums: np.ndarray) -> np.ndarray:
    """The mean CC1/2 (...) of the shells from their sums (4, ..., S), NaN of nothing."""
    n, sum_y, sum_y_sq, sum_e = sums
    n = np.where(n > 1.5, n, 0.0)  # sums of ones are exact
    several = np.maximum(n, 2.0)
    s_y = np.maximum(sum_y_sq - sum_y**2 / several, 0.0) / (several - 1.0)
    s_e = np.maximum(sum_e, 0.0) / several
    cc = np.divide(s_y - s_e, s_y + s_e, out=np.zeros(n.shape), where=s_y + s_e > 0.0)
    total = n.sum(axis=-1)
    return np.divide((n * cc).sum(axis=-1), total, out=np.full(total.shape, np.nan), where=total > 0.0)
