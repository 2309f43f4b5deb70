"""
Which profile, which radius and which cell describe a data set: the choice by agreement on reflections that no fit has
seen.

A quarter of the unique indices, the same for every lattice, takes no part in the fits.  Each candidate i postrefines a
sample of L lattices for a few cycles; C_ik is then the correlation of lattice k between observed and calculated
amplitudes (signed roots of the intensities) of the unseen reflections, zero where there is none.  Candidates are
compared with the default 0, lattice by lattice,

    D_i = mean over k of (C_ik - C_0k) - MARGIN (m_i - m_0),      s_i = std over k of (C_ik - C_0k) / sqrt(L)

m being the number of parameters more that a lattice has: the mosaicity of a mosaic radius, the scale of a cell.  The
candidate with the largest D is chosen of those with D_i > s_i, by the one-standard-error rule (Breiman et al. 1984,
Classification and Regression Trees); where there is none, the default stays: a candidate that agrees worse is never
chosen.  The default is what the program takes unless told otherwise, or of what it was told to try the one that is
most like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from dials_postrefine.numerics.run import Run
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.reference import FitReference

FRACTION = 0.25
N_CYCLES = 3
MOST_LATTICES = 300
MARGIN = 0.002
DEFAULT = {"profile": FitSettings.profile, "radius": FitSettings.radius, "unit_cell": FitSettings.unit_cell}


class Decision(str, Enum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    DEFAULT_STAYS = "default, chosen"
    DEFAULT_LOSES = "default"
    NOT_BETTER = "not better than the default"
    SECOND = "better than the default, but less than the chosen one"


@dataclass
class Candidate:
    """
    What was tried, the mean held-out correlation of a lattice, and how many lattices were accepted; D, s (module
    docstring), s NaN of fewer than two lattices, and what was decided by them.
    """

    profile: str
    radius: str
    unit_cell: str
    correlation: float
    n_accepted: int
    difference: float = 0.0
    difference_esd: float = 0.0
    decision: Decision | None = None

    @property
    def n_more(self) -> int:
        """m, the number of parameters more."""
        return (self.radius != "constant") + (self.unit_cell != "fixed")


@dataclass(frozen=True)
class Candidates:
    """The profiles, radii and unit cells to choose from, in all combinations."""

    profiles: Sequence[str]
    radii: Sequence[str]
    unit_cells: Sequence[str]

    def combinations(self) -> list[dict[str, str]]:
        """Each as fields of FitSettings."""
        return [
            {"profile": profile, "radius": radius, "unit_cell": unit_cell}
            for unit_cell in self.unit_cells
            for radius in self.radii
            for profile in self.profiles
        ]


def decide(candidates: Sequence[Candidate], found: np.ndarray, usual: int) -> int:
    """
    The candidate that is chosen (module docstring); fills in D, s and the decision of each.

    Parameters
    ----------
    candidates : sequence of Candidate
    found : ndarray, shape (n_candidates, L)
        C by lattice.
    usual : int
        The number of the default among the candidates.

    Returns
    -------
    int
        The number of the chosen one.
    """
    n = found.shape[1]
    for candidate, correlations in zip(candidates, found):
        apart = correlations - found[usual]
        candidate.difference = float(apart.mean()) - MARGIN * (candidate.n_more - candidates[usual].n_more)
        candidate.difference_esd = float(apart.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
        candidate.decision = Decision.NOT_BETTER
    better = [
        i for i, candidate in enumerate(candidates) if i != usual and candidate.difference > candidate.difference_esd
    ]
    best = max(better, key=lambda i: candidates[i].difference, default=usual)
    for i in better:
        candidates[i].decision = Decision.SECOND
    candidates[usual].decision = Decision.DEFAULT_LOSES
    candidates[best].decision = Decision.CHOSEN if best != usual else Decision.DEFAULT_STAYS
    return best


def choose_model(
    stills: Stills,
    settings: DatasetSettings,
    candidates: Candidates,
    reference: FitReference | None = None,
    run: Run = Run(),
) -> tuple[DatasetSettings, list[Candidate]]:
    """
    Choose the profile, radius and cell that agree best with unseen reflections.

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    candidates : Candidates
        Of one alone nothing is tried.
    reference : FitReference, optional
        As postrefine takes it; its free indices take no part in the choice either, and its prior is not asked.
    run : Run
        Its seed says which indices are unseen.

    Returns
    -------
    settings : DatasetSettings
        With what was chosen.
    tried : list of Candidate
        All that were tried, with what decided.
    """
    choices = candidates.combinations()
    if len(choices) == 1:
        return _with(settings, choices[0]), []
    reference = FitReference() if reference is None else reference
    stills = reference.hide(stills)
    unseen = np.random.default_rng(run.seed).random(stills.n_unique) < FRACTION
    if stills.friedel is not None:  # one of a pair tells of the other
        unseen = unseen[stills.friedel.one_of_pair()]
    step = max(1, -(-stills.n_lattices // MOST_LATTICES))
    sample = select_lattices(stills, np.arange(stills.n_lattices) % step == 0)
    n_cycles = None if reference.external else N_CYCLES
    tried: list[Candidate] = []
    found = np.empty((len(choices), sample.n_lattices))
    for i, choice in enumerate(choices):
        trial = replace(_with(settings, choice), n_cycles=n_cycles, takes_best=False)
        named = ", ".join(choice.values())
        progress = run.progress
        trial_run = replace(run, progress=lambda what, *rest, n=named: progress(f"{n}, {what}", *rest))
        result = postrefine(sample, trial, FitReference(reference.working, unseen), trial_run)
        found[i] = np.nan_to_num(result.free.cc_after)  # what can't be fitted at all counts as not described
        tried.append(Candidate(**choice, correlation=float(found[i].mean()), n_accepted=int(result.accepted.sum())))
    usual = max(range(len(choices)), key=lambda i: sum(choices[i][name] == value for name, value in DEFAULT.items()))
    return _with(settings, choices[decide(tried, found, usual)]), tried


def _with(settings: DatasetSettings, choice: dict[str, str]) -> DatasetSettings:
    return replace(settings, fit=replace(settings.fit, **choice))
