"""Values and derivatives of the partiality profiles; a new profile is picked up from PROFILES."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.simulate.stills import model_partiality
from dials_postrefine.stills.partiality import PROFILES, Profile

R_S = 3.7e-4
R_H = np.linspace(-3.0, 3.0, 98) * R_S  # neither 0 nor the edge of the hard sphere among them


@pytest.mark.parametrize("name", PROFILES)
def test_derivatives_agree_with_central_differences(name):
    profile = Profile(name)
    _, dp_dr_h, dp_dr_s = profile(R_H, R_S)
    step = 1e-4 * R_S
    for derivative, move in ((dp_dr_h, lambda m: (R_H + m * step, R_S)), (dp_dr_s, lambda m: (R_H, R_S + m * step))):
        values = [profile(*move(m))[0] for m in (1, -1, 2, -2)]
        numeric = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
        assert derivative == pytest.approx(numeric, rel=1e-6, abs=1e-6 / R_S * 1e-3)


@pytest.mark.parametrize("name", PROFILES)
def test_value_agrees_with_the_formula_that_the_simulation_uses(name):
    assert Profile(name)(R_H, R_S)[0] == pytest.approx(model_partiality(name, R_H, R_S), rel=1e-14)


@pytest.mark.parametrize("name", PROFILES)
def test_a_point_on_the_sphere_is_full_and_half_of_it_is_left_at_the_half_width(name):
    half_width = R_S / np.sqrt(2.0)
    p, slope, by_radius = Profile(name)(np.array([0.0, half_width, -half_width]), R_S)
    assert p == pytest.approx([1.0, 0.5, 0.5])
    assert slope[0] == by_radius[0] == 0.0
    assert slope[1] == pytest.approx(-slope[2]) and slope[1] < 0.0


def test_the_hard_sphere_has_an_end():
    p, slope, by_radius = Profile("hard_sphere")(np.array([1.001, -5.0]) * R_S, R_S)
    assert np.all(p == 0.0) and np.all(slope == 0.0) and np.all(by_radius == 0.0)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_takes_a_radius_for_each_reflection_and_has_a_start(name):
    radii = np.linspace(1e-4, 1e-3, len(R_H))
    one_by_one = [Profile(name)(np.array([r_h]), r_s) for r_h, r_s in zip(R_H, radii)]
    assert np.array(Profile(name)(R_H, radii)) == pytest.approx(np.array(one_by_one)[:, :, 0].T)
    assert Profile(name).start_radius > 0.0


@pytest.mark.parametrize("m", [0.7, 1.0, 2.3, 8.0, 300.0])
def test_derivatives_of_pearson_vii_agree_with_central_differences_at_any_exponent(m):
    p, dp_dr_h, dp_dr_s = Profile("pearson_vii", m)(R_H, R_S)
    assert p == pytest.approx(model_partiality("pearson_vii", R_H, R_S, m), rel=1e-9)
    step = 1e-4 * R_S
    moved = [Profile("pearson_vii", m)(R_H + sign * step, R_S)[0] for sign in (1, -1)]
    assert dp_dr_h == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-8 / R_S)
    moved = [Profile("pearson_vii", m)(R_H, R_S + sign * step)[0] for sign in (1, -1)]
    assert dp_dr_s == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-8 / R_S)


def test_pearson_vii_ends_in_lorentzian_and_gaussian():
    assert Profile("pearson_vii", 1.0)(R_H, R_S)[0] == pytest.approx(Profile("lorentzian")(R_H, R_S)[0], rel=1e-14)
    assert Profile("pearson_vii", 1e7)(R_H, R_S)[0] == pytest.approx(Profile("gaussian")(R_H, R_S)[0], rel=1e-5)
