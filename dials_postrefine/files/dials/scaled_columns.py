"""
The contract of the scaled columns (dials-facts.md, "What the next program needs of a scaled table"):

    intensity.scale.value            I/p, not divided by inverse_scale_factor
    intensity.scale.variance         v/p^2, plus I^2 partiality.inv.variance where the integrator wrote that column,
                                     put into the error model (stills/errormodel.py)
    inverse_scale_factor, _variance  G exp(-2 B d*^2) r_0/r_s > 0 (r_0 = r_s where constant) and the fit's variance
    partiality                       the refined p > 0
    intensity.ref.value              the reference intensity, 0 where there is none
    flags                            `scaled` on what was kept, `outlier_in_scaling`, `excluded_for_scaling` on the rest
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy

# What a fit never sees keeps a partiality above zero, as the contract wants it: DIALS divides by it.
MIN_PARTIALITY = 1e-6


@dataclass(frozen=True)
class ScaledColumns:
    """
    What goes into a table of N rows, of which n are usable.

    For the usable rows, row (n,): kept and outlier (n,) bool; value, variance (n,) as in intensity.scale; reference
    (n,), NaN where there is none.  For all rows: partiality, scale and scale_variance (N,).
    """

    row: np.ndarray
    kept: np.ndarray
    outlier: np.ndarray
    value: np.ndarray
    variance: np.ndarray
    reference: np.ndarray
    partiality: np.ndarray
    scale: np.ndarray
    scale_variance: np.ndarray


def write_scaled_columns(table, columns: ScaledColumns) -> None:
    """Put the scaled columns and flags into the table (module docstring), one column at a time."""
    n, row, kept, outlier = len(table), columns.row, columns.kept, columns.outlier

    def put(name: str, values, elsewhere: float = 0.0) -> None:
        whole = np.full(n, elsewhere)
        whole[row] = values
        table[name] = flumpy.from_numpy(whole)

    table["inverse_scale_factor"] = flumpy.from_numpy(columns.scale)
    table["inverse_scale_factor_variance"] = flumpy.from_numpy(columns.scale_variance)
    table["partiality"] = flumpy.from_numpy(np.maximum(columns.partiality, MIN_PARTIALITY))
    put("intensity.scale.value", columns.value)
    put("intensity.scale.variance", columns.variance, elsewhere=1.0)
    put("intensity.ref.value", np.where(np.isfinite(columns.reference), columns.reference, 0.0))
    if "partial_id" in table:
        del table["partial_id"]

    names = table.flags
    flags = flumpy.to_numpy(table["flags"])  # the column itself, not a copy
    flags &= ~np.uint64(int(names.scaled) | int(names.outlier_in_scaling) | int(names.excluded_for_scaling))
    usable = flags[row]
    usable[kept & ~outlier] |= np.uint64(int(names.scaled))
    usable[outlier] |= np.uint64(int(names.outlier_in_scaling))
    usable[~kept] |= np.uint64(int(names.excluded_for_scaling))
    flags |= np.uint64(int(names.excluded_for_scaling))
    flags[row] = usable


def write_resolutions(table, experiments) -> None:
    """Make the column d (Angstrom), where there is one, that of the crystals as they are: 1/|A h|."""
    if "d" not in table or not len(table):
        return
    ids, h = flumpy.to_numpy(table["id"]), miller_indices_to_numpy(table["miller_index"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    d_star_sq = np.zeros(len(ids))
    for k, experiment in enumerate(experiments):
        rows = order[offsets[k] : offsets[k + 1]]
        q = h[rows] @ np.array(experiment.crystal.get_A()).reshape(3, 3).T
        d_star_sq[rows] = np.einsum("ij,ij->i", q, q)
    # as DIALS has it for the index 0,0,0
    d = np.divide(1.0, np.sqrt(d_star_sq), out=np.zeros(len(ids)), where=d_star_sq > 0.0)
    table["d"] = flumpy.from_numpy(d)
