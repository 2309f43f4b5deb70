"""
What a space group does to indices: its operations, which of them the crystals had as they were read, the asymmetric
unit, systematic absences and statistical factors.
"""

from __future__ import annotations

import numpy as np

from cctbx import crystal, miller
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import find_rows, pack, to_flex_miller


def group_operations(experiments, space_group) -> tuple[np.ndarray, list[str], np.ndarray]:
    """
    The rotations (m, 3, 3) of the Laue group without inversion, the row of indices h going to h M, identity first;
    their names, as h,k,l; and whether all crystals had them as well (m,).
    """
    operations = _rotations(space_group)
    known = [set(_rotations(group)) for group in distinct_groups(experiments)]
    rotations = np.array([np.reshape(matrix, (3, 3)) for matrix in operations])
    in_input = np.array([all(matrix in rotations_of for rotations_of in known) for matrix in operations])
    return rotations, list(operations.values()), in_input


def distinct_groups(experiments) -> list:
    """The space groups of the crystals, each once: few, where to name the one of each crystal would take long."""
    found: list = []
    for group in (e.crystal.get_space_group() for e in experiments if e.crystal is not None):
        if group not in found:
            found.append(group)
    return found


def _rotations(group) -> dict[tuple[float, ...], str]:
    """The matrices of the rotations of the Laue group with their names, identity first."""
    rotations = group.build_derived_point_group().build_derived_laue_group().build_derived_acentric_group()
    found = [(tuple(operation.r().as_double()), operation.r().as_hkl()) for operation in rotations]
    return dict(sorted(found, key=lambda one: one[1] != "h,k,l"))


def map_to_asymmetric_unit(h: np.ndarray, space_group, anomalous: bool = False) -> np.ndarray:
    """
    h (n, 3) in the asymmetric unit of the space group, Friedel pairs as one; anomalous: the I- of acentric ones as the
    opposite of the index there.
    """
    indices = to_flex_miller(h)
    miller.map_to_asu(space_group.type(), anomalous, indices)
    return miller_indices_to_numpy(indices)


def number_unique(h: np.ndarray, space_group, anomalous: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Number the indices of the asymmetric unit; anomalous: Friedel pairs apart, unless they are centric.

    Returns unique (n,) int32, the indices themselves (n_unique, 3), and which of them are systematically absent.
    """
    # each index is mapped once: in many lattices there are few, and mapping takes longer than sorting
    _, first, observed = np.unique(pack(h), return_index=True, return_inverse=True)
    asu = map_to_asymmetric_unit(h[first], space_group, anomalous)
    _, first, unique = np.unique(pack(asu), return_index=True, return_inverse=True)
    h_unique = asu[first]
    absent = flumpy.to_numpy(space_group.is_sys_absent(to_flex_miller(h_unique)))
    return unique.astype(np.int32)[observed], h_unique, absent


def friedel_pairs(h_unique: np.ndarray, space_group) -> tuple[np.ndarray, np.ndarray]:
    """
    The Friedel pairs of unique indices (n_unique, 3) that number_unique keeps apart.

    Returns the number of the other of each pair (n_unique,) int32, -1 where it is not there or the reflection is
    centric, and which indices are the I- of their pair (n_unique,).
    """
    key = pack(h_unique)
    order = np.argsort(key)
    row, found = find_rows(key[order], pack(map_to_asymmetric_unit(-h_unique, space_group, True)))
    row = order[row]
    other = found & (row != np.arange(len(h_unique)))
    minus = np.any(map_to_asymmetric_unit(h_unique, space_group) != h_unique, axis=1)
    return np.where(other, row, -1).astype(np.int32), minus


def statistical_factors(h_unique: np.ndarray, cell: tuple[float, ...], space_group) -> tuple[np.ndarray, np.ndarray]:
    """epsilon (n_unique,) of the unique indices (n_unique, 3), and which of them are centric (n_unique,)."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group, assert_is_compatible_unit_cell=False)
    indices = miller.set(symmetry, to_flex_miller(h_unique), anomalous_flag=False)
    epsilon = flumpy.to_numpy(indices.epsilons().data()).astype(float)
    return epsilon, flumpy.to_numpy(indices.centric_flags().data()).copy()
