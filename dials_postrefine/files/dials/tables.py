"""
Reflection tables <-> arrays, and the contract of the scaled columns.

In: all tables as one, its `id` the index of the experiment in the list, and from it the usable observations as arrays
(`Usable`), corrected for polarisation and detector efficiency exactly once:

    I = I_sum lp/qe,    v = v_sum (lp/qe)^2

with the columns `lp` and `qe` (or `dqe`) where the integrator wrote them, else lp = 1/P from the beam model (1 where
that is not of X-rays, files/dials/radiation.py), which is written as such, and qe = 1.  The integrator's `partiality`
is not used, and need not be there (dials.ssx_integrate algorithm=stills writes none): flags tell what is integrated.

Out (dials-facts.md, "What the next program needs of a scaled table"):

    intensity.scale.value            I/p, not divided by inverse_scale_factor
    intensity.scale.variance         v/p^2, plus I^2 partiality.inv.variance where the integrator wrote that column,
                                     put into the error model (stills/errormodel.py)
    inverse_scale_factor, _variance  G exp(-2 B d*^2) r_0/r_s > 0 (r_0 = r_s where constant) and the fit's variance
    partiality                       the refined p > 0
    intensity.ref.value              the reference intensity, 0 where there is none
    flags                            `scaled` on what was kept, `outlier_in_scaling`, `excluded_for_scaling` on the rest
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, miller
from dials.array_family import flex
from dials.util import Sorry
from dials.util.ext import streambuf
from dxtbx import flumpy

from dials_postrefine.files.dials.models import d_star_sq, has_crystal
from dials_postrefine.files.dials.radiation import is_xray
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.file_kinds import Kind, refuse_compressed, what_else
from dials_postrefine.files.safety.guarded import call_in_child
from dials_postrefine.files.safety.msgpack_structure import check_table
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.stills.filters import SignificanceFilter, significant_observations
from dials_postrefine.stills.wilson import WilsonPrior

NEEDED = {"id": flex.int, "miller_index": flex.miller_index, "flags": flex.size_t, "s1": flex.vec3_double}
# Where only some of several tables have these columns, the others get what their absence means.
NEUTRAL = {"qe": 1.0, "dqe": 1.0, "partiality": 1.0, "partiality.inv.variance": 0.0}
INTENSITIES = {"sum": "intensity.sum", "profile": "intensity.prf", "strong_spots": "intensity.sum"}
# What a fit never sees keeps a partiality above zero, as the contract wants it: DIALS divides by it.
MIN_PARTIALITY = 1e-6
# No detector counts so much, nor (but for zero) its inverse: damaged numbers, with powers beyond what a float can hold.
LARGEST = 1e30
# How a pickle begins, the other format of a .refl file; DIALS writes it where DIALS_USE_PICKLE is set.
PICKLE = b"\x80"


@dataclass
class Usable:
    """
    The usable observations, sorted by experiment and index.

    row (n,) of the table, offsets (n_experiments + 1,), h (n, 3) int32, intensity, variance (n,) corrected,
    inverse_variance (n,) of 1/p or None; n_excluded: how many rows are out, by reason.
    """

    row: np.ndarray
    offsets: np.ndarray
    h: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    inverse_variance: np.ndarray | None
    n_excluded: dict[str, int]

    def select(self, mask: np.ndarray, reason: str) -> Usable:
        """The observations where mask (n,) holds; the others are excluded for the reason."""
        n = int(np.count_nonzero(~mask))
        return Usable(
            self.row[mask],
            np.concatenate([[0], np.cumsum(mask)])[self.offsets],
            self.h[mask],
            self.intensity[mask],
            self.variance[mask],
            None if self.inverse_variance is None else self.inverse_variance[mask],
            self.n_excluded | ({reason: n} if n else {}),
        )


def read_table(path: str):
    """Read a .refl file.  Raises Sorry where it is missing, damaged or no reflection table."""
    if not os.path.isfile(path):
        raise Sorry(f"The file {path} does not exist: check the name.")
    refuse_compressed(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(PICKLE):
            content = call_in_child(_pickle_as_msgpack, path)
        check_table(content)
        table = flex.reflection_table.from_msgpack(content)
        consistent, keys, _ = table.is_consistent(), list(table.keys()), identifiers_by_id(table)
    except OSError as error:
        raise Sorry(f"{path} can't be read ({error.strerror}): check the file.") from error
    except MemoryError:  # the structure is right: it is a large file
        raise
    except Exception as error:  # DIALS raises anything at all on a damaged file
        why = what_else(path, Kind.TABLE, Kind.PICKLE)
        raise Sorry(f"{path} can't be read as a reflection table ({why}).") from error
    if not consistent:
        raise Sorry(f"{path} is damaged, its columns are of different lengths: integrate again.")
    if not keys:
        raise Sorry(f"{path} holds an empty reflection table: integrate first.")
    return table


def write_table(table, path: str) -> None:
    """
    Write a .refl file as table.as_file does.

    Raises OSError where the disk is full, also where only the last of it has no room: DIALS' writer in C++ ends the
    process when Python raises an exception there.
    """
    if os.getenv("DIALS_USE_PICKLE"):
        table.as_pickle(path)
        return
    with open(path, "wb") as file:
        keeper = _ErrorKeeper(file)
        table.as_msgpack_to_file(streambuf(python_file_obj=keeper))
        if keeper.error is not None:
            raise keeper.error


class _ErrorKeeper:
    """A file to write to, and no more, that keeps an error instead of raising it; what follows is not written."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, content: bytes) -> None:
        if self.error is None:
            try:
                self.file.write(content)
            except OSError as error:
                self.error = error


