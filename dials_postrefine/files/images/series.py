"""
Experiments and the images behind them -> the series of images that diffuse/map/mapping.py takes.

    r = S R(phi) F U B h        setting rotation S, fixed rotation F, and U B of the crystal at the time, as DIALS has
    it

phi, U B, S and the beam at the middle of an image, or of equal parts of it; U B between scan points is interpolated
linearly.  The centre of a pixel is half a pixel beyond its number, and where it lies is asked of the panel, which knows
the parallax of its sensor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from cctbx import crystal, uctbx
from cctbx.eltbx import attenuation_coefficient
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map import bad_pixels
from dials_postrefine.diffuse.map.geometry import IncidentBeam, Panel, node_positions
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.mapping import Series
from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.dials.cell_choices import common_cell, find_cell_choices
from dials_postrefine.files.dials.radiation import is_xray
from dials_postrefine.files.images import exposure, limits
from dials_postrefine.files.images.bragg_peaks import observed_peaks, predict_peaks
from dials_postrefine.files.images.opened_images import check_images, open_experiments
from dials_postrefine.files.images.pixels import Reader, Scale, first_line, static_mask
from dials_postrefine.numerics.grouped import grouped_mean, rows_of_groups

# Dry air at 20 degrees C and 1013 hPa: g/cm^3, and parts of its mass.
AIR_DENSITY = 1.2041e-3
AIR = {"N": 0.7552, "O": 0.2315, "Ar": 0.0129}
# How much unit cells may differ, relative and in degrees.
CELL_LENGTH, CELL_ANGLE = 0.02, 1.5
# Strategies of dxtbx by which positions on a panel change smoothly.
SMOOTH = ("SimplePxMmStrategy", "ParallaxCorrectedPxMmStrategy")
# How far (mm) the detectors of data and background may be apart.
SAME_PLACE = 0.5
# In how many steps the rotation during an image is followed at most.
MOST_STEPS = 50
# A test that takes away more than this part of the data is worth a remark.
MUCH = 0.1


@dataclass(frozen=True)
class ImageSettings:
    """
    How images are read: the first and last to use (None: all), parts of an image's rotation (None: one until
    follow_rotation is told the voxels), mask of Bragg peaks
    ("auto", "profile", "refl", "box", "none") with the extent of a peak (sigma) and of the box (indices), whether scale
    factors are wanted of the reflections, a mask file, how much masks may take away, and gain, pedestal and
    polarisation fraction in place of those of the models or maps; the read noise (counts rms); exposure times (s) in
    place of those of the scans, one or one an experiment, and of the background; how images are brought to one scale
    (MappingSettings.scale); whether to look for bad pixels.
    """

    image_range: tuple[int, int] | None = None
    phi_steps: int | None = 1
    bragg: str = "auto"
    n_sigma: float = 4.0
    box: float = 0.25
    scales: bool = False
    mask_file: str | None = None
    max_masked: float = 0.5
    gain: float | None = None
    pedestal: float | None = None
    read_noise: float = 0.0
    polarization_fraction: float | None = None
    background_scale: float = 1.0
    exposure_time: tuple[float, ...] | None = None
    background_exposure_time: float | None = None
    scale: str = "none"
    bad_pixels: bool = True


@dataclass
class SeriesFiles:
    """
    What was read: experiments as DIALS has them and their series, the cell (6,) and the space group (cctbx) of all, the
    rotations (n, 3, 3) of its point group on indices, the mask of Bragg peaks by series, the part of the pixels that
    masks take away, the number of bad pixels, remarks, and whether all exposure times are
    known.
    """

    experiments: Any
    series: list[Series]
    cell: tuple[float, ...]
    space_group: Any
    d_min: float
    masks: list[str]
    masked: float
    n_bad: int
    remarks: list[str]
    times_known: bool = True

    @property
    def reciprocal(self) -> np.ndarray:
        """B (3, 3) of the cell: B h in the Cartesian frame of the crystal, 1/Angstrom."""
        return np.array(uctbx.unit_cell(self.cell).fractionalization_matrix()).reshape(3, 3).T


def read_series(
    experiment_paths: Sequence[str],
    reflection_paths: Sequence[str],
    background_path: str | None,
    settings: ImageSettings,
    d_min: float | None = None,
    space_group: str | None = None,
) -> SeriesFiles:
    """
    Read experiments with their images, and what belongs to them.

    Raises Sorry with one sentence for what can't be used.
    """
    lists = [read_with_images(path) for path in experiment_paths]
    # not of the reflections: with them or without, in each part of a series, an experiment has the same identifier
    identifiers = models.set_identifiers(lists, paths=list(zip(experiment_paths, reflection_paths)))
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    check_images(experiments, ", ".join(experiment_paths))
    _check(experiments)
    reflections = _reflections_by_experiment(reflection_paths, identifiers, experiments)
    background = read_background(background_path) if background_path else None
    return make_series(experiments, settings, d_min, space_group, reflections, background)


def make_series(
    experiments,
    settings: ImageSettings,
    d_min: float | None = None,
    space_group: str | None = None,
    reflections: Sequence[Any] | None = None,
    background: tuple[str, Any] | None = None,
) -> SeriesFiles:
    """
    The series of experiments whose images can be read.

    reflections: a table, or None, for each; background: a name for messages, and experiments.  Raises Sorry with one
    sentence for what can't be used.
    """
    group, cell, on_cells = _common_crystal(experiments, space_group)
    experiments, reflections = _of_range(experiments, reflections or [None] * len(experiments), settings)
    times, times_known, said = _times(experiments, settings, background)
    if d_min is None:
        d_min = limits.default_limit(experiments)

    remarks: list[str] = [*on_cells, *said]
    shared: dict[str, Any] = {}
    series, masks, n_masked, n_pixels = [], [], 0, 0
    bad = _find_bad_pixels(experiments, settings) if settings.bad_pixels else {}
    for number, experiment in enumerate(experiments):
        one = _series(experiment, settings, times[number])
        usable = static_mask(experiment, settings.mask_file)
        if one.detector in bad:
            usable &= ~bad[one.detector] & 1
        n_pixels += usable.size
        n_masked += np.count_nonzero(usable == 0)
        if background is not None:
            one, usable = _with_background(one, usable, experiment, background, settings)
        one = replace(one, usable=_shared(shared, usable))
        table = reflections[number]
        kind = _kind_of_mask(settings.bragg, experiment, table)
        masks.append(kind)
        if kind == "profile":
            one = replace(one, peaks=predict_peaks(experiment, d_min, settings.n_sigma))
        elif kind == "refl":
            one = replace(one, peaks=observed_peaks(table, experiment))
        elif kind == "box":
            one = replace(one, box=settings.box)
        if settings.scales:
            one = replace(one, scales=_scales(table, one, experiment))
        series.append(one)
    _join_lattices(experiments, series, remarks)
    if n_masked > settings.max_masked * n_pixels:
        raise Sorry(
            f"Masks take away {n_masked / n_pixels:.0%} of the pixels, more than mask.max_fraction="
            f"{settings.max_masked:g}: check the mask, or allow it."
        )
    n_bad = sum(int(pixels.sum()) for pixels in bad.values())
    worst = max((float(pixels.mean()) for pixels in bad.values()), default=0.0)
    if worst > MUCH:
        remarks.append(
            f"{worst:.0%} of the detector's pixels were taken for bad ones: too many for a detector; look whether "
            "they are (dials.image_viewer), or set mask.bad_pixels=False."
        )
    return SeriesFiles(
        experiments, series, cell, group, float(d_min), masks, n_masked / max(1, n_pixels), n_bad, remarks, times_known
    )


def read_with_images(path: str):
    """An experiment list with its images, of which some may be missing.  Raises Sorry where it can't be opened."""
    models.read_experiments(path)  # which says what is wrong with a damaged file
    try:
        return open_experiments(path)
    except Exception as error:  # dxtbx raises anything where an image is damaged or unknown
        raise Sorry(
            f"The images behind {path} can't be opened ({first_line(error)}): they must lie where the file says."
        ) from error


