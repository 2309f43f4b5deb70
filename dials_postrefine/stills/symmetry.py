"""
What the observations say of the space group they are treated in: its absences and its operations.

Before any correction that a fit has made, so that no fit to means of the wrong group can speak for it:
b = sign(I) sqrt|I/k|, k the linear scale of the lattice, less the mean of b in its resolution shell, over its spread
there.

    absences     how strong they are, of the observations as they are (absences.py)
    operation M  CC of the means of b over one half set of the lattices at h with those over the other half at h M,
                 Friedel pairs being merged, over the n pairs where both exist.  Indices that an operation leaves
                 as they are take no part: there M does what an operation does that may be right.  By chance it is
                 1/sqrt(n).  The identity (h in both half sets) tells what agreement the data allow

With Z = arctanh(CC) +- 1/sqrt(n - 3) an operation is not supported where it is below half of the best one, the identity
or another operation, Z < Z_best/2 by SIGNIFICANT esds.  (Evans 2006, Acta Cryst. D62, 72, scores operations in this
way.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.absences import N_SHELLS, SIGNIFICANT, Absences, weigh_absences
from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.grouped import grouped_mean, standard_scores
from dials_postrefine.numerics.indices import find_rows, pack
from dials_postrefine.numerics.shells import shells_of_equal_numbers
from dials_postrefine.stills.dataset import Stills

FEWEST_PAIRS = 10
LARGEST_CC = 1.0 - 1e-9


@dataclass
class Operation:
    """An operation as x,y,z of indices: whether the crystals had it as they were read, CC, pairs, chance, verdict."""

    name: str
    in_input: bool
    cc: float
    n_pairs: int
    chance: float
    supported: bool | None


@dataclass
class SymmetryEvidence:
    """What the observations say of the group: identity first among the operations."""

    absences: Absences
    operations: list[Operation]


def weigh_symmetry(
    stills: Stills,
    linear_scale: np.ndarray,
    accepted: np.ndarray,
    d_star_sq: np.ndarray,
    rotations: np.ndarray,
    names: list[str],
    in_input: np.ndarray,
) -> SymmetryEvidence:
    """
    The evidence for a group (module docstring).

    Parameters
    ----------
    stills : Stills
        L lattices, n_unique indices.
    linear_scale : ndarray, shape (L,)
    accepted : ndarray of bool, shape (L,)
        The lattices that tell of operations, or all where there is none; absences are those of all.
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.
    rotations : ndarray, shape (m, 3, 3)
        Take the row h to h M, the identity first.
    names : list of m str
    in_input : ndarray of bool, shape (m,)
        Whether the crystals had them as they were read.

    Returns
    -------
    SymmetryEvidence
    """
    scale = linear_scale[stills.lattice()]
    used = np.isfinite(scale) & (scale > 0.0)
    if accepted.any():
        used &= accepted[stills.lattice()]
    absent = stills.absent[stills.unique]
    shell = shells_of_equal_numbers(d_star_sq[stills.unique], N_SHELLS)
    ratio = stills.intensity / np.sqrt(stills.variance)
    absences = weigh_absences(ratio, shell, absent)

    used &= ~absent
    b = standard_scores(signed_root(stills.intensity[used] / scale[used]), shell[used], N_SHELLS)
    second = stills.half[stills.lattice()[used]]
    pairs = correlate_operations(stills.h[used], b, second, rotations)
    return SymmetryEvidence(absences, judge_operations(names, in_input, pairs))


def correlate_operations(
    h: np.ndarray, b: np.ndarray, second: np.ndarray, rotations: np.ndarray
) -> list[tuple[float, int]]:
    """
    How well each operation is obeyed (module docstring).

    Parameters
    ----------
    h : ndarray of int, shape (n, 3)
        Miller indices.
    b : ndarray, shape (n,)
        Amplitudes of the observations as standard scores.
    second : ndarray of bool, shape (n,)
        Which are of the second half set.
    rotations : ndarray, shape (m, 3, 3)
        Identity first.

    Returns
    -------
    list of m (cc, n_pairs)
        CC is NaN of fewer than FEWEST_PAIRS.
    """
    key, first, index = np.unique(pack(_one_of_friedel_pair(h)), return_index=True, return_inverse=True)
    h_first = h[first]
    means = [grouped_mean(b[part], index[part], len(key)) for part in (~second, second)]
    turned_keys = [pack(_one_of_friedel_pair(np.rint(h_first @ rotation).astype(np.int32))) for rotation in rotations]
    general = np.ones(len(key), dtype=bool)
    for turned in turned_keys[1:]:
        general &= turned != key
    found = []
    for turned in turned_keys:
        place, found_there = find_rows(key, turned)
        pair = general & found_there
        x, y = means[0][pair], means[1][place[pair]]
        both = np.isfinite(x) & np.isfinite(y)
        n = int(np.count_nonzero(both))
        found.append((correlation(x[both], y[both]) if n >= FEWEST_PAIRS else np.nan, n))
    return found


def judge_operations(names: list[str], in_input: np.ndarray, pairs: list[tuple[float, int]]) -> list[Operation]:
    """
    The operations with their verdicts (module docstring).

    Parameters
    ----------
    names : list of m str
        Identity first.
    in_input : ndarray of bool, shape (m,)
        Whether the crystals had them as they were read.
    pairs : list of m (cc, n_pairs)
        As correlate_operations gives them.

    Returns
    -------
    list of m Operation
        Whose verdict is None where there are too few pairs.
    """
    cc = np.array([value for value, _ in pairs])
    n = np.array([count for _, count in pairs])
    known = np.isfinite(cc)
    z = np.where(known, np.arctanh(np.clip(np.nan_to_num(cc), -LARGEST_CC, LARGEST_CC)), np.nan)
    error = 1.0 / np.sqrt(np.maximum(n - 3.0, 1.0))
    certain = np.where(known, z - error, -np.inf)
    best = int(np.argmax(certain)) if len(certain) else 0
    found = []
    for i, name in enumerate(names):
        supported = None
        if known[i] and z[best] > SIGNIFICANT * error[best]:
            limit = 0.5 * z[best] - z[i]
            supported = not limit > SIGNIFICANT * np.hypot(0.5 * error[best], error[i])
        chance = float(1.0 / np.sqrt(n[i])) if n[i] else np.nan
        found.append(Operation(name, bool(in_input[i]), float(cc[i]), int(n[i]), chance, supported))
    return found


def _one_of_friedel_pair(h: np.ndarray) -> np.ndarray:
    """h (n, 3), or -h where its last number that is not zero is negative: the same for both of a Friedel pair."""
    sign = np.sign(h[:, 2])
    for axis in (1, 0):
        sign = np.where(sign == 0, np.sign(h[:, axis]), sign)
    return np.where(sign[:, None] < 0, -h, h).astype(np.int32)
