"""
A dynamical refinement as files: corrected intensities, moved orientations, the observations one by one.

dynamical.refl has the observations of the scaled table that have a dynamical factor d, and every intensity that DIALS
reads there, of counts and scaled ones, is I/d with variance v/d^2: dials.scale, merge and export use the corrected
intensities as they would the others.  Beside them

    dynamical_factor        d, dynamical over kinematical: times this, an intensity is what it was
    intensity.dyn.value     the corrected scaled intensity, to be divided by inverse_scale_factor; and .variance

dynamical.expt has the orientations as refined: at the boundary of two images the scan-varying matrix is that of the
rotation between theirs, in the middle of the two,

    A_c -> M^-1 R(w) M A_c,      M the goniometer's rotations, w the rotation vector in the laboratory

w linear between the middles of frames.  The list of observations is a CSV file, one a row.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.tables import select_rows, write_table
from dials_postrefine.numerics.frames import Frames

FACTOR = "dynamical_factor"
INTENSITIES = ("intensity.prf", "intensity.sum", "intensity.scale")


def refuse_corrected(table, path: str) -> None:
    """Raises Sorry for a table whose intensities are corrected already."""
    if FACTOR in table:
        raise Sorry(f"The intensities in {path} are corrected already ({FACTOR}): give the table that was corrected.")


def write_corrected(table, row: np.ndarray, factor: np.ndarray, path: str) -> int:
    """
    Write the rows (n,) of a table that have factors d (n,) that are numbers above zero (module docstring).

    Returns how many these are.
    """
    good = np.isfinite(factor) & (factor > 0.0)
    write_table(corrected_table(table, row[good], factor[good]), path)
    return int(np.count_nonzero(good))


def corrected_table(table, row: np.ndarray, factor: np.ndarray):
    """The rows (n,) of a table, in its order, with intensities divided by factors (n,) (module docstring)."""
    factor = factor[np.argsort(row, kind="stable")]
    kept = np.zeros(len(table), dtype=bool)
    kept[row] = True
    table = select_rows(table, flumpy.from_numpy(kept))
    for name in INTENSITIES:
        if f"{name}.value" in table and f"{name}.variance" in table:
            for what, power in (("value", factor), ("variance", factor**2)):
                table[f"{name}.{what}"] = flumpy.from_numpy(flumpy.to_numpy(table[f"{name}.{what}"]) / power)
    for name in reversed(INTENSITIES):  # the scaled one where there is one
        if f"{name}.value" in table:
            for what in ("value", "variance"):
                table[f"intensity.dyn.{what}"] = flex.double(table[f"{name}.{what}"])
            break
    table[FACTOR] = flumpy.from_numpy(np.ascontiguousarray(factor))
    return table


def move_orientations(experiments, frames: Frames, tilt: np.ndarray) -> tuple[Any, float]:
    """
    Experiments whose crystals are turned (module docstring) by rotation vectors (f, 3) of frames, in radians.

    Returns them and the root mean square of what the written orientations are off those refined, radians.
    """
    moved, off = copy.copy(experiments), []
    for k, experiment in enumerate(moved):
        mine = np.flatnonzero(frames.sweep == k)
        if not len(mine):
            continue
        scan = experiment.scan
        first, last = scan.get_array_range()
        place = [scan.get_array_index_from_angle(angle) for angle in np.degrees(frames.angle[mine]).tolist()]
        order = np.argsort(place)
        place, w = np.array(place)[order], tilt[mine][order]

        def between(where, place=place, w=w):
            return np.stack([np.interp(where, place, component) for component in w.T], axis=-1)

        boundaries = np.arange(first, last + 1)
        turns = Rotation.from_rotvec(between(boundaries)).as_matrix()
        crystal = copy.deepcopy(experiment.crystal)
        settings = [_setting(experiment, i, last) for i in boundaries]
        scanned = experiment.crystal.num_scan_points == len(boundaries)
        matrices = []
        for i, (setting, turn) in enumerate(zip(settings, turns)):
            a = np.reshape(crystal.get_A_at_scan_point(i) if scanned else crystal.get_A(), (3, 3))
            goniometer = setting @ np.linalg.inv(a)
            matrices.append(tuple((np.linalg.inv(goniometer) @ turn @ setting).ravel()))
        crystal.set_A_at_scan_points(flex.mat3_double(matrices))
        experiment.crystal = crystal
        whole = np.floor(place)
        fraction = place - whole
        written = between(whole) * (1.0 - fraction[:, None]) + between(whole + 1.0) * fraction[:, None]
        off.append(np.sum((written - w) ** 2, axis=1))
    return moved, float(np.sqrt(np.concatenate(off).mean())) if off else 0.0


def _setting(experiment, boundary: int, last: int) -> np.ndarray:
    """S R F U B at the boundary before an image, or after the last one."""
    if boundary < last:
        return models.setting_matrix(experiment, boundary, 0.0)
    return models.setting_matrix(experiment, boundary - 1, 1.0)


def write_observations(path: str, columns: Mapping[str, Sequence]) -> None:
    """Write columns by name as CSV, numbers to six digits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for values in zip(*columns.values()):
            writer.writerow([f"{one:.6g}" if isinstance(one, float) else one for one in values])
