"""
What residuals say of simulated stills: nothing where nothing is wrong, and of each fault what it is, at two sizes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

pytest.importorskip("dials", reason="the simulation needs cctbx")

from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.simulate.still_files import as_recording, as_stills
from dials_postrefine.simulate.stills import (
    StillsOptions,
    model_partiality,
    polarisation_factor,
    rotation_matrices,
    simulate_stills,
)
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.geometry import vectors_of_lattices
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.systematics.deviations import Deviations
from dials_postrefine.stills.systematics.projection import make_nuisances, project
from dials_postrefine.stills.systematics.systematics import NAMES, Verdict, find_systematics
from dials_postrefine.stills.systematics.trends import common_mean, drift
from dials_postrefine.stills.unrefined import leave_unrefined

OPTIONS = StillsOptions(
    n_lattices=60,
    seed=11,
    d_min=2.5,
    polarization_fraction=0.99,
    scale_spread=0.25,
    b_spread=0.3,
    radius_spread=0.1,
    window=0.0006,
)
CONSTANT = FitSettings(profile="lorentzian", radius="constant", unit_cell="fixed")


@lru_cache(maxsize=1)
def simulated():
    return simulate_stills(OPTIONS)


def say(stills, recording, settings=CONSTANT, reference=FitReference()) -> dict:
    result = postrefine(stills, DatasetSettings(fit=settings), reference)
    return find_systematics(stills, result, recording, reference)


def with_factor(factor: np.ndarray):
    """The simulation with all intensities times a factor (n,), errors and all."""
    stills = as_stills(simulated())
    return replace(stills, intensity=stills.intensity * factor, variance=stills.variance * factor**2)


def excitations() -> np.ndarray:
    sim = simulated()
    q = np.einsum("nij,nj->ni", sim.a_true[sim.lattice], sim.h)
    s0 = sim.s0[sim.lattice]
    return np.linalg.norm(q + s0, axis=1) - np.linalg.norm(s0, axis=1)


def places() -> np.ndarray:
    """The place of each observation's lattice in the run, from -1/2 to 1/2."""
    return simulated().lattice / (OPTIONS.n_lattices - 1.0) - 0.5


def found_as_it_is(one, truth: float, esds: float = 4.0) -> None:
    assert one.verdict is Verdict.DIFFERS, one
    assert abs(one.value - truth) < esds * one.esd, (one, truth)
    assert one.esd < 0.5 * abs(truth - one.expected), one


def test_projections_are_the_fit_of_everything_at_once():
    """Against one dense weighted least-squares fit with a parameter for each index and seven for each lattice."""
    rng = np.random.default_rng(5)
    n, n_unique, n_lattices, k, m = 900, 90, 12, 3, 2
    lattice = np.sort(rng.integers(n_lattices, size=n))
    unique = rng.integers(n_unique, size=n)
    none = np.zeros(n)
    mean, root = rng.uniform(1.0, 3.0, n_unique), rng.uniform(0.5, 2.0, n)
    gradient = np.column_stack([np.ones(n), rng.standard_normal((n, k - 1))])
    deviations = Deviations(none, none, unique, lattice, np.arange(n), none, gradient, none, none, none)
    columns = rng.standard_normal((n, m)) * (mean[unique] * root)[:, None]
    residual = rng.standard_normal(n)
    nuisances = make_nuisances(deviations, mean, root)
    height = mean[unique] * root
    of_index = np.where(unique[:, None] == np.arange(n_unique), height[:, None], 0.0)
    of_lattice = np.where(lattice[:, None] == np.repeat(np.arange(n_lattices), k), 1.0, 0.0)
    of_lattice *= np.tile(gradient * height[:, None], n_lattices)
    everything = np.column_stack([columns, of_index, of_lattice])
    expected = np.linalg.lstsq(everything, residual, rcond=None)[0][:m]
    found = project(nuisances, columns, residual, lattice).solve()
    assert found.a == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())
    assert nuisances.n_free == np.linalg.matrix_rank(of_index) + np.linalg.matrix_rank(of_lattice)
    # of independent noise the esds are those of least squares, but for what twelve clusters leave
    left = everything[:, m:]
    f = columns - left @ np.linalg.lstsq(left, columns, rcond=None)[0]
    plain = np.sqrt(np.diag(np.linalg.inv(f.T @ f)))
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(plain, rel=0.7)