def _pickle_as_msgpack(path: str) -> bytes:
    return flex.reflection_table.from_pickle(path).as_msgpack()


def join_tables(paths: Sequence[str], tables: Sequence, identifiers_of_files: Sequence[list[str]]):
    """
    All tables as one whose `id` counts the experiments of all files together.

    paths name the tables in messages; identifiers_of_files lists the experiments' identifiers by .expt file.
    Experiments are found by identifier; a table without identifiers belongs to the .expt file at its own place in the
    list.  Reflections that belong to no experiment (id -1) are dropped, and so is a column that not all tables have
    (`NEUTRAL` ones are filled up instead).
    Raises Sorry where tables and experiments do not belong together.
    """
    identifiers = [identifier for names in identifiers_of_files for identifier in names]
    number = {identifier: i for i, identifier in enumerate(identifiers)}
    owner: dict[int, str] = {}
    joined = []
    for place, (path, table) in enumerate(zip(paths, tables)):
        _check_columns(path, table)
        known = identifiers_by_id(table)
        ids = flumpy.to_numpy(table["id"])
        used = np.unique(ids[ids >= 0])
        if not known:
            first = sum(map(len, identifiers_of_files[:place]))
            n = len(identifiers_of_files[place]) if place < len(identifiers_of_files) else 0
            if len(used) and used[-1] >= n:
                raise Sorry(
                    f"{path} names no experiment identifiers and has ids up to {used[-1]}, but its .expt file "
                    f"holds {n} experiments: give each .refl file with its own .expt file, in the same order."
                )
            new_id = {int(i): first + int(i) for i in used}
        else:
            missing = [known.get(int(i), f"id {i}") for i in used if known.get(int(i)) not in number]
            if missing:
                raise Sorry(
                    f"{len(missing)} of the lattices in {path} are not in the .expt files (the first: {missing[0]!r}): "
                    "give the .expt file that was written together with it."
                )
            new_id = {int(i): number[known[int(i)]] for i in used}
        twice = [k for k in new_id.values() if k in owner]
        if twice or len(set(new_id.values())) < len(new_id):
            where = f"{owner[twice[0]]} and {path}" if twice else f"{path} alone"
            raise Sorry(f"Reflections of one lattice are given more than once, in {where}: give each file once.")
        owner.update(dict.fromkeys(new_id.values(), path))
        if (ids < 0).any():
            table = select_rows(table, flumpy.from_numpy(ids >= 0))
            ids = flumpy.to_numpy(table["id"])
        lookup = np.zeros(int(used[-1]) + 1 if len(used) else 1, dtype=np.int32)
        lookup[list(new_id)] = list(new_id.values())
        table["id"] = flumpy.from_numpy(lookup[ids] if len(ids) else ids)
        joined.append(table)
    if len(joined) > 1:
        _make_columns_alike(joined)
    for table in joined:
        forget_identifiers(table)
    whole = joined[0]
    for table in joined[1:]:
        whole.extend(table)
    for i, identifier in enumerate(identifiers):
        whole.experiment_identifiers()[i] = identifier
    return whole


