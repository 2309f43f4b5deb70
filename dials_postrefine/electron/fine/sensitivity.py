"""
How far the cut on the beams moves what was refined.

With the weighted residuals u of the frozen list and u' of about twice as many beams, both at the fitted parameters and
with absorption to first order, the minimum moves by dx = -(J^T J)^-1 J^T (u' - u): one step of Gauss-Newton, on some of
the pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.electron.fine.beamlist import places_of
from dials_postrefine.electron.fine.coarse import sharp, sparse
from dials_postrefine.electron.fine.goodness import Comparison
from dials_postrefine.electron.fine.model import PatternModel
from dials_postrefine.electron.fine.parameters import Parameters

MOST_PIXELS = 100


def shift_by_beams(
    model: PatternModel, comparison: Comparison, parameters: Parameters, disks: np.ndarray, more: np.ndarray
) -> dict[str, float]:
    """
    dx of the free parameters; of those of the point spread none is told.

    Parameters
    ----------
    model : PatternModel
    comparison : Comparison
    parameters : Parameters
        As fitted.
    disks : ndarray of int, shape (d, 3)
    more : ndarray of int, shape (n, 3)
        The longer list of beams.

    Returns
    -------
    dict of str to float
    """
    names = [name for name in parameters.free if name not in ("sigma", "gamma")]
    values = sharp(parameters.values)
    model, comparison = sparse(model, comparison, MOST_PIXELS)
    model = replace(model, slab=replace(model.slab, exact=False))
    longer = replace(
        model,
        slab=replace(model.slab, beams=more, disks=places_of(disks, more)),
        table=model.table.crystal.table(more),
    )
    simulated, derivatives = model.differentiate(values, names)
    scale = comparison.eliminate(simulated).scale[:, None]
    change = comparison.projected(simulated, (longer.simulate(values) - simulated)[None])[0]
    columns = comparison.projected(simulated, derivatives)
    used = comparison.weight > 0.0
    if not np.all(np.isfinite(scale)) or np.count_nonzero(used) < len(names):
        return {name: float("nan") for name in names}
    step = np.linalg.lstsq(columns[:, used].T, -change[used], rcond=None)[0]
    return dict(zip(names, step.tolist()))
