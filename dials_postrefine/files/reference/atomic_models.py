"""
Atomic models from files: PDB, mmCIF or small-molecule CIF -> xray.structure.

In: a path, whose content tells which of these it is (file_kinds.py), compressed or not, and which data block of a CIF
with several; out: the structure as cctbx has it, whether it is a macromolecule, and notes (a sentence each) of what a
user should know.  A model that can't be meant is refused with one Sorry: no unit cell or symmetry, several models or
data blocks, unknown elements, no atom that is there, a B that is negative or 0.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import iotbx.cif
import iotbx.pdb
import iotbx.pdb.mmcif
from cctbx import crystal
from dials.array_family import flex
from dials.util import Sorry
from iotbx.cif.builders import crystal_structure_builder, crystal_symmetry_builder

from dials_postrefine.files.reference.file_kinds import MODELS, REFLECTIONS, Kind, kind_of, read_text
from dials_postrefine.files.reference.redundant_records import (
    HALL,
    HERMANN_MAUGUIN,
    NUMBER,
    OPERATIONS,
    fits_cell,
    space_group_of,
)
from dials_postrefine.files.safety.names import printable
from dials_postrefine.scattering.form_factors import is_known

MODEL_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")
UNTOLD = (Kind.TEXT, Kind.UNKNOWN, Kind.EMPTY)  # whose reader says what is wrong
N_NAMED = 3  # atoms that a message names
SMALLEST_CELL = 10.0  # Angstrom^3: the 1 x 1 x 1 cell of models without a crystal (NMR, microscopy) is below
SMALL_MOLECULE, MACROMOLECULE = "_atom_site_fract_x", "_atom_site.Cartn_x"
REFLECTION_ITEMS = ("_refln_index_h", "_refln.index_h")


@dataclass
class AtomicModel:
    """
    An atomic model: an xray.structure with the file's charges in its scattering types (module docstring).

    macromolecule: it has amino acids or nucleotides, hence bulk solvent.
    """

    path: str
    structure: Any
    macromolecule: bool
    notes: list[str] = field(default_factory=list)

    def types(self) -> list[str]:
        """The scattering types, each once."""
        return sorted({scatterer.scattering_type for scatterer in self.structure.scatterers()})


def is_atomic_model(path: str) -> bool:
    """
    Whether the file is one of atoms: by its content (file_kinds.py), where that says nothing by its ending.

    Raises Sorry where it is neither a model nor reflections, or is not there.
    """
    kind = kind_of(path)
    if kind is Kind.CIF:
        return has_atoms(read_cif(path))
    if kind in MODELS:
        return True
    if kind not in (*REFLECTIONS, Kind.EMPTY):
        raise Sorry(
            f"{path} is {kind.value}: give an atomic model (PDB, mmCIF, CIF) or reflections (MTZ, structure-factor "
            "CIF, scaled .refl) instead."
        )
    return kind is not Kind.MTZ and path.lower().endswith(MODEL_ENDINGS)


def read_atomic_model(path: str, block: str | None = None) -> AtomicModel:
    """
    The atomic model of a file; block: the data block of a CIF.

    Raises Sorry where the file is missing, damaged, no atomic model, or one that can't be meant (module docstring).
    """
    if not os.path.isfile(path):
        raise Sorry(f"The atomic model {path} does not exist: check the name.")
    kind = kind_of(path)
    if kind is Kind.CIF or (kind in UNTOLD and path.lower().endswith((".cif", ".mmcif"))):
        model = _from_cif(path, block)
    elif kind is Kind.PDB or kind in UNTOLD:
        lines = flex.split_lines(read_text(path))
        model = _from_pdb(path, _guarded(path, iotbx.pdb.input, source_info=printable(path), lines=lines))
    else:
        raise Sorry(f"{path} is {kind.value}, not an atomic model: give a PDB file, an mmCIF or a CIF.")
    _check_atoms(model)
    return model


def read_cif(path: str) -> dict:
    """The data blocks of a CIF by name.  Raises Sorry where it can't be read."""
    reader = _guarded(path, iotbx.cif.reader, input_string=read_text(path))
    return dict(reader.model().items())


def choose_block(path: str, blocks: dict, keys: Sequence[str], what: str, block: str | None) -> str:
    """The name of the one block that has any of the keys, or of the one asked for; Sorry where none or several."""
    names = [name for name, content in blocks.items() if any(key in content for key in keys)]
    if block is not None:
        if block not in names:
            listed = ", ".join(names) or "none"
            raise Sorry(f"{path} has no data block {block} with {what} (blocks that have: {listed}).")
        return block
    if not names:
        raise Sorry(f"{path} holds no {what}: give another file.")
    if len(names) > 1:
        raise Sorry(f"{path} holds {what} in {len(names)} data blocks ({', '.join(names)}): choose one with block=.")
    return names[0]


def has_atoms(blocks: dict) -> bool:
    """Whether any block of a CIF has atoms."""
    return any(key in content for content in blocks.values() for key in (SMALL_MOLECULE, MACROMOLECULE))


def _from_cif(path: str, wanted: str | None) -> AtomicModel:
    blocks = read_cif(path)
    name = choose_block(path, blocks, (SMALL_MOLECULE, MACROMOLECULE), "atoms", wanted)
    block = _with_one_group(path, blocks[name])
    if MACROMOLECULE in block:
        one = iotbx.cif.model.cif({name: block})
        return _from_pdb(path, _guarded(path, iotbx.pdb.mmcif.cif_input, cif_object=one))
    try:
        symmetry = crystal_symmetry_builder(block).crystal_symmetry
    except Exception as error:  # iotbx raises anything at all where there is none
        raise Sorry(f"The atomic model {path} has no unit cell or no space group: add them to the file.") from error
    if symmetry.unit_cell() is None or symmetry.space_group() is None:
        raise Sorry(f"The atomic model {path} has no unit cell or no space group: add them to the file.")
    structure = _guarded(path, _small_molecule, block)
    return AtomicModel(path, structure, False)


