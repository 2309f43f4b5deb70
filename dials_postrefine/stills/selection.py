"""
Which profile and which radius describe a data set: the choice by agreement on reflections that no fit has seen.

A quarter of the unique indices, the same for every lattice, takes no part in the fits.  Each candidate postrefines a
sample of the lattices for a few cycles; what is compared is the median over the lattices of the correlation between
observed and calculated amplitudes (signed roots of the intensities) of the unseen reflections.  A candidate with more
parameters, the mosaic radius, is kept only if it is better than every one without by MARGIN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.dataset import Stills, select_lattices

FRACTION = 0.25
N_CYCLES = 3
MOST_LATTICES = 300
MARGIN = 0.002


@dataclass
class Candidate:
    """A profile and a radius that were tried, the median held-out correlation (NaN of nothing), and lattices kept."""

    profile: str
    radius: str
    correlation: float
    n_accepted: int


def choose_model(
    stills: Stills,
    settings: DatasetSettings,
    profiles: Sequence[str],
    radii: Sequence[str],
    reference: np.ndarray | None = None,
    nproc: int = 1,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[DatasetSettings, list[Candidate]]:
    """
    The settings with the profile and radius that agree best with unseen reflections, and all candidates (docstring).

    Of one candidate alone nothing is tried.  reference (n_unique,) as postrefine takes it.
    """
    pairs = [(profile, radius) for radius in radii for profile in profiles]
    if len(pairs) == 1:
        return _with(settings, *pairs[0]), []
    held_out = np.random.default_rng(seed).random(stills.n_unique) < FRACTION
    step = max(1, -(-stills.n_lattices // MOST_LATTICES))
    sample = select_lattices(stills, np.arange(stills.n_lattices) % step == 0)
    n_cycles = N_CYCLES if reference is None else None
    candidates = []
    for profile, radius in pairs:
        trial = replace(_with(settings, profile, radius), n_cycles=n_cycles)
        named = f"{profile}, {radius}"
        result = postrefine(
            sample, trial, reference, nproc, lambda what, *rest, n=named: progress(f"{n}, {what}", *rest), held_out
        )
        found = np.nan_to_num(result.free_correlation)  # what can't be fitted at all counts as not described
        candidates.append(Candidate(profile, radius, float(np.median(found)), int(result.accepted.sum())))
    simple = [one for one in candidates if one.radius == "constant"]
    best = max(candidates, key=lambda one: one.correlation)
    if simple and best.radius != "constant":
        plain = max(simple, key=lambda one: one.correlation)
        best = best if best.correlation > plain.correlation + MARGIN else plain
    return _with(settings, best.profile, best.radius), candidates


def _with(settings: DatasetSettings, profile: str, radius: str) -> DatasetSettings:
    return replace(settings, fit=replace(settings.fit, profile=profile, radius=radius))
