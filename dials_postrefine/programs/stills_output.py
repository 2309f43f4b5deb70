"""
The result of dials.postrefine (stills/loop.py) -> its columns, orientations and scale models, put into table and
experiments.
"""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.scaled_columns import (
    MIN_PARTIALITY,
    ScaledColumns,
    write_resolutions,
    write_scaled_columns,
)
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.stills.observations import keep_lattices, record_fit
from dials_postrefine.numerics.grouped import rows_of_groups
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.programs.stills_input import StillsFiles
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    CONVENTIONAL_B,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    THETA_X,
    THETA_Y,
    Observations,
    partiality,
    scale_factor,
    scale_variance,
)
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reindexing import Ambiguity

# of the parameters, what a scale model keeps as its own
OF_SCALE_MODEL = ("scale", "scale_esd", "b_factor", "b_factor_esd")


def apply_result(files: StillsFiles, result: PostrefinedStills) -> None:
    """
    Put the result into table and experiments: scaled columns, orientation, scale models; rejected lattices go, and the
    others come back into the order of the input.

    Changes files.table and files.experiments, which are then ready to be written.
    """
    accepted = result.accepted
    _write_columns(files, result, accepted)
    models.set_space_group(files.experiments, files.space_group)
    for k in np.flatnonzero(accepted):
        _write_lattice(files.experiments[int(k)], result, k, files.ambiguity)
    keep_lattices(files, accepted)
    models.number_imagesets(files.table, files.experiments)
    write_resolutions(files.table, files.experiments)


def _write_columns(files: StillsFiles, result: PostrefinedStills, accepted: np.ndarray) -> None:
    stills, table, row = files.stills, files.table, files.usable.row
    n = len(table)
    result.partiality = np.maximum(result.partiality, MIN_PARTIALITY)
    value, variance = result.corrected_values(stills)
    p, scale, factor_variance = np.ones(n), np.ones(n), np.zeros(n)
    p[row], scale[row] = result.partiality, result.scale
    # memory is tight where columns are added: from here on these are in p, scale and variance
    nothing = np.zeros(0)
    result.partiality = result.scale = result.relative_variance = nothing
    for k in np.flatnonzero(accepted):
        rows = stills.rows(k)
        factor_variance[row[rows]] = scale_variance(result.x[k], result.covariance[k], stills.q_sq[rows])

    # the rows that took part in no fit get the model's values too
    left = np.ones(n, dtype=bool)
    left[row] = False
    left = np.flatnonzero(left)
    ids = flumpy.to_numpy(table["id"])[left]
    h = miller_indices_to_numpy(table["miller_index"].select(flumpy.from_numpy(left.astype(np.uint64))))
    for k, of_lattice in enumerate(rows_of_groups(ids, len(accepted))):
        if not (accepted[k] and len(of_lattice)):
            continue
        x, rows = result.x[k], left[of_lattice]
        q = scattering_vectors(stills.a_matrix[k], h[of_lattice])
        q_sq = np.einsum("ij,ij->i", q, q)
        not_fitted = Observations(q, q_sq, stills.s0[k], nothing, nothing, nothing)
        if not result.scaled_only:
            p[rows] = partiality(x, not_fitted, result.profile)
        scale[rows] = scale_factor(x, q_sq)
        factor_variance[rows] = scale_variance(x, result.covariance[k], q_sq)
    columns = ScaledColumns(
        row=row,
        kept=result.kept,
        outlier=result.outlier,
        value=value,
        variance=variance,
        reference=result.reference[stills.unique],
        partiality=p,
        scale=scale,
        scale_variance=factor_variance,
    )
    write_scaled_columns(table, columns)


def lattice_parameters(result: PostrefinedStills, k: int, ambiguity: Ambiguity | None = None) -> dict:
    """
    The refined parameters of lattice k with their esds, in the units of reports, Angstrom and degrees, and with the
    conventional B; and how it was reindexed, where there was a choice.
    """
    x, fit = result.x[k], result.fits[k]
    esd = np.sqrt(np.diag(result.covariance[k]))
    scale, radius = float(np.exp(x[LN_SCALE])), float(np.exp(x[LN_RADIUS]))
    eta = float(np.degrees(np.exp(x[LN_MOSAICITY]))) if result.radius == "mosaic" else 0.0
    return {
        "scale": scale,
        "scale_esd": scale * float(esd[LN_SCALE]),
        "b_factor": CONVENTIONAL_B * float(x[B_FACTOR]),
        "b_factor_esd": CONVENTIONAL_B * float(esd[B_FACTOR]),
        "refined": fit.refined,
        "theta_x": float(np.degrees(x[THETA_X])),
        "theta_x_esd": float(np.degrees(esd[THETA_X])),
        "theta_y": float(np.degrees(x[THETA_Y])),
        "theta_y_esd": float(np.degrees(esd[THETA_Y])),
        "radius": radius,
        "radius_esd": radius * float(esd[LN_RADIUS]),
        "mosaicity": eta,
        "mosaicity_esd": eta * float(esd[LN_MOSAICITY]),
        "cell_scale": float(x[CELL_SCALE]),
        "cell_scale_esd": float(esd[CELL_SCALE]),
        "correlation_before": fit.correlation_before,
        "correlation_after": fit.correlation_after,
        "model_correlation": fit.model_correlation,
        "partial_correlation": fit.partial_correlation,
        **(ambiguity.of_lattice(k) if ambiguity else {}),
    }


def _write_lattice(experiment, result: PostrefinedStills, k: int, ambiguity: Ambiguity | None) -> None:
    values = lattice_parameters(result, k, ambiguity)
    models.write_orientation(experiment, rotate(result.x[k, THETA_X], result.x[k, THETA_Y]), result.x[k, CELL_SCALE])
    models.write_scaling_model(
        experiment,
        *(values[name] for name in OF_SCALE_MODEL),
        {
            "postrefinement": result.model,
            "profile": result.profile.name,
            "exponent": result.profile.exponent,
            "radius_model": result.radius,
            "unit_cell": result.unit_cell,
            **record_fit(result.x[k], result.covariance[k]),
        }
        | {name: value for name, value in values.items() if name not in OF_SCALE_MODEL},
    )
