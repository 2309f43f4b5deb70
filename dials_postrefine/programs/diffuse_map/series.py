"""
Experiments and the images behind them -> the series of images that diffuse/map/mapping.py takes.

files/images/ has experiments, images, masks and geometry as arrays; here they become Series, and the algorithm that
knows bad pixels is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dials.util import Sorry

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map import bad_pixels
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.series import IncidentBeam, Panel, Series
from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.radiation import is_xray
from dials_postrefine.files.images import limits
from dials_postrefine.files.images.background import mean_background, read_background
from dials_postrefine.files.images.bragg_peaks import observed_peaks, predict_peaks
from dials_postrefine.files.images.crystals import common_crystal, reciprocal_matrix
from dials_postrefine.files.images.experiments import (
    ImageSettings,
    choose_range,
    chosen_images,
    exposure_times,
    image_keys,
    image_numbers,
    image_scales,
    kind_of_mask,
    make_reader,
    read_with_reflections,
)
from dials_postrefine.files.images.geometry import (
    air_attenuation,
    distortion,
    oscillation,
    panel_nodes,
    setting_matrices,
)
from dials_postrefine.files.images.pixels import Scale, static_mask

# In how many steps the rotation during an image is followed at most.
MOST_STEPS = 50
# A test that takes away more than this part of the data is worth a remark.
MUCH = 0.1


@dataclass
class SeriesFiles:
    """
    What was read: experiments as DIALS has them and their series, the cell (6,) and the space group (cctbx) of all,
    d_min (Angstrom), the mask of Bragg peaks by series, the part of the pixels that masks take away, the number of bad
    pixels, remarks, and whether all exposure times are known.
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
        return reciprocal_matrix(self.cell)


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
    experiments, reflections = read_with_reflections(experiment_paths, reflection_paths)
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
    group, cell, on_cells = common_crystal(experiments, space_group)
    experiments, reflections = choose_range(experiments, reflections or [None] * len(experiments), settings)
    times, times_known, on_times = exposure_times(experiments, settings, background is not None)
    if d_min is None:
        d_min = limits.default_limit(experiments)

    shared: dict[bytes, np.ndarray] = {}
    series, masks, n_masked, n_pixels = [], [], 0, 0
    bad = find_bad_pixels(experiments, settings) if settings.bad_pixels else {}
    for experiment, table, exposures in zip(experiments, reflections, times):
        one = _series(experiment, settings, exposures)
        usable = static_mask(experiment, settings.mask_file)
        if one.detector in bad:
            usable &= ~bad[one.detector] & 1
        n_pixels += usable.size
        n_masked += np.count_nonzero(usable == 0)
        if background is not None:
            rate, variance, measured = mean_background(background, experiment, settings)
            one = replace(one, background=rate, background_variance=variance)
            usable = usable & measured.astype(np.uint8)
        one = replace(one, usable=shared.setdefault(usable.tobytes(), usable))  # one array for equal ones
        masks.append(kind_of_mask(settings.bragg, experiment, table))
        one = _with_mask(one, masks[-1], experiment, table, (settings, d_min))
        if settings.scales:
            one = replace(one, scales=image_scales(table, experiment, int(one.z[0]), one.n_images))
        series.append(one)
    on_lattices = _join_lattices(experiments, series)
    if n_masked > settings.max_masked * n_pixels:
        raise Sorry(
            f"Masks take away {n_masked / n_pixels:.0%} of the pixels, more than mask.max_fraction="
            f"{settings.max_masked:g}: check the mask, or allow it."
        )
    return SeriesFiles(
        experiments,
        series,
        cell,
        group,
        float(d_min),
        masks,
        n_masked / max(1, n_pixels),
        sum(int(pixels.sum()) for pixels in bad.values()),
        [*on_cells, *on_times, *on_lattices, *_on_bad_pixels(bad)],
        times_known,
    )


def _series(experiment, settings: ImageSettings, times: np.ndarray) -> Series:
    scan = experiment.scan
    numbers = image_numbers(experiment)
    chosen = chosen_images(experiment, settings)
    z = (scan.get_array_range()[0] if scan is not None else 0) + chosen
    read = make_reader(experiment, settings, chosen)
    return Series(
        identifier=experiment.identifier,
        detector=_detector_key(experiment, settings),
        panels=[
            _panel(panel, scale, experiment.beam, settings.max_counts)
            for panel, scale in zip(experiment.detector, read.scales)
        ],
        beam=_beam(experiment, settings),
        read=read,
        numbers=numbers[chosen],
        z=z,
        settings=setting_matrices(experiment, z, settings.phi_steps or 1),
        middle=np.array([models.setting_matrix(experiment, i, 0.5) for i in z]),
        s0=np.array([models.incident_beam(experiment, i) for i in z]),
        times=times,
        noise=read.noise(settings.read_noise) if settings.read_noise > 0.0 else np.empty(0, np.float32),
    )


