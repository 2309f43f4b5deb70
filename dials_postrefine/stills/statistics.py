"""
The data set before and after postrefinement, shell by shell.

Before: all observations with one scale a lattice and no other correction.  Their variances are those of the counts, and
I/sigma is given only where those after are, too (no error model): else the two could not be compared.  After: the kept
observations, fully corrected. Both are merged as dials.merge does, over all lattices and over the two half sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.numerics.shells import equal_volume_edges
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.friedel import add_anomalous_statistics
from dials_postrefine.stills.merging import Merged, MergedShell, merge, shell_statistics
from dials_postrefine.stills.outcome import PostrefinedStills


@dataclass
class Statistics:
    """
    Shells before and after, the last of each being all together, and the final merge over the unique indices, which
    reaches from d_max to d_min (Angstrom); NaN where nothing is merged.
    """

    before: list[MergedShell]
    after: list[MergedShell]
    merged: Merged
    d_max: float = np.nan
    d_min: float = np.nan


@dataclass(frozen=True)
class ResolutionShells:
    """
    What the statistics need of the unique indices.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n_unique,)
        Of those that were observed, in 1/Angstrom^2.
    complete : ndarray, shape (m,)
        d*^2 of all that are possible in their range, in 1/Angstrom^2.
    n : int
        The number of shells, of equal volume.
    complete_pairs : ndarray, shape (k,)
        d*^2 of the Friedel pairs that are possible there, in 1/Angstrom^2, where they are kept apart.
    """

    d_star_sq: np.ndarray
    complete: np.ndarray
    n: int = 10
    complete_pairs: np.ndarray = field(default_factory=lambda: np.zeros(0))


def collect_statistics(
    stills: Stills,
    result: PostrefinedStills,
    shells: ResolutionShells,
    reference: np.ndarray | None = None,
    independent: tuple[Merged, Merged] | None = None,
) -> Statistics:
    """
    The statistics of a result.

    Parameters
    ----------
    stills : Stills
    result : PostrefinedStills
        Of the stills.
    shells : ResolutionShells
    reference : ndarray, shape (n_unique,), optional
        External intensities, NaN where unknown.
    independent : pair of Merged, optional
        The half sets of crossvalidation.py.

    Returns
    -------
    Statistics
    """
    d_star_sq, complete = shells.d_star_sq, shells.complete
    edges = equal_volume_edges(d_star_sq, shells.n)
    lattice = stills.lattice()
    present = ~stills.absent[stills.unique]

    def merge_all(value, variance, selection, independent=None):
        unique = stills.unique[selection]
        second = stills.half[lattice[selection]]
        merged = merge(value, variance, unique, stills.n_unique)
        halves = tuple(merge(value[part], variance[part], unique[part], stills.n_unique) for part in (~second, second))
        found = shell_statistics(merged, halves, reference, d_star_sq, complete, edges, independent)
        if stills.friedel is not None:
            pairs = stills.friedel, d_star_sq, shells.complete_pairs, edges
            add_anomalous_statistics(found, merged, (halves, independent), *pairs)
        return merged, found

    linear = result.linear_scale[lattice]
    scaled = np.isfinite(linear) & present
    value, variance = stills.intensity[scaled] / linear[scaled], stills.variance[scaled] / linear[scaled] ** 2
    _, before = merge_all(value, variance, scaled)
    if result.error_model is not None:
        before = [replace(shell, i_over_sigma=np.nan, dano_over_sigma=np.nan) for shell in before]
    kept = result.kept & ~result.outlier & present
    merged, after = merge_all(*result.merging_values(stills, kept), kept, independent)
    found = d_star_sq[merged.n > 0]
    reach = (float(found.min() ** -0.5), float(found.max() ** -0.5)) if len(found) else (np.nan, np.nan)
    return Statistics(before, after, merged, *reach)