def test_esds_hold_for_lattices_that_differ():
    """A trend and a mean over many draws of noise with tails: as often off by their esds as they say."""
    rng = np.random.default_rng(3)
    z = []
    for _ in range(300):
        values = rng.standard_t(4, 40) + 0.5 * np.linspace(-0.5, 0.5, 40)
        for (found, esd), truth in ((drift(values, np.arange(40)), 0.5), (common_mean(values), 0.0)):
            z.append((found - truth) / esd)
    assert np.std(z) == pytest.approx(1.0, abs=0.1)
    assert abs(np.mean(z)) < 0.15


def test_what_a_restraint_takes_off_is_given_back():
    """Values that are drawn to zero as a normal distribution of their own width draws them."""
    rng = np.random.default_rng(4)
    place, width = np.linspace(-0.5, 0.5, 4000), 0.7
    true = 1.0 + 2.0 * place + width * rng.standard_normal(4000)
    sigma = rng.uniform(0.1, 1.0, 4000)
    left = width**2 / (width**2 + sigma**2)
    values = left * (true + sigma * rng.standard_normal(4000))
    for (found, esd), truth in ((drift(values, place, left), 2.0), (common_mean(values, left), 1.0)):
        assert abs(found - truth) < 3.0 * esd < 0.3 * truth
    assert drift(values, place)[0] < 1.7 and common_mean(values)[0] < 0.8


def test_few_lattices_say_nothing_and_raise_nothing():
    sim = simulate_stills(replace(OPTIONS, n_lattices=5))
    stills = as_stills(sim)
    found = find_systematics(stills, postrefine(stills, DatasetSettings(fit=CONSTANT)), as_recording(sim))
    assert list(found) == list(NAMES)
    assert all(one.verdict is Verdict.UNKNOWN and one.reason and np.isnan(one.value) for one in found.values())


def test_what_can_not_be_told_has_a_reason():
    """Electrons, one goniometer, no positions; the rest is told all the same."""
    sim = simulated()
    n, nowhere = OPTIONS.n_lattices, np.full((len(sim.h), 2), np.nan)
    recording = replace(as_recording(sim), position=nowhere, fraction=np.full(n, np.nan), shared=np.ones(n, dtype=bool))
    found = say(as_stills(sim), recording)
    untold = {name for name, one in found.items() if one.verdict is Verdict.UNKNOWN}
    assert untold == {
        "polarization_fraction",
        "polarization_direction",
        "panel_gain",
        "radial",
        "beam_direction_x",
        "beam_direction_y",
        "drift_mosaicity",
    }
    assert "goniometer" in found["beam_direction_x"].reason and "X-rays" in found["polarization_fraction"].reason


