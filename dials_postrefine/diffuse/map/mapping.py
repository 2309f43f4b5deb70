"""
Images -> sums: the loop over images, in one process or in several that share the sums.

Each image is read, its pixels are located (kernels.locate), its level is taken (scaling.py), and it is added to the
sums of its voxels.  What is kept of it is its profile, by shells of |s|: with them the statistics of images, and the
residual of the azimuth that a wrong polarisation leaves, are found later.  Nothing depends on other images, unless
outliers are to be rejected or scales to be smooth, for which there is a pass before.
"""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map import bragg, geometry, kernels, rejection, scaling
from dials_postrefine.diffuse.map.geometry import Corrections, IncidentBeam, Panel, Pixels
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.rejection import Rejection
from dials_postrefine.executors.processes import ordered_map, single_thread
from dials_postrefine.numerics.grouped import rows_of_groups
from dials_postrefine.numerics.shells import equal_width_edges

N_SHELLS = 60
# How many runs of neighbours in one voxel are gathered before they are added to the sums.
MOST_RUNS = 1 << 18
# How many voxels are kept at hand where runs of neighbours in one row of pixels meet those of the next.
N_HELD = 1 << 13
# For pixels of Bragg peaks, of which the mean offset of indices is taken.
STRONG_SIGMA = 8.0
MOST_STRONG = 200_000
# So many pixels make the profile of an image.
PROFILE_PIXELS = 500_000
# Of a detector with more pixels strong spots are sought on one image in four, which are enough.
MANY_PIXELS, SPOTS_EVERY = 2_000_000, 4
SPOT_RANGE = 0.35
# Exposures as integers (kernels.py): s sr where scales are near 1, photons where they are levels of images.
QUANTA = {False: (2.0**52, 2.0**-10), True: (2.0**28, 2.0**16)}
HALVES = ("images", "random", "friedel")


@dataclass
class Series:
    """
    The images of one experiment.

    read(i) gives the values of the panels of the i-th image, arrays (slow, fast), or raises BadImage; numbers (n,) are
    those of the images, z (n,) those in the array of the scan; settings (n, n_steps, 3, 3) take h to the laboratory
    (1/Angstrom) at the middles of n_steps equal parts of the image's time, middle (n, 3, 3) at that of the image; s0
    (n, 3); times (n,) of exposure, s; usable (n_pixels,) uint8 or empty; peaks or box (indices), or neither, mask Bragg
    peaks; others: the series of other crystals on the same images, whose peaks are masked as well, and with each which
    of its images the i-th one is (n,), -1 for none; scales (n,) or None; background and its variance (n_pixels,)
    photons / s, or empty; noise (n_pixels,) the variance of a pixel by reading it, photons^2, or empty.  detector names
    what the geometry of pixels depends on: series with the same name share it.
    """

    identifier: str
    detector: str
    panels: list[Panel]
    beam: IncidentBeam
    read: Callable[[int], Sequence[np.ndarray]]
    numbers: np.ndarray
    z: np.ndarray
    settings: np.ndarray
    middle: np.ndarray
    s0: np.ndarray
    times: np.ndarray
    usable: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    peaks: bragg.Peaks | None = None
    box: float = 0.0
    scales: np.ndarray | None = None
    background: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    background_variance: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    others: tuple[tuple[Series, np.ndarray], ...] = ()
    noise: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def n_images(self) -> int:
        return len(self.numbers)

    def beam_at(self, i: int) -> IncidentBeam:
        """The beam of the i-th image: another one than `beam` where it moves, or changes its wavelength."""
        s0 = self.s0[i]
        if np.array_equal(s0, self.beam.s0):
            return self.beam
        return replace(self.beam, s0=s0, wavelength=1.0 / float(np.linalg.norm(s0)))


@dataclass(frozen=True)
class MappingSettings:
    """
    corrections; scale "none", "per_image", "smooth" or "from_refl" (Series.scales); half_sets one of HALVES;
    radial_offset: take the isotropic part off each image; n_sigma to reject outliers, None for no rejection,
    "auto" for that of rejection.py where that helps;
    allow_bad_images: skip images that can't be used; excluded: ranges of |s| (1/Angstrom) that are masked.
    """

    corrections: Corrections = Corrections()
    scale: str = "per_image"
    half_sets: str = "images"
    radial_offset: bool = False
    n_sigma: float | str | None = None
    allow_bad_images: bool = True
    excluded: tuple[tuple[float, float], ...] = ()

    @property
    def normalised(self) -> bool:
        """Whether exposures have the level of the image in them, and the ratio of sums is relative to it."""
        return self.scale in ("per_image", "smooth")

    @property
    def quanta(self) -> tuple[float, float]:
        return QUANTA[self.normalised]


