"""
What dials.diffuse_map was given -> the sums that a map is made of.

Either experiments, whose images are mapped on a grid, or the maps of earlier runs, whose sums are added.  Both lead to
the same: sums with all that belongs to them (files/maps/sums.py), the operations of the symmetry, and what the report
says of the data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cctbx import sgtbx, uctbx
from dials.util import Sorry

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map.columns import N_SUMS
from dials_postrefine.diffuse.map.diagnosis import Diagnosis
from dials_postrefine.diffuse.map.grid import Grid, make_grid
from dials_postrefine.diffuse.map.merging import Map, merge
from dials_postrefine.diffuse.map.records import Corrections, Description, MappingSettings
from dials_postrefine.diffuse.map.rejection import Rejection
from dials_postrefine.diffuse.map.sections import DEFAULT_PLANES, Collector, parse_plane
from dials_postrefine.diffuse.map.series import Series
from dials_postrefine.diffuse.map.symmetry import operations
from dials_postrefine.executors.methods import copies_here, spread_work
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.versions import available_cores
from dials_postrefine.files.images.crystals import point_group_rotations
from dials_postrefine.files.images.geometry import oscillation
from dials_postrefine.files.images.opened_images import image_names
from dials_postrefine.files.maps.sums import Sums, add_sums, common_wavelength, sort_images
from dials_postrefine.files.safety.names import printable
from dials_postrefine.numerics.populations import MIN_GAP_DISTANCE
from dials_postrefine.programs.algorithm_settings import image_settings, mapping_settings
from dials_postrefine.programs.diffuse_map.scaling import map_and_scale
from dials_postrefine.programs.diffuse_map.series import SeriesFiles, follow_rotation, read_series
from dials_postrefine.report.common.provenance import Provenance
from dials_postrefine.report.diffuse.summary import describe_dataset
from dials_postrefine.settings.diffuse_map import DiffuseMapRequest

logger = logging.getLogger("dials.diffuse_map")

MASKS = {
    "profile": "the profile model's predictions",
    "refl": "the bounding boxes of the reflections",
    "box": "a box about each reciprocal-lattice point",
    "none": "not masked",
}
# How much wavelengths may differ, relative, before it is said.
SAME_WAVELENGTH = 5e-3


@dataclass
class MapInput:
    """
    Sums and what they are of: the operations (n, 3, 3) to average over and those of the Laue class (m, 3, 3), none
    where the grid has not its symmetry; the number of shells; the planes to show; dataset as report/diffuse takes it;
    remarks; what was chosen for parameters that are auto; how equivalents
    agreed before and after they were scaled, None where they were not.
    """

    total: Sums
    operations: np.ndarray
    laue: np.ndarray
    n_shells: int
    sections: Collector
    dataset: dict
    remarks: list[str]
    chosen: dict[str, list[str]] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None

    def merge(self) -> Map:
        """The map; the sums are folded in place."""
        total = self.total
        return merge(
            total.sums, total.images, total.grid, total.settings, self.operations, self.laue, n_shells=self.n_shells
        )


def collect_sums(
    request: DiffuseMapRequest,
    provenance: Provenance,
    protect: Callable[[Iterable[str]], None],
    progress: Callable[[str, int, int], None],
) -> MapInput:
    """
    Map the images, or add the maps; protect is told the names of the images, progress of each image that is done.

    Raises Sorry with one sentence for what can't be used.
    """
    if request.add:
        return _add_maps(request, provenance)
    files = read_series(
        request.experiments,
        request.reflections,
        request.background.experiments,
        image_settings(request),
        request.d_min or None,
        request.space_group,
    )
    protect(image_names(files.experiments))
    return _map_files(request, files, provenance, progress)


def _add_maps(request: DiffuseMapRequest, provenance: Provenance) -> MapInput:
    total = add_sums(request.add)
    group = sgtbx.space_group_info(request.space_group or total.description.space_group).group()
    cell = uctbx.unit_cell(total.description.unit_cell)
    if not models.unit_cell_fits(cell, group):
        raise Sorry(
            f"The unit cell of the maps does not fit space_group={request.space_group}: give one that it fits, or "
            "none for that of the maps."
        )
    description = replace(
        total.description,
        unit_cell=group.average_unit_cell(cell).parameters(),
        space_group=group.type().lookup_symbol(),
        symmetry=request.symmetry,
        version=provenance.version,
        parameters=printable(provenance.parameters),
    )
    return _prepare(
        request, replace(total, description=description), group, _sections(request, total.grid), _on_times(total)
    )


def _map_files(
    request: DiffuseMapRequest,
    files: SeriesFiles,
    provenance: Provenance,
    progress: Callable[[str, int, int], None],
) -> MapInput:
    mapping = mapping_settings(request)
    grid = _make_grid(request, files)
    sections = _sections(request, grid)
    symmetry = _operations(request, grid, files.space_group)  # raises Sorry before there is any work
    _state_memory(grid, files, memory_needed(grid, 1 if mapping.n_sigma is None else 2))
    phi_steps = request.phi_steps or follow_rotation(files, grid)
    doable, on_memory = _doable(mapping, grid, copies_here(request.mp_method))
    run, words = spread_work(request.mp_method, request.nproc, available_cores(), progress)
    logger.info(words)
    try:
        with single_thread():
            mapped = map_and_scale(request.scale, files, grid, doable, symmetry, run, _memory_there())
    except BadImage as error:
        raise Sorry(f"No map can be made: {error}.") from error
    results, rejection = mapped.images, mapped.rejection
    n_used = np.bincount([one.series for one in results if one.error is None], minlength=len(files.series))
    description = _describe_origin(request, files, n_used, provenance)
    description = replace(
        description,
        phi_steps=phi_steps if description.oscillation > 0.0 else 1,
        rejected_beyond=rejection.n_sigma,
        scaled_by=mapped.scaled_by,
    )
    results, identifiers = sort_images(results, [one.identifier for one in files.series])
    if request.phi_steps is None and phi_steps > 1:
        logger.info("The rotation during an image is followed in up to %d steps (sampling.phi_steps=Auto)", phi_steps)
    if mapping.n_sigma == "auto":
        logger.info(_on_outliers(rejection))
    total = Sums(mapped.sums, results, grid, mapping, replace(description, identifiers=identifiers))
    remarks = [*files.remarks, *_on_beams(files), *on_memory]
    given = _prepare(request, total, files.space_group, sections, remarks)
    given.diagnosis = mapped.diagnosis
    given.chosen = {"mask.bragg": sorted({files.masks[k] for k in np.flatnonzero(n_used)})}
    return given


def _doable(mapping: MappingSettings, grid: Grid, copies: int) -> tuple[MappingSettings, list[str]]:
    """The settings without a search for outliers that there is no memory for, and what is to be said of it."""
    if mapping.n_sigma != "auto" or memory_needed(grid, 2) * copies <= _memory_there():
        return mapping, []
    return replace(mapping, n_sigma=None), [
        "No outliers were sought, for which the memory does not suffice: reject.n_sigma=8 with larger voxels."
    ]


def _describe_origin(
    request: DiffuseMapRequest, files: SeriesFiles, n_used: np.ndarray, provenance: Provenance
) -> Description:
    """What the files say of the series of which images, n_used (n_series,), were used."""
    used = np.flatnonzero(n_used)
    series, experiments = [files.series[k] for k in used], [files.experiments[int(k)] for k in used]
    corrections = corrections_made(mapping_settings(request).corrections, series)
    fractions = {one.beam.fraction for one in series} if "polarization" in corrections else {-1.0}
    background = request.background.experiments
    return Description(
        unit_cell=files.cell,
        space_group=files.space_group.type().lookup_symbol(),
        ub=_common_ub(experiments),
        wavelength=common_wavelength([one.beam.wavelength for one in series], n_used[used]),
        symmetry=request.symmetry,
        version=provenance.version,
        parameters=printable(provenance.parameters),
        input_files=tuple(map(printable, (*request.experiments, *request.reflections))),
        identifiers=(),
        oscillation=max(map(oscillation, experiments)),
        mask="; ".join(dict.fromkeys(MASKS[files.masks[k]] for k in used)),
        polarization_fraction=fractions.pop() if len(fractions) == 1 and min(fractions) >= 0.0 else None,
        background=printable(background) if background else None,
        times_known=files.times_known,
        corrections=corrections,
    )


def corrections_made(wanted: Corrections, series: Sequence[Series]) -> dict[str, str]:
    """
    The corrections that were made, of those that were wanted, of "all" series or of "some".

    None has a polarisation or an absorption by the air but of X-rays, and no efficiency a sensor of which thickness or
    attenuation are unknown.
    """
    had = {
        "solid_angle": [True for _ in series],
        "polarization": [one.beam.fraction >= 0.0 for one in series],
        "efficiency": [any(panel.mu * panel.thickness > 0.0 for panel in one.panels) for one in series],
        "air": [one.beam.mu_air > 0.0 for one in series],
    }
    return {name: "all" if all(each) else "some" for name, each in had.items() if getattr(wanted, name) and any(each)}


def _on_times(total: Sums) -> list[str]:
    if total.description.times_known:
        return []
    return [
        "The exposure times of some of these images are unknown: "
        + ("levels of images depend on them." if total.settings.normalised else "they are taken for equal.")
    ]


def _on_outliers(rejection: Rejection) -> str:
    """What reject.n_sigma=Auto did, and why."""
    if rejection.chi_sq is None:
        return "No outliers were sought (reject.n_sigma=Auto)"
    decided = f"chi^2 was {rejection.chi_sq:.2f} without (reject.n_sigma=Auto)"
    if rejection.too_many is not None:
        return f"Outliers would be {rejection.too_many:.1%} of the pixels, too many for accidents, and stay; {decided}"
    if rejection.n_sigma is None:
        return f"No outliers were rejected; {decided}"
    return f"Outliers are rejected from {rejection.n_sigma:.3g} sigma on; {decided}"


def _on_beams(files: SeriesFiles) -> list[str]:
    """What is to be said where beams differ, of which the files name one."""
    wavelengths = [one.beam.wavelength for one in files.series]
    low, high = min(wavelengths), max(wavelengths)
    remarks = []
    if high / low - 1.0 > SAME_WAVELENGTH:
        remarks.append(
            f"Wavelengths from {low:.5g} to {high:.5g} Angstrom were mapped together, each as it is; the files name "
            "their mean."
        )
    distances = models.detector_distances(files.experiments)
    if distances.max() / distances.min() - 1.0 > MIN_GAP_DISTANCE:
        remarks.append(
            f"The detector stands at {distances.min():.2f} to {distances.max():.2f} mm, each series is mapped with its "
            "own: if it was not moved between them, refine them together, with one detector (dials.refine)."
        )
    if len({one.beam.fraction for one in files.series}) > 1:
        remarks.append("Series differ in the polarisation of their beams, and are corrected by that of each.")
    return remarks


def _make_grid(request: DiffuseMapRequest, files: SeriesFiles) -> Grid:
    d_max = request.d_max or np.inf
    if not files.d_min < d_max:
        raise Sorry(f"d_min={files.d_min:g} is not below d_max={d_max:g}: d_min is the high resolution limit.")
    spacing = None
    if request.grid.frame == "cartesian":
        spacing = request.grid.spacing or float(np.linalg.norm(files.reciprocal, axis=0).min()) / 3.0
    try:
        grid = make_grid(files.reciprocal, files.d_min, d_max, request.grid.subdivide, spacing)
    except ValueError as error:
        raise Sorry(
            f"The grid would have {error}, more than can be addressed: use a larger d_min, or coarser voxels."
        ) from error
    sets = 1 if request.reject_n_sigma in (None, "auto") else 2
    needed, there = memory_needed(grid, sets) * copies_here(request.mp_method), _memory_there()
    if needed > there:
        raise Sorry(
            f"The grid of {grid.n_voxels} voxels needs {needed / 2**30:.1f} GB, {there / 2**30:.1f} GB are free: use "
            "a larger d_min, or coarser voxels."
        )
    return grid


def memory_needed(grid: Grid, sets: int) -> float:
    """The memory (bytes) for so many sets of sums, of which rejection needs two."""
    return 8.0 * N_SUMS * grid.n_voxels * sets


def _memory_there() -> float:
    import psutil

    return psutil.virtual_memory().available


def _state_memory(grid: Grid, files: SeriesFiles, needed: float) -> None:
    n_images = sum(one.n_images for one in files.series)
    logger.info(
        "Mapping %d image%s onto %d x %d x %d voxels, of which %d within %.2f Angstrom take %.2f GB at most",
        n_images,
        "s" * (n_images != 1),
        *grid.shape,
        grid.n_voxels,
        files.d_min,
        needed / 2**30,
    )
    if files.n_bad:
        logger.info("%d pixels are bad, or next to bad ones, and masked", files.n_bad)


def _sections(request: DiffuseMapRequest, grid: Grid) -> Collector:
    try:
        planes = [parse_plane(text) for text in request.planes or DEFAULT_PLANES[grid.frame]]
        return Collector(grid, planes)
    except ValueError as error:
        raise Sorry(str(error)) from error


def _operations(request: DiffuseMapRequest, grid: Grid, group) -> np.ndarray:
    """The operations to average over; raises Sorry for a grid without them."""
    try:
        return operations(grid, point_group_rotations(group), request.symmetry)
    except ValueError as error:
        symbol = group.type().lookup_symbol()
        raise Sorry(
            f"The grid does not have the Laue symmetry of {symbol} ({error}): use the same grid.subdivide for axes "
            "that symmetry takes to one another, grid.frame=hkl, or symmetry=friedel."
        ) from error


def _prepare(request: DiffuseMapRequest, total: Sums, group, sections: Collector, remarks: Sequence[str]) -> MapInput:
    found = _operations(request, total.grid, group)
    try:
        laue = operations(total.grid, point_group_rotations(group), "laue")
    except ValueError:
        laue = np.empty((0, 3, 3), np.int64)
    laue_group = group.build_derived_point_group().build_derived_laue_group()
    dataset = describe_dataset(total.description, laue_group.type().lookup_symbol().replace("P ", ""))
    return MapInput(total, found, laue, request.n_shells, sections, dataset, list(remarks))


def _common_ub(experiments) -> np.ndarray:
    """The UB (3, 3; 1/Angstrom) of all crystals, empty where they differ."""
    matrices = [np.array(experiment.crystal.get_A()).reshape(3, 3) for experiment in experiments]
    alike = all(np.array_equal(matrices[0], other) for other in matrices[1:])
    return matrices[0] if alike else np.empty((0, 3))
