"""
A reference that is a reflection file -> one intensity for each unique index of the data.

Amplitudes are squared, symmetry equivalents and Friedel pairs merged.  reflection_files.py reads the file,
compatibility.py says whether it can be one of the data; atomic models are for programs/reference_model.py.
"""

from __future__ import annotations

import numpy as np

from cctbx import crystal
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.compatibility import check_compatibility
from dials_postrefine.files.reference.reflection_files import Tally, merge_intensities, read_intensities
from dials_postrefine.numerics.indices import find_rows, pack


def read_reference(
    path: str, space_group, cell: tuple[float, ...], labels: str | None = None, block: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    The reference's indices (n, 3) and intensities (n,), one per unique index of space_group.

    cell is the data's unit cell; labels and block as read_intensities takes them.  Raises Sorry where the file can't be
    read, holds no intensities or several, or is of another cell or symmetry than the data.
    """
    return read_tallied(path, space_group, cell, labels, block)[:2]


def read_tallied(
    path: str, space_group, cell: tuple[float, ...], labels: str | None = None, block: str | None = None
) -> tuple[np.ndarray, np.ndarray, Tally]:
    """The same as read_reference, and what became of the observations of the file."""
    observations = read_intensities(path, labels, block)
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    check_compatibility(path, observations.array.crystal_symmetry(), symmetry)
    merged, tally = merge_intensities(path, observations, symmetry, anomalous=False)
    return miller_indices_to_numpy(merged.indices()), flumpy.to_numpy(merged.data()).copy(), tally


def align(h_unique: np.ndarray, h: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """intensity (n,) of the indices h (n, 3) put in the order of h_unique (m, 3): (m,), NaN where there is none."""
    key = pack(h)
    order = np.argsort(key)
    row, found = find_rows(key[order], pack(h_unique))
    aligned = np.full(len(row), np.nan)
    aligned[found] = intensity[order[row[found]]]
    return aligned
