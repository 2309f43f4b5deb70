"""The operations of an indexing ambiguity against group theory and mmtbx, and reindexing against dials.reindex."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the operations are those of cctbx")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import crystal, miller, sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Crystal, Experiment, ExperimentList, MosaicCrystalSauter2014

from dials_postrefine.files.dials.reindexing import find_operations, open_operations, reindex, reindex_files
from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import pack, to_flex_miller

pytestmark = pytest.mark.dials

HEXAGONAL = (60.0, 60.0, 80.0, 90.0, 90.0, 120.0)
TETRAGONAL = (79.0, 79.0, 38.0, 90.0, 90.0, 90.0)
CUBIC = (96.4, 96.4, 96.4, 90.0, 90.0, 90.0)
# space group, cell, the number of operations: order of the lattice's rotations over that of the Laue group's, and the
# number of ways to reindex all together: the same but with those that leave the Laue group as it is
GROUPS = [
    ("P43", TETRAGONAL, 2, 2),
    ("P213", CUBIC, 2, 2),
    ("I23", CUBIC, 2, 2),
    ("P31", HEXAGONAL, 4, 4),
    ("P3121", HEXAGONAL, 2, 2),
    ("P63", HEXAGONAL, 2, 2),
    ("R3:H", HEXAGONAL, 2, 2),
    ("R3:R", (60.0, 60.0, 60.0, 70.0, 70.0, 70.0), 2, 2),
    ("P43212", TETRAGONAL, 1, 1),
    ("P6122", HEXAGONAL, 1, 1),
    ("P432", CUBIC, 1, 1),
    ("P212121", (50.0, 61.0, 80.0, 90.0, 90.0, 90.0), 1, 1),
    ("C2", (100.0, 60.0, 80.0, 90.0, 125.0, 90.0), 1, 1),
    # by pseudo-symmetry
    ("P212121", (50.0, 50.5, 80.0, 90.0, 90.0, 90.0), 2, 2),
    ("P212121", (50.0, 50.5, 50.3, 90.0, 90.0, 90.0), 6, 6),
    ("F222", (60.0, 60.5, 100.0, 90.0, 90.0, 90.0), 2, 2),
    ("P21", (50.0, 70.0, 50.4, 90.0, 107.0, 90.0), 2, 2),
    ("P4", (50.0, 50.0, 50.2, 90.0, 90.0, 90.0), 6, 2),
    ("I41", (60.0, 60.0, 85.0, 90.0, 90.0, 90.0), 6, 2),
    ("C2", (60.0 * 3**0.5, 60.0, 80.0, 90.0, 90.0, 90.0), 6, 2),
    ("P1", (50.0, 50.0, 50.0, 90.0, 90.0, 90.0), 24, 24),
]


def space_group(symbol: str):
    return sgtbx.space_group_info(symbol).group()


def some_indices(group) -> np.ndarray:
    """Indices (n, 3) in general positions that the centring allows."""
    h = np.random.default_rng(0).integers(1, 30, (300, 3)) * np.random.default_rng(1).choice([-1, 1], (300, 3))
    absent = flumpy.to_numpy(group.build_derived_patterson_group().is_sys_absent(to_flex_miller(h)))
    return h[~absent]


def classes(h: np.ndarray, group) -> np.ndarray:
    """One number for each class of equivalent indices."""
    return pack(map_to_asymmetric_unit(h, group))


@pytest.mark.parametrize("symbol, cell, n_operations, n_ways", GROUPS)
def test_operations_are_all_ways_to_index_and_no_two_are_the_same(symbol, cell, n_operations, n_ways):
    group = space_group(symbol)
    operations, ways = find_operations(cell, group)
    assert len(operations) == n_operations and ways.shape == (n_ways, n_operations)
    assert operations[0].is_identity_op()
    h = some_indices(group)
    after = [reindex(h, operation) for operation in operations]
    numbers = np.array([classes(new, group) for new in after])
    distinct = np.array([len(set(column)) for column in numbers.T])
    assert distinct.max() == n_operations and np.mean(distinct == n_operations) > 0.6
    # d of the exact cell stays, within what the pseudo-symmetry is off
    d = [flumpy.to_numpy(_d(new, cell)) for new in after]
    np.testing.assert_allclose(d, [d[0]] * n_operations, rtol=0.02)
    # two operations, one after the other, are one of the list again
    for new in after:
        again = np.array([classes(reindex(new, operation), group) for operation in operations])
        assert all(set(a) <= set(b) for a, b in zip(again.T, numbers.T))


def _d(h, cell):
    return crystal.symmetry(unit_cell=cell, space_group_symbol="P1").unit_cell().d(to_flex_miller(h))


@pytest.mark.parametrize("symbol, cell, n_operations, n_ways", GROUPS)
def test_ways_say_what_becomes_of_an_operation_when_all_are_reindexed(symbol, cell, n_operations, n_ways):
    group = space_group(symbol)
    operations, ways = find_operations(cell, group)
    np.testing.assert_array_equal(ways[0], np.arange(n_operations))
    h = some_indices(group)
    equivalent = np.array(group.build_derived_laue_group().all_ops()[-1].r().as_double()).reshape(3, 3)
    mate = np.rint(h @ equivalent).astype(int)
    np.testing.assert_array_equal(classes(mate, group), classes(h, group))
    for way in ways:
        whole = operations[way[0]]
        for m, operation in enumerate(operations):
            both = reindex(reindex(h, operation), whole)
            np.testing.assert_array_equal(classes(both, group), classes(reindex(h, operations[way[m]]), group))
        # what was equivalent before is so afterwards
        np.testing.assert_array_equal(classes(reindex(mate, whole), group), classes(reindex(h, whole), group))


@pytest.mark.parametrize("symbol, cell, n_operations, n_ways", [g for g in GROUPS if g[2] == g[3]])
def test_operations_are_as_many_as_the_twin_laws_of_mmtbx(symbol, cell, n_operations, n_ways):
    from mmtbx.scaling.twin_analyses import twin_laws

    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=symbol)
    indices = miller.build_set(symmetry, anomalous_flag=False, d_min=8.0)
    array = indices.array(data=flex.double(indices.size(), 1.0)).set_observation_type_xray_intensity()
    assert len(twin_laws(miller_array=array).operators) == n_operations - 1


@pytest.mark.parametrize("symbol, cell", [("P213", CUBIC), ("P31", HEXAGONAL), ("C2", GROUPS[-2][1])])
def test_indices_are_reindexed_as_by_cctbx(symbol, cell):
    h = some_indices(space_group(symbol))
    for operation in find_operations(cell, space_group(symbol))[0]:
        expected = miller_indices_to_numpy(operation.apply(to_flex_miller(h)))
        np.testing.assert_array_equal(reindex(h, operation), expected)


def test_indices_that_are_no_whole_numbers_become_zero():
    operations, _ = find_operations(GROUPS[-2][1], space_group("C2"))
    h = np.array([[1, 0, 0], [1, 1, 2], [0, 1, 3]])  # h + k odd: not of this centring
    new = reindex(h, operations[1])
    np.testing.assert_array_equal(new[[0, 2]], 0)
    assert new[1].any()


def make_experiments(cells, symbol: str, kind=MosaicCrystalSauter2014) -> ExperimentList:
    rng = np.random.default_rng(4)
    experiments = ExperimentList()
    for i, cell in enumerate(cells):
        b = np.array(crystal.symmetry(cell, "P1").unit_cell().fractionalization_matrix()).reshape(3, 3).T
        u, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        real = np.linalg.inv(u * np.linalg.det(u) @ b)
        model = kind(*(tuple(map(float, v)) for v in real), space_group(symbol))
        if kind is MosaicCrystalSauter2014:
            model.set_half_mosaicity_deg(0.1 * (i + 1))
            model.set_domain_size_ang(1000.0 + i)
        experiments.append(Experiment(identifier=str(i), crystal=model))
    return experiments


def matrix(experiment) -> np.ndarray:
    return np.array(experiment.crystal.get_A()).reshape(3, 3)


@pytest.mark.parametrize("kind", [Crystal, MosaicCrystalSauter2014])
@pytest.mark.parametrize(
    "symbol, cell",
    [("P213", CUBIC), ("P31", HEXAGONAL), ("P212121", GROUPS[14][1]), ("C2", GROUPS[-2][1]), ("I41", GROUPS[-3][1])],
)
def test_reindexing_leaves_every_q_where_it_is(symbol, cell, kind):
    """Of all rows, in any order, and as dials.reindex has it."""
    from dials.command_line.reindex import reindex_experiments

    group = space_group(symbol)
    operations, _ = find_operations(cell, group)
    chosen = np.array([0, 1, *range(len(operations)), 1])
    experiments = make_experiments([cell] * len(chosen), symbol, kind)
    h = np.concatenate([some_indices(group)] * 6)
    ids = np.random.default_rng(6).integers(len(chosen), size=len(h))
    h[:20] = 0  # never indexed
    table = flex.reflection_table()
    table["miller_index"] = to_flex_miller(h)
    table["id"] = flumpy.from_numpy(ids.astype(np.int32))
    before = np.array([matrix(e) for e in experiments])
    attributes = [e.crystal.get_half_mosaicity_deg() for e in experiments] if kind is not Crystal else []
    expected = [
        matrix(reindex_experiments(ExperimentList([e]), operations[m], space_group=None)[0])
        for e, m in zip(make_experiments([cell] * len(chosen), "P1", kind), chosen)
    ]

    reindex_files(table, experiments, operations, chosen, group)
    after = np.array([matrix(e) for e in experiments])
    np.testing.assert_allclose(after, expected, atol=1e-12)
    new = miller_indices_to_numpy(table["miller_index"])
    moved = chosen[ids] > 0
    assert (new[moved & h.any(axis=1)] != h[moved & h.any(axis=1)]).any(axis=1).all()
    np.testing.assert_array_equal(new[~moved], h[~moved])
    q, q_before = (np.einsum("nij,nj->ni", a[ids], k) for a, k in ((after, new), (before, h)))
    np.testing.assert_allclose(q, q_before, atol=1e-10)
    assert {type(e.crystal) for e in experiments} == {kind}
    assert all(e.crystal.get_space_group() == group for e in experiments)
    if attributes:
        assert [e.crystal.get_half_mosaicity_deg() for e in experiments] == attributes


def test_a_crystal_that_lattices_share_is_reindexed_for_one_of_them():
    group = space_group("P213")
    operations, _ = find_operations(CUBIC, group)
    (first,) = make_experiments([CUBIC], "P213")
    experiments = ExperimentList([first, Experiment(identifier="other", crystal=first.crystal)])
    before = matrix(first)
    table = flex.reflection_table()
    table["miller_index"] = flex.miller_index([(1, 2, 3), (1, 2, 3)])
    table["id"] = flex.int([0, 1])
    reindex_files(table, experiments, operations, np.array([0, 1]), group)
    np.testing.assert_allclose(matrix(experiments[0]), before, rtol=1e-12)
    h = miller_indices_to_numpy(table["miller_index"])
    np.testing.assert_array_equal(h[0], (1, 2, 3))
    np.testing.assert_allclose(matrix(experiments[1]) @ h[1], before @ (1, 2, 3), atol=1e-12)
    assert tuple(h[1]) != (1, 2, 3)


@pytest.mark.parametrize("anomalous", [False, True])
def test_asymmetric_indices_follow_and_keep_friedel_mates_as_they_were(anomalous):
    group = space_group("P43")
    operations, _ = find_operations(TETRAGONAL, group)
    h = some_indices(group)
    table = flex.reflection_table()
    table["miller_index"] = to_flex_miller(h)
    table["id"] = flex.int(len(h), 0)
    asymmetric = to_flex_miller(h)
    miller.map_to_asu(group.type(), anomalous, asymmetric)
    table["miller_index_asymmetric"] = asymmetric
    reindex_files(table, make_experiments([TETRAGONAL], "P43"), operations, np.array([1]), group)
    expected = operations[1].apply(to_flex_miller(h))
    miller.map_to_asu(group.type(), anomalous, expected)
    assert list(table["miller_index_asymmetric"]) == list(expected)


def test_an_operation_is_open_that_leaves_the_cell_as_near_to_the_median():
    group, cell = space_group("P212121"), (50.0, 51.2, 80.0, 90.0, 90.0, 90.0)
    operations, _ = find_operations(cell, group)
    assert len(operations) == 2
    swapped, between = (51.2, 50.0, 80.0, 90.0, 90.0, 90.0), (50.6, 50.5, 80.0, 90.0, 90.0, 90.0)
    experiments = make_experiments([cell, swapped, between], "P212121")
    h, offsets = np.array([[1, 2, 3]] * 3), np.arange(4)
    allowed = open_operations(experiments, offsets, h, operations, group, cell)
    np.testing.assert_array_equal(allowed, [[True, False], [True, True], [True, True]])


def test_an_operation_is_open_only_where_cell_and_indices_allow_it():
    """A lattice that was indexed by the wrong axis fits P4 only after reindexing; one without a crystal never does."""
    group, cell = space_group("P4"), (50.0, 50.0, 51.0, 90.0, 90.0, 90.0)
    operations, _ = find_operations(cell, group)
    wrong = (53.0, 50.0, 50.0, 90.0, 90.0, 90.0)
    experiments = make_experiments([cell, wrong], "P4")
    experiments.append(Experiment(identifier="none"))
    allowed = open_operations(experiments, np.arange(4), np.array([[1, 2, 3]] * 3), operations, group, cell)
    assert allowed[0, 0] and not allowed[1, 0] and allowed[1].any() and not allowed[2].any()

    cell = GROUPS[-2][1]
    operations, _ = find_operations(cell, space_group("C2"))
    experiments = make_experiments([cell, cell], "C2")
    allowed = open_operations(
        experiments, np.array([0, 1, 2]), np.array([[1, 1, 2], [1, 0, 0]]), operations, space_group("C2"), cell
    )
    assert allowed[0].all()
    np.testing.assert_array_equal(allowed[1], [True, False, True, False, False, False])