def air_attenuation(wavelength: float) -> float:
    """The attenuation of air, mu (1/mm), for X-rays of a wavelength (Angstrom)."""
    return sum(
        0.1 * AIR_DENSITY * part * attenuation_coefficient.get_table(element).mu_rho_at_angstrom(wavelength)
        for element, part in AIR.items()
    )


def point_group_rotations(group) -> np.ndarray:
    """The rotations (n, 3, 3) of the point group of a space group (cctbx), on indices."""
    return np.array([np.reshape(op.r().as_double(), (3, 3)).T for op in group.build_derived_point_group()])


def ice_rings(unit_cell, space_group, width: float, d_min: float | None) -> tuple[tuple[float, float], ...]:
    """
    The ranges of |s| (1/Angstrom) of powder rings, as wide as width in 1/d^2 (1/Angstrom^2), out to d_min (Angstrom;
    0.8 for None).
    """
    symmetry = crystal.symmetry(unit_cell=unit_cell, space_group=space_group.group())
    rings = symmetry.build_miller_set(anomalous_flag=False, d_min=d_min or 0.8)
    centres = np.unique(np.round(flumpy.to_numpy(rings.d_star_sq().data()), 9))
    return tuple((float(np.sqrt(max(0.0, c - 0.5 * width))), float(np.sqrt(c + 0.5 * width))) for c in centres)


