"""Rocking curves: derivatives against finite differences, integrals against fine steps, one block against many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quartz_frames import AS_GIVEN, data_of, frames_of, quartz, scattering

from dials_postrefine.electron.dynamical import refinement
from dials_postrefine.electron.dynamical.refinement import DynamicalChoice, make_problem
from dials_postrefine.electron.dynamical.rocking import BeamLimits, enough_step
from dials_postrefine.scattering.electron_atoms import electron_atoms


def problem_of(data, structure, step=np.radians(0.1), s_max=0.01, **choices):
    limits = BeamLimits(1.0, s_max)
    problem = make_problem(data, electron_atoms(structure), scattering(), DynamicalChoice(limits, **choices), AS_GIVEN)
    return problem.with_step(step)


@pytest.mark.parametrize("motion", ["rotation", "precession"])
@pytest.mark.parametrize("kappa", [0.0, 0.04])
def test_derivatives_are_those_of_finite_differences(motion, kappa):
    structure = quartz()
    data = data_of(structure, frames_of(structure, motion=motion))
    problem = problem_of(data, structure, np.radians(0.1 if motion == "rotation" else 30.0), distribution="wedge")
    places, x = problem.layout.places, problem.start(400.0)
    x[places["kappa"]], x[places["spread"]] = kappa, 0.1
    x[places["tilt"]], x[places["mosaicity"]] = 1e-4, 1e-3
    _, jacobian = problem.derivatives(x, ("overall_b", "shifts", "tilt", "mosaicity"))
    for name, place in places.items():
        step = {"thickness": 1e-2, "tilt": 1e-7, "mosaicity": 1e-6, "displacements": 1e-7}.get(name, 1e-5)
        for i in range(place.start, place.stop):
            up, down = x.copy(), x.copy()
            up[i] += step
            down[i] -= step
            numeric = (problem.calculated(up) - problem.calculated(down)) / (2.0 * step)
            assert np.abs(numeric).max() > 0.0
            assert jacobian[:, i] == pytest.approx(numeric, abs=1e-5 * np.abs(numeric).max()), name


def test_by_frame_the_derivatives_by_thickness_are_of_one_frame_each():
    structure = quartz(False)
    data = data_of(structure, frames_of(structure))
    problem = problem_of(data, structure, thickness="by_frame")
    x = problem.start(400.0)
    _, jacobian = problem.derivatives(x, ())
    place = problem.layout.places["thickness"]
    for f in (0, 1):
        up, down = x.copy(), x.copy()
        up[place.start + f] += 0.01
        down[place.start + f] -= 0.01
        numeric = (problem.calculated(up) - problem.calculated(down)) / 0.02
        assert not numeric[data.frame != f].any()
        assert jacobian[:, place.start + f] == pytest.approx(numeric, abs=1e-6 * np.abs(numeric).max())


def test_the_step_that_is_enough_is_enough_and_four_times_it_is_not():
    structure = quartz(False)
    frames = frames_of(structure)
    data = data_of(structure, frames)
    step = enough_step(data, 600.0)
    assert np.radians(0.02) < step < np.radians(0.2)
    fine, enough, coarse = (
        problem_of(data, structure, one).calculated(problem_of(data, structure, one).start(600.0))
        for one in (step / 4.0, step, 4.0 * step)
    )
    error = [np.abs(one - fine).sum() / fine.sum() for one in (enough, coarse)]
    assert error[0] < 0.02 < 4 * error[0] < error[1]


def test_frames_that_tile_give_what_one_wide_frame_gives():
    """An observation that reaches into the next frames is the sum of their parts."""
    structure = quartz(False)
    wide = frames_of(structure, 1)
    wide = replace(wide, semi_width=np.radians([1.5]))
    data = data_of(structure, replace(wide, semi_width=np.radians([0.5])))
    reach = np.radians(1.2)
    data = replace(data, frames=wide, start=np.full(data.n, -reach), end=np.full(data.n, reach))
    one = problem_of(data, structure, np.radians(0.02), s_max=0.05)
    three = frames_of(structure, 3)  # the one in the middle is a degree on
    turned = replace(three, angle=three.angle - np.radians(1.0))
    spin = three.a_matrix @ np.linalg.inv(three.a_matrix[1])
    turned = replace(turned, a_matrix=spin @ wide.a_matrix[0], tile=True)
    tiled = replace(data, frames=turned, frame=np.ones(data.n, dtype=int))
    parts = problem_of(tiled, structure, np.radians(0.02), s_max=0.05)  # so that lists of beams matter little
    a, b = one.calculated(one.start(300.0)), parts.calculated(parts.start(300.0))
    assert np.abs(a - b).sum() < 0.003 * a.sum()
    assert {block.frame for block in parts.grid.blocks} == {0, 1, 2}


def test_the_unexplained_share_makes_half_of_the_residuals_smaller_than_the_median_of_a_normal_distribution():
    rng = np.random.default_rng(1)
    calculated = rng.exponential(100.0, 4000)
    product = calculated * calculated.mean()
    residual = rng.normal(size=4000) * np.sqrt(4.0 + 0.05**2 * product)
    assert refinement.unexplained_share(residual, np.full(4000, 4.0), product) == pytest.approx(0.05, rel=0.05)
