"""
Identifiers for experiments that have none, from their content.

In: experiments, and the table of their reflections where there is one; out: one text each,

    uuid5(NAMESPACE, SHA-256 of: setting matrices and space group; incident beams; range and oscillation of its scan;
    names of its images without their folders, and the places in them; its reflections, in whatever order: panel, index,
    intensities)

with the geometry rounded to DECIMALS, as its last digits are others whenever DIALS has read and written a file.

The same files give the same identifiers in every run, on every machine and wherever they lie, so that what follows from
identifiers (half sets, order) is the same, too.  Different lattices have different ones, in whichever runs they were
named, so that the outputs of several runs can be joined.  What has the same content in all this is the same lattice.
"""

from __future__ import annotations

import os
import uuid
from hashlib import sha256

import numpy as np

from dials.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.grouped import rows_of_groups

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "dials_postrefine")
DECIMALS = 8
INTENSITIES = ("intensity.sum.value", "intensity.prf.value", "intensity.scale.value")


def content_identifiers(experiments, table=None) -> list[str]:
    """
    The identifiers (module docstring) of experiments; table: their reflections by `id`, the place in the list, or None.
    """
    rows = _reflections(table, len(experiments))
    found, symbols = [], _Symbols()
    for k, experiment in enumerate(experiments):
        digest = sha256()
        for part in (*_geometry(experiment, symbols), *_images(experiment), b"" if rows is None else rows[k]):
            digest.update(len(part).to_bytes(8, "little"))  # where one part ends and the next begins is content, too
            digest.update(part)
        found.append(str(uuid.uuid5(NAMESPACE, digest.hexdigest())))
    return found


class _Symbols:
    """The symbols of space groups, each found once, which takes longer than all else of a still."""

    def __init__(self):
        self.known: list[tuple] = []

    def symbol(self, group) -> str:
        for other, symbol in self.known:
            if other == group:
                return symbol
        self.known.append((group, str(group.info())))
        return self.known[-1][1]


def _geometry(experiment, symbols: _Symbols) -> list[bytes]:
    crystal, beam, scan = experiment.crystal, experiment.beam, experiment.scan
    parts = []
    if crystal is not None:
        points = [crystal.get_A_at_scan_point(i) for i in range(crystal.num_scan_points)]
        parts += [_rounded([crystal.get_A(), *points]), symbols.symbol(crystal.get_space_group()).encode()]
    if beam is not None:
        points = [beam.get_s0_at_scan_point(i) for i in range(beam.num_scan_points)]
        parts.append(_rounded([beam.get_s0(), *points]))
    if scan is not None:
        parts.append(_rounded([*scan.get_image_range(), *scan.get_oscillation()]))
    return parts


def _rounded(values) -> bytes:
    return (np.round(np.array(values, "<f8"), DECIMALS) + 0.0).tobytes()  # and no -0.0


def _images(experiment) -> list[bytes]:
    imageset = experiment.imageset
    if imageset is None:
        return []
    names = [os.path.basename(name or "") for name in imageset.paths()]
    return ["\0".join(names).encode("utf-8", "surrogateescape"), np.array(imageset.indices(), "<i8").tobytes()]


def _reflections(table, n: int) -> list[bytes] | None:
    """The reflections of each experiment as bytes that do not depend on the order of the rows."""
    if table is None or not isinstance(table.get("id", None), flex.int):
        return None
    columns = []
    if isinstance(table.get("panel", None), flex.size_t):
        columns.append(flumpy.to_numpy(table["panel"]).astype("<i8"))
    if isinstance(table.get("miller_index", None), flex.miller_index):
        columns += list(miller_indices_to_numpy(table["miller_index"]).T.astype("<i8"))
    for name in INTENSITIES:
        if isinstance(table.get(name, None), flex.double):
            columns.append(np.ascontiguousarray(flumpy.to_numpy(table[name]), "<f8").view("<i8"))
    if not columns:
        return None
    values = np.stack(columns, axis=1)
    parts = []
    for rows in rows_of_groups(flumpy.to_numpy(table["id"]), n):
        part = values[rows]
        parts.append(part[np.lexsort(part.T)].tobytes())
    return parts