def _check(experiments) -> None:
    if not len(experiments):
        raise Sorry("The .expt files hold no experiments: give refined ones, with their images.")
    for model in ("crystal", "beam", "detector"):
        n = sum(getattr(experiment, model) is None for experiment in experiments)
        if n:
            todo = "index and refine the images first" if model == "crystal" else "import the images again"
            raise Sorry(f"{n} of {len(experiments)} experiments have no {model}: {todo}.")
    models.check_goniometers(experiments)


def _common_crystal(experiments, space_group: str | None):
    """
    The space group and the cell of all crystals, made exact for it, and remarks where cells that agree look like
    several choices of one.
    """
    group = models.common_space_group(experiments, space_group)
    cells = np.array([e.crystal.get_unit_cell().parameters() for e in experiments])
    median = np.median(cells, axis=0)
    low, high = cells.min(axis=0), cells.max(axis=0)  # whatever the order
    off = np.concatenate([(high[:3] / low[:3] - 1.0) / CELL_LENGTH, (high[3:] - low[3:]) / CELL_ANGLE])
    if off.max() > 1.0:
        if find_cell_choices(experiments, group, CELL_LENGTH, CELL_ANGLE).chosen.any():
            common_cell(experiments, group, CELL_LENGTH, CELL_ANGLE)  # raises Sorry with the operation
        column = cells[:, int(off.argmax())]
        names = [experiments[int(k)].identifier for k in (column.argmax(), column.argmin())]
        raise Sorry(
            f"Unit cells differ by more than {CELL_LENGTH:.0%} or {CELL_ANGLE:g} degrees ({' from '.join(names)}): "
            "give data sets of one crystal form, in one setting."
        )
    cell = uctbx.unit_cell(tuple(median))
    if not models.unit_cell_fits(cell, group):
        symbol = group.type().lookup_symbol()
        raise Sorry(f"The unit cell does not fit the space group {symbol}: give the right one with space_group=.")
    remarks = [
        f"{n} of {len(experiments)} crystals look as if indexed with another choice of the unit cell: if they are, "
        f"reindex them (dials.reindex change_of_basis_op={name}), as the map is of different reflections else."
        for name, n in find_cell_choices(experiments, group, CELL_LENGTH, CELL_ANGLE).counts()
    ]
    return group, group.average_unit_cell(cell).parameters(), remarks