def _small_molecule(block):
    return crystal_structure_builder(block).structure


def _with_one_group(path: str, block):
    """
    A copy of the block that states its space group once, by operations, for iotbx to take no other; Sorry where its
    statements differ.
    """
    group = space_group_of(path, block)
    if group is None:
        return block
    block = copy.deepcopy(block)
    for key in (*HALL, *HERMANN_MAUGUIN, *NUMBER):
        if key in block:
            del block[key]
    if not any(key in block for key in OPERATIONS):
        operations = flex.std_string([operation.as_xyz() for operation in group.all_ops()])
        block.add_loop(iotbx.cif.model.loop(data={OPERATIONS[0]: operations}))
    return block


def _from_pdb(path: str, source) -> AtomicModel:
    symmetry = _guarded(path, _symmetry_of, source)
    if symmetry is None or symmetry.unit_cell() is None or symmetry.space_group() is None:
        raise Sorry(
            f"The atomic model {path} has no unit cell and space group (CRYST1 record): add it, or give another model."
        )
    if symmetry.unit_cell().volume() < SMALLEST_CELL:
        raise Sorry(f"The atomic model {path} has a dummy unit cell, as models without a crystal have: write its own.")
    hierarchy = _guarded(path, source.construct_hierarchy)
    if not hierarchy.atoms_size():
        raise Sorry(f"The atomic model {path} holds no atoms: give another file.")
    if hierarchy.models_size() > 1:
        raise Sorry(f"{path} holds {hierarchy.models_size()} models: give a file with one.")
    notes = []
    matrix = _guarded(path, source.scale_matrix)
    fits = matrix is None or fits_cell(matrix[0], symmetry.unit_cell())
    if not fits:
        notes.append(
            f"The matrix of fractional coordinates in {path} (SCALE records, fract_transf_matrix) is none of its unit "
            "cell and is ignored: the axes are taken as is usual, x along a and z along c*."
        )
    structure = _guarded(
        path,
        source.xray_structure_simple,
        use_scale_matrix_if_available=fits,
        enable_scattering_type_unknown=True,
    )
    macromolecule = hierarchy.contains_protein() or hierarchy.contains_nucleic_acid()
    return AtomicModel(path, structure, macromolecule, notes)


def _symmetry_of(source):
    try:
        return source.crystal_symmetry()
    except AssertionError:
        raise ValueError("the unit cell does not fit the space group: correct CRYST1") from None


def _guarded(path: str, function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:  # iotbx raises anything at all on a damaged file
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise Sorry(f"The file {path} can't be read as an atomic model or CIF ({reason}).") from error


def _check_atoms(model: AtomicModel) -> None:
    path, structure = model.path, model.structure
    scatterers = structure.scatterers()
    if not scatterers.size():
        raise Sorry(f"The atomic model {path} holds no atoms: give another file.")
    unknown = [s.label for s in scatterers if not is_known(s.scattering_type)]
    if unknown:
        raise Sorry(f"The atomic model {path} has {_named(unknown)} of no known element: correct or remove them.")
    if not np.isfinite(np.array(structure.sites_frac())).all():
        raise Sorry(f"The atomic model {path} has atoms without coordinates: correct or remove them.")
    occupancy = np.array(scatterers.extract_occupancies())
    negative = [s.label for s, value in zip(scatterers, occupancy) if value < 0.0]
    if negative:
        raise Sorry(f"The atomic model {path} has {_named(negative)} of negative occupancy: correct or remove them.")
    if not (occupancy > 0.0).any():
        raise Sorry(f"All atoms of {path} have zero occupancy, so that nothing scatters: correct the occupancies.")
    nothing = [s.label for s in scatterers if s.flags.use_u_iso() and s.u_iso == 0.0]
    if len(nothing) == scatterers.size():
        raise Sorry(
            f"All atoms of {path} have B = 0, which no atom has: give a model with refined B factors, or set one B for "
            "all of them."
        )
    if nothing:
        raise Sorry(f"The atomic model {path} has {_named(nothing)} with B = 0: correct or remove them.")
    no_sense = [s.label for s, good in zip(scatterers, structure.is_positive_definite_u()) if not good]
    if no_sense:
        raise Sorry(
            f"The atomic model {path} has {_named(no_sense)} with a negative B, or an anisotropic one that is not "
            "positive definite: correct or remove them."
        )
    absent = [s.label for s, value in zip(scatterers, occupancy) if value == 0.0]
    if absent:
        model.notes.append(f"{_named(absent).capitalize()} of zero occupancy: they scatter nothing and are left out.")
        model.structure = structure.select(structure.scatterers().extract_occupancies() > 0.0)


def _named(labels: list[str]) -> str:
    named = ", ".join(" ".join(label.replace("pdb=", "").split()) for label in labels[:N_NAMED])
    more = ", ..." if len(labels) > N_NAMED else ""
    return f"{len(labels)} atom{'s' * (len(labels) > 1)} ({named}{more})"


def symmetry_of(model: AtomicModel):
    """The crystal.symmetry of the model."""
    return crystal.symmetry(unit_cell=model.structure.unit_cell(), space_group=model.structure.space_group())
