"""
Reflections of any kind of file: MTZ, structure-factor CIF, or a scaled .refl beside its .expt -> intensities.

In: a path, whose content tells which of these it is (file_kinds.py), compressed or not, and which columns by their
labels; out: one miller.array of intensities with unit cell and space group, as the file has them: merged or not,
Friedel mates together or not.  Amplitudes are squared, sigma_I = 2 F sigma_F.

Without labels measured intensities come before measured amplitudes, and these before calculated ones (F with a phase);
of the best kind there must be one, with Friedel mates or without as is wanted, or it is an error that lists all.
"""

from __future__ import annotations

import os

import numpy as np

import iotbx.cif
from cctbx import crystal, miller
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.atomic_models import REFLECTIONS, choose_block, read_cif
from dials_postrefine.files.cell_choices import common_cell
from dials_postrefine.files.file_kinds import REFLECTIONS as KINDS
from dials_postrefine.files.file_kinds import Kind, kind_of, plain_file, read_text
from dials_postrefine.files.guarded import ChildFailed, call_in_child
from dials_postrefine.files.models import read_experiments
from dials_postrefine.files.redundant_records import space_group_of
from dials_postrefine.files.tables import forget_identifiers, read_table
from dials_postrefine.files.versions import miller_indices_to_numpy
from dials_postrefine.indices import to_flex_miller


def read_intensities(path: str, labels: str | None = None, block: str | None = None, anomalous: bool = False):
    """
    The intensities of the file (module docstring); labels: of the columns, as I,SIGI, or the first of them.

    anomalous: what to take where a file has both, Friedel mates apart and their mean.  Raises Sorry where the file
    can't be read, or does not say which columns are meant.
    """
    if not os.path.isfile(path):
        raise Sorry(f"The reflection file {path} does not exist: check the name.")
    kind = kind_of(path)
    if kind not in (*KINDS, Kind.EMPTY):
        raise Sorry(f"{path} is {kind.value}, not reflections: give an MTZ, a structure-factor CIF, or a scaled .refl.")
    if kind is Kind.TABLE or path.endswith((".refl", ".pickle")):
        return scaled_intensities(path)
    if kind is Kind.CIF or (kind is not Kind.MTZ and path.lower().endswith((".cif", ".mmcif", ".ent"))):
        arrays = _arrays_of_cif(path, block)
    else:
        with plain_file(path) as plain:
            arrays = _arrays_of_mtz(path, plain)
    array = _choose(path, arrays, labels, anomalous)
    if array.unit_cell() is None or array.space_group() is None:
        raise Sorry(f"The reflection file {path} has no unit cell or no space group: give a file that has.")
    return array


def scaled_intensities(path: str, experiments_path: str | None = None):
    """
    The merging values I/(inverse scale factor) of a scaled table, Friedel mates apart, not merged.

    experiments_path: its .expt file, by default that of the same name.  Raises Sorry where the table is not scaled.
    """
    experiments_path = experiments_path or os.path.splitext(path)[0] + ".expt"
    if not os.path.isfile(experiments_path):
        raise Sorry(f"The table {path} needs {experiments_path} beside it for cell and space group.")
    table, experiments = read_table(path), read_experiments(experiments_path)
    if not is_scaled(table) or not len(experiments) or None in experiments.crystals():
        raise Sorry(f"The table {path} is not scaled: give the output of dials.scale or dials.postrefine.")
    forget_identifiers(table)  # with which it takes longer to select
    table = table.select(~table.get_flags(table.flags.bad_for_scaling, all=False))
    if table.get_flags(table.flags.integrated, all=False).count(True):  # else written without such flags
        table = table.select(table.get_flags(table.flags.integrated, all=False))
    table = table.select((table["inverse_scale_factor"] > 0.0) & (table["intensity.scale.variance"] > 0.0))
    if not len(table):
        raise Sorry(f"The table {path} holds no reflection that was scaled: scale again.")
    space_group = experiments[0].crystal.get_space_group()
    symmetry = crystal.symmetry(unit_cell=common_cell(experiments, space_group), space_group=space_group)
    factor = table["inverse_scale_factor"]
    indices = miller.set(symmetry, table["miller_index"], anomalous_flag=True)
    array = indices.array(
        data=table["intensity.scale.value"] / factor, sigmas=flex.sqrt(table["intensity.scale.variance"]) / factor
    )
    return array.set_observation_type_xray_intensity()


