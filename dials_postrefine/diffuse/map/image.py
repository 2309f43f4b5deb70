"""
An image -> the sums: its pixels are located (kernels.locate), its level is taken (scaling.py), and it is added to the
sums of its voxels (gathering.py).

What is kept of it is an ImageResult with its profile, by shells of |s|: with them the statistics of images, and the
residual of the azimuth that a wrong polarisation leaves, are found later.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from dials_postrefine.diffuse import BadImage
from dials_postrefine.diffuse.map import bragg, gathering, geometry, kernels, scaling
from dials_postrefine.diffuse.map.columns import make_reached, make_sums
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.kernels import PanelImage, Placement
from dials_postrefine.diffuse.map.records import N_SHELLS, ImageResult, MappingSettings, shell_edges
from dials_postrefine.diffuse.map.series import Series

# How many sums of voxels are gathered before they are added to those of the map.
MOST_GATHERED = 1 << 18
# How many voxels are kept at hand where neighbours in one row of pixels meet those of the next.
N_PENDING = 1 << 13
# For pixels of Bragg peaks, of which the mean offset of indices is taken.
STRONG_SIGMA = 8.0
MOST_STRONG = 200_000
# So many pixels make the profile of an image.
PROFILE_PIXELS = 500_000
# Of a detector with more pixels strong spots are sought on one image in four, which are enough.
MANY_PIXELS, SPOTS_EVERY = 2_000_000, 4
SPOT_RANGE = 0.35


class ImageMapper:
    """
    Adds images to sums; keeps the geometry of the last one.

    Parameters
    ----------
    series : list of Series
    grid : Grid
    settings : MappingSettings
    sums : ndarray (n_voxels, N_SUMS) of int64
        Added to, by all processes that share them; a copy by pickle, for a rank of MPI, begins with sums of its own.
    first : ndarray (n_voxels, N_SUMS) of int64, or None
        The sums of a first pass, against which outliers are rejected.
    reached : ndarray (m,) of int64
        columns.make_reached: of voxels that were added to since it was cleared; empty where nobody asks.
    """

    def __init__(
        self,
        series: list[Series],
        grid: Grid,
        settings: MappingSettings,
        sums: np.ndarray,
        first: np.ndarray | None = None,
        reached: np.ndarray = np.empty(0, np.int64),
    ) -> None:
        self.series, self.grid, self.settings, self.sums, self.first = series, grid, settings, sums, first
        self.reached = reached
        self.lock = multiprocessing.get_context("fork").Lock()
        self.edges = shell_edges(grid)
        self.rows = grid.rows
        self.gathered = gathering.Gathered(np.empty(MOST_GATHERED, np.int32), np.empty((MOST_GATHERED, 5)))
        self.pending = gathering.Pending(np.full(N_PENDING, -1, np.int32), np.empty((N_PENDING, 4)))
        self._prepared_for: tuple[str, bytes] | None = None
        self._prepare(series[0], 0)

    def __reduce__(self):
        return _copy, (self.series, self.grid, self.settings, self.first, self.reached.size > 0)

    def _prepare(self, series: Series, i: int) -> None:
        """The geometry of the pixels with the beam of the i-th image; kept until detector or beam is another one."""
        beam = series.beam_at(i)
        key = series.detector, beam.s0.tobytes()
        if self._prepared_for == key:
            return
        self._prepared_for, self._masked = key, None
        self.pixels = geometry.make_pixels(series.panels, beam, self.settings.corrections)
        self.parts = [slice(start, stop) for start, stop in zip(self.pixels.starts, self.pixels.starts[1:])]
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
        """
        Add an image to the sums.

        Parameters
        ----------
        k, i : int
            The i-th image of series k.

        Returns
        -------
        ImageResult
            With its error where it could not be used; then nothing was added.
        """
        series, settings = self.series[k], self.settings
        n_pixels = sum(panel.n_pixels for panel in series.panels)
        result = ImageResult(k, int(series.numbers[i]), time=float(series.times[i]), n_pixels=n_pixels)
        try:
            values = self._read(series, i)
        except BadImage as error:
            result.error = str(error)
            return result
        self._prepare(series, i)
        panels = self._panel_images(series, values, result.time)
        address = self._locate(series, i, panels, result)
        self._profile(panels, address, result)
        result.level = scaling.level(result.profile)
        result.scale = result.level if settings.scale == "per_image" else 1.0
        if settings.scale in ("smooth", "from_refl"):
            result.scale = float(series.scales[i])
        if result.error is None and not (np.isfinite(result.scale) and result.scale > 0.0):
            result.error = "it has no photons outside of Bragg peaks to scale it by"
        if result.error is not None:
            return result
        if len(self.shell) <= MANY_PIXELS or result.number % SPOTS_EVERY == 1:
            self._find_spots(series, i, panels, address, result)
        self._accumulate(series, i, panels, address, result)
        return result

    def _read(self, series: Series, i: int) -> list[np.ndarray]:
        values = list(series.read(i))
        if [value.shape for value in values] != [panel.shape for panel in series.panels]:
            raise BadImage("its panels have another number or size than those of the experiment")
        return [np.ascontiguousarray(value).ravel() for value in values]

    def _panel_images(self, series: Series, values: Sequence[np.ndarray], time: float) -> list[PanelImage]:
        """Each panel, as the compiled loops take it."""
        return [
            PanelImage(
                values=values[number],
                gain=float(panel.gain),
                pedestal=float(panel.pedestal),
                low=float(panel.trusted[0]),
                high=float(panel.trusted[1]),
                s1=self.pixels.s1[part],
                weight=self.pixels.weight[part],
                shell=self.shell[part],
                time=time,
                background=series.background[part],
                background_variance=series.background_variance[part],
                noise=series.noise[part],
            )
            for number, (panel, part) in enumerate(zip(series.panels, self.parts))
        ]

    def _mark(self, series: Series, i: int) -> np.ndarray:
        """The pixels that Bragg peaks of any crystal cover, but for the box of its own; empty where there are none."""
        others = [(other, int(places[i])) for other, places in series.others if places[i] >= 0]
        if series.peaks is None and not others:
            return np.empty(0, np.uint8)
        self.marks[:] = 0
        for one, j in [(series, i), *others]:
            if one.peaks is not None:
                bragg.mark(one.peaks, one.z[j], one.panels, self.pixels.starts, self.marks)
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

    def _locate(self, series: Series, i: int, panels: list[PanelImage], result: ImageResult) -> list[np.ndarray]:
        """The addresses (n_steps, n) of the pixels of each panel, and their numbers in the result."""
        usable, marks, found = self._usable(series), self._mark(series, i), []
        inverse = np.linalg.inv(series.settings[i])
        if self.address.shape != (len(inverse), len(self.shell)):
            self.address = np.empty((len(inverse), len(self.shell)), np.int32)
        for panel, part in zip(panels, self.parts):
            address = self.address[:, part]
            for step, to_h in enumerate(inverse):
                h_0 = -to_h @ series.s0[i]
                to_voxel = self.grid.to_voxel
                placement = Placement(to_h, h_0, to_voxel @ to_h, to_voxel @ h_0, float(series.box))
                counts = kernels.locate(panel, usable[part], marks[part], placement, self.rows, address[step])
                if step == 0:
                    for name, n in zip(("n_inside", "n_bragg", "n_masked", "n_untrusted"), counts):
                        setattr(result, name, getattr(result, name) + n)
            found.append(address)
        if result.n_inside == 0:
            near, far = self.reach
            result.error = (
                f"no pixel that can be used is inside of the limits of resolution, {self.grid.d_max:.3g} to d_min="
                f"{self.grid.d_min:.3g} Angstrom, while the detector sees {near:.3g} to {far:.3g}"
            )
        return found

    def _profile(self, panels: list[PanelImage], address: list[np.ndarray], result: ImageResult) -> None:
        every = max(1, len(self.shell) // PROFILE_PIXELS)
        for panel, part, addresses in zip(panels, self.parts, address):
            kernels.profile(addresses[0], panel, self.axes, part.start, every, result.profile)

    def _find_spots(
        self, series: Series, i: int, panels: list[PanelImage], address: list[np.ndarray], result: ImageResult
    ) -> None:
        """The offset of the fractional indices of strong spots; each reflection of an image counts once."""
        exposure = result.profile[:, 1]
        mean = np.divide(result.profile[:, 0], exposure, out=np.zeros(N_SHELLS), where=exposure > 0.0)
        inverse = np.linalg.inv(series.middle[i])
        h, excess = [], []
        for panel, addresses in zip(panels, address):
            strong = np.empty(MOST_STRONG, np.int64)
            strong = strong[: kernels.strong_pixels(addresses[0], panel, mean, STRONG_SIGMA, strong)]
            h.append((panel.s1[strong].astype(float) - series.s0[i]) @ inverse.T)
            level = mean[panel.shell[strong]] * result.time * panel.weight[strong]
            excess.append((panel.values[strong] - panel.pedestal) / panel.gain - level)
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

    def _accumulate(
        self, series: Series, i: int, panels: list[PanelImage], address: list[np.ndarray], result: ImageResult
    ) -> None:
        """Add the pixels of an image to the sums, but for outliers where there was a first pass."""
        settings, quanta = self.settings, self.settings.quanta
        factor = result.time * result.scale
        offset = self._radial_offset(result)
        half = in_first_half(settings.half_sets, series.identifier, result.number)
        dwell = self._dwell(series, i) if series.background.size else 1.0
        if self.first is not None:  # of all panels before any is added
            for panel, addresses in zip(panels, address):
                result.n_rejected += gathering.reject(
                    addresses, panel, offset, factor, quanta, settings.n_sigma, self.first
                )
        plain = not (series.background.size or series.noise.size or offset.size or len(self.address) > 1)
        for panel, addresses in zip(panels, address):
            pixel = 0
            while pixel < addresses.shape[1]:
                if plain:
                    n, pixel = gathering.gather(addresses[0], panel, factor, pixel, self.pending, self.gathered)
                else:
                    n, pixel = gathering.gather_shared(addresses, panel, offset, dwell, factor, pixel, self.gathered)
                with self.lock:
                    gathering.add(self.gathered, n, quanta, half, self.sums, self.reached)

    def _radial_offset(self, result: ImageResult) -> np.ndarray:
        """What is taken off each shell of an image (kernels.NO_SHELL + 1,), relative to its scale; empty if nothing."""
        if not self.settings.radial_offset:
            return np.empty(0)
        exposure = result.profile[:, 1] * result.scale
        offset = np.zeros(kernels.NO_SHELL + 1)
        offset[:N_SHELLS] = np.divide(result.profile[:, 0], exposure, out=np.zeros(N_SHELLS), where=exposure > 0.0)
        return offset

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


def _copy(
    series: list[Series], grid: Grid, settings: MappingSettings, first: np.ndarray | None, asked: bool
) -> ImageMapper:
    """Its mapper with sums of nothing."""
    reached = make_reached(grid if asked else None, shared=True)
    return ImageMapper(series, grid, settings, make_sums(grid, shared=True), first, reached)


def in_first_half(half_sets: str, identifier: str, number: int) -> bool:
    """
    Whether an image belongs to the first half: of each experiment every other image, beginning by a hash of its name,
    so that stills, which are image 1 of an experiment each, are halved, too; or half of all by a hash of their name and
    number.  Nothing but the image itself decides: neither the order of experiments nor adding maps changes it.

    Parameters
    ----------
    half_sets : str
        "images" or "random"; for "friedel" there is no half here.
    identifier : str
        Of the series.
    number : int
        Of the image.

    Returns
    -------
    bool
    """
    if half_sets == "random":
        return bool(sha256(f"{identifier} {number}".encode()).digest()[0] & 1)
    return half_sets == "images" and (number + sha256(identifier.encode()).digest()[0]) % 2 == 1
