"""What dials.dynamical makes of a fit besides: the spread that it explains, and the order of correction and scaling."""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials_postrefine.electron.dynamical.explained import Explained, explain
from dials_postrefine.electron.dynamical.orders import Order, measure_order
from dials_postrefine.electron.dynamical.passes import whole_reflections
from dials_postrefine.electron.dynamical.results import DynamicalFit
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.files.dials.rescaling import ROW, scale_anew
from dials_postrefine.files.electron.corrected import corrected_table
from dials_postrefine.files.electron.intensities import are_usable, intensities
from dials_postrefine.files.electron.scaled_images import ImageFiles
from dials_postrefine.numerics.frames import FrameData

SCALED_FIRST = "scaled, then corrected"
CORRECTED_FIRST = "integrated, then corrected, then scaled"


def explain_spread(data: FrameData, fit: DynamicalFit, seed: int = 0) -> Explained | str:
    """How much of the spread of equivalents the fit explains, or why nothing can be said."""
    try:
        return explain(whole_reflections(data, fit), seed=seed)
    except Unusable as error:
        return str(error)


def compare_orders(files: ImageFiles, data: FrameData, fit: DynamicalFit) -> list[Order]:
    """
    Both orders, with the factors of one fit, of the observations that both keep: correction after scaling as it was
    given, and before dials.scale anew, which has its own outliers.
    """
    factor = fit.factor
    good = np.isfinite(factor) & (factor > 0.0)
    kinematical = fit.kinematical / fit.scale[data.frame]
    d = factor[good]
    _, table = scale_anew(files.experiments, corrected_table(files.table, data.row[good], d))
    # the corrected table has the rows in the order of the whole one
    observation = np.flatnonzero(good)[np.argsort(data.row[good], kind="stable")]
    observation = observation[flumpy.to_numpy(table[ROW])]
    intensity, variance = intensities(table, "scale")
    flags, names = flumpy.to_numpy(table["flags"]), table.flags
    out = int(names.outlier_in_scaling) | int(names.excluded_for_scaling) | int(names.user_excluded_in_scaling)
    used = are_usable(intensity, variance) & (flags & out == 0)
    observation = observation[used]
    d, unique, single = factor[observation], data.unique[observation], kinematical[observation]
    return [
        measure_order(SCALED_FIRST, unique, data.intensity[observation] / d, data.variance[observation] / d**2, single),
        measure_order(CORRECTED_FIRST, unique, intensity[used], variance[used], single),
    ]