def _reflections_by_experiment(paths, identifiers, experiments) -> list[Any]:
    """The reflections of each experiment, None where there are none."""
    if not paths:
        return [None] * len(experiments)
    table = tables.join_tables(paths, [tables.read_table(path) for path in paths], identifiers)
    tables.forget_identifiers(table)  # with which each selection would look at all of them
    rows = rows_of_groups(flumpy.to_numpy(table["id"]), len(experiments))
    return [table.select(flumpy.from_numpy(own.astype(np.uint64))) for own in rows]


def _kind_of_mask(wanted: str, experiment, table) -> str:
    has_profile = (
        experiment.profile is not None and hasattr(experiment.profile, "sigma_b") and models.rotates(experiment)
    )
    if wanted == "auto":
        return "profile" if has_profile else "refl" if table is not None and "bbox" in table else "box"
    if wanted == "profile" and not has_profile:
        raise Sorry(
            f"{experiment.identifier} has no profile model of a sweep (as dials.integrate makes it): give "
            "integrated.expt, or another mask.bragg=."
        )
    if wanted == "refl" and table is None:
        raise Sorry("mask.bragg=refl needs the reflections: give their .refl, or another mask.bragg=.")
    return wanted


def _numbers(experiment) -> np.ndarray:
    """The numbers (n,) of the images of an experiment: those of its scan, or from 1."""
    first = experiment.scan.get_image_range()[0] if experiment.scan is not None else 1
    return first + np.arange(len(experiment.imageset))


def _chosen(experiment, settings: ImageSettings) -> np.ndarray:
    """Which images of an experiment are used, counted from 0."""
    numbers = _numbers(experiment)
    if settings.image_range is None:
        return np.arange(len(numbers))
    first, last = settings.image_range
    return np.flatnonzero((numbers >= first) & (numbers <= last))


def _of_range(experiments, reflections, settings: ImageSettings):
    """
    The experiments that have images in the range, and their reflections; stills may have none, sweeps must have some.
    """
    if settings.image_range is None:
        return experiments, reflections
    first, last = settings.image_range
    wanted = f"image_range={first} {last}"
    kept = []
    for k, experiment in enumerate(experiments):
        if experiment.scan is None and len(experiment.imageset) == 1:
            raise Sorry(f"{wanted} can't choose among stills without a scan ({experiment.identifier}): leave it out.")
        if len(_chosen(experiment, settings)):
            kept.append(k)
        elif models.rotates(experiment):
            numbers = _numbers(experiment)
            raise Sorry(f"{wanted} has no image of {experiment.identifier}, which has {numbers[0]} to {numbers[-1]}.")
    if not kept:
        numbers = [_numbers(experiment) for experiment in experiments]
        low, high = min(n[0] for n in numbers), max(n[-1] for n in numbers)
        raise Sorry(f"{wanted} has no image of the experiments, which have {low} to {high}.")
    return type(experiments)([experiments[k] for k in kept]), [reflections[k] for k in kept]


def _times(experiments, settings: ImageSettings, background) -> tuple[list[np.ndarray], bool, list[str]]:
    """The exposure times of the images that are used, whether all are known, and remarks (exposure.py)."""
    every = [exposure.known_times(e.scan, len(e.imageset)) for e in experiments]
    every = exposure.given_times(every, settings.exposure_time)
    times = [own[_chosen(e, settings)] for own, e in zip(every, experiments)]
    runs = ["stills" if len(e.imageset) == 1 else k for k, e in enumerate(experiments)]
    names = [e.identifier for e in experiments]
    return exposure.settle(times, names, runs, settings.scale, background is not None)


