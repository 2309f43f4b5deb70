"""Whether a structure and observations belong together, as dials.dynamical needs them to."""

from __future__ import annotations

import numpy as np

from cctbx import uctbx
from dials.util import Sorry

from dials_postrefine.files.reference.atomic_models import AtomicModel
from dials_postrefine.numerics.frames import FrameData

MAX_LENGTH, MAX_ANGLE = 0.02, 1.0  # relative, degrees: of two cells of one crystal
FEWEST_MATES = 20  # pairs of Friedel mates that one would expect, from which on none is no chance


def check_structure(model: AtomicModel, data: FrameData) -> None:
    """Raises Sorry for a structure of another cell, and for observations whose Friedel mates were merged."""
    theirs, ours = model.structure.unit_cell(), uctbx.unit_cell(data.cell.tolist())
    if not theirs.is_similar_to(ours, MAX_LENGTH, MAX_ANGLE):
        raise Sorry(
            f"The structure's cell, {_cell(theirs)}, is not that of the data, {_cell(ours)}: give the structure of "
            "this crystal, in the setting of the data."
        )
    if not model.structure.space_group().is_centric():
        _refuse_merged(data)


def _cell(cell) -> str:
    return " ".join(f"{x:.5g}" for x in cell.parameters())


def _refuse_merged(data: FrameData) -> None:
    """
    Raises Sorry where all indices of a kind that has two signs have one: mates were merged, or mapped to one.

    Equivalents by rotations of the Laue class are of one kind; a scan of a crystal sees both ends of each axis.
    """
    plus = _first_by_rotation(data.h, data.laue)
    minus = _first_by_rotation(-data.h, data.laue)
    own_mate = np.all(plus == minus, axis=1)
    acentric = ~own_mate
    if np.count_nonzero(acentric) < FEWEST_MATES:
        return
    first = _is_larger(plus[acentric], minus[acentric])
    if first.all() or not first.any():
        raise Sorry(
            "No index has its Friedel mate among the data, of a structure without a centre of symmetry: they were "
            "merged, or mapped to one asymmetric unit, but dynamical scattering tells them apart; give unmerged data "
            "with Friedel mates apart."
        )


def _first_by_rotation(h: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Of the indices that rotations (k, 3, 3) make of h (n, 3) the largest, by h, then k, then l."""
    best = None
    for rotation in rotations:
        new = np.rint(h @ rotation).astype(np.int64)
        best = new if best is None else np.where(_is_larger(new, best)[:, None], new, best)
    return best


def _is_larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether rows a (n, 3) come after rows b."""
    difference = a - b
    place = np.argmax(difference != 0, axis=1)
    return difference[np.arange(len(a)), place] > 0
