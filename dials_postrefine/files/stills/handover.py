"""
What other programs than DIALS' own take: the merged MTZ that dials.merge makes, and a pair of files for
cctbx.xfel.merge.

cctbx.xfel.merge reads `id`, `miller_index`, `miller_index_asymmetric`, `intensity.sum.value` and `.variance`, `s1` and
`flags` of a table, and ignores what the flags say; dials-facts.md.  So the table made for it holds what is to be merged
and nothing else, with

    intensity.sum.value    = intensity.scale.value / inverse_scale_factor
    intensity.sum.variance = intensity.scale.variance / inverse_scale_factor^2

on one scale, corrected for polarisation and partiality: the steps of cctbx.xfel.merge that do this (modify, filter,
scale, postrefine) are to be left out.  `correlation` and `correlation_after_post` are those of the lattice with the
reference, before and after its fit.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.tables import identifiers_by_id, select_rows
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import to_flex_miller

# of the scaled table, as they are
KEPT_COLUMNS = ("id", "panel", "miller_index", "s1", "xyzcal.px", "xyzobs.px.value", "flags", "partiality", "d")
# what is left of cctbx.xfel.merge when scales, partialities and polarisation have been taken care of
XFEL_MERGE_STEPS = (
    "input",
    "balance",
    "model_scaling",
    "statistics_unitcell",
    "statistics_beam",
    "model_statistics",
    "statistics_resolution",
    "group",
    "statistics_intensity",
    "merge",
)


def merge_to_mtz(command: str, path: str) -> None:
    """
    Write the merged MTZ by running a dials.merge command, in a process of its own.

    Raises Sorry where it fails, with its last word.
    """
    arguments = [*shlex.split(command)[1:], f"output.mtz={path}", "output.log=None", "output.html=None"]
    program = [sys.executable, "-m", "dials.command_line.merge"]
    done = subprocess.run([*program, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode or not os.path.isfile(path):
        words = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise Sorry(
            f"Everything but the MTZ is written, of which dials.merge says '{words[-1].rstrip('.')}': {command}."
        )


def xfel_merge_files(prefix: str | None) -> list[str]:
    """The names of the experiments and reflections for cctbx.xfel.merge, none where they are not wanted."""
    return [f"{prefix}.expt", f"{prefix}.refl"] if prefix else []


def xfel_merge_table(table, experiments, anomalous: bool = False):
    """
    The table for cctbx.xfel.merge (module docstring), of a scaled table and its experiments that are complete;
    anomalous: Friedel pairs apart.
    """
    kept = select_rows(table, table.get_flags(table.flags.scaled))
    new = flex.reflection_table()
    for name in KEPT_COLUMNS:
        if name in kept:
            new[name] = kept[name]
    factor = kept["inverse_scale_factor"]
    new["intensity.sum.value"] = kept["intensity.scale.value"] / factor
    new["intensity.sum.variance"] = kept["intensity.scale.variance"] / (factor * factor)
    h = miller_indices_to_numpy(kept["miller_index"])
    asymmetric = map_to_asymmetric_unit(h, experiments[0].crystal.get_space_group(), anomalous)
    new["miller_index_asymmetric"] = to_flex_miller(asymmetric)
    lattice = flumpy.to_numpy(kept["id"])
    for column, name in {"correlation": "correlation_before", "correlation_after_post": "correlation_after"}.items():
        correlations = np.array([experiment.scaling_model.configdict[name] for experiment in experiments], dtype=float)
        new[column] = flumpy.from_numpy(np.nan_to_num(correlations)[lattice])
    for i, identifier in identifiers_by_id(table).items():
        new.experiment_identifiers()[i] = identifier
    return new


def xfel_merge_command(
    prefix: str | None, space_group, cell: Sequence[float], d_min: float, anomalous: bool = False
) -> str | None:
    """
    The cctbx.xfel.merge command that merges prefix.expt and prefix.refl as they are, None without a prefix.

    cell in Angstrom and degrees, d_min (Angstrom) of what is merged; anomalous: Friedel pairs apart.
    """
    if not prefix:
        return None
    arguments = [
        f"input.path={prefix}.refl",
        "input.experiments_suffix=.expt",
        "input.reflections_suffix=.refl",
        "input.keep_imagesets=False",  # the newest looks into image sets, and finds none
        f"dispatch.step_list={' '.join(XFEL_MERGE_STEPS)}",
        f"scaling.unit_cell={','.join(f'{x:.4f}' for x in cell)}",
        f"scaling.space_group={space_group.type().lookup_symbol().replace(' ', '')}",
        f"merging.d_min={np.floor(1000.0 * d_min) / 1000.0:g}",
        f"merging.merge_anomalous={not anomalous}",
    ]
    return shlex.join(["cctbx.xfel.merge", *arguments])
