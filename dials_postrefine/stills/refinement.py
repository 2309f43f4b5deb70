"""
Everything that is done to a data set between reading and writing: the choice of the model, the cycles, the
independently refined half sets, the comparison with scaling alone, and the statistics.

Postrefinement has to be worth it.  If what it predicts of unseen reflections is not better than what scaling alone
predicts, or if against an external reference the merges of unseen indices agree less with it than scaled ones do
(selection.py), or else if independently refined half sets agree less than independently scaled ones do over the same
indices, by more than the esd (1 - CC^2)/sqrt(n), the lattices keep the geometry that they were indexed with, and the
scaled data are the result (unrefined.py).  Nor do self-merged data bear it whose half sets have too few indices in
common to be compared if they are of fewer than FEWEST_OF_BOTH lattices, three in each half, of which each is fitted to
two others: the unseen reflections tell of what a few lattices share alone, and all others may be the worse for it (4
stills of a nuclease, 12 and 26 common indices: CC to the model 0.56 to 0.38 and 0.69 to 0.41).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.correlation import is_lower
from dials_postrefine.numerics.run import Run
from dials_postrefine.stills.convergence import ChosenBy
from dials_postrefine.stills.crossvalidation import (
    HalfSets,
    compare_half_sets,
    merge_half_sets,
    refine_half_sets,
    scale_half_sets,
)
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import Merged
from dials_postrefine.stills.observedpartiality import ObservedPartiality, observe_partiality
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.selection import Candidates, ModelChoice, choose_model
from dials_postrefine.stills.statistics import ResolutionShells, Statistics, collect_statistics
from dials_postrefine.stills.unrefined import leave_unrefined

FEWEST_OF_BOTH = 6


@dataclass
class Refinement:
    """
    The outcome; the models that were tried and what was found by them; the statistics, and the partialities as
    observed, None where no lattice is accepted; agreement of independent half sets, scaled and postrefined, over the
    same n indices, NaN where there are too few; untold: that, and too few lattices, is why the data are scaled alone.
    """

    result: PostrefinedStills
    choice: ModelChoice
    statistics: Statistics | None
    observed: ObservedPartiality | None = None
    half_sets: tuple[float, float, int] = (np.nan, np.nan, 0)
    untold: bool = False


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
    choice = choose_model(stills, settings, candidates, reference, run, settings.requires_gain)
    settings, halves = choice.settings, None
    if half_sets and (not reference.external or reference.prior is not None):
        # first, for they tell how many cycles are too many
        halves = refine_half_sets(stills, settings, shells.d_star_sq, run)
    agreement = halves.agreement if halves is not None and not reference.external else ()
    result = postrefine(stills, settings, reference, run, agreement)
    if not result.accepted.any():
        return Refinement(result, choice, None)
    independent = None if halves is None else _independent(stills, settings, result, halves, shells, run)
    compared, untold = (np.nan, np.nan, 0), False
    if settings.requires_gain:
        scaled = scale_half_sets(stills, settings, shells.d_star_sq)
        if scaled is not None and independent is not None and not reference.external:
            compared = compare_half_sets(scaled, independent)
        cc_scaled, cc_refined, n = compared
        if half_sets and not reference.external and stills.n_lattices < FEWEST_OF_BOTH:
            untold = choice.gain.is_there and not np.isfinite(cc_refined)
        if untold or not choice.gain.is_there or is_lower(cc_refined, cc_scaled, n):
            result = leave_unrefined(stills, settings, result, reference)
            independent = scaled if half_sets and not reference.external else None
    known = reference.intensity if reference.external else None
    statistics = collect_statistics(stills, result, shells, known, independent)
    observed = observe_partiality(stills, result, reference)
    return Refinement(result, choice, statistics, observed, compared, untold)


def _independent(
    stills: Stills,
    settings: DatasetSettings,
    result: PostrefinedStills,
    halves: HalfSets,
    shells: ResolutionShells,
    run: Run,
) -> tuple[Merged, Merged] | None:
    """The independently refined half sets as they were after the cycle that was taken."""
    if result.course.chosen_by is ChosenBy.LAST:
        return halves.merged
    if settings.delta_cc_half is not None:  # which belongs to the last cycle
        return merge_half_sets(stills, replace(settings, n_cycles=result.course.taken), shells.d_star_sq, run)
    return halves.by_cycle[min(result.course.taken, len(halves.by_cycle)) - 1]