def _panel(panel, scale: Scale, beam, max_counts: float | None) -> Panel:
    low, high = scale.trusted
    slow, fast, nodes = panel_nodes(panel)
    return Panel(
        slow=slow,
        fast=fast,
        nodes=nodes,
        normal=np.array(panel.get_normal()),
        pixel_size=tuple(panel.get_pixel_size()),
        shape=panel.get_image_size()[::-1],
        mu=panel.get_mu() if is_xray(beam) else 0.0,
        thickness=panel.get_thickness(),
        gain=scale.gain,
        pedestal=scale.pedestal,
        trusted=(low, high if max_counts is None else min(high, max_counts)),
    )


def _beam(experiment, settings: ImageSettings) -> IncidentBeam:
    beam, fraction = experiment.beam, settings.polarization_fraction
    return IncidentBeam(
        beam.get_wavelength(),
        np.array(beam.get_s0()),
        np.array(beam.get_polarization_normal()),
        (beam.get_polarization_fraction() if fraction is None else fraction) if is_xray(beam) else -1.0,
        air_attenuation(beam.get_wavelength()) if is_xray(beam) else 0.0,
    )


def _with_mask(series: Series, kind: str, experiment, table, limits: tuple[ImageSettings, float]) -> Series:
    """The series with its mask of Bragg peaks."""
    settings, d_min = limits
    if kind == "profile":
        return replace(series, peaks=predict_peaks(experiment, d_min, settings.n_sigma))
    if kind == "refl":
        return replace(series, peaks=observed_peaks(table, experiment))
    return replace(series, box=settings.box) if kind == "box" else series


def follow_rotation(files: SeriesFiles, grid: Grid) -> int:
    """
    Let each series follow the rotation of its images in as many steps as keep a pixel within one voxel of the grid in
    each, MOST_STEPS at most; the largest number of steps.  It depends on the series and the grid alone, so that maps
    of parts of the data add up to that of all.
    """
    settings, most = {}, 1
    for experiment, one in zip(files.experiments, files.series):
        steps = min(MOST_STEPS, grid.steps_to_follow(oscillation(experiment)))
        settings[one.identifier] = setting_matrices(experiment, one.z, steps)
        most = max(most, steps)
    for one in files.series:
        for each in (one, *(other for other, _ in one.others)):
            each.settings = settings[each.identifier]
    return most


def _detector_key(experiment, settings: ImageSettings) -> str:
    """What the geometry of the pixels depends on, as text."""
    distortions = [distortion(panel) for panel in experiment.detector]
    return str(experiment.detector.to_dict()) + str((_beam(experiment, settings), distortions))


def find_bad_pixels(experiments, settings: ImageSettings) -> dict[str, np.ndarray]:
    """
    The bad pixels (n_pixels,) uint8 of each detector, found on images spread over all there are of it, whatever the
    image_range: parts of a series have the same mask.
    """
    images: dict[str, list] = {}
    for experiment in experiments:
        read = make_reader(experiment, settings)
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
                bad_pixels.suspects(panel, noise[start : start + panel.size].reshape(panel.shape), out)
                start += panel.size
        if n_read >= bad_pixels.FEWEST_IMAGES:
            found[key] = np.concatenate([bad_pixels.bad(out, n_read).ravel() for out in suspect]).astype(np.uint8)
    return found


def _on_bad_pixels(bad: dict[str, np.ndarray]) -> list[str]:
    worst = max((float(pixels.mean()) for pixels in bad.values()), default=0.0)
    if worst <= MUCH:
        return []
    return [
        f"{worst:.0%} of the detector's pixels were taken for bad ones: too many for a detector; look whether "
        "they are (dials.image_viewer), or set mask.bad_pixels=False."
    ]


def _join_lattices(experiments, series: list[Series]) -> list[str]:
    """
    Tell each series of the others on the same images (Series.others), whichever .expt file they came from; what is to
    be remarked of it.
    """
    keys = [
        [known[int(i)] for i in one.read.chosen]
        for known, one in zip((image_keys(e.imageset) for e in experiments), series)
    ]
    holders: dict[tuple[str, int], dict[int, int]] = {}
    for number, images in enumerate(keys):
        for place, key in enumerate(images):
            if key is not None:
                holders.setdefault(key, {})[number] = place
    plain = list(series)  # which know of no others, lest there is a circle
    for number, images in enumerate(keys):
        found: dict[int, np.ndarray] = {}
        for place, key in enumerate(images):
            for other, there in holders[key].items() if key is not None else ():
                if other != number:
                    found.setdefault(other, np.full(len(images), -1))[place] = there
        if found:
            series[number] = replace(plain[number], others=tuple((plain[k], places) for k, places in found.items()))
    n_shared = sum(len(who) > 1 for who in holders.values())
    if n_shared and any(one.peaks is not None or one.box > 0.0 for one in plain):
        return [f"{n_shared} images have several crystals: on them the Bragg peaks of all of these are masked."]
    return []
