"""
Integrated stills <-> the arrays of stills/dataset.py: files in, scaled table and refined experiments out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models, reindexing, tables
from dials_postrefine.files.dials.cell_choices import CellChoices, find_cell_choices
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.alignment import align
from dials_postrefine.numerics.grouped import rows_of_groups
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.stills.dataset import EarlierFit, Stills
from dials_postrefine.stills.filters import InputFilters, cell_outliers
from dials_postrefine.stills.fits import Reason
from dials_postrefine.stills.geometry import scattering_vectors, vectors_of_lattices
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    CONVENTIONAL_B,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    N_PARAMETERS,
    THETA_X,
    THETA_Y,
    Observations,
    partiality,
    scale_factor,
    scale_variance,
)
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reindexing import Ambiguity, choose_operations


@dataclass
class StillsFiles:
    """
    What was read: experiments and table as DIALS has them, and stills as arrays.

    usable is the selection with its corrections; cell the median unit cell; h_unique (n_unique, 3), d_star_sq
    (n_unique,) of the unique indices and complete (m,) of all that exist in their range, in 1/Angstrom^2; ambiguity
    what was found of the indexing ambiguity, where there is one; reference_tally what became of the observations of a
    reflection file as reference (reflection_files.Tally); filters what was tested before any fit; choices which
    lattices were indexed with another choice of the cell, and reindexed whether they have been.

    Experiments, and with them ids and lattices, are in the order of their identifiers, so that the order of the input
    changes no sum; place (n,) is where each stood in the input, and order (n,) their numbers in that order.
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
    filters: InputFilters
    place: np.ndarray
    choices: CellChoices
    reindexed: bool = True
    ambiguity: Ambiguity | None = None
    reference_tally: Any = None

    @property
    def order(self) -> np.ndarray:
        return np.argsort(self.place)


def read_stills(
    experiment_paths: Sequence[str],
    reflection_paths: Sequence[str],
    space_group: str | None = None,
    intensity_choice: str = "sum",
    d_min: float | None = None,
    d_max: float | None = None,
    seed: int = 0,
    filters: InputFilters = InputFilters(),
    radiation: str | None = None,
    reindex: bool = True,
    polarization_fraction: float | None = None,
) -> StillsFiles:
    """
    Read any number of .expt and .refl files as one data set.

    radiation: xray, electron or neutron, None for what the beam models say; polarization_fraction, of X-rays, goes into
    all beam models, None leaves them.  reindex: lattices that were indexed with
    another choice of the unit cell are reindexed; else they are rejected.  The half set of a lattice follows from its
    identifier and the seed alone.  Raises Sorry with one sentence for input
    that can't be used; a single bad lattice is marked as rejected instead.
    """
    lists = [models.read_experiments(path) for path in experiment_paths]
    loaded = [tables.read_table(path) for path in reflection_paths]
    pairs = list(zip(experiment_paths, reflection_paths))
    identifiers = models.set_identifiers(lists, loaded, pairs)
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    models.check_stills(experiments)
    n_rows = sum(map(len, loaded))
    table = tables.join_tables(reflection_paths, loaded, identifiers)
    n_stray = n_rows - len(table)
    del loaded
    tables.check_integrated(table, intensity_choice)
    experiments, place = _sort_by_identifier(experiments, table)
    earlier = _earlier_fits(experiments)

    group = models.common_space_group(experiments, space_group)
    choices = find_cell_choices(experiments, group, filters.cell_length, filters.cell_angle)
    if reindex and choices.chosen.any():
        reindexing.reindex_files(table, experiments, choices.operations, choices.chosen, group)
        for k in np.flatnonzero(choices.chosen):
            experiments[int(k)].crystal.set_space_group(group)
    if polarization_fraction is not None:
        tables.set_polarization_fraction(table, experiments, polarization_fraction, radiation)
    limits = d_min, d_max
    usable = tables.usable_observations(
        table, experiments, intensity_choice, *limits, filters.significance, radiation=radiation
    )
    if n_stray:
        usable.n_excluded = {"of no lattice": n_stray} | usable.n_excluded
    if not len(usable.row):
        reasons = ", ".join(f"{n} {reason}" for reason, n in usable.n_excluded.items())
        raise Sorry(f"No usable reflections are left ({reasons}): check the input and the resolution limits.")
    half = np.array([in_second_half(identifier, seed) for identifier in experiments.identifiers()])
    return _assemble(experiments, table, usable, group, half, earlier, filters, place, choices, reindex)


def _sort_by_identifier(experiments, table):
    """The experiments sorted by identifier, the ids of the table following, and where each stood before."""
    identifiers = list(experiments.identifiers())
    place = np.array(sorted(range(len(identifiers)), key=identifiers.__getitem__), dtype=np.int32)
    _renumber(table, np.argsort(place).astype(np.int32), [identifiers[k] for k in place])
    return type(experiments)([experiments[int(k)] for k in place]), place


