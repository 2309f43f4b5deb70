"""
What dials.diffuse_map was given -> the sums that a map is made of.

Either experiments, whose images are mapped on a grid, or the maps of earlier runs, whose sums are added.  Both lead to
the same: sums with all that belongs to them (map_sums.Sums), the operations of the symmetry, and what the report says
of the data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cctbx import sgtbx, uctbx
from dials.util import Sorry

from dials_postrefine.diffuse.map import kernels
from dials_postrefine.diffuse.map.geometry import Corrections
from dials_postrefine.diffuse.map.grid import Grid, make_grid
from dials_postrefine.diffuse.map.mapping import BadImage, MappingSettings, Series, map_without_outliers
from dials_postrefine.diffuse.map.merging import Map, merge
from dials_postrefine.diffuse.map.rejection import Rejection
from dials_postrefine.diffuse.map.sections import DEFAULT_PLANES, Collector, parse_plane
from dials_postrefine.diffuse.map.symmetry import operations
from dials_postrefine.files.dials import models
from dials_postrefine.files.images import series as images
from dials_postrefine.files.images.opened_images import image_names
from dials_postrefine.files.maps import sums as map_sums
from dials_postrefine.files.maps.writing import Description
from dials_postrefine.files.safety.names import printable
from dials_postrefine.numerics.populations import MIN_GAP_DISTANCE
from dials_postrefine.report.diffuse.summary import describe_dataset

logger = logging.getLogger("dials.diffuse_map")

MASKS = {
    "profile": "the profile model's predictions",
    "refl": "the bounding boxes of the reflections",
    "box": "a box about each reciprocal-lattice point",
    "none": "not masked",
}


# How much wavelengths may differ, relative, before it is said.
SAME_WAVELENGTH = 5e-3


@dataclass(frozen=True)
class MapRequest:
    """
    What is to be mapped: paths of experiments, reflections and of a background, or of maps to add; how images are read
    and mapped; d_min, d_max (Angstrom), subdivide or, for a Cartesian grid, spacing (1/Angstrom; None for a third of
    the shortest reciprocal axis); symmetry "laue", "friedel" or "p1", the symbol of a space group in place of that of
    the crystals; planes to show; the number of shells and of processes.
    """

    experiments: Sequence[str]
    reflections: Sequence[str]
    background: str | None
    add: Sequence[str]
    reading: images.ImageSettings
    mapping: MappingSettings
    d_min: float | None
    d_max: float | None
    frame: str
    subdivide: tuple[int, int, int]
    spacing: float | None
    symmetry: str
    space_group: str | None
    planes: Sequence[str]
    n_shells: int
    nproc: int


@dataclass
class MapInput:
    """
    Sums and what they are of: the operations (n, 3, 3) to average over and those of the Laue class, or None where the
    grid has not its symmetry; the planes to show; dataset and not_used as report.diffuse_summary takes them; remarks;
    what was chosen for parameters that are auto.
    """

    total: map_sums.Sums
    operations: np.ndarray
    laue: np.ndarray | None
    n_shells: int
    sections: Collector
    dataset: dict
    remarks: list[str]
    chosen: dict[str, list[str]] = field(default_factory=dict)

    def merge(self) -> Map:
        """The map; the sums are folded in place."""
        total = self.total
        return merge(
            total.sums, total.images, total.grid, total.settings, self.operations, self.laue, n_shells=self.n_shells
        )


def collect(
    request: MapRequest,
    version: str,
    parameters: str,
    protect: Callable[[Iterable[str]], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> MapInput:
    """
    Map the images, or add the maps; version and parameters go into the files, protect is told the names of the images.

    Raises Sorry with one sentence for what can't be used.
    """
    if request.add:
        total = map_sums.add_sums(request.add)
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
            version=version,
            parameters=printable(parameters),
        )
        total = replace(total, description=description)
        dataset = _describe(group, description)
        return _prepare(request, total, group, _sections(request, total.grid), dataset, _on_times(total))
    files = images.read_series(
        request.experiments,
        request.reflections,
        request.background,
        request.reading,
        request.d_min,
        request.space_group,
    )
    protect(image_names(files.experiments))
    grid = _make_grid(request, files)
    sections = _sections(request, grid)
    _check_symmetry(request, grid, files.space_group)
    mapping = request.mapping
    _state_memory(grid, files, memory_needed(grid, 1 if request.mapping.n_sigma is None else 2))
    phi_steps = request.reading.phi_steps or images.follow_rotation(files, grid)
    doable, chosen = mapping, []
    if mapping.n_sigma == "auto" and memory_needed(grid, 2) > _memory_there():
        doable = replace(mapping, n_sigma=None)
        chosen.append(
            "No outliers were sought, for which the memory does not suffice: reject.n_sigma=8 with larger voxels."
        )
    try:
        sums, results, rejection = map_without_outliers(files.series, grid, doable, request.nproc, progress)
    except BadImage as error:
        raise Sorry(f"No map can be made: {error}.") from error
    n_used = np.bincount([one.series for one in results if one.error is None], minlength=len(files.series))
    used = [k for k, n in enumerate(n_used) if n]  # what the files say is of these
    series, experiments = [files.series[k] for k in used], [files.experiments[k] for k in used]
    results, identifiers = map_sums.sort_images(results, [one.identifier for one in files.series])
    corrections = corrections_made(mapping.corrections, series)
    fractions = {one.beam.fraction for one in series} if "polarization" in corrections else {-1.0}
    oscillation = max(abs(e.scan.get_oscillation()[1]) if e.scan is not None else 0.0 for e in experiments)
    description = Description(
        unit_cell=files.cell,
        space_group=files.space_group.type().lookup_symbol(),
        ub=_common_ub(experiments),
        wavelength=map_sums.common_wavelength([one.beam.wavelength for one in series], n_used[used]),
        symmetry=request.symmetry,
        version=version,
        parameters=printable(parameters),
        input_files=tuple(map(printable, (*request.experiments, *request.reflections))),
        identifiers=identifiers,
        oscillation=oscillation,
        phi_steps=phi_steps if oscillation > 0.0 else 1,
        mask="; ".join(dict.fromkeys(MASKS[files.masks[k]] for k in used)),
        polarization_fraction=fractions.pop() if len(fractions) == 1 and min(fractions) >= 0.0 else None,
        background=printable(request.background) if request.background else None,
        times_known=files.times_known,
        corrections=corrections,
        rejected_beyond=rejection.n_sigma,
    )
    if request.reading.phi_steps is None and phi_steps > 1:
        logger.info("The rotation during an image is followed in up to %d steps (sampling.phi_steps=Auto)", phi_steps)
    if mapping.n_sigma == "auto":
        logger.info(_on_outliers(rejection))
    total = map_sums.Sums(sums, results, grid, mapping, description)
    dataset = _describe(files.space_group, description)
    given = _prepare(request, total, files.space_group, sections, dataset, [*files.remarks, *_on_beams(files), *chosen])
    given.chosen = {"mask.bragg": sorted({files.masks[k] for k in used})}
    return given


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
    return {name: "all" if all(own) else "some" for name, own in had.items() if getattr(wanted, name) and any(own)}


def _on_times(total: map_sums.Sums) -> list[str]:
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


def _on_beams(files: images.SeriesFiles) -> list[str]:
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


def _make_grid(request: MapRequest, files: images.SeriesFiles) -> Grid:
    d_max = request.d_max or np.inf
    if not files.d_min < d_max:
        raise Sorry(f"d_min={files.d_min:g} is not below d_max={d_max:g}: d_min is the high resolution limit.")
    spacing = None
    if request.frame == "cartesian":
        spacing = request.spacing or float(np.linalg.norm(files.reciprocal, axis=0).min()) / 3.0
    try:
        grid = make_grid(files.reciprocal, files.d_min, d_max, request.subdivide, spacing)
    except ValueError as error:
        raise Sorry(
            f"The grid would have {error}, more than can be addressed: use a larger d_min, or coarser voxels."
        ) from error
    sets = 1 if request.mapping.n_sigma in (None, "auto") else 2
    needed, there = memory_needed(grid, sets), _memory_there()
    if needed > there:
        raise Sorry(
            f"The grid of {grid.n_voxels} voxels needs {needed / 2**30:.1f} GB, {there / 2**30:.1f} GB are free: use "
            "a larger d_min, or coarser voxels."
        )
    return grid


def memory_needed(grid: Grid, sets: int) -> float:
    """The memory (bytes) for so many sets of sums, of which rejection needs two."""
    return 8.0 * kernels.N_SUMS * grid.n_voxels * sets


def _memory_there() -> float:
    import psutil

    return psutil.virtual_memory().available


def _state_memory(grid: Grid, files: images.SeriesFiles, needed: float) -> None:
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


def _sections(request: MapRequest, grid: Grid) -> Collector:
    try:
        planes = [parse_plane(text) for text in request.planes or DEFAULT_PLANES[grid.frame]]
        return Collector(grid, planes)
    except ValueError as error:
        raise Sorry(str(error)) from error


def _rotations(group) -> np.ndarray:
    return images.point_group_rotations(group)


def _check_symmetry(request: MapRequest, grid: Grid, group) -> np.ndarray:
    try:
        return operations(grid, _rotations(group), request.symmetry)
    except ValueError as error:
        symbol = group.type().lookup_symbol()
        raise Sorry(
            f"The grid does not have the Laue symmetry of {symbol} ({error}): use the same grid.subdivide for axes "
            "that symmetry takes to one another, grid.frame=hkl, or symmetry=friedel."
        ) from error


def _prepare(request, total, group, sections, dataset, remarks) -> MapInput:
    found = _check_symmetry(request, total.grid, group)
    try:
        laue = operations(total.grid, _rotations(group), "laue")
    except ValueError:
        laue = None
    return MapInput(total, found, laue, request.n_shells, sections, dataset, list(remarks))


def _common_ub(experiments) -> np.ndarray | None:
    """The UB (3, 3; 1/Angstrom) of all crystals, None where they differ."""
    matrices = [np.array(experiment.crystal.get_A()).reshape(3, 3) for experiment in experiments]
    return matrices[0] if all(np.array_equal(matrices[0], other) for other in matrices[1:]) else None


def _describe(group, description: Description) -> dict:
    laue = group.build_derived_point_group().build_derived_laue_group()
    return describe_dataset(
        files=description.input_files,
        space_group=description.space_group,
        laue_class=laue.type().lookup_symbol().replace("P ", ""),
        symmetry=description.symmetry,
        unit_cell=description.unit_cell,
        wavelength=description.wavelength,
        oscillation=description.oscillation,
        phi_steps=description.phi_steps,
        rejected_beyond=description.rejected_beyond,
        mask=description.mask,
        polarization_fraction=description.polarization_fraction,
        background=description.background,
        unit=description.unit,
        corrections=description.corrections,
    )