def identifiers_by_id(table) -> dict[int, str]:
    """The identifiers that the table names, by its own ids."""
    names = table.experiment_identifiers()
    return {int(i): name for i, name in zip(names.keys(), names.values()) if name}


def forget_identifiers(table) -> dict[int, str]:
    """Take the identifiers out of a table; returns them by id."""
    names = table.experiment_identifiers()
    known = {int(i): name for i, name in zip(names.keys(), names.values())}
    for i in known:
        del names[i]
    return known


def select_rows(table, rows):
    """
    The rows (flex.bool or flex.size_t) as a table of their own, with the identifiers of their ids.

    As table.select(rows), which in DIALS compares all identifiers with all others: seconds for ten thousand lattices.
    """
    known = forget_identifiers(table)
    part = table.select(rows)
    used = set(np.unique(flumpy.to_numpy(part["id"])).tolist()) if "id" in part else set(known)
    for i, name in known.items():
        table.experiment_identifiers()[i] = name
        if i in used:
            part.experiment_identifiers()[i] = name
    return part


def _make_columns_alike(tables) -> None:
    for key, value in NEUTRAL.items():
        if any(key in table for table in tables):
            for table in tables:
                if key not in table:
                    table[key] = flex.double(len(table), value)
    common = set.intersection(*({(key, type(table[key])) for key in table.keys()} for table in tables))
    for table in tables:
        for key in set(table.keys()) - {key for key, _ in common}:
            del table[key]


def _check_columns(path: str, table) -> None:
    missing = [key for key, kind in NEEDED.items() if key not in table or not isinstance(table[key], kind)]
    if missing:
        raise Sorry(
            f"{path} lacks {', '.join(missing)}: give the reflections that dials.stills_process or dials.ssx_integrate "
            "wrote after integration."
        )


def check_integrated(table, intensity_choice: str) -> None:
    """Raises Sorry where the table holds no integrated intensities of the kind chosen."""
    if not len(table):
        raise Sorry("The .refl files hold no reflections of these lattices: integrate the images first.")
    column = INTENSITIES[intensity_choice]
    if f"{column}.value" not in table or f"{column}.variance" not in table:
        raise Sorry(f"The reflections carry no {column}.value and .variance: integrate first, or set intensity_choice.")
    for key in (f"{column}.value", f"{column}.variance", "lp", "qe", "dqe", "partiality.inv.variance"):
        if key in table and not isinstance(table[key], flex.double):
            raise Sorry(f"The column {key} of the .refl files is damaged, it holds no numbers: integrate again.")
    if intensity_choice == "strong_spots":
        if "xyzcal.px" not in table and "xyzobs.px.value" in table:
            table["xyzcal.px"] = table["xyzobs.px.value"]
        return
    name = "integrated_prf" if intensity_choice == "profile" else "integrated_sum"
    integrated = table.get_flags(getattr(table.flags, name))
    why = None
    if not integrated.count(True):
        why = f"no row has the flag {name}"
    elif are_spot_sums(table, integrated):
        why = f"the rows with the flag {name} are found spots, none a prediction"
    if why:
        raise Sorry(
            f"The reflections are not integrated ({why}): integrate them with dials.stills_process or "
            "dials.ssx_integrate, or set intensity_choice=strong_spots to use spot sums."
        )


def are_spot_sums(table, integrated) -> bool:
    """
    Whether the integrated rows (flex.bool) are sums over spots that were found, as an indexing program may flag them.

    An integrator predicts: it flags its rows so (dials.stills_process, dials.ssx_integrate algorithm=stills), says how
    much of each was recorded (all but algorithm=stills), or has rows where no spot was found (algorithm=ellipsoid).
    """
    flags = table.flags
    if "partiality" in table or table.get_flags(flags.predicted).count(True):
        return False
    found = table.get_flags(flags.strong) | table.get_flags(flags.used_in_refinement)
    return not (integrated & ~found).count(True)