def _renumber(table, number: np.ndarray, identifiers: Sequence[str]) -> None:
    """Give the table's ids i the number[i], and the identifiers that go with these."""
    for i in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[i]
    table["id"] = flumpy.from_numpy(number[flumpy.to_numpy(table["id"])])
    for i, identifier in enumerate(identifiers):
        table.experiment_identifiers()[i] = identifier


def _earlier_fits(experiments) -> dict[int, EarlierFit]:
    """What an earlier run has written into the scale models; these crystals go back to the orientation as indexed."""
    models.unshare_crystals(experiments)
    fits = {}
    for k, experiment in enumerate(experiments):
        fit = read_earlier_fit(experiment.scaling_model.configdict) if experiment.scaling_model else None
        if fit is not None and experiment.crystal is not None:
            fits[k] = fit
            x = fit.x
            models.write_indexed_orientation(experiment, rotate(x[THETA_X], x[THETA_Y]), x[CELL_SCALE])
    return fits


def read_earlier_fit(configuration: dict) -> EarlierFit | None:
    """The fit that _write_lattice put into a scale model's configuration, None where there is none that makes sense."""
    if "postrefinement" not in configuration:
        return None
    covariance = np.zeros((N_PARAMETERS, N_PARAMETERS))
    try:
        x = np.array(configuration["parameters"], dtype=float)
        covariance[np.triu_indices(N_PARAMETERS)] = configuration["covariance"]
        model = [str(configuration[name]) for name in ("profile", "radius_model", "unit_cell")]
        refined = bool(configuration["refined"])
    except (KeyError, TypeError, ValueError):
        return None
    covariance += np.triu(covariance, 1).T
    if x.shape != (N_PARAMETERS,) or not np.isfinite(x).all() or not np.isfinite(covariance).all():
        return None
    return EarlierFit(x, covariance, refined, *model)


def _assemble(
    experiments,
    table,
    usable: tables.Usable,
    group,
    half: np.ndarray,
    earlier,
    filters: InputFilters,
    place: np.ndarray,
    choices: CellChoices,
    reindexed: bool,
) -> StillsFiles:
    """What follows from the indices and crystals as they are.  Raises Sorry where no cell fits the space group."""
    crystal, fits = models.has_crystal(experiments), models.cells_fit(experiments, group)
    models.check_cells_fit(experiments, group, crystal, fits)
    cells = models.symmetric_cells(experiments, fits, group)
    other = np.zeros(len(fits), dtype=bool) if reindexed else choices.chosen > 0
    cells[other] = np.nan
    outlier = cell_outliers(cells, filters.cell_length, filters.cell_angle)
    rejected = {int(k): Reason.CELL if crystal[k] else Reason.NO_CRYSTAL for k in np.flatnonzero(~fits)}
    rejected |= {int(k): Reason.CELL_OUTLIER for k in np.flatnonzero(outlier)}
    rejected |= {int(k): Reason.CELL_CHOICE for k in np.flatnonzero(other)}
    unique, h_unique, absent = tables.number_unique(usable.h, group)
    cell = models.median_cell([e for e, good in zip(experiments, fits & ~outlier & ~other) if good], group)
    d_star_sq = models.d_star_sq(cell, h_unique)
    a_matrix, s0 = models.geometry_arrays(experiments)
    q, q_sq = vectors_of_lattices(a_matrix, usable.h, usable.offsets)
    nothing = np.zeros(0)
    stills = Stills(
        a_matrix=a_matrix,
        s0=s0,
        offsets=usable.offsets,
        h=usable.h,
        q=q,
        q_sq=q_sq,
        unique=unique,
        intensity=usable.intensity,
        variance=usable.variance,
        half=half,
        absent=absent,
        inverse_variance=nothing if usable.inverse_variance is None else usable.inverse_variance,
        prior=tables.wilson_prior(h_unique, cell, group),
        rejected=rejected,
        earlier=earlier,
    )
    limits = d_star_sq.max() ** -0.5, d_star_sq.min() ** -0.5
    complete = models.complete_set(cell, group, limits[0] * (1.0 - 1e-6), limits[1] * (1.0 + 1e-6))
    arrays = h_unique, d_star_sq, complete, stills
    return StillsFiles(experiments, table, usable, group, cell, *arrays, filters, place, choices, reindexed)


def rows_by_lattice(files: StillsFiles) -> np.ndarray:
    """How many rows of the tables each lattice has (L,), usable or not."""
    return np.bincount(flumpy.to_numpy(files.table["id"]), minlength=files.stills.n_lattices)


