"""An atomic model with other displacements, as PDB."""

from __future__ import annotations

import numpy as np


def write_with_u(source: str, path: str, u: np.ndarray) -> bool:
    """
    Write the model of a PDB or mmCIF file with the mean square displacements u (n, 3, 3), Angstrom^2, of its atoms that
    have an occupancy: as B, and where one depends on the direction as ANISOU, too.

    Returns whether it could be: other files have no atoms as a PDB has them.
    """
    import iotbx.pdb

    try:
        given = iotbx.pdb.input(file_name=source)
        hierarchy = given.construct_hierarchy(sort_atoms=False)  # in the order of the file
    except Exception:  # a small molecule; iotbx raises anything at all
        return False
    atoms = [one for one in hierarchy.atoms() if one.occ > 0.0]
    if len(atoms) != len(u):
        return False
    mean = np.trace(u, axis1=1, axis2=2) / 3.0
    isotropic = np.abs(u - mean[:, None, None] * np.eye(3)).max(initial=0.0) < 1e-9
    for one, tensor, value in zip(atoms, u, mean):
        one.set_b(float(8.0 * np.pi**2 * value))
        six = (-1.0,) * 6 if isotropic else (*np.diag(tensor), tensor[0, 1], tensor[0, 2], tensor[1, 2])
        one.set_uij(tuple(map(float, six)))
    text = hierarchy.as_pdb_string(crystal_symmetry=given.crystal_symmetry())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return True
