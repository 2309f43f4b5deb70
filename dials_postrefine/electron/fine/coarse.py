"""
The start: orientation and thickness where t and x are most alike.

A compass search over the tilt (and step and rotation, where they are to be refined), on a few pixels and with
absorption to first order: at each place all thicknesses of a range are tried, which costs one diagonalisation, and the
best is taken.  The steps begin at some pixels and are halved.  Alike: the mean of Pearson's r over the disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.electron.fine.goodness import Comparison
from dials_postrefine.electron.fine.model import PatternModel

MOST_PIXELS = 120
HALVINGS = 3
NEAR = 0.06  # of the best thickness, those that are tried further on
MOST_NEAR = 20
STEPS = {"tilt_x": 4.0, "tilt_y": 4.0, "step": 0.04, "rotation": 0.04}  # of the tilt in pixels


@dataclass(frozen=True)
class Coarse:
    """Where the search ended: values, and the mean r there."""

    values: dict[str, float]
    correlation: float


def sparse(model: PatternModel, comparison: Comparison, most: int) -> tuple[PatternModel, Comparison]:
    """
    Every k-th pixel, so that there are not more than so many; without a point spread.

    Parameters
    ----------
    model : PatternModel
    comparison : Comparison
    most : int

    Returns
    -------
    PatternModel
    Comparison
    """
    some = slice(None, None, max(1, -(-len(model.offset) // most)))
    offset = model.offset[some]
    fewer = replace(comparison, data=comparison.data[:, some], weight=comparison.weight[:, some])
    return replace(model, offset=offset, shape=(len(offset), 1)), fewer


def sharp(values: Mapping[str, float]) -> dict[str, float]:
    """
    Parameters without those of the point spread.

    Parameters
    ----------
    values : mapping of str to float

    Returns
    -------
    dict of str to float
    """
    return {name: value for name, value in values.items() if name not in ("sigma", "gamma")}


def search(
    model: PatternModel,
    comparison: Comparison,
    values: Mapping[str, float],
    thickness: np.ndarray,
    names: Sequence[str],
    pixel: float,
) -> Coarse:
    """
    The best start.

    Parameters
    ----------
    model : PatternModel
    comparison : Comparison
    values : mapping of str to float
        Where the search begins.
    thickness : ndarray, shape (t,)
        Those that are tried; Angstrom.
    names : sequence of str
        What is searched besides, of STEPS.
    pixel : float
        1/Angstrom.

    Returns
    -------
    Coarse
    """
    model, comparison = sparse(model, comparison, MOST_PIXELS)
    model = replace(model, slab=replace(model.slab, exact=False))

    def best_at(here: Mapping[str, float]) -> Coarse:
        found = model.simulate(sharp(here), thickness)
        alike = np.array([np.nanmean(comparison.correlations(one)) for one in found])
        k = int(np.nanargmax(alike)) if np.any(np.isfinite(alike)) else 0
        return Coarse({**here, "thickness": float(thickness[k])}, float(alike[k]))

    best = best_at(dict(values))
    # what is not near is not tried again
    near = np.abs(thickness / best.values["thickness"] - 1.0) < NEAR
    thickness = thickness[near][:: max(1, near.sum() // MOST_NEAR)]
    steps = {name: STEPS[name] * (pixel if name.startswith("tilt_") else 1.0) for name in names}
    for _ in range(HALVINGS):
        moved = True
        while moved:
            moved = False
            for name, step in steps.items():
                for sign in (1.0, -1.0):
                    tried = best_at({**best.values, name: best.values[name] + sign * step})
                    if tried.correlation > best.correlation + 1e-6:
                        best, moved = tried, True
        steps = {name: 0.5 * step for name, step in steps.items()}
    return best