@dataclass
class ImageResult:
    """
    What is kept of an image: of which series, its number, why it was not used (None if it was), its scale, level and
    exposure time, its pixels (counted in the first part of the rotation), its profile (N_SHELLS, N_PROFILE; with
    exposures that have no scale), and of strong spots their number, sums and sums of squares of the offset of the
    fractional indices (3,).

        n_pixels = outside of the limits + n_masked + n_untrusted + n_inside
        n_inside = n_bragg + n_rejected + averaged

    where n_masked are those inside of the limits that a mask takes away, n_untrusted those whose values can't be used.
    """

    series: int
    number: int
    error: str | None = None
    scale: float = np.nan
    level: float = np.nan
    time: float = 0.0
    n_pixels: int = 0
    n_masked: int = 0
    n_untrusted: int = 0
    n_inside: int = 0
    n_bragg: int = 0
    n_rejected: int = 0
    profile: np.ndarray = field(default_factory=lambda: np.zeros((N_SHELLS, kernels.N_PROFILE)))
    n_spots: int = 0
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    offset_sq: np.ndarray = field(default_factory=lambda: np.zeros(3))


def shell_edges(grid: Grid) -> np.ndarray:
    """The edges (N_SHELLS + 1,) of the shells of |s| in which images are compared, 1/Angstrom."""
    return equal_width_edges(grid.d_max, grid.d_min, N_SHELLS)


def make_sums(grid: Grid, shared: bool = False) -> np.ndarray:
    """
    Sums (n_voxels, N_SUMS) int64 of nothing; memory is taken as voxels are reached.  shared: by forked processes (then
    reading takes memory, too).
    """
    if not shared:
        return np.zeros((grid.n_voxels, kernels.N_SUMS), np.int64)
    size = grid.n_voxels * kernels.N_SUMS
    return np.frombuffer(mmap.mmap(-1, 8 * size), np.int64).reshape(-1, kernels.N_SUMS)


def map_images(
    series: list[Series],
    grid: Grid,
    settings: MappingSettings,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, list[ImageResult]]:
    """
    The sums (n_voxels, N_SUMS) of all images of all series, and what is kept of each image, in their order.

    progress(what, done, total) is told of each image.  Raises BadImage for the first image that can't be used unless
    settings allow it, and where there is none that can.
    """
    return map_without_outliers(series, grid, settings, nproc, progress)[:2]


def map_without_outliers(
    series: list[Series],
    grid: Grid,
    settings: MappingSettings,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, list[ImageResult], Rejection]:
    """The same, and what was done about outliers."""
    if settings.scale == "smooth":
        _, images = _pass(series, grid, replace(settings, scale="per_image", n_sigma=None), nproc, progress, "Levels")
        level = np.array([result.level for result in images], dtype=float)
        rows = rows_of_groups(np.array([result.series for result in images], dtype=int), len(series))
        series = [replace(one, scales=scaling.smooth(one.numbers, level[own])) for one, own in zip(series, rows)]
    if settings.n_sigma is None:
        return *_pass(series, grid, settings, nproc, progress, "Images"), Rejection()
    automatic = settings.n_sigma == "auto"
    first = _pass(
        series, grid, replace(settings, n_sigma=None), nproc, progress, "Images" if automatic else "First pass"
    )
    if automatic:
        limit, chi_sq = rejection.automatic_limit(first[0], settings.quanta)
        if limit is None:
            return *first, Rejection(None, chi_sq)
        settings = replace(settings, n_sigma=limit)
    found = _pass(series, grid, settings, nproc, progress, "Without outliers" if automatic else "Images", first[0])
    if automatic and part_rejected(found[1]) > rejection.MOST_REJECTED:
        return *first, Rejection(None, chi_sq, part_rejected(found[1]))
    return *found, Rejection(settings.n_sigma, chi_sq if automatic else None)


def part_rejected(images: Sequence[ImageResult]) -> float:
    """The part of the pixels inside of the grid that was rejected."""
    return sum(one.n_rejected for one in images) / max(1, sum(one.n_inside for one in images))