def _series(experiment, settings: ImageSettings, times: np.ndarray) -> Series:
    scan = experiment.scan
    numbers = _numbers(experiment)
    chosen = _chosen(experiment, settings)
    z = (scan.get_array_range()[0] if scan is not None else 0) + chosen
    read = _reader(experiment, settings, chosen)
    return Series(
        identifier=experiment.identifier,
        detector=_detector_key(experiment, settings),
        panels=[
            _panel(panel, scale, is_xray(experiment.beam)) for panel, scale in zip(experiment.detector, read.scales)
        ],
        beam=_beam(experiment, settings),
        read=read,
        numbers=numbers[chosen],
        z=z,
        settings=_settings(experiment, z, settings.phi_steps or 1),
        middle=np.array([models.setting_matrix(experiment, i, 0.5) for i in z]),
        s0=np.array([models.incident_beam(experiment, i) for i in z]),
        times=times,
        noise=read.noise(settings.read_noise) if settings.read_noise > 0.0 else np.empty(0, np.float32),
    )


def _settings(experiment, z: np.ndarray, n_steps: int) -> np.ndarray:
    """The settings (n, n_steps, 3, 3) of the images z (n,), Series.settings."""
    fractions = (np.arange(n_steps) + 0.5) / n_steps
    return np.array([[models.setting_matrix(experiment, i, f) for f in fractions] for i in z])


def follow_rotation(files: SeriesFiles, grid: Grid) -> int:
    """
    Let each series follow the rotation of its images in as many steps as keep a pixel within one voxel of the grid in
    each, MOST_STEPS at most; the largest number of steps.  It depends on the series and the grid alone, so that maps
    of parts of the data add up to that of all.
    """
    settings, most = {}, 1
    for experiment, one in zip(files.experiments, files.series):
        steps = min(MOST_STEPS, grid.steps_to_follow(oscillation(experiment)))
        settings[one.identifier] = _settings(experiment, one.z, steps)
        most = max(most, steps)
    for one in files.series:
        for each in (one, *(other for other, _ in one.others)):
            each.settings = settings[each.identifier]
    return most


def oscillation(experiment) -> float:
    """The rotation during an image (degrees), 0 for stills."""
    return abs(experiment.scan.get_oscillation()[1]) if experiment.scan is not None else 0.0


def _reader(experiment, settings: ImageSettings, chosen=None) -> Reader:
    return Reader(experiment, chosen, settings.gain, settings.pedestal)


def _beam(experiment, settings: ImageSettings) -> IncidentBeam:
    beam, fraction = experiment.beam, settings.polarization_fraction
    return IncidentBeam(
        beam.get_wavelength(),
        np.array(beam.get_s0()),
        np.array(beam.get_polarization_normal()),
        (beam.get_polarization_fraction() if fraction is None else fraction) if is_xray(beam) else -1.0,
        air_attenuation(beam.get_wavelength()) if is_xray(beam) else 0.0,
    )


def _detector_key(experiment, settings: ImageSettings) -> str:
    """What the geometry of the pixels depends on, as text."""
    distortions = [_distortion(panel) for panel in experiment.detector]
    return str(experiment.detector.to_dict()) + str((_beam(experiment, settings), distortions))


def _find_bad_pixels(experiments, settings: ImageSettings) -> dict[str, np.ndarray]:
    """
    The bad pixels (n_pixels,) uint8 of each detector, found on images spread over all there are of it, whatever the
    image_range: parts of a series have the same mask.
    """
    images: dict[str, list] = {}
    for experiment in experiments:
        read = _reader(experiment, settings)
        key = _detector_key(experiment, settings)
        images.setdefault(key, []).extend((read, i) for i in range(len(experiment.imageset)))
    found = {}
    for key, known in images.items():
        if len(known) < bad_pixels.FEWEST_IMAGES:
            continue
        places = np.unique(np.linspace(0, len(known) - 1, bad_pixels.MOST_IMAGES).round().astype(int))
        suspect = None
        n_read = 0
        for place in places:
            read, i = known[place]
            try:
                photons = read.photons(i)
            except BadImage:  # it will be told when it is mapped
                continue
            suspect = suspect or [np.zeros(panel.shape, np.uint8) for panel in photons]
            noise = read.noise(settings.read_noise)
            n_read, start = n_read + 1, 0
            for panel, out in zip(photons, suspect):
                own = noise[start : start + panel.size].reshape(panel.shape)
                bad_pixels.suspects(panel, own, out)
                start += panel.size
        if n_read >= bad_pixels.FEWEST_IMAGES:
            found[key] = np.concatenate([bad_pixels.bad(out, n_read).ravel() for out in suspect]).astype(np.uint8)
    return found


