"""
Integrated stills <-> the arrays of stills/dataset.py: files in, scaled table and refined experiments out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files import models, tables
from dials_postrefine.files.versions import miller_indices_to_numpy
from dials_postrefine.rotations import rotate
from dials_postrefine.stills.cycles import PostrefinedStills
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import Reason
from dials_postrefine.stills.model import (
    B_FACTOR,
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


@dataclass
class StillsFiles:
    """
    What was read: experiments and table as DIALS has them, and stills as arrays.

    usable is the selection with its corrections; cell the median unit cell; h_unique (n_unique, 3), d_star_sq
    (n_unique,) of the unique indices and complete (m,) of all that exist in their range, in 1/Angstrom^2.
    """

    experiments: Any
    table: Any
    usable: tables.Usable
    space_group: Any
    cell: tuple[float, ...]
    h_unique: np.ndarray
    d_star_sq: np.ndarray
    complete: np.ndarray
    stills: Stills


def read_stills(
    experiment_paths: Sequence[str],
    reflection_paths: Sequence[str],
    space_group: str | None = None,
    intensity_choice: str = "sum",
    d_min: float | None = None,
    d_max: float | None = None,
    seed: int = 0,
) -> StillsFiles:
    """
    Read any number of .expt and .refl files as one data set.

    The half set of a lattice follows from its identifier and the seed alone.  Raises Sorry with one sentence for input
    that can't be used; a single bad lattice is marked as rejected instead.
    """
    lists = [models.read_experiments(path) for path in experiment_paths]
    loaded = [tables.read_table(path) for path in reflection_paths]
    identifiers = models.set_identifiers(lists)
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    models.check_stills(experiments)
    table = tables.join_tables(reflection_paths, loaded, identifiers)
    del loaded
    tables.check_integrated(table, intensity_choice)

    group = models.common_space_group(experiments, space_group)
    crystal, fits = models.has_crystal(experiments), models.cells_fit(experiments, group)
    if not fits.any():
        raise Sorry(
            f"No unit cell fits the space group {group.type().lookup_symbol()} (the first is "
            f"{experiments[int(crystal.argmax())].crystal.get_unit_cell()!s}): set space_group= to the crystals' own."
        )
    usable = tables.usable_observations(table, experiments, intensity_choice, d_min, d_max)
    if not len(usable.row):
        reasons = ", ".join(f"{n} {reason}" for reason, n in usable.n_excluded.items())
        raise Sorry(f"No usable reflections are left ({reasons}): check the input and the resolution limits.")
    unique, h_unique, absent = tables.number_unique(usable.h, group)
    cell = models.median_cell([e for e, fit in zip(experiments, fits) if fit], group)
    d_star_sq = models.d_star_sq(cell, h_unique)
    a_matrix, s0 = models.geometry_arrays(experiments)
    stills = Stills(
        a_matrix=a_matrix,
        s0=s0,
        offsets=usable.offsets,
        h=usable.h,
        unique=unique,
        intensity=usable.intensity,
        variance=usable.variance,
        half=np.array([in_second_half(identifier, seed) for identifier in experiments.identifiers()]),
        absent=absent,
        inverse_variance=usable.inverse_variance,
        rejected={int(k): Reason.CELL if crystal[k] else Reason.NO_CRYSTAL for k in np.flatnonzero(~fits)},
    )
    limits = d_star_sq.max() ** -0.5, d_star_sq.min() ** -0.5
    complete = models.complete_set(cell, group, limits[0] * (1.0 - 1e-6), limits[1] * (1.0 + 1e-6))
    return StillsFiles(experiments, table, usable, group, cell, h_unique, d_star_sq, complete, stills)


def in_second_half(identifier: str, seed: int) -> bool:
    """The half set of a lattice, by a hash of its identifier and the seed."""
    return bool(hashlib.md5(f"{seed} {identifier}".encode()).digest()[0] & 1)


def apply_result(files: StillsFiles, result: PostrefinedStills) -> None:
    """
    Put the result into table and experiments: scaled columns, orientation, scale models; rejected lattices go.

    Changes files.table and files.experiments, which are then ready to be written.
    """
    accepted = result.accepted
    _write_columns(files, result, accepted)
    experiments = files.experiments
    models.unshare_crystals(experiments)
    models.set_space_group(experiments, files.space_group)
    for k in np.flatnonzero(accepted):
        _write_lattice(experiments[int(k)], result, k)
    if not accepted.all():
        _remove_rejected(files, accepted)
    models.number_imagesets(files.table, files.experiments)


def _write_columns(files: StillsFiles, result: PostrefinedStills, accepted: np.ndarray) -> None:
    stills, table, row = files.stills, files.table, files.usable.row
    n = len(table)
    p, scale, factor_variance = np.ones(n), np.ones(n), np.zeros(n)
    p[row], scale[row] = result.partiality, result.scale
    result.partiality = result.scale = None  # from here on in p and scale; memory is tight where columns are added
    for k in np.flatnonzero(accepted):
        q = scattering_vectors(stills.a_matrix[k], stills.h[stills.rows(k)])
        q_sq = np.einsum("ij,ij->i", q, q)
        factor_variance[row[stills.rows(k)]] = scale_variance(result.x[k], result.covariance[k], q_sq)

    # the rows that no fit has seen get the model's values too
    left = np.ones(n, dtype=bool)
    left[row] = False
    left = np.flatnonzero(left)
    ids = flumpy.to_numpy(table["id"])[left]
    h = miller_indices_to_numpy(table["miller_index"].select(flumpy.from_numpy(left.astype(np.uint64))))
    for k in np.unique(ids[accepted[ids]]):
        own = ids == k
        x = result.x[k]
        q = scattering_vectors(stills.a_matrix[k], h[own])
        q_sq = np.einsum("ij,ij->i", q, q)
        nothing = np.zeros(0)
        seen = Observations(q, q_sq, stills.s0[k], nothing, nothing, nothing)
        p[left[own]] = partiality(x, seen, result.profile)
        scale[left[own]] = scale_factor(x, q_sq)
        factor_variance[left[own]] = scale_variance(x, result.covariance[k], q_sq)
    tables.write_scaled_columns(
        table,
        row,
        result.kept,
        result.outlier,
        stills.intensity,
        stills.variance,
        stills.inverse_variance,
        p,
        scale,
        factor_variance,
        result.reference[stills.unique],
    )


def lattice_parameters(result: PostrefinedStills, k: int) -> dict[str, float]:
    """The refined parameters of lattice k with their esds, in the units of reports: Angstrom, degrees."""
    x, fit = result.x[k], result.fits[k]
    esd = np.sqrt(np.diag(result.covariance[k]))
    scale, radius = float(np.exp(x[LN_SCALE])), float(np.exp(x[LN_RADIUS]))
    eta = float(np.degrees(np.exp(x[LN_MOSAICITY]))) if result.radius == "mosaic" else 0.0
    return {
        "scale": scale,
        "scale_esd": scale * float(esd[LN_SCALE]),
        "b_factor": float(x[B_FACTOR]),
        "b_factor_esd": float(esd[B_FACTOR]),
        "theta_x": float(np.degrees(x[THETA_X])),
        "theta_x_esd": float(np.degrees(esd[THETA_X])),
        "theta_y": float(np.degrees(x[THETA_Y])),
        "theta_y_esd": float(np.degrees(esd[THETA_Y])),
        "radius": radius,
        "radius_esd": radius * float(esd[LN_RADIUS]),
        "mosaicity": eta,
        "mosaicity_esd": eta * float(esd[LN_MOSAICITY]),
        "correlation_before": fit.correlation_before,
        "correlation_after": fit.correlation_after,
        "model_correlation": fit.model_correlation,
    }


def _write_lattice(experiment, result: PostrefinedStills, k: int) -> None:
    values = lattice_parameters(result, k)
    models.write_orientation(experiment, rotate(result.x[k, THETA_X], result.x[k, THETA_Y]))
    own = ("scale", "scale_esd", "b_factor", "b_factor_esd")
    models.write_scaling_model(
        experiment,
        *(values[name] for name in own),
        {"postrefinement": result.model, "profile": result.profile}
        | {name: value for name, value in values.items() if name not in own},
    )


def _remove_rejected(files: StillsFiles, accepted: np.ndarray) -> None:
    """Take the rejected lattices out of table and experiments and number the rest anew."""
    table, experiments = files.table, files.experiments
    kept = [experiments[int(k)] for k in np.flatnonzero(accepted)]
    files.experiments = type(experiments)(kept)
    ids = flumpy.to_numpy(table["id"])
    number = np.cumsum(accepted).astype(np.int32) - 1
    for i in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[i]
    table["id"] = flumpy.from_numpy(np.where(accepted[ids], number[ids], -1).astype(np.int32))
    table.del_selected(flumpy.from_numpy(~accepted[ids]))
    for i, experiment in enumerate(kept):
        table.experiment_identifiers()[i] = experiment.identifier
