"""Reflection tables: corrections against DIALS' own, indices against cctbx, the scaled columns number by number."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import crystal, miller, sgtbx, uctbx
from dials.algorithms.integration import Corrections
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import integrated, scaled_columns, tables
from dials_postrefine.files.dials.symmetry import number_unique
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import pack
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


# Indices


def test_pack_gives_equal_integers_for_equal_indices_alone():
    rng = np.random.default_rng(0)
    h = rng.integers(-3, 4, size=(2000, 3))
    h = np.concatenate([h, rng.integers(-5000, 5000, size=(2000, 3))]).astype(np.int32)
    _, by_rows = np.unique(h, axis=0, return_inverse=True)
    _, by_pack = np.unique(pack(h), return_inverse=True)
    assert len(set(zip(by_rows.ravel().tolist(), by_pack.tolist()))) == by_rows.max() + 1 == by_pack.max() + 1


@pytest.mark.parametrize(
    "space_group, cell",
    [
        ("P1", (30, 40, 50, 80, 95, 100)),
        ("C2", (60, 40, 50, 90, 105, 90)),
        ("P43212", (79, 79, 38, 90, 90, 90)),
        ("R3:H", (60, 60, 90, 90, 90, 120)),
        ("I23", (70, 70, 70, 90, 90, 90)),
    ],
)
def test_unique_indices_are_those_of_cctbx(space_group, cell):
    group = sgtbx.space_group_info(space_group).group()
    h = np.random.default_rng(1).integers(-6, 7, size=(3000, 3)).astype(np.int32)
    h = h[np.any(h != 0, axis=1)]
    unique, h_unique, absent = number_unique(h, group)

    symmetry = crystal.symmetry(unit_cell=uctbx.unit_cell(cell), space_group=group)
    indices = flex.miller_index(h.tolist() and [tuple(map(int, row)) for row in h])
    whole = miller.set(symmetry, indices, anomalous_flag=False)
    mapped = list(whole.map_to_asu().indices())
    assert [tuple(row) for row in h_unique[unique].tolist()] == mapped
    assert len(h_unique) == whole.unique_under_symmetry().size() == len(set(mapped))
    assert unique.max() == len(h_unique) - 1
    theirs = dict(zip(mapped, whole.sys_absent_flags().data()))
    assert [theirs[tuple(row)] for row in h_unique.tolist()] == absent.tolist()


# The contract of the scaled columns (dials-facts.md)


def test_scaled_columns_number_by_number():
    flags = flex.reflection_table.flags
    table = flex.reflection_table()
    old = int(flags.integrated_sum) | int(flags.scaled) | int(flags.outlier_in_scaling)
    table["flags"] = flex.size_t(5, old)
    table["partial_id"] = flex.size_t(5, 1)
    columns = scaled_columns.ScaledColumns(
        row=np.array([4, 0, 2, 3]),  # row 1 is not usable
        kept=np.array([True, True, False, True]),
        outlier=np.array([False, True, False, False]),
        value=np.array([10.0, 40.0, 3e7, -16.0]),
        variance=np.array([1.0, 12.0, 3e12, 80.0]),
        partiality=np.array([0.5, 0.3, 0.0, 0.25, 1.0]),
        scale=np.array([2.0, 3.0, 4.0, 5.0, 6.0]),
        scale_variance=np.array([0.2, 0.3, 0.4, 0.5, 0.6]),
        reference=np.array([100.0, np.nan, 300.0, 400.0]),
    )
    scaled_columns.write_scaled_columns(table, columns)

    def column(name):
        return flumpy.to_numpy(table[name]).tolist()

    tiny = scaled_columns.MIN_PARTIALITY
    assert tiny > 0.0
    assert column("partiality") == [0.5, 0.3, tiny, 0.25, 1.0]
    assert column("intensity.scale.value") == [40.0, 0.0, 3e7, -16.0, 10.0]
    assert column("intensity.scale.variance") == [12.0, 1.0, 3e12, 80.0, 1.0]
    assert column("inverse_scale_factor") == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert column("inverse_scale_factor_variance") == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert column("intensity.ref.value") == [0.0, 0.0, 300.0, 400.0, 100.0]
    integrated = int(flags.integrated_sum)
    scaled, outlier = integrated | int(flags.scaled), integrated | int(flags.outlier_in_scaling)
    excluded = integrated | int(flags.excluded_for_scaling)
    assert column("flags") == [outlier, excluded, excluded, scaled, scaled]
    assert "partial_id" not in table
    # what dials.merge and dials.scale leave out
    bad = table.get_flags(table.flags.bad_for_scaling, all=False)
    assert list(bad) == [True, True, True, False, False]


# Several tables as one


def small_table(ids, identifiers: dict[int, str], **columns):
    """A table of len(ids) rows whose l is the row's number."""
    n = len(ids)
    table = flex.reflection_table()
    table["id"] = flex.int(ids)
    table["miller_index"] = flex.miller_index([(len(identifiers), 0, i) for i in range(n)])
    table["flags"] = flex.size_t(n, 0)
    table["s1"] = flex.vec3_double(n, (0.0, 0.0, 1.0))
    for name, value in columns.items():
        table[name] = flex.double(n, value)
    for i, identifier in identifiers.items():
        table.experiment_identifiers()[i] = identifier
    return table


FILES = [["a", "b"], ["c", "d", "e"]]  # the identifiers by .expt file


def test_lattices_are_found_by_identifier_whatever_the_order():
    first = small_table([7, 2, 7, -1], {2: "c", 7: "a"}, qe=0.5, other=1.0)
    second = small_table([0, 1, 2, 0], {0: "e", 1: "b", 2: "d"})
    whole = tables.join_tables(["1.refl", "2.refl"], [first, second], FILES)
    assert list(whole["id"]) == [0, 2, 0, 4, 1, 3, 4]
    assert [h[2] for h in whole["miller_index"]] == [0, 1, 2, 0, 1, 2, 3]
    names = whole.experiment_identifiers()
    assert dict(zip(names.keys(), names.values())) == dict(enumerate("abcde"))
    # a column of one table alone: what its absence means, or nothing
    assert list(whole["qe"]) == [0.5] * 3 + [1.0] * 4
    assert "other" not in whole


def test_tables_without_identifiers_belong_to_the_file_at_their_place():
    tables_of_files = [small_table([1, 0], {}), small_table([2, 0], {})]
    whole = tables.join_tables(["1.refl", "2.refl"], tables_of_files, FILES)
    assert list(whole["id"]) == [1, 0, 4, 2]


@pytest.mark.parametrize(
    "given, words",
    [
        ([small_table([0], {0: "x"})], "1 of the lattices in 1.refl"),
        ([small_table([0, 1], {0: "a"})], "id 1"),
        ([small_table([0, 3], {})], "ids up to 3"),
        ([small_table([0], {0: "a"}), small_table([5], {5: "a"})], "1.refl and 2.refl"),
        ([small_table([0, 1], {0: "a", 1: "a"})], "1.refl alone"),
        ([small_table([0], {}), small_table([0], {0: "a"})], "1.refl and 2.refl"),
    ],
)
def test_tables_that_do_not_belong_together(given, words):
    with pytest.raises(Sorry, match=words):
        tables.join_tables(["1.refl", "2.refl"][: len(given)], given, FILES)