def _image_keys(imageset) -> list[tuple[str, int] | None]:
    """What tells the images of a set from all others: file and place in it; None for images that are in no file."""
    indices = imageset.indices()
    keys: list[tuple[str, int] | None] = []
    for i in range(len(imageset)):
        path = imageset.get_path(i)
        keys.append((os.path.realpath(path), int(indices[i])) if path and os.path.exists(path) else None)
    return keys


def _join_lattices(experiments, series: list[Series], remarks: list[str]) -> None:
    """Tell each series of the others on the same images (Series.others), whichever .expt file they came from."""
    keys = [
        [known[int(i)] for i in one.read.chosen]
        for known, one in zip((_image_keys(e.imageset) for e in experiments), series)
    ]
    holders: dict[tuple[str, int], dict[int, int]] = {}
    for number, own in enumerate(keys):
        for place, key in enumerate(own):
            if key is not None:
                holders.setdefault(key, {})[number] = place
    plain = list(series)  # which know of no others, lest there is a circle
    for number, own in enumerate(keys):
        found: dict[int, np.ndarray] = {}
        for place, key in enumerate(own):
            for other, there in holders[key].items() if key is not None else ():
                if other != number:
                    found.setdefault(other, np.full(len(own), -1))[place] = there
        if found:
            series[number] = replace(plain[number], others=tuple((plain[k], places) for k, places in found.items()))
    n_shared = sum(len(who) > 1 for who in holders.values())
    if n_shared and any(one.peaks is not None or one.box > 0.0 for one in plain):
        remarks.append(f"{n_shared} images have several crystals: on them the Bragg peaks of all of these are masked.")


def _panel(panel, scale: Scale, of_x_rays: bool) -> Panel:
    n_fast, n_slow = panel.get_image_size()
    if _is_smooth(panel):
        slow, fast = node_positions(n_slow), node_positions(n_fast)
    else:  # every pixel
        slow, fast = np.arange(n_slow) + 0.5, np.arange(n_fast) + 0.5
    points = np.stack(np.meshgrid(fast, slow), axis=-1).reshape(-1, 2)
    millimetres = panel.pixel_to_millimeter(flumpy.vec_from_numpy(points))
    nodes = flumpy.to_numpy(panel.get_lab_coord(millimetres)).reshape(len(slow), len(fast), 3)
    return Panel(
        slow=slow,
        fast=fast,
        nodes=nodes,
        normal=np.array(panel.get_normal()),
        pixel_size=tuple(panel.get_pixel_size()),
        shape=(n_slow, n_fast),
        mu=panel.get_mu() if of_x_rays else 0.0,
        thickness=panel.get_thickness(),
        gain=scale.gain,
        pedestal=scale.pedestal,
        trusted=scale.trusted,
    )


def _is_smooth(panel) -> bool:
    """Whether positions on a panel can be interpolated: not where a map of distortions, or what we don't know, is."""
    return panel.get_px_mm_strategy().name() in SMOOTH


def _distortion(panel) -> str:
    """What names the map of distortions of a panel, of which its dictionary says nothing."""
    strategy, digest = panel.get_px_mm_strategy(), sha256()
    for name in ("dx", "dy"):
        if hasattr(strategy, name):
            digest.update(np.ascontiguousarray(flumpy.to_numpy(getattr(strategy, name)())).tobytes())
    return "" if _is_smooth(panel) else digest.hexdigest()