CLEAN = {
    "as the model": (OPTIONS, CONSTANT),
    "with cells": (replace(OPTIONS, cell_spread=0.0003), replace(CONSTANT, unit_cell="scale")),
    "unlike the model": (
        replace(StillsOptions.unlike_model(n_lattices=60), d_min=2.5, polarization_fraction=0.99),
        FitSettings(profile="gaussian", radius="mosaic"),
    ),
    "a narrow detector": (replace(OPTIONS, d_min=4.0, n_lattices=100), CONSTANT),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", CLEAN)
def test_nothing_is_said_of_what_is_right(kind, seed):
    """
    Twenty sets in all, self-merged, and the intensities of each against the true ones once more, which tell of the
    resolution.  Nor is anything too far off: five esds, of two hundred values, is what chance leaves.
    """
    options, settings = CLEAN[kind]
    sim = simulate_stills(replace(options, seed=1000 + seed))
    result = postrefine(as_stills(sim), DatasetSettings(fit=settings))
    found = find_systematics(as_stills(sim), result, as_recording(sim))
    assert list(found) == list(NAMES)
    truth = FitReference(sim.reference_intensity)
    result = postrefine(as_stills(sim), DatasetSettings(fit=settings, n_cycles=1), truth)
    found["radial"] = find_systematics(as_stills(sim), result, as_recording(sim), truth)["radial"]
    assert found["radial"].verdict is not Verdict.UNKNOWN
    assert not [one for one in found.values() if one.verdict is Verdict.DIFFERS]
    known = [one for one in found.values() if one.verdict is not Verdict.UNKNOWN]
    assert len(known) >= 9
    inside = [one for one in known if one.name != "polarization_fraction"]  # which ends at one
    assert max(abs(one.value - one.expected) / one.esd for one in inside) < 5.0


@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_the_fraction_of_polarisation(fraction):
    sim = simulated()
    wrong = polarisation_factor(sim.s1, sim.s0[0], np.array([0.0, 1.0, 0.0]), fraction)
    recording = replace(as_recording(sim), correction=1.0 / wrong, fraction=np.full(OPTIONS.n_lattices, fraction))
    found = say(with_factor(sim.polarisation / wrong), recording)
    found_as_it_is(found["polarization_fraction"], 0.99)
    assert found["polarization_fraction"].expected == fraction


@pytest.mark.parametrize("degrees", [12.0, 35.0])
def test_the_direction_of_polarisation(degrees):
    """The plane of the models is turned the other way about the beam, which goes along -z."""
    sim = simulated()
    angle = np.radians(degrees)
    normal = rotation_matrices([0.0, 0.0, angle])[0] @ (0.0, 1.0, 0.0)
    wrong = polarisation_factor(sim.s1, sim.s0[0], normal, 0.99)
    recording = replace(as_recording(sim), correction=1.0 / wrong, normal=np.tile(normal, (OPTIONS.n_lattices, 1)))
    found = say(with_factor(sim.polarisation / wrong), recording)
    found_as_it_is(found["polarization_direction"], angle)
    assert found["polarization_fraction"].verdict is not Verdict.DIFFERS


@pytest.mark.parametrize("gain", [0.9, 1.2])
def test_the_gain_of_a_part_of_one_panel(gain):
    recording = as_recording(simulated())
    x, y = (4.0 * recording.position).astype(int).T
    found = say(with_factor(np.where((x == 2) & (y == 1), gain, 1.0)), recording)
    one = found["panel_gain"]
    assert one.where == "part 3,2" and one.verdict is Verdict.DIFFERS
    others = np.mean([other.value for other in one.gains if other.name != one.where])
    assert (1.0 + one.value) / (1.0 + others) == pytest.approx(gain, abs=0.015)


@pytest.mark.parametrize("gain", [0.9, 1.2])
def test_the_gain_of_a_panel(gain):
    recording = as_recording(simulated())
    panel = (8.0 * recording.position[:, 0]).astype(int)
    found = say(with_factor(np.where(panel == 5, gain, 1.0)), replace(recording, panel=panel))
    one = found["panel_gain"]
    assert one.where == "panel 5" and one.verdict is Verdict.DIFFERS
    others = np.mean([other.value for other in one.gains if other.name != one.where])
    assert (1.0 + one.value) / (1.0 + others) == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize("size", [0.06, 0.2])
def test_what_departs_from_a_reference_with_resolution(size):
    sim = simulated()
    t = sim.d**-2.0
    t = 2.0 * (t - t.min()) / np.ptp(t) - 1.0
    factor = 1.0 + size * 0.5 * (3.0 * t**2 - 1.0)
    found = say(with_factor(factor), as_recording(sim), reference=FitReference(sim.reference_intensity))
    found_as_it_is(found["radial"], size)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("epsilon", [0.0006, -0.0012])
def test_the_scale_of_the_cells(epsilon, own):
    stills = as_stills(simulated())
    a_matrix = stills.a_matrix / (1.0 + epsilon)
    q, q_sq = vectors_of_lattices(a_matrix, stills.h, stills.offsets)
    stills = replace(stills, a_matrix=a_matrix, q=q, q_sq=q_sq)
    found = say(stills, as_recording(simulated()), replace(CONSTANT, unit_cell="scale" if own else "fixed"))
    found_as_it_is(found["cell_scale"], epsilon, 6.0)


@pytest.mark.parametrize("epsilon", [0.0006, -0.0012])
def test_the_wavelength(epsilon):
    """The models' wavelength is too long by epsilon, so that their cells look too large by it."""
    stills = as_stills(simulated())
    found = say(replace(stills, s0=stills.s0 / (1.0 + epsilon)), as_recording(simulated()))
    found_as_it_is(found["cell_scale"], -epsilon, 6.0)


@pytest.mark.parametrize("size", [0.05, -0.15])
def test_asymmetry(size):
    found = say(with_factor(1.0 + size * np.sign(excitations())), as_recording(simulated()))
    found_as_it_is(found["asymmetry"], size)


@pytest.mark.parametrize(("axis", "other"), ["xy", "yx"])
@pytest.mark.parametrize("degrees", [0.04, 0.15])
def test_the_direction_of_the_beam(degrees, axis, other):
    """The models' beam is the true one turned back about an axis."""
    stills = as_stills(simulated())
    angles = [np.radians(degrees) * (axis == name) for name in "xy"]
    found = say(replace(stills, s0=stills.s0 @ rotate(*angles)), as_recording(simulated()))
    found_as_it_is(found[f"beam_direction_{axis}"], np.radians(degrees))
    assert found[f"beam_direction_{other}"].verdict is not Verdict.DIFFERS


@pytest.mark.parametrize("size", [0.9, -2.0])
def test_a_drift_of_the_scale(size):
    found = say(with_factor(np.exp(size * places())), as_recording(simulated()))
    found_as_it_is(found["drift_scale"], size)


def say_scaled_only(stills, recording) -> dict:
    settings = DatasetSettings(fit=CONSTANT)
    result = leave_unrefined(stills, settings, postrefine(stills, settings), FitReference())
    return find_systematics(stills, result, recording)


def test_scaled_data_say_nothing_of_what_takes_refined_lattices():
    found = say_scaled_only(as_stills(simulated()), as_recording(simulated()))
    told = [name for name, one in found.items() if one.verdict is not Verdict.UNKNOWN]
    assert told == ["polarization_fraction", "polarization_direction", "panel_gain", "drift_scale"]
    assert not [name for name in told if found[name].verdict is Verdict.DIFFERS]
    for name in set(NAMES) - {"radial", *told}:
        assert "scaled alone" in found[name].reason and np.isnan(found[name].value), name


def test_scaled_data_tell_of_polarisation_gains_and_scales():
    """Partialities that are not known make esds larger, but nothing false."""
    sim, recording = simulated(), as_recording(simulated())
    wrong = polarisation_factor(sim.s1, sim.s0[0], np.array([0.0, 1.0, 0.0]), 0.0)
    turned = replace(recording, correction=1.0 / wrong, fraction=np.zeros(OPTIONS.n_lattices))
    found = say_scaled_only(with_factor(sim.polarisation / wrong), turned)
    found_as_it_is(found["polarization_fraction"], 0.99)
    x, y = (4.0 * recording.position).astype(int).T
    gain = np.where((x == 2) & (y == 1), 0.6, 1.0)
    found = say_scaled_only(with_factor(gain * np.exp(2.0 * places())), recording)
    assert found["panel_gain"].where == "part 3,2" and found["panel_gain"].verdict is Verdict.DIFFERS
    assert found["panel_gain"].value == pytest.approx(-0.4, abs=4.0 * found["panel_gain"].esd)
    found_as_it_is(found["drift_scale"], 2.0)


@pytest.mark.parametrize("size", [4.0, -10.0])
def test_a_drift_of_b(size):
    """B by the conventional exp(-B d*^2/2)."""
    found = say(with_factor(np.exp(-0.5 * size * places() * simulated().d ** -2.0)), as_recording(simulated()))
    found_as_it_is(found["drift_b"], size)


@pytest.mark.parametrize("size", [0.4, -0.8])
def test_a_drift_of_the_radius(size):
    sim, r_h = simulated(), excitations()
    r_s = sim.radius[sim.lattice]
    factor = model_partiality("lorentzian", r_h, r_s * np.exp(size * places())) / sim.partiality
    found = say(with_factor(factor), as_recording(sim))
    found_as_it_is(found["drift_radius"], size)


@pytest.mark.parametrize("size", [0.8, -1.6])
def test_a_drift_of_the_mosaicity(size):
    sim, r_h = simulated(), excitations()
    r_0 = sim.radius[sim.lattice]
    eta = np.radians(0.1) * np.exp(size * places())
    r_s = np.hypot(r_0, eta / sim.d)
    factor = r_0 / r_s * model_partiality("lorentzian", r_h, r_s) / sim.partiality
    found = say(with_factor(factor), as_recording(sim), replace(CONSTANT, radius="mosaic"))
    found_as_it_is(found["drift_mosaicity"], size)