def is_scaled(table) -> bool:
    """Whether a reflection table has the columns of a scaled one."""
    needed = ("miller_index", "flags", "intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    return all(key in table for key in needed)


def merge_intensities(path: str, array, symmetry, anomalous: bool):
    """
    Merged intensities of one asymmetric unit in the given symmetry, absences left out.

    Only finite values count, with positive sigmas; sigmas that are all zero, as of calculated intensities, are none.
    Where there are no sigmas they stay None.  Raises Sorry where nothing is left.
    """
    finite = np.isfinite(flumpy.to_numpy(array.data()))
    if array.sigmas() is not None:
        sigmas = flumpy.to_numpy(array.sigmas())
        if not sigmas.any():
            array = array.customized_copy(sigmas=None).set_observation_type_xray_intensity()
        else:
            finite &= np.isfinite(sigmas) & (sigmas > 0.0)
    finite &= (miller_indices_to_numpy(array.indices()) != 0).any(axis=1)
    array = array.select(flumpy.from_numpy(finite))
    array = array.customized_copy(crystal_symmetry=symmetry, anomalous_flag=anomalous)
    array = array.select(~array.sys_absent_flags().data()).map_to_asu()
    array = array.merge_equivalents(use_internal_variance=False).array()
    if not array.size():
        raise Sorry(f"{path} holds no intensities that can be used.")
    return array.set_observation_type_xray_intensity()


def index_array(h: np.ndarray, symmetry, data: np.ndarray, sigmas: np.ndarray, anomalous: bool = False):
    """Indices h (n, 3), intensities and sigmas (n,) as a miller.array."""
    indices = miller.set(symmetry, to_flex_miller(h), anomalous_flag=anomalous)
    array = indices.array(data=flumpy.from_numpy(data.copy()), sigmas=flumpy.from_numpy(sigmas.copy()))
    return array.set_observation_type_xray_intensity()


def _arrays_of_mtz(path: str, plain: str) -> list:
    """The arrays of the file `plain`, which path becomes when it is unpacked."""
    import iotbx.reflection_file_reader  # noqa: F401  (here, for the child to have it)

    try:
        if not _header_ends(plain):
            raise ChildFailed("a header without an end")
        arrays = call_in_child(_read_mtz, plain)  # a damaged file crashes libccp4
    except ChildFailed as error:
        raise Sorry(f"The reflection file {path} can't be read (truncated, or another kind of file?).") from error
    if not arrays:
        raise Sorry(f"{path} is no reflection file: give an MTZ, a structure-factor CIF, or a scaled .refl.")
    return arrays


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


def _read_mtz(path: str) -> list:
    from iotbx.reflection_file_reader import any_reflection_file

    reader = any_reflection_file(path)
    return reader.as_miller_arrays(merge_equivalents=False) if reader.file_type() else []


def _arrays_of_cif(path: str, block: str | None) -> list:
    blocks = read_cif(path)
    name = choose_block(path, blocks, REFLECTIONS, "reflections", block)
    group = space_group_of(path, blocks[name])
    try:
        arrays = iotbx.cif.reader(input_string=read_text(path)).as_miller_arrays(data_block_name=name)
    except Exception as error:  # iotbx raises anything at all on a damaged file
        reason = str(error).strip().split("\n", 1)[0]
        raise Sorry(f"The reflections of {path} can't be read ({reason}).") from error
    return [_in_group(array, group) for array in arrays]


def _in_group(array, group):
    """The array with this space group, None: its own."""
    if group is None or array.space_group() == group:
        return array
    symmetry = crystal.symmetry(array.unit_cell(), space_group=group, assert_is_compatible_unit_cell=False)
    return array.customized_copy(crystal_symmetry=symmetry).set_info(array.info())


def _choose(path: str, arrays: list, labels: str | None, anomalous: bool):
    """The array that is meant, as intensities (module docstring)."""
    kinds = [
        [a for a in arrays if a.is_xray_intensity_array()],
        [a for a in arrays if a.is_xray_amplitude_array()],
        [a for a in arrays if a.is_complex_array()],
    ]
    usable = [a for kind in kinds for a in kind]
    if labels is not None:
        wanted = [a for a in usable if labels in (_label(a), a.info().labels[0], *_short_labels(a))]
        kinds = [wanted]
        if not wanted:
            raise Sorry(f"{path} has no intensities or amplitudes {labels}; it has {_list(usable)}.")
    if not usable:
        raise Sorry(
            f"{path} holds neither intensities nor amplitudes{_only(arrays)}: give a file that does, or a model."
        )
    best = next(kind for kind in kinds if kind)
    if len(best) > 1:
        best = [a for a in best if a.anomalous_flag() == anomalous] or best
    if len(best) > 1:
        raise Sorry(f"{path} holds several columns that may be meant: {_list(best)}; choose with labels=.")
    array = best[0]
    if array.is_complex_array():
        array = array.amplitudes()
    return array if array.is_xray_intensity_array() else array.as_intensity_array()


def _label(array) -> str:
    return ",".join(array.info().labels)


def _short_labels(array) -> list[str]:
    """Labels as an MTZ has them, of a CIF without the name of the table."""
    return [label.rsplit(".", 1)[-1] for label in array.info().labels[:1]]


def _list(arrays: list) -> str:
    return "; ".join(_label(a) for a in arrays) or "none"


def _only(arrays: list) -> str:
    labels = "; ".join(_label(a) for a in arrays)
    return f" (only {labels})" if labels else ""
