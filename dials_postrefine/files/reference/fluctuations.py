"""An atomic model with other B factors, as PDB."""

from __future__ import annotations

import numpy as np


def write_with_b(source: str, path: str, b: np.ndarray) -> bool:
    """
    Write the model of a PDB or mmCIF file with B (Angstrom^2) of its atoms that have an occupancy, isotropic.

    Returns whether it could be: other files have no atoms as a PDB has them.
    """
    import iotbx.pdb

    try:
        given = iotbx.pdb.input(file_name=source)
        hierarchy = given.construct_hierarchy()
    except Exception:  # a small molecule; iotbx raises anything at all
        return False
    atoms = [one for one in hierarchy.atoms() if one.occ > 0.0]
    if len(atoms) != len(b):
        return False
    for one, value in zip(atoms, b):
        one.set_b(float(value))
        one.set_uij((-1.0,) * 6)
    text = hierarchy.as_pdb_string(crystal_symmetry=given.crystal_symmetry())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return True
