"""
What a file says twice: whether its records agree, and what counts where they do not.

Orthogonal to fractional coordinates.  PDB files (SCALEn) and mmCIF (_atom_sites.fract_transf_matrix) may state the
matrix R of u = R x + t, which also follows from the unit cell and the convention x || a, z || c*.  Any right-handed
frame is possible, and R then is what counts; but its cell must be that of the file,

    (R^-1)^T R^-1 = G,    det R > 0,    G the metric matrix of the unit cell (Angstrom^2)

to within the rounding of R.  Else R belongs to another cell, or is damaged, and the convention is taken, with a note.

Space group of a CIF.  Operations, Hall symbol, Hermann-Mauguin symbol and number may all be there.  They must be of one
type (number of International Tables), else no one knows which is meant, and the file is refused.  Of those that are,
the first of this order counts: a number alone does not tell the setting, nor does the symbol always tell the origin.
(iotbx lets the number overrule the symbols: P 21/n becomes P 21/c.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cctbx import sgtbx
from dials.util import Sorry

LENGTH_TOLERANCE = 0.005  # relative; R has six decimals, half a unit of the last is 1.5e-4 of a row at 300 Angstrom
COSINE_TOLERANCE = 0.01  # of the angles, 0.6 degrees
OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv.pos_as_xyz",
)
HALL = (
    "_space_group_name_Hall",
    "_space_group.name_Hall",
    "_symmetry_space_group_name_Hall",
    "_symmetry.space_group_name_Hall",
)
HERMANN_MAUGUIN = (
    "_space_group_name_H-M_alt",
    "_space_group.name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_symmetry.space_group_name_H-M",
)
NUMBER = (
    "_space_group_IT_number",
    "_space_group.IT_number",
    "_symmetry_Int_Tables_number",
    "_symmetry.Int_Tables_number",
)


def fits_cell(matrix: Sequence[float | None], unit_cell) -> bool:
    """Whether the nine numbers of R, by rows in 1/Angstrom, are of the unit cell (module docstring)."""
    try:
        r = np.array(matrix, dtype=float).reshape(3, 3)
    except (TypeError, ValueError):
        return False
    if not np.isfinite(r).all() or np.linalg.det(r) <= 0.0:
        return False
    o = np.linalg.inv(r)  # its columns are a, b, c
    lengths = np.linalg.norm(o, axis=0)
    cell = np.array(unit_cell.parameters())
    o = o / lengths
    cosines = np.array([o[:, 1] @ o[:, 2], o[:, 0] @ o[:, 2], o[:, 0] @ o[:, 1]])
    return bool(
        np.abs(lengths / cell[:3] - 1.0).max() < LENGTH_TOLERANCE
        and np.abs(cosines - np.cos(np.radians(cell[3:]))).max() < COSINE_TOLERANCE
    )


def space_group_of(path: str, block):
    """
    The space group of a CIF's data block, None where it states none.

    Raises Sorry where its records are of different space groups.
    """
    found = []
    for what, keys, make in (
        ("symmetry operations", OPERATIONS, _of_operations),
        ("Hall symbol", HALL, lambda text: sgtbx.space_group(_one(text))),
        ("Hermann-Mauguin symbol", HERMANN_MAUGUIN, lambda text: sgtbx.space_group_info(symbol=_one(text)).group()),
        ("number", NUMBER, lambda text: sgtbx.space_group_info(number=int(_one(text))).group()),
    ):
        value = next((block[key] for key in keys if key in block), None)
        if value is None or (isinstance(value, str) and value in ("?", ".")):
            continue
        try:
            found.append((what, make(value)))
        except (RuntimeError, ValueError):  # not what cctbx can read: no statement
            continue
    for what, group in found[1:]:
        first, chosen = found[0]
        if group.type().number() != chosen.type().number():
            raise Sorry(
                f"{path} contradicts itself: its {first} are those of space group {chosen.type().lookup_symbol()}, its "
                f"{what} of {group.type().lookup_symbol()}: correct the file.".replace(
                    "symbol are those", "symbol is that"
                )
            )
    return found[0][1] if found else None


def _of_operations(texts):
    group = sgtbx.space_group()
    for text in [texts] if isinstance(texts, str) else texts:
        group.expand_smx(sgtbx.rt_mx(text))
    return group


def _one(text) -> str:
    if not isinstance(text, str):
        raise ValueError("a list where one value is expected")
    return text
