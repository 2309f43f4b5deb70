"""
The files of stills -> the data set that is refined (stills/dataset.py): what files/ reads, with the filters, the choice
of the cell and the indexing that stills/ decides on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dials.util import Sorry

from dials_postrefine.files.dials import models, reindexing
from dials_postrefine.files.dials.cell_choices import CellChoices, find_cell_choices
from dials_postrefine.files.dials.integrated import (
    Usable,
    check_integrated,
    set_polarization_fraction,
    usable_observations,
)
from dials_postrefine.files.dials.symmetry import friedel_pairs, number_unique, statistical_factors
from dials_postrefine.files.reference.alignment import align, merge_friedel_pairs
from dials_postrefine.files.stills.observations import StillsTables, in_second_half, read_fit, read_tables
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.stills.dataset import EarlierFit, Stills
from dials_postrefine.stills.filters import InputFilters, cell_outliers, significant_observations
from dials_postrefine.stills.fits import Reason
from dials_postrefine.stills.friedel import FriedelPairs
from dials_postrefine.stills.geometry import vectors_of_lattices
from dials_postrefine.stills.model import CELL_SCALE, N_PARAMETERS, THETA_X, THETA_Y
from dials_postrefine.stills.reindexing import Ambiguity, choose_operations
from dials_postrefine.stills.wilson import WilsonPrior


@dataclass(frozen=True)
class StillsChoice:
    """
    Which observations are read, and how lattices are taken.

    space_group in place of that of the crystals; intensity sum, profile or strong_spots; d_min and d_max in Angstrom;
    radiation xray, electron or neutron, None for what the beam models say; polarization_fraction, of X-rays, goes into
    all beam models, None leaves them; reindex: lattices that were indexed with
    another choice of the unit cell are reindexed, else they are rejected; the half set of a lattice follows from its
    identifier and the seed alone; anomalous: Friedel pairs are kept apart.
    """

    space_group: str | None = None
    intensity: str = "sum"
    d_min: float | None = None
    d_max: float | None = None
    seed: int = 0
    filters: InputFilters = field(default_factory=InputFilters)
    radiation: str | None = None
    reindex: bool = True
    polarization_fraction: float | None = None
    anomalous: bool = False


@dataclass
class StillsFiles(StillsTables):
    """
    What was read: experiments and table as DIALS has them, and stills as arrays.

    usable is the selection with its corrections; cell the median unit cell; h_unique (n_unique, 3), d_star_sq
    (n_unique,) of the unique indices, complete (m,) of all that exist in their range and complete_pairs (k,) of the
    Friedel pairs there that are kept apart, in 1/Angstrom^2; choice what was asked for, and cell_choices which lattices
    were indexed with another choice of the cell; ambiguity what was found of the indexing ambiguity, where there is
    one; reference_tally what became of the observations of a reflection file as reference (reflection_files.Tally);
    friedel_merged: Friedel pairs are kept apart and the reference has them merged.
    """

    usable: Usable
    space_group: Any
    cell: tuple[float, ...]
    h_unique: np.ndarray
    d_star_sq: np.ndarray
    complete: np.ndarray
    stills: Stills
    choice: StillsChoice
    cell_choices: CellChoices
    ambiguity: Ambiguity | None = None
    reference_tally: Any = None
    complete_pairs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    friedel_merged: bool = False


def read_stills(
    experiment_paths: Sequence[str], reflection_paths: Sequence[str], choice: StillsChoice = StillsChoice()
) -> StillsFiles:
    """
    Read any number of .expt and .refl files as one data set.

    Raises Sorry with one sentence for input that can't be used; a single bad lattice is marked as rejected instead.
    """
    files, n_stray = read_tables(experiment_paths, reflection_paths)
    experiments, table = files.experiments, files.table
    check_integrated(table, choice.intensity)
    earlier = _earlier_fits(experiments)
    group = models.common_space_group(experiments, choice.space_group)
    filters = choice.filters
    cell_choices = find_cell_choices(experiments, group, filters.cell_length, filters.cell_angle)
    if choice.reindex and cell_choices.chosen.any():
        reindexing.reindex_files(table, experiments, cell_choices.operations, cell_choices.chosen, group)
        for k in np.flatnonzero(cell_choices.chosen):
            experiments[int(k)].crystal.set_space_group(group)
    if choice.polarization_fraction is not None:
        set_polarization_fraction(table, experiments, choice.polarization_fraction, choice.radiation)
    usable = usable_observations(
        table, experiments, choice.intensity, choice.d_min, choice.d_max, radiation=choice.radiation
    )
    if filters.significance is not None:
        observed = usable.intensity, usable.variance, usable.d_star_sq, usable.offsets
        significant = significant_observations(*observed, filters.significance)
        usable = usable.select(significant, "beyond the resolution of their lattice")
    if n_stray:
        usable.n_excluded = {"of no lattice": n_stray} | usable.n_excluded
    if not len(usable.row):
        reasons = ", ".join(f"{n} {reason}" for reason, n in usable.n_excluded.items())
        raise Sorry(f"No usable reflections are left ({reasons}): check the input and the resolution limits.")
    return _assemble(files, usable, group, earlier, cell_choices, choice)


def _earlier_fits(experiments) -> dict[int, EarlierFit]:
    """What an earlier run has written into the scale models; these crystals go back to the orientation as indexed."""
    models.unshare_crystals(experiments)
    fits = {}
    for k, experiment in enumerate(experiments):
        scale_model = experiment.scaling_model
        fit = read_fit(scale_model.configdict, N_PARAMETERS) if scale_model else None
        if fit is not None and experiment.crystal is not None:
            fits[k] = EarlierFit(fit.x, fit.covariance, fit.refined, fit.profile, fit.radius, fit.unit_cell)
            x = fit.x
            models.write_indexed_orientation(experiment, rotate(x[THETA_X], x[THETA_Y]), x[CELL_SCALE])
    return fits


def _assemble(
    files: StillsTables,
    usable: Usable,
    group,
    earlier: dict[int, EarlierFit],
    cell_choices: CellChoices,
    choice: StillsChoice,
) -> StillsFiles:
    """What follows from the indices and crystals as they are.  Raises Sorry where no cell fits the space group."""
    experiments = files.experiments
    rejected = _rejected_by_cell(experiments, group, cell_choices, choice)
    cell = models.median_cell([e for k, e in enumerate(experiments) if k not in rejected], group)
    unique, h_unique, absent = number_unique(usable.h, group, choice.anomalous)
    d_star_sq = models.d_star_sq(cell, h_unique)
    a_matrix, s0 = models.geometry_arrays(experiments)
    q, q_sq = vectors_of_lattices(a_matrix, usable.h, usable.offsets)
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
        half=np.array([in_second_half(identifier, choice.seed) for identifier in experiments.identifiers()]),
        absent=absent,
        inverse_variance=usable.inverse_variance,
        prior=WilsonPrior(d_star_sq, *statistical_factors(h_unique, cell, group)),
        rejected=rejected,
        earlier=earlier,
        friedel=FriedelPairs(*friedel_pairs(h_unique, group)) if choice.anomalous else None,
    )
    limits = d_star_sq.max() ** -0.5, d_star_sq.min() ** -0.5
    limits = limits[0] * (1.0 - 1e-6), limits[1] * (1.0 + 1e-6)
    complete = models.complete_set(cell, group, *limits, anomalous=choice.anomalous)
    return StillsFiles(
        files.experiments,
        files.table,
        files.place,
        usable=usable,
        space_group=group,
        cell=cell,
        h_unique=h_unique,
        d_star_sq=d_star_sq,
        complete=complete,
        stills=stills,
        choice=choice,
        cell_choices=cell_choices,
        complete_pairs=models.complete_pairs(cell, group, *limits) if choice.anomalous else np.zeros(0),
    )


def _rejected_by_cell(experiments, group, cell_choices: CellChoices, choice: StillsChoice) -> dict[int, Reason]:
    """The lattices whose unit cell keeps them out before any fit.  Raises Sorry where no cell fits the space group."""
    crystal, fits = models.has_crystal(experiments), models.cells_fit(experiments, group)
    models.check_cells_fit(experiments, group, crystal, fits)
    cells = models.symmetric_cells(experiments, fits, group)
    other = np.zeros(len(fits), dtype=bool) if choice.reindex else cell_choices.chosen > 0
    cells[other] = np.nan
    outlier = cell_outliers(cells, choice.filters.cell_length, choice.filters.cell_angle)
    rejected = {int(k): Reason.CELL if crystal[k] else Reason.NO_CRYSTAL for k in np.flatnonzero(~fits)}
    rejected |= {int(k): Reason.CELL_OUTLIER for k in np.flatnonzero(outlier)}
    return rejected | {int(k): Reason.CELL_CHOICE for k in np.flatnonzero(other)}


def resolve_ambiguity(files: StillsFiles, reference: tuple[np.ndarray, np.ndarray] | None = None) -> StillsFiles:
    """
    The files with each lattice indexed like the reference, or like the others, where the lattice leaves a choice.

    reference: indices (n, 3) and intensities (n,) as read_reference gives them; Friedel pairs count as one.  Table and
    experiments of the files are changed in place.  Without a choice the files come back as they are.
    """
    operations, matrices = reindexing.find_operations(files.cell, files.space_group)
    if len(operations) == 1:
        return files
    experiments, usable, group = files.experiments, files.usable, files.space_group
    allowed = reindexing.open_operations(experiments, usable.offsets, usable.h, operations, group, files.cell)
    reindexed = np.concatenate([reindexing.reindex(usable.h, operation) for operation in operations])
    unique, h_unique, _ = number_unique(reindexed, group)
    known = None if reference is None else align(h_unique, *merge_friedel_pairs(*reference, group))
    choice = choose_operations(files.stills, unique.reshape(len(operations), -1), allowed, matrices, known)
    if choice.operation.any():
        of_row = np.repeat(choice.operation, np.diff(usable.offsets))
        h = reindexed.reshape(len(operations), -1, 3)[of_row, np.arange(len(of_row))]
        reindexing.reindex_files(files.table, experiments, operations, choice.operation, group)
        usable = replace(usable, h=h)
        files = _assemble(files, usable, group, files.stills.earlier, files.cell_choices, files.choice)
    return replace(files, ambiguity=Ambiguity([operation.as_hkl() for operation in operations], choice))
