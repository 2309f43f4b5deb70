"""
Atoms of a model by cctbx's selection strings, and its secondary structure.

The atoms are those of a PDB or mmCIF file that have an occupancy, in the order of the file.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np

import iotbx.pdb
from dials.util import Sorry


def select_atoms(path: str, selections: Sequence[str], n_atoms: int, name: str) -> list[np.ndarray]:
    """
    Which of n_atoms atoms each selection has; name: of the parameter, for messages.

    Raises Sorry where a selection can't be read or has no atom, where two have the same one, or the file has no
    residues.
    """
    hierarchy = read_hierarchy(path, n_atoms, name)
    present = np.array([one.occ > 0.0 for one in hierarchy.atoms()])
    cache, found = hierarchy.atom_selection_cache(), []
    for text in selections:
        try:
            chosen = np.array(cache.selection(text))[present]
        except Exception as error:  # whatever its parser raises
            reason = str(error).strip().splitlines()[0].removeprefix("RuntimeError: ")
            raise Sorry(f'{name}="{text}" can\'t be read as a selection of atoms ({reason}).') from None
        if not chosen.any():
            raise Sorry(f'{name}="{text}" has no atom of {path}: correct it, or leave it out.')
        for other, earlier in zip(selections, found):
            if (earlier & chosen).any():
                raise Sorry(f'{name}="{other}" and "{text}" have atoms in common: let each atom be in one.')
        found.append(chosen)
    return found


def secondary_structure(path: str, n_atoms: int) -> tuple[list[str], list[np.ndarray], str]:
    """
    Helices and strands: their names, which of n_atoms atoms each has, and where they are from ("records of the
    file", or "CA positions", by which cctbx finds them where there is none or one can't be read).

    Atoms of two belong to the first.  Raises Sorry where there is none.
    """
    given, hierarchy = _read(path, n_atoms, "covariance.groups=secondary_structure")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints records that it can't read
        annotation, source = given.extract_secondary_structure(), "records of the file"
        n_helices = sum(line.startswith("HELIX ") for line in getattr(given, "secondary_structure_section", list)())
        if annotation is None or annotation.is_empty() or len(annotation.helices) < n_helices:
            annotation, source = _found(hierarchy), "CA positions"
    parts = [(f"helix {k + 1}", one.as_atom_selections()) for k, one in enumerate(annotation.helices)]
    parts += [
        (f"sheet {k + 1} strand {m + 1}", [text])
        for k, sheet in enumerate(annotation.sheets)
        for m, text in enumerate(sheet.as_atom_selections())
    ]
    present = np.array([one.occ > 0.0 for one in hierarchy.atoms()])
    cache, taken = hierarchy.atom_selection_cache(), np.zeros(n_atoms, bool)
    names, found = [], []
    for part, texts in parts:
        chosen = np.any([np.array(cache.selection(text))[present] for text in texts], axis=0) & ~taken
        if chosen.any():
            taken |= chosen
            names.append(part)
            found.append(chosen)
    if not found:
        raise Sorry(f"{path} has no helix and no strand: use other groups than covariance.groups=secondary_structure.")
    return names, found, source


def _found(hierarchy):
    from libtbx.utils import null_out
    from mmtbx.secondary_structure.find_ss_from_ca import find_secondary_structure

    return find_secondary_structure(hierarchy=hierarchy, out=null_out()).get_annotation()


def read_hierarchy(path: str, n_atoms: int, name: str):
    """The hierarchy of a file; Sorry where it has not n_atoms atoms with an occupancy, in residues."""
    return _read(path, n_atoms, name)[1]


def _read(path: str, n_atoms: int, name: str):
    try:
        given = iotbx.pdb.input(file_name=path)
        hierarchy = given.construct_hierarchy(sort_atoms=False)  # in the order of the file, as cctbx has the structure
    except Exception:  # a small molecule; iotbx raises anything at all
        raise Sorry(f"{name} needs residues, which {path} has not: give a PDB or mmCIF file.") from None
    if sum(one.occ > 0.0 for one in hierarchy.atoms()) != n_atoms:
        raise Sorry(f"{name} needs the atoms of {path} as its residues have them: give a PDB or mmCIF file.")
    return given, hierarchy
