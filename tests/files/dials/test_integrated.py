"""Integrated observations: corrections against DIALS' own, selection and counts."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.algorithms.integration import Corrections
from dials.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials import integrated
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.simulate.still_files import make_experiments, make_reflections
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(n_lattices=3, seed=4, d_min=3.5, beam_tilt=2.0, polarization_fraction=0.97)


@pytest.fixture(scope="module")
def simulated():
    sim = simulate_stills(OPTIONS)
    experiments = make_experiments(sim)
    return sim, experiments, make_reflections(sim, experiments)


@pytest.fixture
def table(simulated):
    return simulated[2].select(flex.bool(len(simulated[2]), True))


@pytest.fixture
def experiments(simulated):
    return simulated[1]


# Polarisation and detector efficiency


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.999, 1.0])
def test_polarisation_is_that_of_dials(simulated, fraction):
    sim, experiments, table = simulated
    beam = type(experiments[0].beam)(experiments[0].beam)
    beam.set_polarization_fraction(fraction)
    corrections = Corrections(beam, experiments[0].detector)  # without a goniometer lp is the polarisation alone
    expected = [1.0 / corrections.lp(s1) for s1 in table["s1"]]
    found = integrated.polarisation(sim.s1, np.array(beam.get_s0()), np.array(beam.get_polarization_normal()), fraction)
    assert found == pytest.approx(np.array(expected), rel=1e-12)


def test_polarisation_has_its_known_limits():
    s0, normal = np.array([0.0, 0.0, -2.0]), np.array([0.0, 3.0, 0.0])  # of any length
    two_theta = np.radians([0.0, 30.0, 90.0])
    in_plane = np.stack([np.sin(two_theta), 0.0 * two_theta, -np.cos(two_theta)], axis=1) * 5.0
    across = in_plane[:, [1, 0, 2]]
    # unpolarised, the same about the beam
    for s1 in (in_plane, across):
        expected = (1.0 + np.cos(two_theta) ** 2) / 2.0
        assert integrated.polarisation(s1, s0, normal, 0.5) == pytest.approx(expected)
    # the electric vector in the plane: nothing is scattered along it, and all across it
    assert integrated.polarisation(in_plane, s0, normal, 1.0) == pytest.approx(np.cos(two_theta) ** 2)
    assert integrated.polarisation(across, s0, normal, 1.0) == pytest.approx([1.0, 1.0, 1.0])


def raw(table, row):
    return [flumpy.to_numpy(table[f"intensity.sum.{name}"])[row] for name in ("value", "variance")]


def test_polarisation_is_applied_once_with_and_without_the_column(simulated, table, experiments):
    sim = simulated[0]
    computed = integrated.usable_observations(table, experiments)
    value, variance = raw(table, computed.row)
    assert computed.intensity == pytest.approx(value / sim.polarisation[computed.row], rel=1e-9)
    assert computed.variance == pytest.approx(variance / sim.polarisation[computed.row] ** 2, rel=1e-9)
    # the table now says what was applied, and is read again
    assert flumpy.to_numpy(table["lp"]) == pytest.approx(1.0 / sim.polarisation, rel=1e-9)
    again = integrated.usable_observations(table, experiments)
    assert np.array_equal(again.intensity, computed.intensity)
    # as the integrator writes it
    table.compute_corrections(experiments)
    given = integrated.usable_observations(table, experiments)
    assert given.intensity == pytest.approx(computed.intensity, rel=1e-9)
    assert given.variance == pytest.approx(computed.variance, rel=1e-9)


@pytest.mark.parametrize("names", [("qe",), ("dqe",), ("qe", "dqe")])
def test_lp_and_detector_efficiency_are_those_of_the_columns(table, experiments, names):
    n = len(table)
    lp, efficiency = np.linspace(1.0, 2.0, n), np.linspace(0.5, 0.9, n)
    table["lp"] = flumpy.from_numpy(lp.copy())
    for name in names:
        table[name] = flumpy.from_numpy(efficiency.copy())
    usable = integrated.usable_observations(table, experiments)
    assert len(usable.row) == n
    value, variance = raw(table, usable.row)
    factor = (lp / efficiency)[usable.row]
    assert usable.intensity == pytest.approx(value * factor)
    assert usable.variance == pytest.approx(variance * factor**2)


# Selection


def test_usable_observations_are_sorted_selected_and_counted(table, experiments):
    order = np.random.default_rng(3).permutation(len(table))
    table = table.select(flumpy.from_numpy(order.astype(np.uint64)))
    n, names = len(table), table.flags
    for rows, flag in (((0, 1), names.overloaded), ((2,), names.user_excluded_in_scaling)):
        table.set_flags(flex.bool(np.isin(np.arange(n), rows).tolist()), flag)
    table.unset_flags(flex.bool((np.arange(n) == 3).tolist()), names.integrated_sum)
    table["intensity.sum.value"][4] = float("nan")
    table["intensity.sum.variance"][5] = 0.0
    table["s1"][6] = (0.0, 0.0, 0.0)
    table["miller_index"][7] = (0, 0, 0)
    table["miller_index"][8] = (1000, 0, 0)
    d = 1.0 / np.sqrt(d_star_sq_of(table, experiments))
    outside = (d < 4.0) | (d > 10.0)
    usable = integrated.usable_observations(table, experiments, d_min=4.0, d_max=10.0)
    expected = np.flatnonzero(~outside & (np.arange(n) > 8))
    ids = flumpy.to_numpy(table["id"])
    assert np.array_equal(np.sort(usable.row), expected)
    for k in range(3):
        own = usable.row[usable.offsets[k] : usable.offsets[k + 1]]
        h = [table["miller_index"][int(i)] for i in own]
        assert np.all(ids[own] == k) and h == sorted(h)
    assert np.array_equal(usable.h, miller_indices_to_numpy(table["miller_index"])[usable.row])
    assert usable.n_excluded == {
        "overloaded": 2,
        "excluded by the user": 1,
        "not integrated": 1,
        "bad intensity or variance": 2,
        "without a direction s1": 1,
        "index 0,0,0": 1,
        "with an index that can't diffract": 1,
        "outside of d_min and d_max": np.count_nonzero(outside[9:]),
    }


def d_star_sq_of(table, experiments) -> np.ndarray:
    """d*^2 by cctbx from the unit cell of each crystal, NaN for 0,0,0."""
    cells = [experiment.crystal.get_unit_cell() for experiment in experiments]
    with np.errstate(divide="ignore"):
        values = [cells[i].d_star_sq(h) or np.nan for i, h in zip(table["id"], table["miller_index"])]
    return np.array(values)
