"""
Which profile, which radius and which cell describe a data set: the choice by agreement on reflections that no fit has
seen.

A quarter of the unique indices, the same for every lattice, takes no part in the fits.  Each candidate postrefines a
sample of the lattices for a few cycles; what is compared is the median over the lattices of the correlation between
observed and calculated amplitudes (signed roots of the intensities) of the unseen reflections, less MARGIN for each
parameter more: the mosaicity of a mosaic radius, the scale of a cell.  What is chosen must also be better than the
program's default (the first candidate, where that is not among them) for more lattices than worse, by more than chance:
wins - losses > sqrt(wins + losses).  Else the default stays, as where too few lattices share reflections to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


@dataclass
class Candidate:
    """What was tried, the median held-out correlation of a lattice, and how many lattices were accepted."""

    profile: str
    radius: str
    unit_cell: str
    correlation: float
    n_accepted: int

    @property
    def score(self) -> float:
        """What is compared."""
        return self.correlation - MARGIN * ((self.radius != "constant") + (self.unit_cell != "fixed"))


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
    The settings with the profile, radius and cell that agree best with unseen reflections, and all candidates.

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
        trial = replace(_with(settings, choice), n_cycles=n_cycles)
        named = ", ".join(choice.values())
        result = postrefine(
            sample, trial, reference, nproc, lambda what, *rest, n=named: progress(f"{n}, {what}", *rest), held_out
        )
        found[i] = np.nan_to_num(result.free.cc_after)  # what can't be fitted at all counts as not described
        candidates.append(
            Candidate(**choice, correlation=float(np.median(found[i])), n_accepted=int(result.accepted.sum()))
        )
    usual = choices.index(DEFAULT) if DEFAULT in choices else 0
    wins, losses = np.sum(found > found[usual], axis=1), np.sum(found < found[usual], axis=1)
    better = [i for i in range(len(choices)) if wins[i] - losses[i] > np.sqrt(wins[i] + losses[i])]
    best = max(better, key=lambda i: candidates[i].score, default=usual)
    return _with(settings, choices[best]), candidates


def _with(settings: DatasetSettings, choice: dict[str, str]) -> DatasetSettings:
    return replace(settings, fit=replace(settings.fit, **choice))
