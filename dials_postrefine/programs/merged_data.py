"""
The data that a reference is compared with and scaled to: merged intensities, their symmetry, and the beam.

In: a scaled .expt/.refl pair, integrated stills, or a merged or unmerged reflection file; out: one miller.array of
merged intensities with sigmas.  Stills are not postrefined here: each lattice is scaled to the model by its amplitudes
(as dials.postrefine starts), and all observations have one weight; sigma is that of the counts, and how far the
partial observations scatter beyond is part of the model error that the fit finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cctbx import crystal, sgtbx
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.cell_choices import common_cell
from dials_postrefine.files.dials.radiation import common_probe
from dials_postrefine.files.dials.tables import read_table
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.alignment import align, align_apart, read_tallied
from dials_postrefine.files.reference.atomic_models import is_atomic_model
from dials_postrefine.files.reference.reflection_files import (
    ABSENT,
    Tally,
    UnmergedIntensities,
    index_array,
    is_scaled,
    merge_intensities,
    read_intensities,
    scaled_intensities,
    wavelength_of,
)
from dials_postrefine.numerics.absences import N_SHELLS, weigh_absences
from dials_postrefine.numerics.populations import describe_groups, main_value
from dials_postrefine.numerics.shells import shells_of_equal_numbers
from dials_postrefine.programs.reference_model import (
    Beam,
    Reference,
    ReferenceSettings,
    compute_reference,
    open_reference,
)
from dials_postrefine.programs.stills_input import StillsChoice, StillsFiles, read_stills, resolve_ambiguity
from dials_postrefine.stills.scaling import linear_scales

SIGMA_OF_NONE = 0.01  # of the intensity and of the mean intensity, where data come without sigmas


@dataclass
class Data:
    """
    What was read: symmetry and beam, and merged the intensities as a miller.array; of stills it is None at first, until
    merge_stills.  Without any data (experiments alone) both are None.  detector: that of all experiments, None where
    they have several.  tally: what became of the observations, once they are merged.
    """

    symmetry: Any
    beam: Beam
    merged: Any = None
    stills: StillsFiles | None = None
    detector: Any = None
    notes: tuple[str, ...] = ()
    tally: Tally | None = None

    @property
    def d_min(self) -> float | None:
        """The resolution that the data reach, in Angstrom."""
        if self.merged is not None:
            return self.merged.d_min()
        return float(self.stills.d_star_sq.max() ** -0.5) if self.stills is not None else None


@dataclass(frozen=True)
class DataChoice:
    """
    Which data are read, and how.

    path: a reflection file instead of .expt and .refl, with labels of its columns; space_group: in place of what the
    files say; anomalous: Friedel pairs apart; d_min (Angstrom); intensity: of stills (files/dials/integrated.py);
    radiation: what was scattered, None for what the beam models say.
    """

    path: str | None = None
    labels: str | None = None
    space_group: str | None = None
    anomalous: bool = False
    d_min: float | None = None
    intensity: str = "sum"
    radiation: str | None = None


def read_data(experiments: Sequence[str], reflections: Sequence[str], choice: DataChoice = DataChoice()) -> Data | None:
    """
    The data of the files, None where there are none.

    Raises Sorry for files that can't be used or do not go together.
    """
    if choice.path and (experiments or reflections):
        raise Sorry("Both data= and .expt or .refl files are given: which are the data?  Give one of them.")
    if choice.path:
        return _of_file(choice)
    if reflections and not experiments:
        raise Sorry("The .refl files need their .expt files: name one or more pairs.")
    if not experiments:
        return None
    every = [experiment for name in experiments for experiment in models.read_experiments(name)]
    if not every or any(experiment.beam is None or experiment.crystal is None for experiment in every):
        raise Sorry("The .expt files hold experiments without a crystal or a beam: index and integrate first.")
    data = _of_experiments(every, choice)
    group = models.common_space_group(every, choice.space_group)
    scaled = [is_scaled(read_table(name)) for name in reflections]
    if reflections and not any(scaled):
        wanted = StillsChoice(choice.space_group, choice.intensity, choice.d_min, radiation=choice.radiation)
        files = read_stills(experiments, reflections, wanted)
        symmetry = crystal.symmetry(unit_cell=files.cell, space_group=files.space_group)
        return replace(data, symmetry=symmetry, stills=files)
    if reflections and (len(scaled) > 1 or len(experiments) > 1):
        raise Sorry("Several scaled pairs are given: scale them together, and give one.")
    data.symmetry = crystal.symmetry(unit_cell=common_cell(every, group), space_group=group)
    if not reflections:
        return data
    observations = scaled_intensities(reflections[0], experiments[0])
    merged, tally = merge_intensities(reflections[0], observations, data.symmetry, choice.anomalous, choice.d_min)
    return replace(data, merged=merged, tally=tally)


def _of_experiments(every: Sequence, choice: DataChoice) -> Data:
    """What the experiments say, but for the symmetry."""
    beam = _common_beam([experiment.beam for experiment in every], choice.radiation)
    detector = every[0].detector
    if any(experiment.detector != detector for experiment in every):
        detector = None
    groups = describe_groups(np.array([e.beam.get_wavelength() for e in every]))
    notes = ()
    if len(groups) > 1:
        named = ", ".join(f"{value:.5f} A ({n} experiments)" for value, n in groups)
        notes = (
            f"The data are of {len(groups)} wavelengths, {named}; form factors are those of {beam.wavelength:.5f} A.",
        )
    return Data(None, beam, detector=detector, notes=notes)


def merge_stills(data: Data, h: np.ndarray, intensity: np.ndarray, anomalous: bool = False) -> Data:
    """
    Data with its stills merged: each lattice on the scale of the intensities (n,) of indices h (n, 3).

    anomalous: Friedel pairs apart, as the stills must have been read.  Raises Sorry where these have no reflection in
    common, and where they were read with Friedel pairs as one.
    """
    if anomalous and not data.stills.choice.anomalous:
        raise Sorry("The Friedel pairs of integrated stills are not kept apart here: postrefine and scale them first.")
    files, stills = data.stills, data.stills.stills
    reference = align_to_stills(files, h, intensity)
    reference[stills.absent] = np.nan
    scale = linear_scales(stills, reference)[stills.lattice()]
    absent = stills.absent[stills.unique]
    used = np.isfinite(scale) & ~absent
    if not used.any():
        raise Sorry("The stills have no reflections in common with the reference: check cell and resolution.")
    unique, n = stills.unique[used], stills.n_unique
    count = np.bincount(unique, minlength=n)
    observed = count > 0
    total = np.bincount(unique, stills.intensity[used] / scale[used], n)
    variance = np.bincount(unique, stills.variance[used] / scale[used] ** 2, n)
    merged = index_array(
        files.h_unique[observed],
        data.symmetry,
        total[observed] / count[observed],
        np.sqrt(variance[observed]) / count[observed],
        anomalous,
    )
    return replace(data, merged=merged, tally=_tally(files, absent, used))


def align_to_stills(files: StillsFiles, h: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """The intensities (n,) of indices h (n, 3) in the order of the stills' unique ones (n_unique,), NaN of others."""
    if files.choice.anomalous:
        return align_apart(files.h_unique, h, intensity, files.space_group)
    return align(files.h_unique, h, intensity)


