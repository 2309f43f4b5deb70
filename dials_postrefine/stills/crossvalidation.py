"""
Half sets that never saw each other.

Where the reference is the data's own mean, every lattice has been drawn towards a mean that holds the lattices of both
half sets, and their agreement (the customary CC1/2 and R_split) is too good.  Here each half of the lattices is
postrefined against its own half's mean, from the start; only then are the two compared.  Neither half knows the other's
overall scale and B, so the second is put on the first one's,

    ln(<I_1>/<I_2>) = ln k - 2 b d*^2      by least squares over resolution shells of common reflections.

Against an external reference the halves never meet, and nothing has to be done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.merging import Merged, merge, shell_edges

N_SHELLS = 10
FEWEST_IN_SHELL = 5


def merge_half_sets(
    stills: Stills,
    settings: DatasetSettings,
    d_star_sq: np.ndarray,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Merged, Merged] | None:
    """
    Postrefine each half set by itself and merge it: two merges over the unique indices, on the scale of the first.

    d_star_sq (n_unique,) in 1/Angstrom^2.  None where a half has no lattice, or none that is accepted.
    """
    halves = []
    for number, selection in enumerate((~stills.half, stills.half)):
        if not selection.any():
            return None
        own = replace(select_lattices(stills, selection), earlier={})  # which has seen the other half
        result = postrefine(
            own, settings, None, nproc, lambda what, *rest, n=number: progress(f"half set {n + 1}, {what}", *rest)
        )
        kept = result.kept & ~result.outlier & ~own.absent[own.unique]
        if not kept.any():
            return None
        value, variance = result.merging_values(own, kept)
        halves.append(merge(value, variance, own.unique[kept], own.n_unique))
    factor = relative_scale(halves[0].intensity, halves[1].intensity, d_star_sq)
    second = halves[1]
    return halves[0], Merged(second.sum_w / factor**2, second.sum_wi / factor, second.n)


def relative_scale(first: np.ndarray, second: np.ndarray, d_star_sq: np.ndarray) -> np.ndarray:
    """
    k exp(-2 b d*^2), shape (n,), that brings the second intensities to the first (module docstring).

    One where too few reflections are common.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return np.ones(len(first))
    edges = shell_edges(d_star_sq[both], N_SHELLS)
    shell = np.clip(np.searchsorted(edges, d_star_sq[both]) - 1, 0, N_SHELLS - 1)
    n = np.bincount(shell, minlength=N_SHELLS)
    means = [np.bincount(shell, values[both], N_SHELLS) for values in (first, second, d_star_sq)]
    good = (n >= FEWEST_IN_SHELL) & (means[0] > 0.0) & (means[1] > 0.0)
    if not good.any():
        return np.ones(len(first))
    x, y = means[2][good] / n[good], np.log(means[0][good] / means[1][good])
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(n[good])) if len(x) > 2 else (0.0, float(np.median(y)))
    return np.exp(intercept + slope * d_star_sq)