def resolve_ambiguity(files: StillsFiles, reference: tuple[np.ndarray, np.ndarray] | None = None) -> StillsFiles:
    """
    The files with each lattice indexed like the reference, or like the others, where the lattice leaves a choice.

    reference: indices (n, 3) and intensities (n,) as read_reference gives them.  Table and experiments of the files are
    changed in place.  Without a choice the files come back as they are.
    """
    operations, ways = reindexing.find_operations(files.cell, files.space_group)
    if len(operations) == 1:
        return files
    experiments, usable, group = files.experiments, files.usable, files.space_group
    allowed = reindexing.open_operations(experiments, usable.offsets, usable.h, operations, group, files.cell)
    after = np.concatenate([reindexing.reindex(usable.h, operation) for operation in operations])
    unique, h_unique, _ = tables.number_unique(after, group)
    known = None if reference is None else align(h_unique, *reference)
    choice = choose_operations(files.stills, unique.reshape(len(operations), -1), allowed, ways, known)
    if choice.operation.any():
        of_row = np.repeat(choice.operation, np.diff(usable.offsets))
        h = after.reshape(len(operations), -1, 3)[of_row, np.arange(len(of_row))]
        reindexing.reindex_files(files.table, experiments, operations, choice.operation, group)
        half, earlier = files.stills.half, files.stills.earlier
        usable = replace(usable, h=h)
        of_input = half, earlier, files.filters, files.place, files.choices, files.reindexed
        files = _assemble(experiments, files.table, usable, group, *of_input)
    return replace(files, ambiguity=Ambiguity([operation.as_hkl() for operation in operations], choice))


def in_second_half(identifier: str, seed: int) -> bool:
    """The half set of a lattice, by a hash of its identifier and the seed."""
    return bool(hashlib.md5(f"{seed} {identifier}".encode()).digest()[0] & 1)


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
    _keep_accepted(files, accepted)
    models.number_imagesets(files.table, files.experiments)
    tables.write_resolutions(files.table, files.experiments)


def _write_columns(files: StillsFiles, result: PostrefinedStills, accepted: np.ndarray) -> None:
    stills, table, row = files.stills, files.table, files.usable.row
    n = len(table)
    result.partiality = np.maximum(result.partiality, tables.MIN_PARTIALITY)
    value, variance = result.merging_values(stills, slice(None))
    value *= result.scale
    variance *= result.scale**2
    p, scale, factor_variance = np.ones(n), np.ones(n), np.zeros(n)
    p[row], scale[row] = result.partiality, result.scale
    # memory is tight where columns are added: from here on these are in p, scale and variance
    nothing = np.zeros(0)
    result.partiality = result.scale = result.relative_variance = nothing
    for k in np.flatnonzero(accepted):
        rows = stills.rows(k)
        factor_variance[row[rows]] = scale_variance(result.x[k], result.covariance[k], stills.q_sq[rows])

    # the rows that no fit has seen get the model's values too
    left = np.ones(n, dtype=bool)
    left[row] = False
    left = np.flatnonzero(left)
    ids = flumpy.to_numpy(table["id"])[left]
    h = miller_indices_to_numpy(table["miller_index"].select(flumpy.from_numpy(left.astype(np.uint64))))
    for k, own in enumerate(rows_of_groups(ids, len(accepted))):
        if not (accepted[k] and len(own)):
            continue
        x = result.x[k]
        q = scattering_vectors(stills.a_matrix[k], h[own])
        q_sq = np.einsum("ij,ij->i", q, q)
        unfitted = Observations(q, q_sq, stills.s0[k], nothing, nothing, nothing)
        p[left[own]] = partiality(x, unfitted, result.profile)
        scale[left[own]] = scale_factor(x, q_sq)
        factor_variance[left[own]] = scale_variance(x, result.covariance[k], q_sq)
    tables.write_scaled_columns(
        table,
        row,
        result.kept,
        result.outlier,
        value,
        variance,
        p,
        scale,
        factor_variance,
        result.reference[stills.unique],
    )


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
    own = ("scale", "scale_esd", "b_factor", "b_factor_esd")
    models.write_scaling_model(
        experiment,
        *(values[name] for name in own),
        {
            "postrefinement": result.model,
            "profile": result.profile,
            "radius_model": result.radius,
            "unit_cell": result.unit_cell,
            # what read_earlier_fit needs: as model.py has them, the covariance as the upper triangle by rows
            "parameters": result.x[k].tolist(),
            "covariance": result.covariance[k][np.triu_indices(N_PARAMETERS)].tolist(),
        }
        | {name: value for name, value in values.items() if name not in own},
    )


def _keep_accepted(files: StillsFiles, accepted: np.ndarray) -> None:
    """Take the rejected lattices out of table and experiments, and put the others in the order of the input."""
    table, kept = files.table, np.array([k for k in files.order if accepted[k]], dtype=np.int32)
    number = np.full(len(accepted), -1, dtype=np.int32)
    number[kept] = np.arange(len(kept))
    files.experiments = type(files.experiments)([files.experiments[int(k)] for k in kept])
    _renumber(table, number, list(files.experiments.identifiers()))
    if not accepted.all():
        table.del_selected(table["id"] < 0)
