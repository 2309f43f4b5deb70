"""
The ways to index a lattice whose symmetry is higher than that of the space group, and reindexing by one of them.

An operation is a change of basis from cctbx and takes the row of indices h to h M; q = A h stays, hence A becomes
A M^-T.  It must be a rotation that the lattice has, and two of them are the same to the intensities where they differ
by a rotation of the Laue group: one is taken of each coset of the Laue group in the symmetry of the median cell's
lattice, which may be off by MAX_DELTA (cctbx.sgtbx.lattice_symmetry and cosets, as dials.cosym and mmtbx's twin_laws do
it).
"""

from __future__ import annotations

import copy

import numpy as np

from cctbx import crystal, miller, sgtbx
from cctbx.sgtbx import cosets, lattice_symmetry
from dxtbx import flumpy

from dials_postrefine.files.dials.models import has_crystal, unit_cell_fits, unshare_crystals
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import to_flex_miller

MAX_DELTA = 3.0  # degrees, between axes that the exact symmetry would make parallel; what twin_laws allows
# Where the symmetry is not exact a lattice's own cell may tell the axes apart: an operation may take it away from the
# median cell by this much more, and no further.
LENGTH_TOLERANCE = 0.01
ANGLE_TOLERANCE = 1.0
ASYMMETRIC_COLUMNS = ("miller_index_asymmetric", "asu_miller_index")


def find_operations(cell: tuple[float, ...], space_group) -> tuple[list, np.ndarray]:
    """
    The operations, identity first, and the ways to reindex all lattices together, (n_ways, n_operations).

    Row j says which operation the j-th way makes of each: all lattices may be reindexed by an operation that leaves the
    Laue group as it is, and nothing tells.  The first changes nothing.  One operation alone is no ambiguity.
    """
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    minimum = symmetry.change_basis(to_minimum)
    lattice = lattice_symmetry.group(minimum.unit_cell(), max_delta=MAX_DELTA)
    laue = minimum.space_group().build_derived_point_group().build_derived_laue_group()
    rotations = laue.build_derived_acentric_group()
    parts = [
        [rotation.r() for rotation in part]
        for part in cosets.left_decomposition_point_groups_only(g=lattice, h=rotations).partitions
    ]
    number = {rotation.num(): i for i, part in enumerate(parts) for rotation in part}
    representatives = [part[0] for part in parts]
    products = [
        [number[one.multiply(other).num()] for one in representatives]
        for other in representatives
        if all(number[other.inverse().multiply(rotation).multiply(other).num()] == 0 for rotation in parts[0])
    ]
    # a row of indices is multiplied from the right, and that is what the inverse of a change of basis does to it
    operations = [
        to_minimum.inverse()
        * sgtbx.change_of_basis_op(sgtbx.rt_mx(r)).inverse().new_denominators(to_minimum)
        * to_minimum
        for r in representatives
    ]
    return operations, np.array(products)


def reindex(h: np.ndarray, operation) -> np.ndarray:
    """The indices h (n, 3) after the operation; 0,0,0, as of dials.reindex, where they would be no whole numbers."""
    new = h @ np.array(operation.c_inv().r().as_double()).reshape(3, 3)
    whole = np.rint(new)
    return np.where(np.abs(new - whole).max(axis=1, keepdims=True) < 1e-3, whole, 0.0).astype(np.int32)


def open_operations(experiments, offsets, h, operations, space_group, cell) -> np.ndarray:
    """
    Which operations are open to each lattice, (n_experiments, n_operations) bool.

    Its cell must fit the space group afterwards and be as near to the median cell as before, within 1 % and 1 degree;
    and its usable indices, rows offsets[k]:offsets[k + 1] of h (n, 3), must stay whole numbers.
    """
    crystals, median = has_crystal(experiments), np.array(cell)
    whole = [(reindex(h, operation) != 0).any(axis=1) for operation in operations]
    allowed = np.zeros((len(experiments), len(operations)), dtype=bool)
    for k in np.flatnonzero(crystals):
        unit_cell = experiments[int(k)].crystal.get_unit_cell()
        rows = slice(offsets[k], offsets[k + 1])
        distance = None
        for m, operation in enumerate(operations):
            changed = unit_cell.change_basis(operation)
            difference = np.abs(np.array(changed.parameters()) - median)
            difference[:3] /= median[:3]
            now = difference[:3].max() / LENGTH_TOLERANCE, difference[3:].max() / ANGLE_TOLERANCE
            distance = now if distance is None else distance
            near = now[0] <= distance[0] + 1.0 and now[1] <= distance[1] + 1.0
            allowed[k, m] = near and unit_cell_fits(changed, space_group) and whole[m][rows].all()
    return allowed


def reindex_files(table, experiments, operations, chosen: np.ndarray, space_group) -> None:
    """Give each lattice k the operation chosen[k]: the indices of all its rows, and its crystal model."""
    ids = flumpy.to_numpy(table["id"])
    h = miller_indices_to_numpy(table["miller_index"]).copy()
    asymmetric = {
        name: _friedel_pairs_apart(table, name, h, space_group) for name in ASYMMETRIC_COLUMNS if name in table
    }
    unshare_crystals(experiments)
    for m, operation in enumerate(operations):
        if m == 0:
            continue
        rows = chosen[ids] == m
        h[rows] = reindex(h[rows], operation)
        for k in np.flatnonzero(chosen == m):
            _reindex_crystal(experiments[int(k)].crystal, operation)
    table["miller_index"] = to_flex_miller(h)
    for name, apart in asymmetric.items():
        indices = to_flex_miller(h)
        miller.map_to_asu(space_group.type(), apart, indices)
        table[name] = indices


def _friedel_pairs_apart(table, name: str, h: np.ndarray, space_group) -> bool:
    """Whether a column of asymmetric indices tells Friedel pairs apart."""
    together = to_flex_miller(h)
    miller.map_to_asu(space_group.type(), False, together)
    return (table[name] != together).count(True) > 0


def _reindex_crystal(model, operation) -> None:
    """In P1, because the operation is none of the space group's, and in place, as dials.reindex does it."""
    space_group = model.get_space_group()
    changed = copy.deepcopy(model)
    changed.set_space_group(sgtbx.space_group("P 1"))
    changed = changed.change_basis(operation)
    changed.set_space_group(space_group)
    model.update(changed)
