"""Calculated intensities and the whole Jacobian."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.simulate import StillsOptions, simulate_stills
from dials_postrefine.stills.model import (
    PARAMETERS,
    ROUNDS,
    calculate,
    calculate_with_jacobian,
    scale_factor,
    scale_variance,
)
from dials_postrefine.stills.partiality import PROFILES

STEPS = {"scale": 1e-3, "b_factor": 1e-2, "theta_x": 2e-6, "theta_y": 2e-6, "radius": 1e-3}


@pytest.fixture(scope="module", params=PROFILES)
def lattice(request, as_stills, truth_of):
    options = StillsOptions(
        n_lattices=2, profile=request.param, d_min=3.0, noise=False, beam_tilt=2.0, wavelength_jitter=0.01, seed=4
    )
    sim = simulate_stills(options)
    stills = as_stills(sim)
    return request.param, sim, stills.observations(1, sim.i_full[stills.rows(1)]), truth_of(sim)[1], stills.rows(1)


def test_calculated_intensities_at_the_truth_are_those_of_the_simulation(lattice):
    profile, sim, observations, truth, rows = lattice
    expected = sim.expected[rows] / sim.polarisation[rows]
    assert calculate(truth, observations, profile) == pytest.approx(expected, rel=1e-9, abs=1e-9 * expected.max())


@pytest.mark.parametrize("model", ROUNDS)
def test_jacobian_agrees_with_central_differences(lattice, model):
    profile, _, observations, truth, _ = lattice
    x = truth + [0.1, 0.3, 2e-4, -1e-4, 0.2]
    value, jacobian = calculate_with_jacobian(x, observations, profile)
    assert value == pytest.approx(calculate(x, observations, profile), rel=1e-13)
    for name in ROUNDS[model][-1]:
        i = PARAMETERS.index(name)
        step = np.eye(5)[i] * STEPS[name]
        near = [calculate(x + m * step, observations, profile) for m in (1, -1, 2, -2)]
        numeric = (8 * (near[0] - near[1]) - (near[2] - near[3])) / (12 * STEPS[name])
        smooth = np.ones(len(value), dtype=bool)
        if profile == "hard_sphere":  # its edge has no derivative: leave out what the steps carry across it
            smooth = (np.array(near) > 0.0).all(axis=0) | (np.array(near) == 0.0).all(axis=0)
        assert np.count_nonzero(smooth) > 0.9 * len(smooth)
        scale = np.abs(numeric[smooth]).max()
        assert jacobian[smooth, i] == pytest.approx(numeric[smooth], rel=1e-6, abs=1e-6 * scale), name


def test_scale_variance_is_what_scattered_parameters_give():
    rng = np.random.default_rng(8)
    x = np.array([1.2, 3.0, 0.0, 0.0, -8.0])
    covariance = np.zeros((5, 5))
    covariance[:2, :2] = [[4e-4, 6e-4], [6e-4, 2.5e-3]]
    q_sq = np.array([0.0, 0.05, 0.2])
    draws = rng.multivariate_normal(x[:2], covariance[:2, :2], size=200_000)
    values = np.array([scale_factor(np.array([a, b, 0, 0, 0]), q_sq) for a, b in draws[:20_000]])
    # 20000 draws determine a variance to 1 %
    assert scale_variance(x, covariance, q_sq) == pytest.approx(values.var(axis=0), rel=0.05)
