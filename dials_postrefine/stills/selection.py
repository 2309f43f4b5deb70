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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.freereflections import hidden, hide
from dials_postrefine.stills.lattice import FitSettings

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


def decide(candidates: Sequence[Candidate], found: np.ndarray, usual: int) -> int:
    """
    The number of the candidate that is chosen (module docstring); fills in D, s and the decision of each.

    found: C (n_candidates, L); usual: the number of the default.
    """
    n = found.shape[1]
    for candidate, own in zip(candidates, found):
        apart = own - found[usual]
        candidate.difference = float(apart.mean()) - MARGIN * (candidate.n_more - candidates[usual].n_more)
        candidate.difference_esd = float(apart.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
        candidate.decision = Decision.NOT_BETTER
    better = [i for i, one in enumerate(candidates) if i != usual and one.difference > one.difference_esd]
    best = max(better, key=lambda i: candidates[i].difference, default=usual)
    for i in better:
        candidates[i].decision = Decision.SECOND
    candidates[usual].decision = Decision.DEFAULT_LOSES
    candidates[best].decision = Decision.CHOSEN if best != usual else Decision.DEFAULT_STAYS
    return best


def choose_model(
    stills: Stills,
    settings: DatasetSettings,
    profiles: Sequence[str],
    radii: Sequence[str],
    unit_cells: Sequence[str],
    reference: np.ndarray | None = None,
    nproc: int = 1,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    free: np.ndarray | None = None,
) -> tuple[DatasetSettings, list[Candidate]]:
    """
    The settings with the profile, radius and cell that agree best with unseen reflections, and all candidates with
    what decided.

    Of one candidate alone nothing is tried.  reference (n_unique,) as postrefine takes it; free (n_unique,) names
    unique indices that take no part in the choice either.
    """
    choices = [
        {"profile": profile, "radius": radius, "unit_cell": unit_cell}
        for unit_cell in unit_cells
        for radius in radii
        for profile in profiles
    ]
    if len(choices) == 1:
        return _with(settings, choices[0]), []
    stills, reference = hide(stills, free), hidden(reference, free)
    held_out = np.random.default_rng(seed).random(stills.n_unique) < FRACTION
    step = max(1, -(-stills.n_lattices // MOST_LATTICES))
    sample = select_lattices(stills, np.arange(stills.n_lattices) % step == 0)
    n_cycles = N_CYCLES if reference is None else None
    candidates: list[Candidate] = []
    found = np.empty((len(choices), sample.n_lattices))
    for i, choice in enumerate(choices):
        trial = replace(_with(settings, choice), n_cycles=n_cycles, takes_best=False)
        named = ", ".join(choice.values())
        result = postrefine(
            sample, trial, reference, nproc, lambda what, *rest, n=named: progress(f"{n}, {what}", *rest), held_out
        )
        found[i] = np.nan_to_num(result.free.cc_after)  # what can't be fitted at all counts as not described
        candidates.append(
            Candidate(**choice, correlation=float(found[i].mean()), n_accepted=int(result.accepted.sum()))
        )
    usual = max(range(len(choices)), key=lambda i: sum(choices[i][name] == value for name, value in DEFAULT.items()))
    return _with(settings, choices[decide(candidates, found, usual)]), candidates


def _with(settings: DatasetSettings, choice: dict[str, str]) -> DatasetSettings:
    return replace(settings, fit=replace(settings.fit, **choice))
