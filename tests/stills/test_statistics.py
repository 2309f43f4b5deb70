"""The statistics by resolution shell, before and after."""

from __future__ import annotations

import numpy as np

from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics


def d_star_sq_of(sim) -> np.ndarray:
    return np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)


def test_statistics_are_better_after_than_before_and_agree_with_the_truth(obedient):
    sim, stills = obedient
    result = postrefine(stills, DatasetSettings(), FitReference(sim.reference_intensity))
    d_star_sq = d_star_sq_of(sim)
    statistics = collect_statistics(stills, result, ResolutionShells(d_star_sq, d_star_sq, 5), sim.reference_intensity)
    before, after = statistics.before[-1], statistics.after[-1]
    assert after.cc_half > before.cc_half and after.r_split < before.r_split
    assert after.cc_reference > 0.99 > before.cc_reference
    assert after.n_observations == np.count_nonzero(result.kept & ~result.outlier)
    assert sum(shell.n_observations for shell in statistics.after[:-1]) == after.n_observations
    assert sum(shell.n_unique for shell in statistics.before[:-1]) == before.n_unique
