"""Operations on voxels, and averages over orbits, against cctbx."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.diffuse.map import columns, orbits
from dials_postrefine.diffuse.map.grid import addresses, make_grid, voxels
from dials_postrefine.diffuse.map.symmetry import operations

pytestmark = pytest.mark.cctbx

CELLS = {
    "-1": ("P 1", (31.0, 37.0, 41.0, 82.0, 99.0, 105.0)),
    "2/m": ("P 1 21 1", (31.0, 37.0, 41.0, 90.0, 99.0, 90.0)),
    "mmm": ("P 21 21 2", (31.0, 37.0, 41.0, 90.0, 90.0, 90.0)),
    "4/m": ("P 41", (31.0, 31.0, 41.0, 90.0, 90.0, 90.0)),
    "4/mmm": ("P 43 21 2", (31.0, 31.0, 41.0, 90.0, 90.0, 90.0)),
    "-3": ("P 31", (31.0, 31.0, 41.0, 90.0, 90.0, 120.0)),
    "-3m1": ("P 31 2 1", (31.0, 31.0, 41.0, 90.0, 90.0, 120.0)),
    "-31m": ("P 31 1 2", (31.0, 31.0, 41.0, 90.0, 90.0, 120.0)),
    "6/m": ("P 61", (31.0, 31.0, 41.0, 90.0, 90.0, 120.0)),
    "6/mmm": ("P 61 2 2", (31.0, 31.0, 41.0, 90.0, 90.0, 120.0)),
    "m-3": ("P 21 3", (31.0, 31.0, 31.0, 90.0, 90.0, 90.0)),
    "m-3m": ("F 41 3 2", (61.0, 61.0, 61.0, 90.0, 90.0, 90.0)),
    "2/m along c": ("P 1 1 2", (31.0, 37.0, 41.0, 90.0, 90.0, 99.0)),
    "2/m, C along a": ("B 2 1 1", (31.0, 37.0, 41.0, 99.0, 90.0, 90.0)),
    "-3m, rhombohedral": ("R 3 2 :R", (33.0, 33.0, 33.0, 81.0, 81.0, 81.0)),
    "4/m along a": ("P 4 (c,a,b)", (41.0, 31.0, 31.0, 90.0, 90.0, 90.0)),
    "mmm, C of a P cell": ("P 2 2 2 (a-b,a+b,c)", (43.0, 43.0, 41.0, 90.0, 90.0, 84.0)),
}


def crystal(name):
    """Space group, reciprocal matrix B and the rotations of the point group on indices."""
    from cctbx import sgtbx, uctbx

    symbol, cell = CELLS[name]
    group = sgtbx.space_group_info(symbol).group()
    cell = group.average_unit_cell(uctbx.unit_cell(cell))
    reciprocal = np.array(cell.fractionalization_matrix()).reshape(3, 3).T
    rotations = [np.reshape(op.r().as_double(), (3, 3)).T for op in group.build_derived_point_group()]
    return group, reciprocal, np.array(rotations)


def equivalents(group, h, anomalous):
    """The indices that cctbx says are equivalent to h."""
    from cctbx import miller

    found = miller.sym_equiv_indices(group, tuple(int(i) for i in h))
    p1 = found.p1_listing(anomalous_flag=True)
    indices = {item.h() for item in p1}
    return indices if anomalous else indices | {tuple(-i for i in h) for h in indices}


@pytest.mark.parametrize("name", CELLS)
def test_mates_of_voxels_are_those_of_cctbx(name):
    group, reciprocal, rotations = crystal(name)
    grid = make_grid(reciprocal, 4.0, subdivide=(2, 2, 2))
    found = operations(grid, rotations, "laue")
    point_group = group.build_derived_point_group()
    assert len(found) == point_group.build_derived_laue_group().order_z()
    rng = np.random.default_rng(1)
    for x in rng.choice(voxels(grid), 60, replace=False):
        # the supercell: voxel coordinates are indices of it
        assert {tuple(int(i) for i in op @ x) for op in found} == equivalents(point_group, x, anomalous=False)


@pytest.mark.parametrize("name", CELLS)
def test_averages_over_orbits_are_those_of_cctbx(name):
    """Sums of voxels folded here, against equivalents merged by cctbx's unique set under symmetry."""
    from cctbx import crystal as cctbx_crystal
    from cctbx import miller, uctbx
    from cctbx.array_family import flex

    group, reciprocal, rotations = crystal(name)
    grid = make_grid(reciprocal, 5.0, subdivide=(2, 2, 2))
    x = voxels(grid)
    rng = np.random.default_rng(2)
    sums = np.zeros((grid.n_voxels, columns.N_SUMS), np.int64)
    seen = rng.random(grid.n_voxels) < 0.3
    sums[seen, columns.COUNTS] = rng.integers(0, 1000, np.count_nonzero(seen))
    sums[seen, columns.EXPOSURE] = rng.integers(1, 1000, np.count_nonzero(seen))
    sums[seen, columns.PIXELS] = 1
    before = sums.copy()
    found = operations(grid, rotations, "laue")
    orbits.fold(sums, grid.rows, found, np.zeros(0, bool))

    cell = group.average_unit_cell(uctbx.unit_cell(CELLS[name][1])).parameters()
    laue = group.build_derived_point_group().build_derived_laue_group()
    symmetry = cctbx_crystal.symmetry((*(2.0 * a for a in cell[:3]), *cell[3:]), space_group=laue)
    chosen = np.flatnonzero(seen)
    for column in (columns.COUNTS, columns.EXPOSURE):
        array = miller.array(
            miller.set(symmetry, flex.miller_index(x[chosen].tolist()), anomalous_flag=False),
            flex.double(before[chosen, column].astype(float)),
        )
        merged = array.map_to_asu().merge_equivalents()
        totals = merged.array().data() * merged.redundancies().data().as_double()
        theirs = dict(zip(merged.array().indices(), totals))
        ours = {}
        asu = miller.set(symmetry, flex.miller_index(x.tolist()), anomalous_flag=False).map_to_asu().indices()
        for index, value in zip(asu, sums[:, column]):
            assert ours.setdefault(index, value) == value  # each mate has the same
        assert all(ours[index] == pytest.approx(total) for index, total in theirs.items())
        assert sum(value != 0 for value in ours.values()) == sum(total != 0 for total in theirs.values())


