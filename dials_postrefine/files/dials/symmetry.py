"""
The operations of a space group on indices, and which of them the crystals had as they were read.
"""

from __future__ import annotations

import numpy as np


def group_operations(experiments, space_group) -> tuple[np.ndarray, list[str], np.ndarray]:
    """
    The rotations (m, 3, 3) of the Laue group without inversion, the row of indices h going to h M, identity first;
    their names, as h,k,l; and whether all crystals had them as well (m,).
    """
    operations = _rotations(space_group)
    groups = {e.crystal.get_space_group().type().lookup_symbol(): e.crystal for e in experiments if e.crystal}
    known = [set(_rotations(crystal.get_space_group())) for crystal in groups.values()]
    rotations = np.array([np.reshape(matrix, (3, 3)) for matrix in operations])
    in_input = np.array([all(matrix in own for own in known) for matrix in operations])
    return rotations, list(operations.values()), in_input


def _rotations(group) -> dict[tuple[float, ...], str]:
    """The matrices of the rotations of the Laue group with their names, identity first."""
    rotations = group.build_derived_point_group().build_derived_laue_group().build_derived_acentric_group()
    found = [(tuple(operation.r().as_double()), operation.r().as_hkl()) for operation in rotations]
    return dict(sorted(found, key=lambda one: one[1] != "h,k,l"))
