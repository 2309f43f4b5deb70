"""
A reference that is a reflection file -> one intensity for each unique index of the data.

Amplitudes are squared and symmetry equivalents merged, and so are Friedel pairs unless they are to be kept apart.
reflection_files.py reads the file, compatibility.py says whether it can be one of the data; atomic models are for
programs/reference_model.py.
"""

from __future__ import annotations

import numpy as np

from cctbx import crystal
from dxtbx import flumpy

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.compatibility import check_compatibility
from dials_postrefine.files.reference.reflection_files import (
    Tally,
    has_friedel_pairs_apart,
    merge_intensities,
    read_intensities,
)
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
    path: str,
    space_group,
    cell: tuple[float, ...],
    labels: str | None = None,
    block: str | None = None,
    anomalous: bool = False,
) -> tuple[np.ndarray, np.ndarray, Tally]:
    """
    The same as read_reference, and what became of the observations of the file; anomalous: Friedel pairs apart where
    the file has them so.
    """
    observations = read_intensities(path, labels, block, anomalous)
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    check_compatibility(path, observations.array.crystal_symmetry(), symmetry)
    apart = anomalous and has_friedel_pairs_apart(observations.array)
    merged, tally = merge_intensities(path, observations, symmetry, apart)
    return miller_indices_to_numpy(merged.indices()), flumpy.to_numpy(merged.data()).copy(), tally


def merge_friedel_pairs(h: np.ndarray, intensity: np.ndarray, space_group) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m, 3) and mean intensities (m,) of indices h (n, 3) that may have Friedel pairs apart."""
    key, first, pair = np.unique(
        pack(asu := map_to_asymmetric_unit(h, space_group)), return_index=True, return_inverse=True
    )
    return asu[first], np.bincount(pair, intensity, len(key)) / np.bincount(pair, minlength=len(key))


def align_apart(h_unique: np.ndarray, h: np.ndarray, intensity: np.ndarray, space_group) -> np.ndarray:
    """
    The same as align, h_unique and h having Friedel pairs apart, or h having them merged; where the reference has one
    of a pair alone it serves for the other.
    """
    aligned = align(h_unique, h, intensity)
    either = align(map_to_asymmetric_unit(h_unique, space_group), *merge_friedel_pairs(h, intensity, space_group))
    return np.where(np.isfinite(aligned), aligned, either)


def align(h_unique: np.ndarray, h: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """intensity (n,) of the indices h (n, 3) put in the order of h_unique (m, 3): (m,), NaN where there is none."""
    key = pack(h)
    order = np.argsort(key)
    row, found = find_rows(key[order], pack(h_unique))
    aligned = np.full(len(row), np.nan)
    aligned[found] = intensity[order[row[found]]]
    return aligned
