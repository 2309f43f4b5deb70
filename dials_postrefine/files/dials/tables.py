"""
Reflection tables: read, joined to one whose `id` is the index of the experiment in the list, selected, written.

integrated.py makes arrays of them, scaled_columns.py puts the result into them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dials.array_family import flex
from dials.util import Sorry
from dials.util.ext import streambuf
from dxtbx import flumpy

from dials_postrefine.executors.signals import signals_postponed
from dials_postrefine.files.reference.file_kinds import Kind, refuse_compressed, what_else
from dials_postrefine.files.safety.guarded import call_in_child
from dials_postrefine.files.safety.msgpack_structure import check_table

NEEDED = {"id": flex.int, "miller_index": flex.miller_index, "flags": flex.size_t, "s1": flex.vec3_double}
# Where only some of several tables have these columns, the others get what their absence means.
NEUTRAL = {"qe": 1.0, "dqe": 1.0, "partiality": 1.0, "partiality.inv.variance": 0.0}
# How a pickle begins, the other format of a .refl file; DIALS writes it where DIALS_USE_PICKLE is set.
PICKLE = b"\x80"
WRITE_BUFFER = 1 << 20  # bytes; DIALS' own, of one kilobyte, calls Python for each


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
    process when Python raises an exception there.  For the same reason signals wait until it is written.
    """
    if os.getenv("DIALS_USE_PICKLE"):
        table.as_pickle(path)
        return
    with open(path, "wb") as file, signals_postponed():
        keeper = _ErrorKeeper(file)
        table.as_msgpack_to_file(streambuf(python_file_obj=keeper, buffer_size=WRITE_BUFFER))
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