def _tally(files: StillsFiles, absent: np.ndarray, used: np.ndarray) -> Tally:
    """What became of the observations (n,) of stills, of which some are absent, and some were used."""
    stills, not_used = files.stills, dict(files.usable.n_excluded)
    n_input = len(used) + sum(not_used.values())
    for reason, mask in ((ABSENT, absent), ("of lattices that have no scale", ~absent & ~used)):
        if mask.any():
            not_used[reason] = int(np.count_nonzero(mask))
    shell = shells_of_equal_numbers(files.d_star_sq[stills.unique], N_SHELLS)
    absences = weigh_absences(stills.intensity / np.sqrt(stills.variance), shell, absent)
    return Tally(n_input, int(np.count_nonzero(used)), not_used, absences)


def _of_file(choice: DataChoice) -> Data:
    path, space_group = choice.path, choice.space_group
    observations = read_intensities(path, choice.labels, anomalous=choice.anomalous)
    array = observations.array
    wavelength = wavelength_of(array)
    group = array.space_group()
    if space_group is not None:
        group = sgtbx.space_group_info(space_group).group()
        if not models.unit_cell_fits(array.unit_cell(), group):
            raise Sorry(f"The unit cell of {path} does not fit space_group={space_group}.")
    symmetry = crystal.symmetry(unit_cell=group.average_unit_cell(array.unit_cell()), space_group=group)
    notes = ()
    if array.sigmas() is None:
        value = flumpy.to_numpy(array.data()).astype(float)
        mean = np.nanmean(value)
        sigmas = SIGMA_OF_NONE * (np.abs(value) + mean)
        array = array.customized_copy(sigmas=flumpy.from_numpy(sigmas))
        array = array.set_observation_type_xray_intensity()
        notes = (f"The data of {path} have no sigmas: 1 % of I + <I> is taken.",)
    observations = UnmergedIntensities(array, observations.not_used)
    merged, tally = merge_intensities(path, observations, symmetry, choice.anomalous, choice.d_min)
    return Data(symmetry, Beam(wavelength), merged, notes=notes, tally=tally)


