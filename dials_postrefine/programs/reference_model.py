"""
Reference intensities of any file: atomic models and reflections, checked against the data and computed.

open_reference reads the file and chooses form factors, compute_reference checks it against the symmetry of the data,
finds how both may be indexed, and calls scattering/reference.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cctbx import adptbx, crystal, miller, xray
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials.radiation import choose_radiation
from dials_postrefine.files.dials.reindexing import find_operations
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference import atomic_models, reflection_files
from dials_postrefine.files.reference.alignment import align
from dials_postrefine.files.reference.compatibility import check_compatibility
from dials_postrefine.scattering.form_factors import FormFactorChoice, FormFactors, choose_form_factors
from dials_postrefine.scattering.reference import (
    AtomicSource,
    Indexing,
    ReferenceIntensities,
    Source,
    TabulatedSource,
    Wanted,
    calculate_reference,
)
from dials_postrefine.scattering.scaling import MergedIntensities, ScaleSettings

IDENTITY = np.eye(3)
ROUNDING = 1.0 - 1e-6  # the last reflection of data is at their very d_min


@dataclass(frozen=True)
class ReferenceSettings:
    """The PHIL scope reference_model; what is `auto` there is None here."""

    radiation: str | None = None
    table: str | None = None
    ions: bool = False
    mott_bethe: str = "none"
    anomalous: str | None = None
    bulk_solvent: bool | None = None
    rescale_cell: bool = False
    algorithm: str = "auto"
    d_min: float | None = None
    labels: str | None = None
    block: str | None = None
    scaling: ScaleSettings = field(default_factory=ScaleSettings)


@dataclass
class Beam:
    """What of the beam counts: wavelength in Angstrom, and the probe where its model says; None where unknown."""

    wavelength: float | None = None
    probe: str | None = None


@dataclass
class OpenReference:
    """
    A reference that was read: its source and symmetry, form factors of an atomic model, and notes; wavelength
    (Angstrom) of the beam, or else of the file, None where unknown; the radiation, None for reflections of a beam whose
    model does not say it; what became of the observations of a reflection file.
    """

    path: str
    source: Source
    symmetry: Any
    factors: FormFactors | None
    d_min: float | None
    notes: list[str]
    wavelength: float | None = None
    radiation: str | None = None
    tally: reflection_files.Tally | None = None


@dataclass
class Reference:
    """
    The reference intensities of the indices (a miller.set), notes on how they came about, and the data used: n_data of
    the n_unique merged ones have an index of the reference; wavelength and radiation as of OpenReference; what became
    of the observations of the data, and of a reflection file as reference.
    """

    indices: Any
    result: ReferenceIntensities
    factors: FormFactors | None
    notes: list[str]
    n_data: int
    wavelength: float | None = None
    radiation: str | None = None
    n_unique: int = 0
    tally: reflection_files.Tally | None = None
    tally_of_data: reflection_files.Tally | None = None

    def known_set(self) -> Any:
        """The indices that the reference knows, as a miller.set."""
        return self.indices.select(flumpy.from_numpy(np.isfinite(self.result.intensity)))

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices h (n, 3) that the reference knows, and their intensities (n,)."""
        known = np.isfinite(self.result.intensity)
        return miller_indices_to_numpy(self.indices.indices())[known], self.result.intensity[known]


def open_reference(
    path: str, settings: ReferenceSettings, beam: Beam, d_min: float | None, anomalous: bool = False
) -> OpenReference:
    """
    Read a reference; d_min: resolution that will be wanted (Angstrom); anomalous: Friedel pairs are to be told apart.

    Raises Sorry for a file that can't be used and for form factors that do not exist.
    """
    if not atomic_models.is_atomic_model(path):
        observations = reflection_files.read_intensities(path, settings.labels, settings.block, anomalous)
        given = observations.array
        symmetry, wavelength = given.crystal_symmetry(), beam.wavelength or reflection_files.wavelength_of(given)
        anomalous = bool(given.anomalous_flag()) and anomalous
        array, tally = reflection_files.merge_intensities(path, observations, symmetry, anomalous)
        radiation = settings.radiation or (choose_radiation(wavelength, beam.probe) if wavelength else beam.probe)
        source = TabulatedSource(array)
        return OpenReference(path, source, symmetry, None, array.d_min(), [], wavelength, radiation, tally)
    model = atomic_models.read_atomic_model(path, settings.block)
    radiation = settings.radiation or choose_radiation(beam.wavelength, beam.probe)
    dispersion = settings.anomalous
    if dispersion is None:
        dispersion = "sasaki" if radiation == "xray" and beam.wavelength else "none"
    choice = FormFactorChoice(
        radiation=radiation,
        table=settings.table,
        ions=settings.ions,
        mott_bethe=settings.mott_bethe,
        dispersion=dispersion,
        wavelength=beam.wavelength,
        d_min=d_min,
    )
    try:
        factors = choose_form_factors(model.types(), choice)
    except ValueError as error:
        raise Sorry(f"The reference {path} can't be used: {error}.") from error
    solvent = model.macromolecule if settings.bulk_solvent is None else settings.bulk_solvent
    source = AtomicSource(model.structure, factors, solvent, settings.algorithm)
    notes = model.notes + factors.notes
    symmetry = atomic_models.symmetry_of(model)
    return OpenReference(path, source, symmetry, factors, None, notes, beam.wavelength, factors.radiation)