def _pass(series, grid, settings, nproc, progress, what, first=None):
    sums = make_sums(grid, shared=nproc > 1)
    items = [(k, i) for k, one in enumerate(series) for i in range(one.n_images)]
    global _mapper
    _mapper = Mapper(series, grid, settings, sums, first)
    results = []
    try:
        with single_thread(), ordered_map(min(nproc, len(items))) as mapped:
            for result in mapped(_map_image, items):
                if result.error is not None and not settings.allow_bad_images:
                    raise BadImage(f"image {result.number} of {series[result.series].identifier}: {result.error}")
                results.append(result)
                if progress:
                    progress(what, len(results), len(items))
    finally:
        _mapper = None
    if all(result.error is not None for result in results):
        raise BadImage(results[0].error if results else "there is none")
    return sums, results


# Forked processes find here what they have in common.
_mapper: Mapper | None = None


def _map_image(item: tuple[int, int]) -> ImageResult:
    return _mapper.map_image(*item)


class Mapper:
    """Adds images to sums; keeps the geometry of the last one."""

    def __init__(self, series, grid, settings, sums, first=None):
        self.series, self.grid, self.settings, self.sums, self.first = series, grid, settings, sums, first
        self.lock = multiprocessing.get_context("fork").Lock()
        self.edges = shell_edges(grid)
        self.voxel, self.runs = np.empty(MOST_RUNS, np.int32), np.empty((MOST_RUNS, 5))
        self.held, self.held_sums = np.full(N_HELD, -1, np.int32), np.empty((N_HELD, 4))
        self.limits = np.array([*grid.low, *grid.shape[:2]])
        self._seen = None
        self._see(series[0], 0)

    def _see(self, series: Series, i: int) -> None:
        """The pixels as the beam of the i-th image meets them; kept until detector or beam is another one."""
        beam = series.beam_at(i)
        key = series.detector, beam.s0.tobytes()
        if self._seen == key:
            return
        self._seen, self._masked = key, None
        self.pixels: Pixels = geometry.see(series.panels, beam, self.settings.corrections)
        s = np.linalg.norm(self.pixels.s1[:: max(1, len(self.pixels.s1) // 10000)] - beam.s0, axis=1)
        self.reach = 1.0 / max(s.min(), 1e-9), 1.0 / s.max()
        n = len(self.pixels.weight)
        self.shell = np.empty(n, np.uint8)
        kernels.shells_of(self.pixels.s1, beam.s0, self.edges, self.shell)
        self.in_range = (self.shell != kernels.NO_SHELL) & (self.pixels.weight > 0.0)
        if self.settings.excluded:
            s = np.linalg.norm(self.pixels.s1 - beam.s0.astype(np.float32), axis=1)
            for low, high in self.settings.excluded:
                self.in_range &= (s < low) | (s > high)
        self.axes = geometry.polarization_axes(beam)
        self.marks, self.address = np.empty(n, np.uint8), np.empty((0, 0), np.int32)

    def map_image(self, k: int, i: int) -> ImageResult:
        """Add the i-th image of series k."""
        series, settings = self.series[k], self.settings
        n_pixels = sum(panel.n_pixels for panel in series.panels)
        result = ImageResult(k, int(series.numbers[i]), time=float(series.times[i]), n_pixels=n_pixels)
        try:
            values = self._read(series, i)
        except BadImage as error:
            result.error = str(error)
            return result
        self._see(series, i)
        usable = self._usable(series)
        marks = self._mark(series, i)
        address = self._locate(series, i, values, usable, marks, result)
        self._profile(series, i, values, address, result)
        result.level = scaling.level(result.profile)
        result.scale = result.level if settings.scale == "per_image" else 1.0
        if settings.scale in ("smooth", "from_refl"):
            result.scale = float(series.scales[i])
        if result.error is None and not (np.isfinite(result.scale) and result.scale > 0.0):
            result.error = "it has no photons outside of Bragg peaks to scale it by"
        if result.error is not None:
            return result
        if len(self.shell) <= MANY_PIXELS or result.number % SPOTS_EVERY == 1:
            self._find_spots(series, i, values, address, result)
        self._accumulate(series, i, values, address, result)
        return result

    def _mark(self, series: Series, i: int) -> np.ndarray:
        """The pixels that Bragg peaks of any crystal cover, but for the box of its own; empty where there are none."""
        others = [(other, int(places[i])) for other, places in series.others if places[i] >= 0]
        if series.peaks is None and not others:
            return np.empty(0, np.uint8)
        self.marks[:] = 0
        for one, j in [(series, i), *others]:
            if one.peaks is not None:
                bragg.mark_also(one.peaks, one.z[j], one.panels, self.pixels.starts, self.marks)
            if one is not series and one.box > 0.0:
                for inverse in np.linalg.inv(one.settings[j]):
                    kernels.mark_near_integers(self.pixels.s1, inverse, -inverse @ one.s0[j], one.box, self.marks)
        return self.marks

    def _usable(self, series: Series) -> np.ndarray:
        """What kernels.locate takes for usable."""
        if self._masked is None or self._masked[0] is not series.usable:
            usable = np.uint8(1) if series.usable.size == 0 else (series.usable != 0).astype(np.uint8)
            self._masked = series.usable, np.where(self.in_range, usable, np.uint8(2))
        return self._masked[1]

    def _read(self, series: Series, i: int) -> list[np.ndarray]:
        values = list(series.read(i))
        if [value.shape for value in values] != [panel.shape for panel in series.panels]:
            raise BadImage("its panels have another number or size than those of the experiment")
        return [np.ascontiguousarray(value).ravel() for value in values]

    def _slices(self, series: Series):
        for number, panel in enumerate(series.panels):
            yield number, panel, slice(self.pixels.starts[number], self.pixels.starts[number + 1])

    def _locate(self, series, i, values, usable, marks, result) -> list[np.ndarray]:
        grid, found = self.grid, []
        n_steps = series.settings.shape[1]
        inverse = np.linalg.inv(series.settings[i])
        if self.address.shape[0] != n_steps or self.address.shape[1] != len(self.shell):
            self.address = np.empty((n_steps, len(self.shell)), np.int32)
        for number, panel, own in self._slices(series):
            address = self.address[:, own]
            for step in range(n_steps):
                to_h = inverse[step]
                h_0 = -to_h @ series.s0[i]
                counts = kernels.locate(
                    self.pixels.s1[own],
                    usable[own],
                    values[number],
                    *panel.trusted,
                    to_h,
                    h_0,
                    grid.to_voxel @ to_h,
                    grid.to_voxel @ h_0,
                    series.box,
                    marks[own],
                    self.limits,
                    grid.row_low,
                    grid.row_high,
                    grid.row_base,
                    address[step],
                )
                if step == 0:
                    for name, n in zip(("n_inside", "n_bragg", "n_masked", "n_untrusted"), counts):
                        setattr(result, name, getattr(result, name) + n)
            found.append(address)
        if result.n_inside == 0:
            near, far = self.reach
            result.error = (
                f"no pixel that can be used is inside of the limits of resolution, {grid.d_max:.3g} to d_min="
                f"{grid.d_min:.3g} Angstrom, while the detector sees {near:.3g} to {far:.3g}"
            )
        return found

    def _profile(self, series, i, values, address, result) -> None:
        n, m = self.axes
        for number, panel, own in self._slices(series):
            kernels.profile(
                address[number][0],
                values[number],
                self.pixels.s1[own],
                self.pixels.weight[own],
                self.shell[own],
                n,
                m,
                panel.gain,
                panel.pedestal,
                series.background[own],
                result.time,
                own.start,
                max(1, len(self.shell) // PROFILE_PIXELS),
                result.profile,
            )

    def _find_spots(self, series, i, values, address, result) -> None:
        """The offset of the fractional indices of strong spots; each reflection of an image counts once."""
        exposure = result.profile[:, 1]
        mean = np.divide(result.profile[:, 0], exposure, out=np.zeros(N_SHELLS), where=exposure > 0.0)
        inverse = np.linalg.inv(series.middle[i])
        h, excess = [], []
        for number, panel, own in self._slices(series):
            strong = np.empty(MOST_STRONG, np.int64)
            n_strong = kernels.strong_pixels(
                address[number][0],
                values[number],
                self.pixels.weight[own],
                self.shell[own],
                panel.gain,
                panel.pedestal,
                result.time,
                mean,
                series.noise[own],
                STRONG_SIGMA,
                strong,
            )
            strong = strong[:n_strong]
            h.append((self.pixels.s1[own][strong].astype(float) - series.s0[i]) @ inverse.T)
            level = mean[self.shell[own][strong]] * result.time * self.pixels.weight[own][strong]
            excess.append((values[number][strong] - panel.pedestal) / panel.gain - level)
        h, excess = np.concatenate(h), np.concatenate(excess)
        nearest = np.rint(h)
        near = np.all(np.abs(h - nearest) < SPOT_RANGE, axis=1) & np.any(nearest != 0.0, axis=1)
        h, nearest, excess = h[near], nearest[near], excess[near]
        if not len(h):
            return
        _, spot, n_pixels = np.unique(nearest, axis=0, return_inverse=True, return_counts=True)
        weight = np.bincount(spot, excess)
        offsets = np.stack([np.bincount(spot, excess * d) / weight for d in (h - nearest).T], axis=1)
        offsets = offsets[n_pixels > 1]
        result.n_spots = len(offsets)
        result.offset = offsets.sum(axis=0)
        result.offset_sq = (offsets**2).sum(axis=0)

    def _accumulate(self, series, i, values, address, result) -> None:
        """Add the pixels of an image to the sums, but for outliers where there was a first pass."""
        settings = self.settings
        factor = result.time * result.scale
        offset = self._radial_offset(result)
        half = in_first_half(settings.half_sets, series.identifier, result.number)
        dwell = self._dwell(series, i) if series.background.size else 1.0
        if self.first is not None:
            self._reject_outliers(series, values, address, offset, factor, result)
        for number, panel, own in self._slices(series):
            first = 0
            while first < panel.n_pixels:
                if series.background.size or series.noise.size or offset.size or len(address[number]) > 1:
                    n, first = kernels.gather_shared(
                        address[number],
                        values[number],
                        self.pixels.weight[own],
                        self.shell[own],
                        offset,
                        panel.gain,
                        panel.pedestal,
                        series.background[own],
                        series.background_variance[own],
                        series.noise[own],
                        dwell,
                        factor,
                        result.time,
                        first,
                        self.voxel,
                        self.runs,
                    )
                else:
                    n, first = kernels.gather(
                        address[number][0],
                        values[number],
                        self.pixels.weight[own],
                        panel.gain,
                        panel.pedestal,
                        factor,
                        first,
                        self.held,
                        self.held_sums,
                        self.voxel,
                        self.runs,
                    )
                with self.lock:
                    kernels.add(self.voxel, self.runs, n, settings.quanta, half, self.sums)

    def _radial_offset(self, result) -> np.ndarray:
        """What is taken off each shell of an image (kernels.NO_SHELL + 1,), relative to its scale; empty if nothing."""
        if not self.settings.radial_offset:
            return np.empty(0)
        exposure = result.profile[:, 1] * result.scale
        offset = np.zeros(kernels.NO_SHELL + 1)
        offset[:N_SHELLS] = np.divide(result.profile[:, 0], exposure, out=np.zeros(N_SHELLS), where=exposure > 0.0)
        return offset

    def _reject_outliers(self, series, values, address, offset, factor, result) -> None:
        """Take the addresses from pixels that are far from their voxel in the first pass, and count these."""
        for number, panel, own in self._slices(series):
            result.n_rejected += kernels.reject(
                address[number],
                values[number],
                self.pixels.weight[own],
                self.shell[own],
                offset,
                panel.gain,
                panel.pedestal,
                series.background[own],
                series.noise[own],
                factor,
                result.time,
                self.settings.quanta,
                self.settings.n_sigma,
                self.first,
            )

    def _dwell(self, series: Series, i: int) -> float:
        """
        How many images a pixel stays in a voxel, at least 1: the background that is taken off there is one measurement.

        By Cauchy's formula a voxel is crossed in 1 / sum |dx| images, dx the voxel coordinates moved in one.
        """
        other = i + 1 if i + 1 < series.n_images else i - 1
        if other < 0:
            return 1.0
        step = np.linalg.inv(series.middle[other]) - np.linalg.inv(series.middle[i])
        s = self.pixels.s1[:: max(1, len(self.pixels.s1) // 1000)].astype(float) - series.s0[i]
        moved = np.abs(s @ (self.grid.to_voxel @ step).T).sum(axis=1) / abs(series.z[other] - series.z[i])
        return float(np.clip(np.mean(1.0 / np.maximum(moved, 1.0 / series.n_images)), 1.0, series.n_images))


def in_first_half(half_sets: str, identifier: str, number: int) -> bool:
    """
    Whether an image belongs to the first half: of each experiment every other image, beginning by a hash of its name,
    so that stills, which are image 1 of an experiment each, are halved, too; or half of all by a hash of their name and
    number.  Nothing but the image itself decides: neither the order of experiments nor adding maps changes it.
    """
    from hashlib import sha256

    if half_sets == "random":
        return bool(sha256(f"{identifier} {number}".encode()).digest()[0] & 1)
    return half_sets == "images" and (number + sha256(identifier.encode()).digest()[0]) % 2 == 1
