"""
Everything that is done to a data set between reading and writing: the choice of the model, the cycles, the
independently refined half sets, and the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dials_postrefine.numerics.run import Run
from dials_postrefine.stills.convergence import ChosenBy
from dials_postrefine.stills.crossvalidation import merge_half_sets, refine_half_sets
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.selection import Candidate, Candidates, choose_model
from dials_postrefine.stills.statistics import ResolutionShells, Statistics, collect_statistics


@dataclass
class Refinement:
    """The outcome of the cycles, the models that were tried, and the statistics; None where no lattice is accepted."""

    result: PostrefinedStills
    tried: list[Candidate]
    statistics: Statistics | None


def refine(
    stills: Stills,
    settings: DatasetSettings,
    candidates: Candidates,
    shells: ResolutionShells,
    reference: FitReference | None = None,
    half_sets: bool = True,
    run: Run = Run(),
) -> Refinement:
    """
    Choose a model, postrefine, and compare before and after.

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    candidates : Candidates
        The models to choose from.
    shells : ResolutionShells
        Of the unique indices.
    reference : FitReference, optional
        As postrefine takes it.
    half_sets : bool
        Whether to refine the two halves each by itself too, against its own mean and not against a model; against
        another external reference they are independent as they are, and it is not done.  Where the cycles don't
        converge the half sets choose the best one, and their own merges are those of that cycle.
    run : Run

    Returns
    -------
    Refinement
    """
    reference = FitReference() if reference is None else reference
    settings, tried = choose_model(stills, settings, candidates, reference, run)
    halves = None
    if half_sets and (not reference.external or reference.prior is not None):
        # first, for they tell how many cycles are too many
        halves = refine_half_sets(stills, settings, shells.d_star_sq, run)
    agreement = halves.agreement if halves is not None and not reference.external else ()
    result = postrefine(stills, settings, reference, run, agreement)
    if not result.accepted.any():
        return Refinement(result, tried, None)
    independent = None if halves is None else halves.merged
    if halves is not None and result.course.chosen_by is not ChosenBy.LAST:
        independent = halves.by_cycle[min(result.course.taken, len(halves.by_cycle)) - 1]
        if settings.delta_cc_half is not None:  # which belongs to the last cycle
            shorter = replace(settings, n_cycles=result.course.taken)
            independent = merge_half_sets(stills, shorter, shells.d_star_sq, run)
    known = reference.intensity if reference.external else None
    return Refinement(result, tried, collect_statistics(stills, result, shells, known, independent))
