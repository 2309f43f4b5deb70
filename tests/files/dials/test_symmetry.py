"""Indices of the asymmetric unit against cctbx."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import crystal, miller, sgtbx, uctbx
from dials.array_family import flex

from dials_postrefine.files.dials.symmetry import (
    distinct_groups,
    friedel_pairs,
    group_operations,
    map_to_asymmetric_unit,
    number_unique,
)
from dials_postrefine.numerics.indices import pack
from dials_postrefine.simulate.still_files import make_experiments
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials


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


def test_operations_that_only_some_crystals_had_are_not_of_the_input():
    experiments = make_experiments(simulate_stills(StillsOptions(n_lattices=4, seed=2, d_min=8.0)))
    group = sgtbx.space_group_info("P422").group()
    for experiment, symbol in zip(experiments, ("P422", "P4", "P422", "P43212")):
        experiment.crystal.set_space_group(sgtbx.space_group_info(symbol).group())
    assert [each.info().type().lookup_symbol() for each in distinct_groups(experiments)] == [
        "P 4 2 2",
        "P 4",
        "P 43 21 2",
    ]
    rotations, names, in_input = group_operations(experiments, group)
    assert names[0] == "h,k,l" and len(set(names)) == 8
    four_fold = {"h,k,l", "-h,-k,l", "k,-h,l", "-k,h,l"}
    assert {name for name, had in zip(names, in_input) if had} == four_fold
    assert all(round(np.linalg.det(rotation)) == 1 for rotation in rotations)


@pytest.mark.parametrize(
    "space_group, cell",
    [
        ("P1", (30, 40, 50, 80, 95, 100)),
        ("P-1", (30, 40, 50, 80, 95, 100)),
        ("P21", (30, 40, 50, 90, 95, 90)),
        ("P43212", (79, 79, 38, 90, 90, 90)),
        ("R3:H", (60, 60, 90, 90, 90, 120)),
        ("I23", (70, 70, 70, 90, 90, 90)),
    ],
)
def test_friedel_pairs_apart_are_those_of_cctbx(space_group, cell):
    group = sgtbx.space_group_info(space_group).group()
    h = np.random.default_rng(2).integers(-6, 7, size=(1500, 3)).astype(np.int32)
    h = h[np.any(h != 0, axis=1)]
    unique, h_unique, _ = number_unique(h, group, anomalous=True)
    mate, minus = friedel_pairs(h_unique, group)

    symmetry = crystal.symmetry(unit_cell=uctbx.unit_cell(cell), space_group=group)
    indices = flex.miller_index([tuple(map(int, row)) for row in h])
    whole = miller.set(symmetry, indices, anomalous_flag=True).map_to_asu()
    assert [tuple(row) for row in h_unique[unique].tolist()] == list(whole.indices())
    ours = miller.set(symmetry, flex.miller_index([tuple(map(int, row)) for row in h_unique]), anomalous_flag=True)
    asu, matches = ours.match_bijvoet_mates()
    assert asu.size() == ours.size()  # the same order
    pairs = {tuple(pair) for pair in matches.pairs()}
    plus = np.flatnonzero((mate >= 0) & ~minus)
    assert set(zip(plus.tolist(), mate[plus].tolist())) == pairs
    assert np.array_equal(mate[mate[mate >= 0]], np.flatnonzero(mate >= 0))  # each the other's
    centric = np.array(ours.centric_flags().data())
    assert not minus[centric].any() and np.all(mate[centric] == -1)
    assert np.array_equal(minus, np.any(map_to_asymmetric_unit(h_unique, group) != h_unique, axis=1))
    # any order of the indices
    order = np.random.default_rng(3).permutation(len(h_unique))
    shuffled, _ = friedel_pairs(h_unique[order], group)
    assert np.array_equal(np.where(shuffled >= 0, order[shuffled], -1), mate[order])
    if space_group == "P-1":
        assert centric.all()
