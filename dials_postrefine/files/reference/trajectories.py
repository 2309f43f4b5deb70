"""
Trajectories: a PDB file with many models, of which the atoms of an atomic model are taken.
"""

from __future__ import annotations

import numpy as np

import iotbx.pdb
from dials.util import Sorry

from dials_postrefine.files.reference.selections import read_hierarchy

FEWEST = 3  # models of which a covariance is made


def read_trajectory(path: str, structure: str, n_atoms: int) -> np.ndarray:
    """
    Cartesian positions (n_models, n_atoms, 3), Angstrom, of the atoms of the structure that have an occupancy.

    Atoms are found by chain, residue and name, or where these are others or not unique, and there are as many atoms, by
    their order; atoms that the structure has not (hydrogen, water) are left out.  Raises Sorry for what does not fit.
    """
    try:
        hierarchy = iotbx.pdb.input(file_name=path).construct_hierarchy(sort_atoms=False)
    except Exception as error:  # iotbx raises anything at all on a damaged file
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise Sorry(f"{path} can't be read as a PDB trajectory ({reason}).") from None
    models = hierarchy.models()
    if len(models) < FEWEST:
        raise Sorry(
            f"{path} has {len(models)} model{'s' * (len(models) != 1)}, and a covariance needs {FEWEST} frames at "
            "least: give a PDB file with more, or a .npz with V."
        )
    reference = read_hierarchy(structure, n_atoms, "input.covariance")  # atoms know their parents while it lives
    wanted = [_name(one) for one in reference.atoms() if one.occ > 0.0]
    first = [_name(one) for one in models[0].atoms()]
    places = {name: k for k, name in enumerate(first)}
    missing = [name for name in wanted if name not in places]
    told_apart = len(places) == len(first) and len(set(wanted)) == len(wanted)
    by_name = told_apart and not missing
    if not by_name and len(first) != len(wanted):
        why = (
            f"lacks {len(missing)} of the {len(wanted)} atoms of the model (the first: {' '.join(missing[0])})"
            if missing
            else f"has {len(first)} atoms, several of one name, and the model {len(wanted)}"
        )
        raise Sorry(f"{path} {why}: give a trajectory of the same molecule, with its chain and residue names.")
    order = [places[name] for name in wanted] if by_name else list(range(len(first)))
    found = np.empty((len(models), len(wanted), 3))
    for number, model in enumerate(models):
        xyz = np.array(model.atoms().extract_xyz())
        if len(xyz) != len(first):
            raise Sorry(f"Model {number + 1} of {path} has {len(xyz)} atoms, the first has {len(first)}.")
        found[number] = xyz[order]
    if not np.isfinite(found).all():
        raise Sorry(f"{path} has atoms without coordinates.")
    return found


def _name(atom) -> tuple[str, ...]:
    """Chain, residue, name and alternate location of an atom."""
    group = atom.parent()
    return group.parent().parent().id.strip(), group.parent().resid().strip(), atom.name.strip(), group.altloc.strip()