def compute_reference(
    opened: OpenReference,
    settings: ReferenceSettings,
    symmetry=None,
    data=None,
    d_min: float | None = None,
    anomalous: bool = False,
    choose_indexing: bool = True,
) -> Reference:
    """
    The reference intensities of all unique indices to d_min (Angstrom), on the scale of the data.

    symmetry: crystal.symmetry of the data, None for the reference's own; data: merged intensities with sigmas as a
    miller.array of that symmetry, or None; anomalous: Friedel pairs apart, as those of the data then must be;
    choose_indexing: take the indexing that agrees best with the data, else the data are indexed as the reference.
    Raises Sorry where data and reference do not belong together.
    """
    path, notes, hand = opened.path, list(opened.notes), 1
    if symmetry is None:
        symmetry = opened.symmetry
    else:
        hand, remarks = check_compatibility(path, opened.symmetry, symmetry)
        notes += remarks
    if settings.rescale_cell and isinstance(opened.source, AtomicSource):
        opened.source.structure = _in_cell(opened.source.structure, symmetry.unit_cell())
    d_min = settings.d_min or d_min or opened.d_min
    if not d_min:
        raise Sorry("The resolution is not known: set d_min.")
    indices = miller.build_set(symmetry, anomalous_flag=anomalous, d_min=d_min * ROUNDING)
    if not indices.size():
        raise Sorry(f"There is no reflection of d > {d_min:g} A: set another d_min.")
    wanted = describe(indices)
    observed, n_data = None, 0
    if data is not None:
        h = miller_indices_to_numpy(data.indices())
        aligned = [align(wanted.h, h, flumpy.to_numpy(values)) for values in (data.data(), data.sigmas())]
        observed = MergedIntensities(*aligned, wanted.epsilon, wanted.centric)
        n_data = int(np.count_nonzero(np.isfinite(observed.intensity)))
        if opened.d_min and opened.d_min > 1.001 * data.d_min():
            notes.append(f"The reference reaches {opened.d_min:.2f} A, the data {data.d_min():.2f} A.")
    hands = (hand, -hand) if anomalous and opened.source.friedel_pairs_differ else (hand,)
    choices = [Indexing(IDENTITY, "h,k,l", hand)]
    if data is not None and choose_indexing:
        choices = find_indexing_choices(symmetry, hands)
    try:
        result = calculate_reference(opened.source, wanted, choices, observed, settings.scaling)
    except ValueError as error:
        raise Sorry(f"The reference {path} can't be used: {error}.") from error
    n_unique = 0 if data is None else data.size()
    return Reference(
        indices, result, opened.factors, notes, n_data, opened.wavelength, opened.radiation, n_unique, opened.tally
    )


def describe(indices) -> Wanted:
    """A miller.set as arrays."""
    return Wanted(
        h=miller_indices_to_numpy(indices.indices()),
        d_star_sq=flumpy.to_numpy(indices.d_star_sq().data()).copy(),
        epsilon=flumpy.to_numpy(indices.epsilons().data()).astype(float),
        centric=flumpy.to_numpy(indices.centric_flags().data()).copy(),
        anomalous=bool(indices.anomalous_flag()),
        unit_cell=indices.unit_cell(),
        space_group=indices.space_group(),
    )


def find_indexing_choices(symmetry, hands: tuple[int, ...]) -> list[Indexing]:
    """How data of this symmetry may be indexed, first as they are: rotations that only the lattice has."""
    operations, _ = find_operations(symmetry.unit_cell().parameters(), symmetry.space_group())
    choices = []
    for operation in operations:
        matrix = np.array(operation.c_inv().r().as_double()).reshape(3, 3)
        if np.abs(matrix - np.rint(matrix)).max() < 1e-3:  # else some indices would be no whole numbers
            choices += [Indexing(matrix, operation.as_hkl(), hand) for hand in hands]
    return choices


def _in_cell(structure, unit_cell):
    """The structure with its fractional coordinates in another unit cell, its U (Cartesian) as they were."""
    symmetry = crystal.symmetry(unit_cell=unit_cell, space_group=structure.space_group())
    scatterers = structure.scatterers().deep_copy()
    for scatterer in scatterers:
        if scatterer.flags.use_u_aniso():
            u_cart = adptbx.u_star_as_u_cart(structure.unit_cell(), scatterer.u_star)
            scatterer.u_star = adptbx.u_cart_as_u_star(unit_cell, u_cart)
    return xray.structure(crystal_symmetry=symmetry, scatterers=scatterers)
