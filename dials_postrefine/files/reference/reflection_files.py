"""
Reflections of any kind of file: MTZ, structure-factor CIF, or a scaled .refl beside its .expt -> intensities.

In: a path, whose content tells which of these it is (file_kinds.py), compressed or not, and which columns by their
labels; out: one miller.array of intensities with unit cell and space group, as the file has them: merged or not,
Friedel pairs together or not.  Amplitudes are squared, sigma_I = 2 F sigma_F.

Without labels measured intensities come before measured amplitudes, and these before calculated ones (F with a phase);
of the best kind there must be one, with Friedel pairs or without as is wanted, or it is an error that lists all.

What is left out is counted by reason (Tally), of a table from its rows, of other files from the values that are there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import iotbx.cif
from cctbx import crystal, miller
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials.cell_choices import common_cell
from dials_postrefine.files.dials.models import read_experiments
from dials_postrefine.files.dials.tables import forget_identifiers, read_table
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.atomic_models import REFLECTION_ITEMS, choose_block, read_cif
from dials_postrefine.files.reference.file_kinds import REFLECTIONS, Kind, kind_of, plain_file, read_text
from dials_postrefine.files.reference.redundant_records import space_group_of
from dials_postrefine.files.safety.guarded import ChildFailed, call_in_child
from dials_postrefine.numerics.absences import N_SHELLS, Absences, weigh_absences
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.numerics.shells import shells_of_equal_numbers

ABSENT = "systematically absent"


@dataclass
class UnmergedIntensities:
    """Intensities as a miller.array, not merged, and how many others of the file were left out by reason."""

    array: Any
    not_used: dict[str, int] = field(default_factory=dict)


@dataclass
class Tally:
    """
    What became of the observations of a file: n_input = n_merged + the sum of not_used, by reason; how strong those
    are that are systematically absent.
    """

    n_input: int
    n_merged: int
    not_used: dict[str, int]
    absences: Absences


def read_intensities(
    path: str, labels: str | None = None, block: str | None = None, anomalous: bool = False
) -> UnmergedIntensities:
    """
    The intensities of the file (module docstring); labels: of the columns, as I,SIGI, or the first of them.

    anomalous: what to take where a file has both, Friedel pairs apart and their mean.  Raises Sorry where the file
    can't be read, or does not say which columns are meant.
    """
    if not os.path.isfile(path):
        raise Sorry(f"The reflection file {path} does not exist: check the name.")
    kind = kind_of(path)
    if kind not in (*REFLECTIONS, Kind.EMPTY):
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
    return UnmergedIntensities(array)


def has_friedel_pairs_apart(array) -> bool:
    """Whether a miller.array has Friedel pairs apart: one that says so, or whose observations are not merged."""
    return bool(array.anomalous_flag()) or not array.is_unique_set_under_symmetry()


def wavelength_of(array) -> float | None:
    """The wavelength (Angstrom) that a reflection file gives its columns, None where it says nothing, or zero."""
    wavelength = getattr(array.info(), "wavelength", None)
    return float(wavelength) if wavelength and np.isfinite(wavelength) and wavelength > 0.0 else None


def scaled_intensities(path: str, experiments_path: str | None = None) -> UnmergedIntensities:
    """
    The merging values I/(inverse scale factor) of a scaled table, Friedel pairs apart, not merged.

    experiments_path: its .expt file, by default that of the same name.  Raises Sorry where the table is not scaled.
    """
    experiments_path = experiments_path or os.path.splitext(path)[0] + ".expt"
    if not os.path.isfile(experiments_path):
        raise Sorry(f"The table {path} needs {experiments_path} beside it for cell and space group.")
    table, experiments = read_table(path), read_experiments(experiments_path)
    if not is_scaled(table) or not len(experiments) or None in experiments.crystals():
        raise Sorry(f"The table {path} is not scaled: give the output of dials.scale or dials.postrefine.")
    forget_identifiers(table)  # with which it takes longer to select
    table, not_used = _scaled_rows(table)
    if not len(table):
        raise Sorry(f"The table {path} holds no reflection that was scaled: scale again.")
    space_group = experiments[0].crystal.get_space_group()
    symmetry = crystal.symmetry(unit_cell=common_cell(experiments, space_group), space_group=space_group)
    factor = table["inverse_scale_factor"]
    indices = miller.set(symmetry, table["miller_index"], anomalous_flag=True)
    array = indices.array(
        data=table["intensity.scale.value"] / factor, sigmas=flex.sqrt(table["intensity.scale.variance"]) / factor
    )
    return UnmergedIntensities(array.set_observation_type_xray_intensity(), not_used)


def _scaled_rows(table):
    """The rows of a scaled table that can be merged, and how many others there are by reason."""
    flags, not_used = table.flags, {}

    def keep(reason: str, mask) -> None:
        nonlocal table
        n = mask.count(False)
        if n:
            not_used[reason] = n
            table = table.select(mask)

    if table.get_flags(flags.integrated, all=False).count(True):  # else written without such flags
        keep("not integrated", table.get_flags(flags.integrated, all=False))
    keep("outliers of scaling", ~table.get_flags(flags.outlier_in_scaling))
    keep("excluded from scaling", ~table.get_flags(flags.bad_for_scaling, all=False))
    keep(
        "with bad intensity, variance or scale",
        (table["inverse_scale_factor"] > 0.0) & (table["intensity.scale.variance"] > 0.0),
    )
    return table, not_used


def is_scaled(table) -> bool:
    """Whether a reflection table has the columns of a scaled one."""
    needed = ("miller_index", "flags", "intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    return all(key in table for key in needed)


def merge_intensities(
    path: str, observations: UnmergedIntensities, symmetry, anomalous: bool, d_min: float | None = None
) -> tuple[Any, Tally]:
    """
    Merged intensities of one asymmetric unit in the given symmetry (a miller.array), absences left out, and the tally.

    Only finite values count, with positive sigmas; sigmas that are all zero, as of calculated intensities, are none.
    Where there are no sigmas they stay None.  d_min: the resolution limit, Angstrom.  Raises Sorry where nothing is
    left.
    """
    array, not_used = observations.array, dict(observations.not_used)
    n_input = array.size() + sum(not_used.values())

    def leave_out(reason: str, mask: np.ndarray) -> None:
        nonlocal array
        n = int(np.count_nonzero(mask))
        if n:
            not_used[reason] = not_used.get(reason, 0) + n
            array = array.select(flumpy.from_numpy(~mask))

    if array.sigmas() is not None and not flumpy.to_numpy(array.sigmas()).any():
        array = array.customized_copy(sigmas=None).set_observation_type_xray_intensity()
    finite = np.isfinite(flumpy.to_numpy(array.data()))
    if array.sigmas() is not None:
        finite &= np.isfinite(flumpy.to_numpy(array.sigmas()))
    leave_out("not a number", ~finite)
    if array.sigmas() is not None:
        leave_out("without a positive sigma", flumpy.to_numpy(array.sigmas()) <= 0.0)
    leave_out("of the index 0,0,0", ~miller_indices_to_numpy(array.indices()).any(axis=1))
    array = array.customized_copy(crystal_symmetry=symmetry, anomalous_flag=anomalous)
    if d_min:
        n_before = array.size()
        leave_out("beyond d_min", ~flumpy.to_numpy(array.resolution_filter_selection(d_min=d_min)))
        if n_before and not array.size():
            raise Sorry(f"{path} has no reflection of d > {d_min:g} A: set another d_min.")
    absent = flumpy.to_numpy(array.sys_absent_flags().data())
    absences = _weigh(array, absent)
    leave_out(ABSENT, absent)
    tally = Tally(n_input, array.size(), not_used, absences)
    merged = array.map_to_asu().merge_equivalents(use_internal_variance=False).array()
    if not merged.size():
        reasons = ", ".join(f"{n} {reason}" for reason, n in not_used.items())
        raise Sorry(f"{path} holds no intensities that can be used{f' ({reasons})' if reasons else ''}.")
    return merged.set_observation_type_xray_intensity(), tally


def _weigh(array, absent: np.ndarray) -> Absences:
    """The absences (n,) among the intensities; without sigmas in units of the rms intensity."""
    if not absent.any():
        return Absences(0, np.nan, np.nan, np.nan, np.nan, False)
    value = flumpy.to_numpy(array.data()).astype(float)
    sigma = np.sqrt(np.mean(value**2)) or 1.0
    if array.sigmas() is not None:
        sigma = flumpy.to_numpy(array.sigmas())
    return weigh_absences(
        value / sigma, shells_of_equal_numbers(flumpy.to_numpy(array.d_star_sq().data()), N_SHELLS), absent
    )


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
    name = choose_block(path, blocks, REFLECTION_ITEMS, "reflections", block)
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