def _shared(known: dict, array: np.ndarray) -> np.ndarray:
    """The same array object for equal arrays."""
    return known.setdefault(array.tobytes(), array)


def _scales(table, series: Series, experiment) -> np.ndarray:
    """The mean inverse scale factor of the reflections on each image."""
    if table is None or "inverse_scale_factor" not in table:
        raise Sorry(
            f"scale.model=from_refl needs the reflections of {experiment.identifier} as dials.scale writes them: give "
            "scaled.refl, or another scale.model=."
        )
    factor = flumpy.to_numpy(table["inverse_scale_factor"])
    z = flumpy.to_numpy(table["xyzcal.px"])[:, 2]
    good = np.isfinite(factor) & (factor > 0.0)
    if not good.any():
        raise Sorry(f"No reflection of {experiment.identifier} has a scale factor: use another scale.model=.")
    image = np.floor(z[good]).astype(int) - int(series.z[0])
    inside = (image >= 0) & (image < series.n_images)
    image, factor = image[inside], factor[good][inside]
    n = np.bincount(image, minlength=series.n_images)
    known = n > 0
    if not known.any():
        raise Sorry(
            f"No image of {experiment.identifier} has reflections with a scale factor: use another scale.model=."
        )
    mean = grouped_mean(factor, image, series.n_images)
    return np.interp(np.arange(series.n_images), np.flatnonzero(known), mean[known])


def read_background(path: str) -> tuple[str, Any]:
    """The name and the experiments of a background.  Raises Sorry for experiments without detector or beam."""
    experiments = read_with_images(path)
    check_images(experiments, path)
    if not len(experiments):
        raise Sorry(f"{path} has no experiments: give one made from images of the background.")
    if any(experiment.detector is None or experiment.beam is None for experiment in experiments):
        raise Sorry(f"{path} has no detector or no beam: import its images again.")
    return path, experiments


def _with_background(series: Series, usable: np.ndarray, experiment, background, settings: ImageSettings):
    """The series with the mean of the background's images, and without pixels that it does not have."""
    path, experiments = background
    counts, read_variance, time = np.zeros(usable.size), np.zeros(usable.size), np.zeros(usable.size)
    for other in experiments:
        if not experiment.detector.is_similar_to(
            other.detector, origin_tolerance=SAME_PLACE, fast_axis_tolerance=1e-3, slow_axis_tolerance=1e-3,
            ignore_trusted_range=True,
        ):  # fmt: skip
            raise Sorry(f"{path} is of another detector, or of another place of it, than {experiment.identifier}.")
        n = len(other.imageset)
        times = exposure.known_times(other.scan, n)
        if settings.background_exposure_time is not None:
            times = np.full(n, settings.background_exposure_time)
        if np.isnan(times).any():
            raise Sorry(f"{path} has images of unknown exposure time: give background.exposure_time=, in seconds.")
        read = _reader(other, settings)
        noise = read.noise(settings.read_noise)
        good = static_mask(other, None).astype(bool)
        for i in range(n):
            try:
                photons = np.concatenate([panel.ravel() for panel in read.photons(i)])
            except BadImage as error:
                raise Sorry(f"Image {i + 1} of {path} can't be used: {error}.") from error
            seen = good & np.isfinite(photons)
            counts[seen] += photons[seen]
            read_variance[seen] += noise[seen]
            time[seen] += times[i]
    seen = time > 0.0
    rate = np.divide(counts, time, out=np.zeros_like(counts), where=seen)
    variance = np.divide(np.maximum(counts, 1.0) + read_variance, time**2, out=np.zeros_like(counts), where=seen)
    scale = settings.background_scale
    series = replace(
        series,
        background=(scale * rate).astype(np.float32),
        background_variance=(scale**2 * variance).astype(np.float32),
    )
    return series, usable & seen.astype(np.uint8)
