"""The population of lattices, what it restrains, and the gauge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.stills.dataset import BY_OBSERVATION
from dials_postrefine.stills.fits import LatticeFit
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.model import B_FACTOR, LN_RADIUS, LN_SCALE, THETA_X, THETA_Y
from dials_postrefine.stills.population import restrain_to_population
from dials_postrefine.stills.reference import FitReference


def test_without_a_reference_the_medians_of_scale_and_b_are_zero(obedient):
    _, stills = obedient
    result = postrefine(stills, DatasetSettings(n_cycles=2))
    assert len(result.cycles) == 2
    assert np.median(result.x[result.accepted][:, [LN_SCALE, B_FACTOR]], axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_width_of_the_population_is_that_of_the_truth_and_not_of_the_errors():
    rng = np.random.default_rng(6)
    truth, esd = np.array([0.0, 1.0, 0.0, 0.0, 0.3, 0.2, 1e-3]), np.array([0.1, 2.0, 1e-3, 1e-3, 0.1, 0.3, 1e-3])
    x = truth * rng.normal(size=(4000, 7)) + esd * rng.normal(size=(4000, 7))
    fits = [LatticeFit(values, np.diag(esd**2), np.zeros(0), refined=True) for values in x]
    # 4000 values determine a median absolute deviation to 2 %, the largest of the errors here is thrice what is left
    assert restrain_to_population(fits).width[[1, 4, 5, 6]] == pytest.approx(truth[[1, 4, 5, 6]], rel=0.3)
    # drawn to the median as far as a restraint of that width draws them
    share = truth**2 / (truth**2 + esd**2)
    drawn = [LatticeFit(share * fit.x, np.diag(share * esd**2), np.zeros(0), refined=True) for fit in fits]
    found = restrain_to_population(drawn, restrained=True)
    assert found.width[[1, 4, 5, 6]] == pytest.approx(truth[[1, 4, 5, 6]], rel=0.1)


def test_the_population_is_the_medians_of_the_refined_lattices(obedient):
    sim, stills = obedient
    result = postrefine(stills, DatasetSettings(restraints=False), FitReference(sim.reference_intensity))
    for fit in result.fits[:10]:
        fit.refined = False
    x = result.x[10:]
    restraint = restrain_to_population(result.fits)
    assert restraint.mean[[B_FACTOR, LN_RADIUS]] == pytest.approx(np.median(x[:, [B_FACTOR, LN_RADIUS]], axis=0))
    assert np.all(restraint.mean[[THETA_X, THETA_Y]] == 0.0)
    # misorientations of 0.05 degrees about each axis, 70 of them: their spread is known to 10 %
    assert np.degrees(restraint.width[[THETA_X, THETA_Y]]) == pytest.approx([0.05, 0.05], rel=0.35)
    assert np.isinf(restraint.width[LN_SCALE])
    assert restrain_to_population(result.fits[:20]) is None  # ten of them are too few to tell


def test_restraints_hold_lattices_of_few_reflections_together(obedient):
    sim, stills = obedient
    sparse = np.arange(len(stills.unique)) % 4 == 0
    few = replace(
        stills,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(stills.lattice()[sparse], minlength=80))]),
        **{name: getattr(stills, name)[sparse] for name in BY_OBSERVATION},
    )
    reference = FitReference(sim.reference_intensity)
    free, restrained = (postrefine(few, DatasetSettings(restraints=on, n_cycles=2), reference) for on in (False, True))
    both = free.accepted & restrained.accepted & np.array([fit.refined for fit in free.fits])
    assert np.count_nonzero(both) > 20
    truth = np.log(sim.radius[both])
    errors = [np.std(result.x[both, LN_RADIUS] - truth) for result in (free, restrained)]
    assert errors[1] < errors[0]
