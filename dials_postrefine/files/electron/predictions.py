"""
Predicted intensities as a reflection table, with the experiments that they belong to.

The column intensity.model.value is to be divided by inverse_scale_factor as intensity.scale.value is; it is 0 where
nothing was predicted, as intensity.ref.value is.
"""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials_postrefine.files.dials.tables import select_rows, write_table
from dials_postrefine.files.electron.scaled_images import ImageFiles


def write_predictions(
    files: ImageFiles, intensity: np.ndarray, tested: np.ndarray, experiments: str, reflections: str
) -> None:
    """
    Write the experiments that were tested, by number, and their reflections (module docstring).

    intensity (n,) of the observations, NaN where nothing was predicted; experiments, reflections: paths.
    """
    table = files.table
    value = np.zeros(len(table))
    value[files.row] = np.nan_to_num(intensity)
    if "inverse_scale_factor" in table:
        value *= flumpy.to_numpy(table["inverse_scale_factor"])
    written = np.isin(flumpy.to_numpy(table["id"]), tested)
    table = select_rows(table, flumpy.from_numpy(written))
    table["intensity.model.value"] = flumpy.from_numpy(value[written])
    table.reset_ids()
    write_table(table, reflections)
    chosen = files.experiments[int(tested[0]) : int(tested[0]) + 1]
    for k in tested[1:]:
        chosen.append(files.experiments[int(k)])
    chosen.as_file(experiments)
