"""Dynamical refinement of frames whose thickness, hand, orientations and structure are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quartz_frames import data_of, frames_of, quartz, scattering

from dials_postrefine.electron.dynamical.crystal import Setting
from dials_postrefine.electron.dynamical.fitting import FitChoice, fit_dynamical
from dials_postrefine.electron.dynamical.orientations import orient
from dials_postrefine.electron.dynamical.refinement import (
    DynamicalChoice,
    RefinedState,
    make_problem,
    refine,
)
from dials_postrefine.electron.dynamical.rocking import BeamLimits
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.numerics.leastsquares import Iterations
from dials_postrefine.scattering.electron_atoms import electron_atoms

STEP = np.radians(0.1)
THICKNESS = 420.0


def simulated(hand: int = 1, tilt: float = 0.0, n_frames: int = 10):
    """Data of a crystal in a hand with frames turned by tilts, their problem, the truth, and 1 % of noise."""
    structure = quartz(False)
    data = data_of(structure, frames_of(structure, n_frames, half=1.0), 1.5)
    atoms, choice = electron_atoms(structure), DynamicalChoice(BeamLimits(1.5, 0.01))
    problem = make_problem(data, atoms, scattering(), choice, Setting(hand, np.eye(3, dtype=int))).with_step(STEP)
    x, rng = problem.start(THICKNESS), np.random.default_rng(5)
    x[problem.layout.places["scale"]] = np.log(1e5)
    x[problem.layout.places["tilt"]] = tilt * rng.normal(size=2 * n_frames)
    true = problem.calculated(x)
    sigma = 0.01 * (true + 0.1 * true.mean())
    data = replace(data, intensity=true + sigma * rng.normal(size=data.n), variance=sigma**2, error_variance=sigma**2)
    return atoms, replace(problem, data=data), x


@pytest.mark.slow
@pytest.mark.parametrize("hand", [1, -1])
def test_thickness_and_hand_are_recovered(hand):
    atoms, problem, _ = simulated(hand)
    choice = FitChoice(refine=(), thickness_range=(200.0, 800.0), g_max=1.5, s_max=0.01, step=STEP)
    found = fit_dynamical(problem.data, atoms, scattering(), choice)
    assert (
        found.thickness.value == pytest.approx(THICKNESS, abs=4.0 * found.thickness.esd) and found.thickness.esd < 20.0
    )
    best, other = found.hand.candidates
    assert best.hand == hand and found.hand.deviation > 2.0
    assert found.r1_dynamical < 0.02 < found.hand.other_r1 and other.log_likelihood < best.log_likelihood
    assert found.r1_kinematical > 0.1
    assert abs(found.structure.overall_b.value) < 4.0 * found.structure.overall_b.esd


def test_orientations_are_recovered_frame_by_frame():
    _, problem, truth = simulated(tilt=np.radians(0.04))
    place = problem.layout.places["tilt"]
    start = truth.copy()
    start[place] = 0.0
    before = RefinedState(start, np.zeros((len(start), len(start))), problem.calculated(start))
    found = orient(problem, before, 4)
    # about the axis only curves that the frame cuts off depend on the orientation, and these are not among the data
    across = [one[place].reshape(-1, 2)[:, 1] for one in (start, found.x, truth)]
    # a frame or two have five reflections, which is few for three parameters
    assert np.median(np.abs(across[1] - across[2])) < 0.1 * np.std(across[0] - across[2])
    shared = slice(0, problem.layout.places["frame_scale"].start)
    assert np.array_equal(found.x[shared], start[shared])


def test_the_thickness_is_recovered_with_the_orientations():
    _, problem, truth = simulated(tilt=np.radians(0.04))
    place, thickness = problem.layout.places["tilt"], problem.layout.places["thickness"]
    start = truth.copy()
    start[place] = 0.0
    start[thickness] *= 1.08
    before = RefinedState(start, np.zeros((len(start), len(start))), problem.calculated(start))
    found = orient(problem, before, 6, ("thickness",))
    assert found.x[thickness] == pytest.approx(truth[thickness], rel=0.01)
    across = [one[place].reshape(-1, 2)[:, 1] for one in (start, found.x, truth)]
    assert np.median(np.abs(across[1] - across[2])) < 0.2 * np.std(across[0] - across[2])


def test_the_structure_is_recovered_with_esds_that_are_true():
    _, problem, truth = simulated()
    place = problem.layout.places["shifts"]
    start = truth.copy()
    start[place] = 0.01
    before = RefinedState(start, np.zeros((len(start), len(start))), problem.calculated(start))
    found = refine(problem, before, "structure", ("thickness", "shifts", "b"), Iterations(6, 1e-4))
    esd = np.sqrt(np.diag(found.covariance))[place]
    assert np.all(np.abs(found.x[place]) < 4.0 * esd) and np.all(esd < 5e-3)  # half of where it started


def test_what_can_not_be_fitted_is_said():
    atoms, problem, _ = simulated(n_frames=2)
    with pytest.raises(Unusable, match="needs 30 at least"):
        fit_dynamical(problem.data.select(np.arange(problem.data.n) < 20), atoms, scattering())
