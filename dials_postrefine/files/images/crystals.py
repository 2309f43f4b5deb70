"""
What the crystals of a map have in common: space group, unit cell and point group; and the rings of ice.
"""

from __future__ import annotations

import numpy as np

from cctbx import crystal, uctbx
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.cell_choices import common_cell, find_cell_choices

# How much unit cells may differ, relative and in degrees.
CELL_LENGTH, CELL_ANGLE = 0.02, 1.5


def common_crystal(experiments, space_group: str | None):
    """
    The space group and the cell of all crystals, made exact for it, and remarks where cells that agree look like
    several choices of one.  Raises Sorry for cells that do not go together.
    """
    group = models.common_space_group(experiments, space_group)
    cells = np.array([e.crystal.get_unit_cell().parameters() for e in experiments])
    median = np.median(cells, axis=0)
    low, high = cells.min(axis=0), cells.max(axis=0)  # whatever the order
    off = np.concatenate([(high[:3] / low[:3] - 1.0) / CELL_LENGTH, (high[3:] - low[3:]) / CELL_ANGLE])
    if off.max() > 1.0:
        if find_cell_choices(experiments, group, CELL_LENGTH, CELL_ANGLE).chosen.any():
            common_cell(experiments, group, CELL_LENGTH, CELL_ANGLE)  # raises Sorry with the operation
        column = cells[:, int(off.argmax())]
        names = [experiments[int(k)].identifier for k in (column.argmax(), column.argmin())]
        raise Sorry(
            f"Unit cells differ by more than {CELL_LENGTH:.0%} or {CELL_ANGLE:g} degrees ({' from '.join(names)}): "
            "give data sets of one crystal form, in one setting."
        )
    cell = uctbx.unit_cell(tuple(median))
    if not models.unit_cell_fits(cell, group):
        symbol = group.type().lookup_symbol()
        raise Sorry(f"The unit cell does not fit the space group {symbol}: give the right one with space_group=.")
    remarks = [
        f"{n} of {len(experiments)} crystals look as if indexed with another choice of the unit cell: if they are, "
        f"reindex them (dials.reindex change_of_basis_op={name}), as the map is of different reflections else."
        for name, n in find_cell_choices(experiments, group, CELL_LENGTH, CELL_ANGLE).counts()
    ]
    return group, group.average_unit_cell(cell).parameters(), remarks


def point_group_rotations(group) -> np.ndarray:
    """The rotations (n, 3, 3) of the point group of a space group (cctbx), on indices."""
    return np.array([np.reshape(op.r().as_double(), (3, 3)).T for op in group.build_derived_point_group()])


def reciprocal_matrix(unit_cell) -> np.ndarray:
    """B (3, 3) of a cell (Angstrom, degrees): B h in the Cartesian frame of the crystal, 1/Angstrom."""
    return np.array(uctbx.unit_cell(unit_cell).fractionalization_matrix()).reshape(3, 3).T


def ice_rings(unit_cell, space_group, width: float, d_min: float | None) -> tuple[tuple[float, float], ...]:
    """
    The ranges of |s| (1/Angstrom) of powder rings, as wide as width in 1/d^2 (1/Angstrom^2), out to d_min (Angstrom;
    0.8 for None).
    """
    symmetry = crystal.symmetry(unit_cell=unit_cell, space_group=space_group.group())
    rings = symmetry.build_miller_set(anomalous_flag=False, d_min=d_min or 0.8)
    centres = np.unique(np.round(flumpy.to_numpy(rings.d_star_sq().data()), 9))
    return tuple((float(np.sqrt(max(0.0, c - 0.5 * width))), float(np.sqrt(c + 0.5 * width))) for c in centres)