def take_reference(
    files: StillsFiles, path: str | None, settings: ReferenceSettings, reindex: bool
) -> tuple[StillsFiles, np.ndarray | None, Reference | None]:
    """
    What dials.postrefine fits to: the files, the intensities (n_unique,) of the reference, NaN where it has none, and
    how those of an atomic model came about (None of a reflection file).  Without a path both are None: the data's own.

    reindex: each lattice is first indexed like the reference, where its symmetry leaves a choice.  An atomic model's
    solvent and overall B are then fitted to the stills as they are before any refinement.  Friedel pairs are apart
    where those of the stills are; where the reference does not tell them apart it is the same for both.
    Raises Sorry where the file can't be used or has no index in common with the stills, and for a single lattice of its
    own.
    """
    if path is None:
        files = resolve_ambiguity(files) if reindex else files
        if files.stills.n_lattices == 1:
            raise Sorry("A single lattice can't be postrefined against itself: give more lattices, or a reference.")
        return files, None, None
    symmetry = crystal.symmetry(unit_cell=files.cell, space_group=files.space_group)
    anomalous = files.choice.anomalous
    data, reference, tally = _of_stills(files, symmetry, settings.radiation), None, None
    if is_atomic_model(path):
        opened = open_reference(path, settings, data.beam, data.d_min, anomalous)
        reference = compute_reference(opened, settings, symmetry, None, data.d_min, anomalous)
        known = reference.known()
    else:
        *known, tally = read_tallied(path, files.space_group, files.cell, settings.labels, settings.block, anomalous)
    if reindex:
        files = resolve_ambiguity(files, known)
        data = _of_stills(files, symmetry, settings.radiation)
    if reference is not None:
        data = merge_stills(data, *known, anomalous)
        reference = compute_reference(
            opened, settings, symmetry, data.merged, data.d_min, anomalous, choose_indexing=False
        )
        known = reference.known()
    intensity = align_to_stills(files, *known)
    intensity[files.stills.absent] = np.nan
    if not np.isfinite(intensity).any():
        raise Sorry(f"No observed reflection is in the reference {path}: check its resolution.")
    if anomalous:
        files = replace(files, friedel_merged=not _tells_pairs_apart(files, intensity))
    return replace(files, reference_tally=tally), intensity, reference


def _tells_pairs_apart(files: StillsFiles, intensity: np.ndarray) -> bool:
    """Whether the intensities (n_unique,) of a reference differ for any Friedel pair."""
    differences = files.stills.friedel.differences(intensity)
    return bool(np.any(np.abs(differences[np.isfinite(differences)]) > 0.0))


def _of_stills(files: StillsFiles, symmetry, radiation: str | None) -> Data:
    return Data(symmetry, _common_beam([experiment.beam for experiment in files.experiments], radiation), stills=files)


def _common_beam(beams, radiation: str | None) -> Beam:
    return Beam(main_value(np.array([beam.get_wavelength() for beam in beams])), common_probe(beams, radiation))


def compute_for_data(path: str, settings: ReferenceSettings, data: Data | None, anomalous: bool = False) -> Reference:
    """
    The reference of the file for the data, None: for itself, fitted to them where there are intensities.

    Raises Sorry where the file can't be used or does not fit the data.
    """
    if data is None:
        data = Data(None, Beam())
    d_min = settings.d_min or data.d_min
    opened = open_reference(path, settings, data.beam, d_min, anomalous)
    if data.stills is not None and data.merged is None:
        first = compute_reference(opened, settings, data.symmetry, None, d_min)
        h = miller_indices_to_numpy(first.indices.indices())
        data = merge_stills(data, h, first.result.intensity, anomalous)
    reference = compute_reference(opened, settings, data.symmetry, data.merged, d_min, anomalous)
    reference.notes += data.notes
    reference.tally_of_data = data.tally
    return reference
