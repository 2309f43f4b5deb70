"""
Everything that is done to a data set between reading and writing: the choice of the model, the cycles, the half sets
that never saw each other, and the statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.stills.convergence import ChosenBy
from dials_postrefine.stills.crossvalidation import merge_half_sets, refine_half_sets
from dials_postrefine.stills.cycles import DatasetSettings, PostrefinedStills, postrefine
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.selection import Candidate, choose_model
from dials_postrefine.stills.statistics import Statistics, collect_statistics


@dataclass
class Refinement:
    """The outcome of the cycles, the models that were tried, and the statistics; None where no lattice is accepted."""

    result: PostrefinedStills
    tried: list[Candidate]
    statistics: Statistics | None


def refine(
    stills: Stills,
    settings: DatasetSettings,
    candidates: tuple[Sequence[str], Sequence[str], Sequence[str]],
    d_star_sq: np.ndarray,
    complete: np.ndarray,
    reference: np.ndarray | None = None,
    free: np.ndarray | None = None,
    prior: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None] | None = None,
    half_sets: bool = True,
    n_shells: int = 10,
    seed: int = 0,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Refinement:
    """
    Choose among the candidates (profiles, radii, unit cells), postrefine, and compare before and after.

    reference, free and prior as postrefine takes them; d_star_sq (n_unique,) and complete (m,) as collect_statistics
    does.  half_sets: also refine the two halves each by itself, against its own mean and not against a model; with
    another external reference they never meet, and it is not done.  Where the cycles don't converge the half sets
    choose the best one, and their own merges are those of that cycle.
    """
    settings, tried = choose_model(stills, settings, *candidates, reference, nproc, seed, progress, free)
    halves = None
    if half_sets and (reference is None or prior is not None):  # first, for they tell how many cycles are too many
        halves = refine_half_sets(stills, settings, d_star_sq, nproc, progress)
    agreement = halves.agreement if halves is not None and reference is None else ()
    result = postrefine(stills, settings, reference, nproc, progress, free, prior, agreement)
    if not result.accepted.any():
        return Refinement(result, tried, None)
    honest = None if halves is None else halves.merged
    if halves is not None and result.course.chosen_by is not ChosenBy.LAST:
        honest = halves.by_cycle[min(result.course.taken, len(halves.by_cycle)) - 1]
        if settings.delta_cc_half is not None:  # which belongs to the last cycle
            shorter = replace(settings, n_cycles=result.course.taken)
            honest = merge_half_sets(stills, shorter, d_star_sq, nproc, progress)
    return Refinement(
        result, tried, collect_statistics(stills, result, reference, d_star_sq, complete, n_shells, honest)
    )
