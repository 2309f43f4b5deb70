"""
Whether a reference can be one of the data: unit cell, centring, space group; and how their indices correspond.

The space group of the reference may be that of the data, its mirror image (the hand is then turned, -1), another one
of the same Laue class (a note) or one of a higher Laue class (its intensities hold in the lower one, too).  Everything
else is a Sorry that says what is wrong and which reindexing or space group would help.
"""

from __future__ import annotations

import numpy as np

from cctbx import sgtbx
from dials.util import Sorry

from dials_postrefine.files.dials.models import CELL_ANGLE_TOLERANCE, CELL_LENGTH_TOLERANCE


def check_compatibility(path: str, reference, data) -> tuple[int, list[str]]:
    """
    The hand, 1 or -1, and notes (module docstring); reference and data: crystal.symmetry of each.

    Raises Sorry where the reference is none of the data.
    """
    _check_cell(path, reference, data)
    theirs, ours = reference.space_group(), data.space_group()
    if theirs == ours:
        return 1, []
    their_symbol, our_symbol = _symbol(theirs), _symbol(ours)
    what = f"The reference {path} is of space group {their_symbol}, the data of {our_symbol}"
    if reference.space_group_info().change_hand().group() == ours:
        return -1, [f"{what}, its mirror image: the inverted reference is taken."]
    points_theirs, points_ours = (group.build_derived_point_group() for group in (theirs, ours))
    if points_theirs == points_ours:
        return 1, [f"{what}, of the same point group: taken as such, absences are those of the data."]
    if _contains(points_theirs, points_ours):
        return 1, [f"{what}, which has less symmetry: its intensities are those of the higher symmetry."]
    if _contains(points_ours, points_theirs):
        raise Sorry(
            f"{what}, which has symmetry that the reference has not: set space_group={_name(theirs)} if that is right "
            "for the data."
        )
    raise Sorry(f"{what}, neither of which contains the other: give a reference of the same crystal form.")


def _check_cell(path: str, reference, data) -> None:
    theirs, ours = (np.array(symmetry.unit_cell().parameters()) for symmetry in (reference, data))
    centring = [symmetry.space_group().conventional_centring_type_symbol() for symmetry in (reference, data)]
    lengths = np.abs(theirs[:3] / ours[:3] - 1.0).max()
    angles = np.abs(theirs[3:] - ours[3:]).max()
    fits = lengths <= CELL_LENGTH_TOLERANCE and angles <= CELL_ANGLE_TOLERANCE
    if fits and centring[0] == centring[1]:
        return
    cells = [" ".join(f"{value:.2f}" for value in cell) for cell in (theirs, ours)]
    if fits:
        what = f"The reference {path} is {centring[0]}-centred, the data are {centring[1]}"
    else:
        what = f"The reference {path} has the unit cell {cells[0]}, the data {cells[1]}"
    operation = find_reindexing(reference, data)
    if operation:
        raise Sorry(f"{what}: reindex the data first, with dials.reindex change_of_basis_op={operation}.")
    raise Sorry(f"{what}: give a reference of the same crystal form.")


def find_reindexing(reference, data) -> str:
    """The change of basis from the data's cell to the reference's, where both have one reduced cell, else ''."""
    to_theirs, to_ours = (symmetry.change_of_basis_op_to_niggli_cell() for symmetry in (reference, data))
    theirs, ours = reference.change_basis(to_theirs).unit_cell(), data.change_basis(to_ours).unit_cell()
    if not theirs.is_similar_to(ours, CELL_LENGTH_TOLERANCE, CELL_ANGLE_TOLERANCE):
        return ""
    operation = to_theirs.inverse() * to_ours
    return "" if operation.is_identity_op() else operation.as_abc()


def _contains(group: sgtbx.space_group, subgroup: sgtbx.space_group) -> bool:
    """Whether all rotations of the point group subgroup are in group."""
    rotations = {operation.r().as_hkl() for operation in group.all_ops()}
    return all(operation.r().as_hkl() in rotations for operation in subgroup.all_ops())


def _symbol(group) -> str:
    return group.type().lookup_symbol()


def _name(group) -> str:
    return _symbol(group).replace(" ", "")
