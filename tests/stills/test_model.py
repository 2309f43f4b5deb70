"""Calculated intensities and the whole Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
from joined_lattices import join_lattices

from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.model import (
    CELL_SCALE,
    LN_MOSAICITY,
    MAX_RELATIVE_VARIANCE,
    N_PARAMETERS,
    PARAMETERS,
    RADII,
    UNIT_CELLS,
    Observations,
    calculate,
    calculate_with_jacobian,
    partiality,
    partiality_with_variance,
    radius,
    rounds,
    scale_factor,
    scale_variance,
)
from dials_postrefine.stills.partiality import PROFILES

STEPS = {"scale": 1e-3, "b_factor": 1e-2, "theta_x": 2e-6, "theta_y": 2e-6, "radius": 1e-3, "mosaicity": 1e-3}
STEPS["cell_scale"] = 1e-6


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


@pytest.mark.parametrize(("model", "kind"), [("rs", "constant"), ("rs_hybrid", "constant"), ("rs_hybrid", "mosaic")])
@pytest.mark.parametrize("unit_cell", UNIT_CELLS)
def test_jacobian_agrees_with_central_differences(lattice, model, kind, unit_cell):
    profile, _, observations, truth, _ = lattice
    x = truth + [0.1, 0.3, 2e-4, -1e-4, 0.2, 0.0, 3e-4 if unit_cell == "scale" else 0.0]
    if kind == "mosaic":
        x[LN_MOSAICITY] = np.log(1.2e-3)
    value, jacobian = calculate_with_jacobian(x, observations, profile)
    assert value == pytest.approx(calculate(x, observations, profile), rel=1e-13)
    for name in rounds(model, kind, unit_cell)[-1]:
        i = PARAMETERS.index(name)
        step = np.eye(N_PARAMETERS)[i] * STEPS[name]
        near = [calculate(x + m * step, observations, profile) for m in (1, -1, 2, -2)]
        numeric = (8 * (near[0] - near[1]) - (near[2] - near[3])) / (12 * STEPS[name])
        smooth = np.ones(len(value), dtype=bool)
        if profile == "hard_sphere":  # its edge has no derivative: leave out what the steps carry across it
            smooth = (np.array(near) > 0.0).all(axis=0) | (np.array(near) == 0.0).all(axis=0)
        assert np.count_nonzero(smooth) > 0.9 * len(smooth)
        scale = np.abs(numeric[smooth]).max()
        assert jacobian[smooth, i] == pytest.approx(numeric[smooth], rel=1e-6, abs=1e-6 * scale), name


def test_rounds_name_the_parameters_of_each_model():
    first = ("scale", "b_factor", "theta_x", "theta_y")
    assert rounds("rs", "constant") == rounds("rs", "mosaic") == (first,)
    assert rounds("rs_hybrid", "constant") == (first, (*first, "radius"))
    assert rounds("rs_hybrid", "mosaic") == (first, (*first, "radius", "mosaicity"))
    assert rounds("rs", "constant", "scale") == (first, (*first, "cell_scale"))
    assert rounds("rs_hybrid", "mosaic", "scale") == (first, PARAMETERS)
    assert set(RADII) == {"constant", "mosaic"}


def test_the_mosaic_radius_grows_with_resolution_at_constant_volume(lattice):
    profile, _, observations, truth, _ = lattice
    x = truth.copy()
    x[LN_MOSAICITY] = np.log(1e-3)
    r_0 = np.exp(x[4])
    r_s = radius(x, observations.q_sq)
    assert r_s == pytest.approx(np.sqrt(r_0**2 + 1e-6 * observations.q_sq))
    on_sphere = Observations(  # a beam along -z, and points of |q| on its sphere
        np.column_stack([np.sqrt(observations.q_sq - observations.q_sq**2 / 4), 0 * r_s, observations.q_sq / 2]),
        observations.q_sq,
        np.array([0.0, 0.0, -1.0]),
        *(observations.intensity,) * 3,
    )
    still = x * [1, 1, 0, 0, 1, 1, 0]
    assert partiality(still, on_sphere, profile) == pytest.approx(np.ones(len(r_s)), rel=1e-9)
    # the height times the width is the same for all
    flat = still * [0, 0, 1, 1, 1, 1, 0]
    assert scale_factor(flat, observations.q_sq) * r_s == pytest.approx(np.full(len(r_s), r_0), rel=1e-12)


@pytest.mark.parametrize("kind", RADII)
def test_many_lattices_together_give_what_each_gives_alone(as_stills, truth_of, kind):
    sim = simulate_stills(
        StillsOptions(n_lattices=3, d_min=3.0, beam_tilt=1.0, wavelength_jitter=0.01, cell_spread=1e-3)
    )
    stills, x = as_stills(sim), truth_of(sim)
    assert np.ptp(x[:, CELL_SCALE]) > 0.0
    if kind == "mosaic":
        x[:, LN_MOSAICITY] = np.log([1e-3, 2e-3, 5e-4])
    alone = [stills.observations(k, sim.i_full[stills.rows(k)]) for k in range(3)]
    together = join_lattices(alone)
    value, jacobian = calculate_with_jacobian(x, together, "gaussian")
    expected = [calculate_with_jacobian(x[k], alone[k], "gaussian") for k in range(3)]
    assert value == pytest.approx(np.concatenate([one[0] for one in expected]), rel=1e-11)
    for column, one in zip(jacobian.T, np.concatenate([one[1] for one in expected]).T):
        assert column == pytest.approx(one, abs=1e-11 * np.abs(one).max())
    assert calculate(x, together, "gaussian") == pytest.approx(value, rel=1e-13)
    covariance = np.array(
        [np.diag((k + 1.0) * np.array([1e-2, 1e-2, 1e-6, 1e-6, 1e-2, 1e-2, 1e-5]) ** 2) for k in range(3)]
    )
    p, variance = partiality_with_variance(x, covariance, together, "gaussian")
    each = [partiality_with_variance(x[k], covariance[k], alone[k], "gaussian") for k in range(3)]
    assert p == pytest.approx(np.concatenate([one[0] for one in each]), rel=1e-11)
    assert variance == pytest.approx(np.concatenate([one[1] for one in each]), rel=1e-9)


def test_scale_variance_is_what_scattered_parameters_give():
    rng = np.random.default_rng(8)
    x = np.array([1.2, 3.0, 0.0, 0.0, -8.0, -7.0, 0.0])
    root = rng.normal(size=(7, 7)) * 0.01
    covariance = root @ root.T
    q_sq = np.array([0.0, 0.05, 0.2])
    draws = rng.multivariate_normal(x, covariance, size=20_000)
    values = np.array([scale_factor(draw, q_sq) for draw in draws])
    # 20000 draws determine a variance to 1 %
    assert scale_variance(x, covariance, q_sq) == pytest.approx(values.var(axis=0), rel=0.05)


def test_relative_variance_is_what_scattered_parameters_give(as_stills, truth_of):
    sim = simulate_stills(StillsOptions(n_lattices=1, d_min=2.5, profile="gaussian"))
    stills, x = as_stills(sim), truth_of(sim)[0]
    x[LN_MOSAICITY] = np.log(5e-4)
    observations = stills.observations(0, np.ones(len(stills.unique)))
    rng = np.random.default_rng(3)
    root = rng.normal(size=(7, 7)) * np.array([2e-2, 2e-2, 4e-6, 4e-6, 1e-2, 1e-2, 1e-5])[:, None]
    covariance = root @ root.T
    draws = rng.multivariate_normal(x, covariance, size=4000)
    scatter = np.log([calculate(draw, observations, "gaussian") for draw in draws]).var(axis=0)
    p, found = partiality_with_variance(x, covariance, observations, "gaussian")
    assert p == pytest.approx(partiality(x, observations, "gaussian"), rel=1e-12)
    recorded = calculate(x, observations, "gaussian") > 0.05 * scale_factor(x, observations.q_sq)
    assert np.count_nonzero(recorded) > 100
    # 4000 draws determine a variance to 2.2 %, the largest of hundreds is off by four times that
    assert found[recorded] == pytest.approx(scatter[recorded], rel=0.12)
    _, unknown = partiality_with_variance(x, np.diag([np.inf] * 7), observations, "gaussian")
    assert unknown == pytest.approx(np.full(len(unknown), MAX_RELATIVE_VARIANCE))


def test_an_unknown_covariance_is_no_nan_in_the_variance_of_the_scale():
    x, q_sq = np.array([1.2, 3.0, 0.0, 0.0, -8.0, -7.0, 0.0]), np.array([0.0, 0.05, 0.2])
    for unknown in (np.diag([np.inf] * 7), np.diag([0.0, 0.0, np.inf, np.inf, 0.0, 0.0, 0.0])):
        found = scale_variance(x, unknown, q_sq)
        assert found == pytest.approx(scale_factor(x, q_sq) ** 2 * MAX_RELATIVE_VARIANCE)