def usable_observations(
    table,
    experiments,
    intensity_choice: str = "sum",
    d_min: float | None = None,
    d_max: float | None = None,
    significance: SignificanceFilter | None = None,
    radiation: str | None = None,
) -> Usable:
    """
    Select and correct the observations (module docstring).

    Out are: of an experiment without a crystal, not integrated, overloaded, excluded by the user, not finite or without
    a positive variance, without a direction s1, with a d* that can't diffract, outside of d_min and d_max (Angstrom),
    beyond the resolution to which their lattice is significant; each counted under its reason.
    """
    ids = flumpy.to_numpy(table["id"])
    flags = flumpy.to_numpy(table["flags"])
    column = INTENSITIES[intensity_choice]
    value = flumpy.to_numpy(table[f"{column}.value"])
    variance = flumpy.to_numpy(table[f"{column}.variance"])
    n_excluded = {}
    keep = np.ones(len(ids), dtype=bool)

    def exclude(reason: str, mask: np.ndarray) -> None:
        n_excluded[reason] = int(np.count_nonzero(mask & keep))
        keep[mask] = False

    exclude("without a crystal", ~has_crystal(experiments)[ids])
    if intensity_choice != "strong_spots":
        integrated = table.flags.integrated_prf if intensity_choice == "profile" else table.flags.integrated_sum
        exclude("not integrated", flags & int(integrated) == 0)
    exclude("overloaded", flags & int(table.flags.overloaded) != 0)
    exclude("excluded by the user", flags & int(table.flags.user_excluded_in_scaling) != 0)
    with np.errstate(invalid="ignore"):
        exclude("bad intensity or variance", ~_are_possible(value, variance))
        s1 = flumpy.to_numpy(table["s1"])
        length_sq = np.einsum("ij,ij->i", s1, s1)
        exclude("without a direction s1", ~((length_sq > 0.0) & np.isfinite(length_sq)))
    indices = table["miller_index"]
    exclude("index 0,0,0", flumpy.to_numpy(indices == (0, 0, 0)))

    row = np.flatnonzero(keep)
    h = miller_indices_to_numpy(indices)[row]
    order = np.lexsort((pack(h), ids[row]))  # by index within an experiment: the order of the table changes no sum
    row, h = row[order], h[order]
    offsets = np.searchsorted(ids[row], np.arange(len(experiments) + 1))
    add_polarisation(table, experiments, radiation)
    correction, d_star_sq = _corrections(table, experiments, row, offsets, h)
    with np.errstate(invalid="ignore", over="ignore"):
        corrected = value[row] * correction, variance[row] * correction**2
        inside = (correction > 0.0) & _are_possible(*corrected)
    n_excluded["bad lp or qe"] = int(np.count_nonzero(~inside))
    possible = np.isfinite(d_star_sq)
    n_excluded["with an index that can't diffract"] = int(np.count_nonzero(inside & ~possible))
    inside &= possible
    in_range = np.ones(len(row), dtype=bool)
    if d_min is not None and d_min > 0.0:
        in_range &= d_star_sq <= d_min**-2
    if d_max is not None and d_max > 0.0:
        in_range &= d_star_sq >= d_max**-2
    n_excluded["outside of d_min and d_max"] = int(np.count_nonzero(inside & ~in_range))
    inside &= in_range
    if not inside.all():
        row, h, d_star_sq = row[inside], h[inside], d_star_sq[inside]
        corrected = tuple(x[inside] for x in corrected)
        offsets = np.searchsorted(ids[row], np.arange(len(experiments) + 1))
    inverse_variance = None
    if "partiality.inv.variance" in table:
        inverse_variance = flumpy.to_numpy(table["partiality.inv.variance"])[row]
        inverse_variance = np.where(np.isfinite(inverse_variance), np.clip(inverse_variance, 0.0, LARGEST), 0.0)
    usable = Usable(
        row=row,
        offsets=offsets,
        h=h,
        intensity=corrected[0],
        variance=corrected[1],
        inverse_variance=inverse_variance,
        n_excluded={reason: n for reason, n in n_excluded.items() if n},
    )
    if significance is None:
        return usable
    significant = significant_observations(usable.intensity, usable.variance, d_star_sq, offsets, significance)
    return usable.select(significant, "beyond the resolution of their lattice")


