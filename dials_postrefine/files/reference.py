"""
Reference intensities from a file: merged or unmerged MTZ, or a scaled .refl beside its .expt.

Out: Miller indices in the asymmetric unit of the data's space group and one intensity each, Friedel mates averaged.
Amplitudes are squared.
"""

from __future__ import annotations

import os

import numpy as np

from cctbx import crystal, miller
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.guarded import ChildFailed, call_in_child
from dials_postrefine.files.models import CELL_ANGLE_TOLERANCE, CELL_LENGTH_TOLERANCE, median_cell, read_experiments
from dials_postrefine.files.tables import map_to_asymmetric_unit, pack, read_table, to_flex_miller
from dials_postrefine.files.versions import miller_indices_to_numpy


def read_reference(path: str, space_group, cell: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """
    The reference's indices (n, 3) and intensities (n,), one per unique index of space_group.

    cell is the data's unit cell.  Raises Sorry where the file can't be read, holds no intensities, or is of another
    cell or point group than the data.
    """
    if not os.path.isfile(path):
        raise Sorry(f"The reference {path} does not exist: check the name.")
    array = _from_table(path) if path.endswith(".refl") else _from_mtz(path)
    _check_symmetry(path, array, space_group, cell)
    symmetry = crystal.symmetry(unit_cell=array.unit_cell(), space_group=space_group)
    array = array.customized_copy(crystal_symmetry=symmetry, anomalous_flag=False)
    finite = np.isfinite(flumpy.to_numpy(array.data()))
    if array.sigmas() is not None:
        finite &= np.isfinite(flumpy.to_numpy(array.sigmas()))
    try:
        array = array.select(flumpy.from_numpy(finite)).map_to_asu()
        array = array.merge_equivalents(use_internal_variance=False).array()
    except RuntimeError as error:  # indices that no file should hold
        raise Sorry(f"The reference {path} is damaged: {error}.") from error
    if not array.size():
        raise Sorry(f"The reference {path} holds no intensities.")
    return miller_indices_to_numpy(array.indices()), flumpy.to_numpy(array.data()).copy()


def align(h_unique: np.ndarray, h: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """intensity (n,) of the indices h (n, 3) put in the order of h_unique (m, 3): (m,), NaN where there is none."""
    key = pack(h)
    order = np.argsort(key)
    key = key[order]
    wanted = pack(h_unique)
    place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where(key[place] == wanted, intensity[order][place], np.nan)


def _from_mtz(path: str):
    """The first intensities, else amplitudes squared, that have a unit cell."""
    import iotbx.reflection_file_reader  # noqa: F401  (here, for the child to have it)

    try:
        if not _header_ends(path):
            raise ChildFailed("a header without an end")
        return call_in_child(_read_mtz, path)  # a damaged file crashes libccp4
    except ChildFailed as error:
        raise Sorry(f"The reference {path} can't be read (truncated, or another kind of file?).") from error


def _read_mtz(path: str):
    from iotbx.reflection_file_reader import any_reflection_file

    try:
        reader = any_reflection_file(path)
        arrays = reader.as_miller_arrays(merge_equivalents=False) if reader.file_type() else []
    except Sorry as error:  # of iotbx, which does not name the file
        raise ValueError from error
    if not arrays:
        raise Sorry(f"The reference {path} is no reflection file: give an .mtz, or a scaled .refl beside its .expt.")
    intensities = [a for a in arrays if a.is_xray_intensity_array()]
    amplitudes = [a for a in arrays if a.is_xray_amplitude_array()]
    for array in intensities + [a.as_intensity_array() for a in amplitudes]:
        if array.unit_cell() is not None:
            return array
    raise Sorry(f"The reference {path} holds neither intensities nor amplitudes.")


def _header_ends(path: str) -> bool:
    """Whether an MTZ file's header is whole; libccp4 reads on for ever in one that is not.  True of other files."""
    with open(path, "rb") as file:
        start = file.read(20)
        if start[:4] != b"MTZ ":
            return True
        for order in ("little", "big"):
            place = int.from_bytes(start[4:8], order, signed=True)
            if place == -1:  # beyond what 32 bits can count
                place = int.from_bytes(start[12:20], order, signed=True)
            if 20 < place <= os.path.getsize(path) // 4:
                file.seek(4 * (place - 1))  # in words of four bytes, counted from one
                header = file.read()
                records = (header[i : i + 4] for i in range(0, len(header), 80))
                return b"END " in records and b"MTZENDOFHEADERS" in header
    return False


def _from_table(path: str):
    """The scaled intensities of a table whose .expt file has the same name."""
    experiments_path = path[: -len(".refl")] + ".expt"
    if not os.path.isfile(experiments_path):
        raise Sorry(f"The reference {path} needs {experiments_path} beside it for cell and space group.")
    table, experiments = read_table(path), read_experiments(experiments_path)
    needed = ("miller_index", "flags", "intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    if any(key not in table for key in needed) or not len(experiments) or None in experiments.crystals():
        raise Sorry(f"The reference {path} is not scaled: give the output of dials.scale or dials.postrefine.")
    table = table.select(~table.get_flags(table.flags.bad_for_scaling, all=False))
    table = table.select((table["inverse_scale_factor"] > 0.0) & (table["intensity.scale.variance"] > 0.0))
    space_group = experiments[0].crystal.get_space_group()
    symmetry = crystal.symmetry(unit_cell=median_cell(experiments, space_group), space_group=space_group)
    indices = map_to_asymmetric_unit(miller_indices_to_numpy(table["miller_index"]), space_group)
    factor = table["inverse_scale_factor"]
    return (
        miller.set(symmetry, to_flex_miller(indices), anomalous_flag=False)
        .array(
            data=table["intensity.scale.value"] / factor, sigmas=flex.sqrt(table["intensity.scale.variance"]) / factor
        )
        .set_observation_type_xray_intensity()
    )


def _check_symmetry(path: str, array, space_group, cell: tuple[float, ...]) -> None:
    theirs = array.space_group().build_derived_point_group()
    ours = space_group.build_derived_point_group()
    if theirs != ours:
        symbol = str(array.space_group_info())
        raise Sorry(
            f"The reference {path} is of space group {symbol}, the data of {space_group.type().lookup_symbol()}: "
            f"set space_group={symbol.replace(' ', '')} if that is right for the data."
        )
    ours_cell, their_cell = np.array(cell), np.array(array.unit_cell().parameters())
    lengths = np.abs(their_cell[:3] / ours_cell[:3] - 1.0).max()
    angles = np.abs(their_cell[3:] - ours_cell[3:]).max()
    if lengths > CELL_LENGTH_TOLERANCE or angles > CELL_ANGLE_TOLERANCE:
        as_text = " ".join(f"{x:.2f}" for x in their_cell)
        raise Sorry(
            f"The reference {path} has the unit cell {as_text}, the data {' '.join(f'{x:.2f}' for x in ours_cell)}: "
            "give a reference of the same crystal form."
        )