def test_friedel_and_p1_assume_no_rotation():
    _, reciprocal, rotations = crystal("4/mmm")
    grid = make_grid(reciprocal, 5.0, subdivide=(1, 2, 3))
    np.testing.assert_array_equal(operations(grid, rotations, "p1"), [np.eye(3)])
    np.testing.assert_array_equal(operations(grid, rotations, "friedel"), [np.eye(3), -np.eye(3)])


def test_a_grid_without_the_symmetry_is_refused():
    _, reciprocal, rotations = crystal("m-3")
    with pytest.raises(ValueError, match="between voxels"):
        operations(make_grid(reciprocal, 5.0, subdivide=(3, 3, 2)), rotations, "laue")
    _, reciprocal, rotations = crystal("6/m")
    with pytest.raises(ValueError, match="between voxels"):
        operations(make_grid(reciprocal, 5.0, spacing=0.02), rotations, "laue")
    # a Cartesian grid has the symmetry of right angles
    _, reciprocal, rotations = crystal("m-3m")
    assert len(operations(make_grid(reciprocal, 5.0, spacing=0.02), rotations, "laue")) == 48


def test_half_sets_by_friedel_are_the_mates_by_rotations_and_the_others():
    _, reciprocal, rotations = crystal("mmm")
    grid = make_grid(reciprocal, 6.0, subdivide=(1, 1, 1))
    found = operations(grid, rotations, "laue")
    rng = np.random.default_rng(3)
    sums = rng.integers(1, 1000, (grid.n_voxels, columns.N_SUMS))
    before = sums.copy()
    proper = np.linalg.det(found) > 0.0
    orbits.fold(sums, grid.rows, found, proper)
    x = np.array([3, 2, 1])
    a = addresses(grid, np.array([op @ x for op in found])).min()
    # the first half is that of the representative's hand
    own = voxels(grid)[a]
    same = addresses(grid, np.array([op @ own for op in found[proper]]))
    assert sums[a, columns.HALF_COUNTS] == before[same, columns.COUNTS].sum()
    assert sums[a, columns.HALF_EXPOSURE] == before[same, columns.EXPOSURE].sum()
    everything = addresses(grid, np.array([op @ own for op in found]))
    assert sums[a, columns.COUNTS] == before[everything, columns.COUNTS].sum()