def _are_possible(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Which intensities and variances are numbers that arithmetic can bear, and the variances positive."""
    size = np.abs(value)
    good = (size < LARGEST) & ((size > 1.0 / LARGEST) | (size == 0.0))
    return good & (variance > 1.0 / LARGEST) & (variance < LARGEST**2)


def _corrections(table, experiments, row, offsets, h) -> tuple[np.ndarray, np.ndarray]:
    """lp/qe (n,) and d*^2 (n,), NaN where d* > 2/wavelength, of the rows."""
    correction = flumpy.to_numpy(table["lp"])[row]
    for efficiency in ("qe", "dqe"):
        if efficiency in table:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                correction /= flumpy.to_numpy(table[efficiency])[row]
            break
    d_star_sq = np.empty(len(row))
    for k, experiment in enumerate(experiments):
        own = slice(offsets[k], offsets[k + 1])
        if own.start == own.stop:  # and perhaps no crystal
            continue
        q = h[own] @ np.array(experiment.crystal.get_A()).reshape(3, 3).T
        q_sq = np.einsum("ij,ij->i", q, q)
        d_star_sq[own] = np.where(q_sq * experiment.beam.get_wavelength() ** 2 <= 4.0, q_sq, np.nan)
    return correction, d_star_sq


def add_polarisation(table, experiments, radiation: str | None = None) -> None:
    """
    Give the table the column `lp` = 1/P from the beam models, unless the integrator wrote one; 1 where the radiation
    (files/dials/radiation.py; None: that of each beam model) is not X-rays.

    It stays in the table: a program that starts from the integrated intensities finds the correction there, once.
    """
    if "lp" in table:
        return
    ids, s1 = flumpy.to_numpy(table["id"]), flumpy.to_numpy(table["s1"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    lp = np.ones(len(ids))
    for k, experiment in enumerate(experiments):
        rows, beam = order[offsets[k] : offsets[k + 1]], experiment.beam
        if not is_xray(beam, radiation):
            continue
        normal, fraction = np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
        lp[rows] = 1.0 / polarisation(s1[rows], np.array(beam.get_s0()), normal, fraction)
    lp[~np.isfinite(lp)] = 1.0  # no direction: such a row is not used
    table["lp"] = flumpy.from_numpy(lp)


def set_polarization_fraction(table, experiments, fraction: float, radiation: str | None = None) -> None:
    """
    Give all beams of X-rays this polarisation fraction; a column `lp` that the integrator wrote follows, from the
    fraction that the beam models had before, lp P(before)/P(fraction).
    """
    ids, s1 = flumpy.to_numpy(table["id"]), flumpy.to_numpy(table["s1"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    lp = flumpy.to_numpy(table["lp"]).copy() if "lp" in table else None
    polarised = [k for k, experiment in enumerate(experiments) if is_xray(experiment.beam, radiation)]
    for k in polarised if lp is not None else ():
        rows, beam = order[offsets[k] : offsets[k + 1]], experiments[k].beam
        geometry = s1[rows], np.array(beam.get_s0()), np.array(beam.get_polarization_normal())
        with np.errstate(invalid="ignore", divide="ignore"):
            lp[rows] *= polarisation(*geometry, beam.get_polarization_fraction()) / polarisation(*geometry, fraction)
    for k in polarised:
        experiments[k].beam.set_polarization_fraction(fraction)
    if lp is not None:
        table["lp"] = flumpy.from_numpy(lp)


def polarisation(s1: np.ndarray, s0: np.ndarray, normal: np.ndarray, fraction: float) -> np.ndarray:
    """
    The polarisation factor of diffracted beams s1 (n, 3), shape (n,), which divides an intensity.

    P = (1 - 2 f)(1 - (n.s1)^2) + f (1 + (s0.s1)^2) with unit vectors, n the normal of the plane of polarisation and f
    the fraction in that plane (DIALS, algorithms/integration/corrections.h; Kahn et al. 1982).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        s1 = s1 / np.sqrt(np.einsum("ij,ij->i", s1, s1))[:, None]
    s0 = s0 / np.linalg.norm(s0)
    normal = normal / np.linalg.norm(normal)
    return (1.0 - 2.0 * fraction) * (1.0 - (s1 @ normal) ** 2) + fraction * (1.0 + (s1 @ s0) ** 2)


def map_to_asymmetric_unit(h: np.ndarray, space_group) -> np.ndarray:
    """h (n, 3) in the asymmetric unit of the space group, Friedel mates as one."""
    indices = to_flex_miller(h)
    miller.map_to_asu(space_group.type(), False, indices)
    return miller_indices_to_numpy(indices)


def number_unique(h: np.ndarray, space_group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Number the indices of the asymmetric unit.

    Returns unique (n,) int32, the indices themselves (n_unique, 3), and which of them are systematically absent.
    """
    asu = map_to_asymmetric_unit(h, space_group)
    _, first, unique = np.unique(pack(asu), return_index=True, return_inverse=True)
    h_unique = asu[first]
    absent = flumpy.to_numpy(space_group.is_sys_absent(to_flex_miller(h_unique)))
    return unique.astype(np.int32), h_unique, absent


def wilson_prior(h_unique: np.ndarray, cell: tuple[float, ...], space_group) -> WilsonPrior:
    """What Wilson statistics need of the unique indices (n_unique, 3)."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group, assert_is_compatible_unit_cell=False)
    indices = miller.set(symmetry, to_flex_miller(h_unique), anomalous_flag=False)
    epsilon = flumpy.to_numpy(indices.epsilons().data()).astype(float)
    return WilsonPrior(d_star_sq(cell, h_unique), epsilon, flumpy.to_numpy(indices.centric_flags().data()).copy())


def write_resolutions(table, experiments) -> None:
    """Make the column d (Angstrom), where there is one, that of the crystals as they are: 1/|A h|."""
    if "d" not in table or not len(table):
        return
    ids, h = flumpy.to_numpy(table["id"]), miller_indices_to_numpy(table["miller_index"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    d_star_sq = np.zeros(len(ids))
    for k, experiment in enumerate(experiments):
        own = order[offsets[k] : offsets[k + 1]]
        q = h[own] @ np.array(experiment.crystal.get_A()).reshape(3, 3).T
        d_star_sq[own] = np.einsum("ij,ij->i", q, q)
    # as DIALS has it for the index 0,0,0
    d = np.divide(1.0, np.sqrt(d_star_sq), out=np.zeros(len(ids)), where=d_star_sq > 0.0)
    table["d"] = flumpy.from_numpy(d)


def write_scaled_columns(
    table, row, kept, outlier, value, variance, partiality, scale, scale_variance, reference
) -> None:
    """
    Put the scaled columns and flags into a table of N rows (module docstring), one column at a time.

    For the usable rows, row (n,): kept and outlier (n,) bool; value, variance (n,) as in intensity.scale; reference
    (n,), NaN where there is none.  For all rows: partiality, scale and scale_variance (N,).
    """
    n = len(table)

    def put(name: str, values, elsewhere: float = 0.0) -> None:
        whole = np.full(n, elsewhere)
        whole[row] = values
        table[name] = flumpy.from_numpy(whole)

    table["inverse_scale_factor"] = flumpy.from_numpy(scale)
    table["inverse_scale_factor_variance"] = flumpy.from_numpy(scale_variance)
    table["partiality"] = flumpy.from_numpy(np.maximum(partiality, MIN_PARTIALITY))
    put("intensity.scale.value", value)
    put("intensity.scale.variance", variance, elsewhere=1.0)
    put("intensity.ref.value", np.where(np.isfinite(reference), reference, 0.0))
    if "partial_id" in table:
        del table["partial_id"]

    names = table.flags
    flags = flumpy.to_numpy(table["flags"])  # the column itself, not a copy
    flags &= ~np.uint64(int(names.scaled) | int(names.outlier_in_scaling) | int(names.excluded_for_scaling))
    usable = flags[row]
    usable[kept & ~outlier] |= np.uint64(int(names.scaled))
    usable[outlier] |= np.uint64(int(names.outlier_in_scaling))
    usable[~kept] |= np.uint64(int(names.excluded_for_scaling))
    flags |= np.uint64(int(names.excluded_for_scaling))
    flags[row] = usable
