"""
Simulated image series of a known intensity in reciprocal space: to test and time dials.diffuse_map, and for the demo.

In: the models, from `make_experiments` or from anywhere else, and an intensity I(h) in photons / (s sr), a function of
fractional Miller indices (n, 3) -> (n,) such as those of dials_postrefine.simulate.diffuse.  Out: expected counts as
arrays (`expected_image`), counts (`simulate_image`), experiments that serve the images from memory through dxtbx
(`simulate_in_memory`), or Pilatus mini-CBF files with the .expt beside them (`write_series`).

The expected counts are the integral in the docstring of dials_postrefine.simulate.diffuse, by the midpoint rule over
n_sub x n_sub parts of each pixel and n_phi parts of the exposure.  Everything that concerns geometry comes from dxtbx
itself: `Panel.pixel_to_millimeter`, with the panel's parallax correction, and `Panel.get_lab_coord` for the corners of
the parts, whose mean is the direction of the part and whose area vector its solid angle (so the solid angle of a thick
sensor is that of the rays which are counted in the pixel).  Pixel (i, j) reaches from i to i + 1 and from j to j + 1.
At the rotation angle phi

    h = (S R(phi) F A(phi))^-1 s,    s = r / (|r| wavelength) - s0,

where S and F are the goniometer's setting and fixed rotation, R turns by phi about its axis, and A = U B, linear
between the scan points of a scan-varying crystal.  A still has no goniometer: h = A^-1 s.

The noise of each image is that of a numpy Generator of its own, keyed by (seed, experiment, image), so that it does not
depend on which other images there are.  Counts become values by the gain and the pedestal of the panel, and -1 in the
panel's untrusted rectangles (the gaps between modules).

Speed: an accurate image of 48000 pixels takes about 0.05 s, and its geometry 0.2 s once.  For large images that need no
accuracy (benchmarks), `ImageOptions(step=8)` computes every 8th pixel and draws a bicubic spline through these, for
smooth intensities only: 0.3 s for 6 million pixels with noise and file.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cctbx import sgtbx, uctbx
from cctbx.eltbx import attenuation_coefficient
from dxtbx import flumpy
from dxtbx.ext import compress
from dxtbx.imageset import ImageSequence, ImageSet, ImageSetData, ImageSetFactory, MemReader
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ParallaxCorrectedPxMmStrategy,
    Scan,
    SimplePxMmStrategy,
)

from dials_postrefine.simulate.diffuse import efficiency, polarisation, solid_angles
from dials_postrefine.simulate.stills import rotation_matrices

Intensity = Callable[[np.ndarray], np.ndarray]

DETECTORS = ("flat", "tilted", "reversed", "ccd", "tiles")
GONIOMETERS = ("single", "multi", "none")
MODULE = (487, 195)  # pixels of a module of a Pilatus, fast and slow
GAP = (7, 17)  # pixels between them
CUTOFF = 1_000_000  # counts


@dataclass(frozen=True)
class SeriesOptions:
    """
    The models of a series.  Angles in degrees, lengths in mm in the laboratory and in A in the crystal.

    detector: "flat", one panel of thick silicon normal to z, as an untilted Pilatus; "tilted", the same on a two-theta
    arm (25 degrees about x) and slightly askew; "reversed", its slow axis turned round so that fast x slow points to
    the source; "ccd", without thickness, with the gain and the pedestal below; "tiles", 2 x 2 panels tilted
    differently.  With `modules`, (fast, slow) numbers of Pilatus modules, the size of the image follows, its gaps are
    -1, and "tiles" makes each module a panel.
    goniometer: "single", about x; "multi", three axes of which the second turns, hence with a setting and a fixed
    rotation; "none", stills, an experiment each, of random orientations.
    """

    detector: str = "flat"
    goniometer: str = "single"
    scan_varying: bool = False
    n_images: int = 10
    first_image: int = 1
    start: float = 0.0
    oscillation: float = 0.5
    exposure: float = 1.0  # s
    wavelength: float = 1.0
    beam_tilt: float = 0.3  # of s0 off -z
    polarization_fraction: float = 0.95
    image_size: tuple[int, int] = (200, 240)  # pixels, fast and slow; all tiles together
    pixel_size: float = 0.4
    distance: float = 80.0
    thickness: float = 0.45
    modules: tuple[int, int] | None = None
    gain: float = 1.0  # of "ccd"
    pedestal: float = 0.0
    unit_cell: tuple[float, ...] = (18.0, 22.0, 27.0, 90.0, 90.0, 90.0)
    space_group: str = "P212121"
    drift: float = 0.6  # of the orientation of a scan-varying crystal over the scan
    cell_drift: float = 0.004  # relative
    seed: int = 0  # of the orientations
    name: str = "sweep"  # the experiment's identifier; stills are numbered name-0 and so on

    def __post_init__(self):
        for name, allowed in (("detector", DETECTORS), ("goniometer", GONIOMETERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")

    @classmethod
    def pilatus_6m(cls, **changes) -> SeriesOptions:
        """2463 x 2527 pixels of 0.172 mm at 250 mm, a protein's cell; `changes` are other options."""
        defaults = {
            "modules": (5, 12),
            "pixel_size": 0.172,
            "distance": 250.0,
            "beam_tilt": 0.0,
            "unit_cell": (60.0, 70.0, 80.0, 90.0, 90.0, 90.0),
        }
        return cls(**{**defaults, **changes})


@dataclass(frozen=True)
class ImageOptions:
    """What an image is made of.  A correction switched off is absent from the simulation, not corrected for."""

    n_sub: int = 2  # parts of a pixel along each axis
    n_phi: int = 4  # parts of an exposure; a still or a slice of no width has one
    step: int = 1  # > 1: every step-th pixel, and a bicubic spline through them
    exposure: float | None = None  # s; that of the scan, and 1 for a still, unless given
    solid_angle: bool = True  # False: that of a pixel at the foot of the normal from the sample, for all of the panel
    polarisation: bool = True
    efficiency: bool = True
    mu_air: float = 0.0  # 1/mm


@dataclass
class PanelSamples:
    """The sample points of a panel; they depend on detector and beam only, so a series computes them once."""

    s: np.ndarray  # (n, 3) 1/A, laboratory
    weight: np.ndarray  # (n,) sr, dOmega P eps air
    shape: tuple[int, int, int, int]  # n as (slow pixels, slow parts, fast pixels, fast parts)
    pixels: tuple[np.ndarray, np.ndarray]  # slow and fast indices of the pixels
    size: tuple[int, int]  # of the panel, slow and fast


# Models


def make_experiments(options: SeriesOptions) -> ExperimentList:
    """Experiments without images: one, or with goniometer="none" one for each still; beam and detector are shared."""
    beam = make_beam(options)
    detector = make_detector(options)
    space_group = sgtbx.space_group_info(options.space_group).group()
    rng = np.random.default_rng((options.seed, 1))
    experiments = ExperimentList()
    if options.goniometer == "none":
        for i in range(options.n_images):
            crystal = _crystal(_random_rotation(rng) @ _orthogonalisation(options.unit_cell), space_group)
            experiments.append(
                Experiment(identifier=f"{options.name}-{i}", beam=beam, detector=detector, crystal=crystal)
            )
        return experiments
    a = _random_rotation(rng) @ _orthogonalisation(options.unit_cell)
    crystal = _crystal(a, space_group)
    if options.scan_varying:
        axis = np.array([0.5, -0.6, 0.62])
        scan_points = []
        for x in np.linspace(0.0, 1.0, options.n_images + 1):
            u = rotation_matrices(math.radians(options.drift) * (x + 0.3 * math.sin(2 * math.pi * x)) * axis)[0]
            strain = 1.0 + options.cell_drift * x * np.array([1.0, -0.5, 0.3])
            # along the cell's own axes, so that angles of 90 degrees stay
            scan_points.append(u @ a @ np.diag(1.0 / strain))
        crystal.set_A_at_scan_points([tuple(map(float, m.ravel())) for m in scan_points])
    image_range = (options.first_image, options.first_image + options.n_images - 1)
    scan = Scan(image_range, (options.start, options.oscillation))
    scan.set_exposure_times([options.exposure] * options.n_images)
    experiments.append(
        Experiment(
            identifier=options.name,
            beam=beam,
            detector=detector,
            crystal=crystal,
            goniometer=make_goniometer(options),
            scan=scan,
        )
    )
    return experiments


def make_beam(options: SeriesOptions) -> Beam:
    """A beam along -z, or off it by the tilt about (1, 1, 0), and polarised in the plane whose normal is then y."""
    tilt = math.radians(options.beam_tilt) / math.sqrt(2.0)
    r = rotation_matrices([tilt, tilt, 0.0])[0]
    beam = Beam(tuple(map(float, r @ (0.0, 0.0, -1.0 / options.wavelength))))
    beam.set_wavelength(options.wavelength)
    beam.set_polarization_normal(tuple(map(float, r @ (0.0, 1.0, 0.0))))
    beam.set_polarization_fraction(options.polarization_fraction)
    return beam


def make_goniometer(options: SeriesOptions):
    """One axis (1, 0, 0), or three with the second turning: phi (fixed rotation), chi (scan), omega (setting)."""
    if options.goniometer == "single":
        return GoniometerFactory.single_axis()
    from scitbx.array_family import flex

    axes = flex.vec3_double([(0.8, 0.6, 0.0), (0.914, 0.279, -0.297), (1.0, 0.0, 0.0)])
    angles = flex.double([35.0, options.start, -20.0])
    return GoniometerFactory.multi_axis(axes, angles, flex.std_string(["PHI", "CHI", "OMEGA"]), 1)


def make_detector(options: SeriesOptions) -> Detector:
    """The detector of `SeriesOptions`, about the point where z meets it."""
    size = options.image_size
    if options.modules:
        size = tuple(n * m + (n - 1) * g for n, m, g in zip(options.modules, MODULE, GAP))
    width, height = (n * options.pixel_size for n in size)
    # The laboratory frame of the image before it is tilted: x fast, y slow, the beam's foot off the middle
    corner = np.array([-0.48 * width, 0.53 * height, -options.distance])
    fast, slow = np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])
    turn = np.eye(3)
    if options.detector == "tilted":
        turn = rotation_matrices([0.0, 0.0, 0.03])[0] @ rotation_matrices([math.radians(25.0), 0.05, 0.0])[0]
    elif options.detector == "reversed":
        slow, corner = -slow, corner - (0.0, height, 0.0)

    detector = Detector()
    for number, (x, y, nx, ny) in enumerate(_tiles(options, size)):
        tilt = np.eye(3)
        if options.detector == "tiles":  # towards the sample, and each a little askew
            tilt = rotation_matrices([0.1 - 0.2 * (y > 0), 0.12 - 0.22 * (x > 0), 0.01 * (number % 3 - 1)])[0]
        origin = corner + options.pixel_size * (x * fast + y * slow)
        panel = detector.add_panel()
        panel.set_name(f"Panel{number}")
        panel.set_frame(*(tuple(map(float, turn @ v)) for v in (tilt @ fast, tilt @ slow, origin)))
        panel.set_image_size((nx, ny))
        panel.set_pixel_size((options.pixel_size, options.pixel_size))
        panel.set_raw_image_offset((x, y) if options.detector == "tiles" else (0, 0))
        # between two counts, as dxtbx of 3.12 leaves out the limits of the range and the newest includes them
        panel.set_trusted_range((-0.5, CUTOFF - 0.5))
        if options.detector == "ccd":
            panel.set_type("SENSOR_CCD")
            panel.set_gain(options.gain)
            panel.set_pedestal(options.pedestal)
            panel.set_px_mm_strategy(SimplePxMmStrategy())
            continue
        mu = attenuation_coefficient.get_table("Si").mu_at_angstrom(options.wavelength) / 10.0
        panel.set_type("SENSOR_PAD")
        panel.set_material("Si")
        panel.set_mu(mu)
        panel.set_thickness(options.thickness)
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(mu, options.thickness))
        if options.modules and options.detector != "tiles":
            for rectangle in _gaps(options.modules, size):
                panel.add_mask(*rectangle)
    return detector


def _tiles(options: SeriesOptions, size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """First pixel and size of each panel in an image, row by row as FormatCBFMiniPilatus takes a multi-panel image."""
    if options.detector != "tiles":
        yield 0, 0, *size
        return
    numbers, tile, gap = options.modules, MODULE, GAP
    if not numbers:
        numbers, gap = (2, 2), (0, 0)
        tile = (size[0] // 2, size[1] // 2)
    for j in range(numbers[1]):
        for i in range(numbers[0]):
            yield i * (tile[0] + gap[0]), j * (tile[1] + gap[1]), tile[0], tile[1]


def _gaps(modules: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The rectangles (f0, s0, f1, s1), ends excluded, between the modules of a Pilatus."""
    for i in range(1, modules[0]):
        first = i * MODULE[0] + (i - 1) * GAP[0]
        yield first, 0, first + GAP[0], size[1]
    for j in range(1, modules[1]):
        first = j * MODULE[1] + (j - 1) * GAP[1]
        yield 0, first, size[0], first + GAP[1]


def _orthogonalisation(unit_cell: Sequence[float]) -> np.ndarray:
    """B (3, 3): columns a*, b*, c*, orthogonal by the convention of cctbx."""
    return np.array(uctbx.unit_cell(tuple(unit_cell)).fractionalization_matrix()).reshape(3, 3).T


def _crystal(a: np.ndarray, space_group) -> Crystal:
    return Crystal(*(tuple(map(float, v)) for v in np.linalg.inv(a)), space_group)


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def laue_operators(space_group) -> np.ndarray:
    """The rotations (g, 3, 3) of the Laue group as W in h -> W h, for the intensities of simulate_diffuse."""
    group = space_group.build_derived_reflection_intensity_group(anomalous_flag=False)
    # cctbx turns a row of indices, h R; the column that it is here is turned by the transpose of R
    operators = {tuple(op.r().as_double()) for op in group.all_ops()}
    return np.array(sorted(operators)).reshape(-1, 3, 3).transpose(0, 2, 1)


def metric(crystal) -> np.ndarray:
    """G* (3, 3) of the static crystal: |s|^2 = h.G*.h."""
    a = np.array(crystal.get_A()).reshape(3, 3)
    return a.T @ a


def intensity_of(kind, crystal, **parameters):
    """An intensity of simulate_diffuse, such as `SmoothIntensity`, with the cell and the Laue group of a crystal."""
    return kind(metric(crystal), laue_operators(crystal.get_space_group()), **parameters)


# Expected counts


def setting_matrix(experiment: Experiment, z: float) -> np.ndarray:
    """S R(phi) F A (3, 3) at z, in images from that of index 0 (as xyzcal.px of DIALS); A of a still."""
    crystal, goniometer, scan = experiment.crystal, experiment.goniometer, experiment.scan
    a = np.array(crystal.get_A()).reshape(3, 3)
    if goniometer is None or scan is None:
        return a
    if crystal.num_scan_points > 0:
        x = z - scan.get_array_range()[0]
        i = min(max(int(math.floor(x)), 0), crystal.num_scan_points - 2)
        first, second = (np.array(crystal.get_A_at_scan_point(k)).reshape(3, 3) for k in (i, i + 1))
        a = first + (x - i) * (second - first)
    phi = math.radians(scan.get_angle_from_array_index(z))
    setting, fixed = (
        np.array(m).reshape(3, 3) for m in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    axis = np.array(goniometer.get_rotation_axis_datum())
    axis /= np.linalg.norm(axis)  # those of beamlines are given to three digits, and dxtbx does not normalise them all
    return setting @ rotation_matrices(phi * axis)[0] @ fixed @ a


def lab_coordinates(panel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Laboratory coordinates (n, 3) in mm of the pixel coordinates x (fast) and y (slow), by dxtbx, with parallax."""
    pixels = flumpy.vec_from_numpy(np.ascontiguousarray(np.column_stack([x, y]), dtype=float))
    return flumpy.to_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(pixels)))


def miller_index_at(experiment: Experiment, panel: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fractional Miller indices (n, 3) of the pixel coordinates x, y (n,) at z (n,) as in `setting_matrix`."""
    s0 = np.array(experiment.beam.get_s0())
    r = lab_coordinates(experiment.detector[panel], x, y)
    s = r * (np.linalg.norm(s0) / np.linalg.norm(r, axis=1))[:, None] - s0
    return np.array([np.linalg.solve(setting_matrix(experiment, float(z_i)), s_i) for z_i, s_i in zip(z, s)])


def sample_panel(panel, beam, options: ImageOptions = ImageOptions()) -> PanelSamples:
    """The sample points of a panel and their weights."""
    nx, ny = panel.get_image_size()
    pixels = [np.unique(np.append(np.arange(0, n, options.step), n - 1)) for n in (ny, nx)]
    parts = np.arange(options.n_sub + 1) / options.n_sub
    y, x = ((p[:, None] + parts).ravel() for p in pixels)
    n_y, n_x, n_sub = len(pixels[0]), len(pixels[1]), options.n_sub
    r = lab_coordinates(panel, np.tile(x, len(y)), np.repeat(y, len(x))).reshape(n_y, n_sub + 1, n_x, n_sub + 1, 3)
    low, high = slice(None, -1), slice(1, None)
    corners = r[:, low, :, low], r[:, low, :, high], r[:, high, :, high], r[:, high, :, low]

    centre = (0.25 * sum(corners)).reshape(-1, 3)
    distance = np.linalg.norm(centre, axis=1)
    s1_hat = centre / distance[:, None]
    if options.solid_angle:
        weight = solid_angles(corners).ravel()
    else:
        weight = np.full(len(centre), math.prod(panel.get_pixel_size()) / (panel.get_distance() * n_sub) ** 2)
    if options.polarisation:
        weight = weight * polarisation(
            s1_hat,
            np.array(beam.get_s0()),
            np.array(beam.get_polarization_normal()),
            beam.get_polarization_fraction(),
        )
    if options.efficiency:
        weight = weight * efficiency(panel.get_mu(), panel.get_thickness(), s1_hat @ np.array(panel.get_normal()))
    weight = weight * np.exp(-options.mu_air * distance)
    s0 = np.array(beam.get_s0())
    return PanelSamples(
        s=s1_hat * np.linalg.norm(s0) - s0,
        weight=weight,
        shape=(n_y, n_sub, n_x, n_sub),
        pixels=(pixels[0], pixels[1]),
        size=(ny, nx),
    )


def sample_detector(experiment: Experiment, options: ImageOptions = ImageOptions()) -> list[PanelSamples]:
    """`sample_panel` of every panel."""
    return [sample_panel(panel, experiment.beam, options) for panel in experiment.detector]


def expected_image(
    experiment: Experiment,
    intensity: Intensity | None,
    number: int = 0,
    options: ImageOptions = ImageOptions(),
    *,
    background: Intensity | None = None,
    scale: float = 1.0,
    samples: list[PanelSamples] | None = None,
) -> list[np.ndarray]:
    """
    Expected counts of image `number`, from 0, of an experiment: an array (slow, fast) for each panel.

    intensity: I(h), times `scale`; None (or an experiment without a crystal) for an empty beam.  background: b(s) of
    laboratory s (n, 3) in 1/A, not times the scale.  samples: of `sample_detector`, if these are at hand.
    """
    samples = samples or sample_detector(experiment, options)
    scan = experiment.scan
    turning = scan is not None and experiment.goniometer is not None
    exposure = options.exposure
    if exposure is None:
        exposure = (scan.get_exposure_times()[number] if scan is not None else 0.0) or 1.0
    n_phi = options.n_phi if turning and scan.get_oscillation()[1] != 0.0 else 1
    inverses = []
    if intensity is not None and experiment.crystal is not None:
        first = scan.get_array_range()[0] + number if turning else 0
        inverses = [np.linalg.inv(setting_matrix(experiment, first + (k + 0.5) / n_phi)) for k in range(n_phi)]
    images = []
    for panel in samples:
        total = np.zeros(len(panel.s))
        for inverse in inverses:
            total += intensity(panel.s @ inverse.T)
        total *= scale / n_phi
        if background is not None:
            total += background(panel.s)
        image = exposure * (total * panel.weight).reshape(panel.shape).sum(axis=(1, 3))
        images.append(_fill_in(image, panel))
    return images


def with_mean_counts(intensity, mean: float, experiment: Experiment, options: ImageOptions = ImageOptions()):
    """The intensity of simulate_diffuse with the `level` that gives the first image `mean` expected counts a pixel."""
    found = np.concatenate([panel.ravel() for panel in expected_image(experiment, intensity, 0, options)]).mean()
    return replace(intensity, level=intensity.level * mean / found)


def _fill_in(image: np.ndarray, panel: PanelSamples) -> np.ndarray:
    """The whole panel from its computed pixels, which may be all of them."""
    if image.shape == panel.size:
        return image
    from scipy.interpolate import RectBivariateSpline

    degrees = [min(3, n - 1) for n in image.shape]
    spline = RectBivariateSpline(*panel.pixels, image, kx=degrees[0], ky=degrees[1])
    return np.maximum(spline(np.arange(panel.size[0]), np.arange(panel.size[1])), 0.0)


# Images


def simulate_image(
    experiment: Experiment,
    intensity: Intensity | None,
    number: int = 0,
    options: ImageOptions = ImageOptions(),
    *,
    seed: int | Sequence[int] = 0,
    **expected,
) -> list[np.ndarray]:
    """Values of image `number`, int32, as the detector would write them; other arguments as of `expected_image`."""
    rng = np.random.default_rng((*np.atleast_1d(seed).tolist(), number))
    values = []
    for panel, mean in zip(experiment.detector, expected_image(experiment, intensity, number, options, **expected)):
        counts = rng.poisson(mean)
        gain, pedestal = panel.get_gain() or 1.0, panel.get_pedestal()
        if gain != 1.0 or pedestal != 0.0:
            counts = np.rint(gain * counts + pedestal)
        counts = counts.astype(np.int32)
        for f0, s0, f1, s1 in panel.get_mask():
            counts[s0:s1, f0:f1] = -1
        values.append(counts)
    return values


def simulate_images(
    experiments: ExperimentList,
    intensity: Intensity | None,
    options: ImageOptions = ImageOptions(),
    *,
    seed: int = 0,
    scales: Sequence[float] | None = None,
    background: Intensity | None = None,
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """
    All images one by one: the number of the experiment, and values as of `simulate_image`.

    scales: one for each image, the experiments one after the other; 1 unless given.
    """
    done, samples, sampled = 0, None, None
    for i, experiment in enumerate(experiments):
        if sampled is None or sampled.detector is not experiment.detector or sampled.beam is not experiment.beam:
            samples, sampled = sample_detector(experiment, options), experiment
        for number in range(_number_of_images(experiment)):
            yield (
                i,
                simulate_image(
                    experiment,
                    intensity,
                    number,
                    options,
                    seed=(seed, i),
                    samples=samples,
                    scale=1.0 if scales is None else scales[done],
                    background=background,
                ),
            )
            done += 1


def _number_of_images(experiment: Experiment) -> int:
    return experiment.scan.get_num_images() if experiment.scan is not None else 1


class ImageInMemory:
    """What dxtbx's MemReader wants of an image; `values` of None is an image that can't be read."""

    def __init__(self, values: list[np.ndarray] | None):
        self.values = values

    def get_raw_data(self):
        if self.values is None:
            raise OSError("this simulated image is broken")
        return tuple(flumpy.from_numpy(np.ascontiguousarray(panel)) for panel in self.values)


def simulate_in_memory(
    experiments: ExperimentList, intensity: Intensity | None, options: ImageOptions = ImageOptions(), **simulation
) -> ExperimentList:
    """
    The experiments with an imageset each that holds simulated images; other arguments as of `simulate_images`.

    The models are those of `experiments`, not copies.  They can be pickled, but not written: dxtbx does not read an
    .expt whose images have no file.
    """
    values: list[list[ImageInMemory]] = [[] for _ in experiments]
    for i, image in simulate_images(experiments, intensity, options, **simulation):
        values[i].append(ImageInMemory(image))
    return with_images(experiments, values)


def with_images(experiments: ExperimentList, images: Sequence[Sequence[ImageInMemory]]) -> ExperimentList:
    """
    The experiments with imagesets of these images, a list for each experiment.

    DIALS predicts a sweep only where there is an ImageSequence: `ImageInMemory(None)` will do.
    """
    result = ExperimentList()
    for experiment, own in zip(experiments, images):
        data = ImageSetData(MemReader(list(own)), None)
        if experiment.scan is not None:
            imageset = ImageSequence(data, experiment.beam, experiment.detector, experiment.goniometer, experiment.scan)
        else:
            imageset = ImageSet(data)
            imageset.set_beam(experiment.beam, 0)
            imageset.set_detector(experiment.detector, 0)
        result.append(_with_imageset(experiment, imageset))
    return result


def _with_imageset(experiment: Experiment, imageset) -> Experiment:
    return Experiment(
        identifier=experiment.identifier,
        beam=experiment.beam,
        detector=experiment.detector,
        crystal=experiment.crystal,
        goniometer=experiment.goniometer,
        scan=experiment.scan,
        profile=experiment.profile,
        imageset=imageset,
    )


# Files


def write_series(
    experiments: ExperimentList,
    intensity: Intensity | None,
    prefix: str | os.PathLike,
    options: ImageOptions = ImageOptions(),
    **simulation,
) -> Path:
    """
    Simulate, write prefix_00001.cbf and so on (with several sweeps prefix_1_00001.cbf) and prefix.expt; its path.

    Other arguments as of `simulate_images`; one image at a time is held.  The .expt has all of the models.  The headers
    hold what mini-CBF can, an untilted detector and one axis, so that dials.import makes the same models of "flat",
    "single" series, but for the direction of the beam and its polarisation.  Several panels have to be the modules of a
    Pilatus (`modules`): dxtbx reads them with multi_panel=True, which the .expt says.
    """
    prefix = Path(os.path.abspath(prefix))
    multi_panel = any(len(experiment.detector) > 1 for experiment in experiments)
    stills = all(experiment.scan is None for experiment in experiments)
    several = len(experiments) > 1 and not stills
    paths: list[list[Path]] = [[] for _ in experiments]
    for i, image in simulate_images(experiments, intensity, options, **simulation):
        experiment, number = experiments[i], len(paths[i])
        first = i + 1 if experiment.scan is None else experiment.scan.get_image_range()[0]
        name = f"{prefix.name}_{i + 1}" if several else prefix.name
        path = prefix.with_name(f"{name}_{first + number:05d}.cbf")
        write_cbf(path, experiment, _one_array(experiment.detector, image), number)
        paths[i].append(path)

    result = ExperimentList()
    format_kwargs = {"multi_panel": True} if multi_panel else {}
    for experiment, own in zip(experiments, paths):
        if experiment.scan is None:
            imageset = ImageSetFactory.make_imageset([str(own[0])], format_kwargs=format_kwargs)
            imageset.set_beam(experiment.beam, 0)
            imageset.set_detector(experiment.detector, 0)
            imageset.set_goniometer(None, 0)
            imageset.set_scan(None, 0)
        else:
            template = own[0].with_name(own[0].name[: -len("00001.cbf")] + "#####.cbf")
            first, last = experiment.scan.get_image_range()
            imageset = ImageSetFactory.make_sequence(
                str(template),
                list(range(first, last + 1)),
                beam=experiment.beam,
                detector=experiment.detector,
                goniometer=experiment.goniometer,
                scan=experiment.scan,
                format_kwargs=format_kwargs,
            )
        result.append(_with_imageset(experiment, imageset))
    expt = prefix.with_name(prefix.name + ".expt")
    result.as_file(str(expt))
    return expt


def _one_array(detector: Detector, image: list[np.ndarray]) -> np.ndarray:
    """The panels of an image in one array, -1 between them."""
    if len(image) == 1:
        return image[0]
    offsets = [panel.get_raw_image_offset() for panel in detector]
    shape = [max(o[1 - k] + values.shape[k] for o, values in zip(offsets, image)) for k in (0, 1)]
    whole = np.full(shape, -1, dtype=np.int32)
    for (x, y), values in zip(offsets, image):
        whole[y : y + values.shape[0], x : x + values.shape[1]] = values
    return whole


def write_cbf(path: str | os.PathLike, experiment: Experiment, values: np.ndarray, number: int = 0) -> None:
    """Write int32 values (slow, fast) as a Pilatus mini-CBF whose header describes the first panel."""
    values = np.ascontiguousarray(values, dtype=np.int32)
    packed = compress(flumpy.from_numpy(values))
    ny, nx = values.shape
    # dxtbx takes only arrays of whole modules for those of a Pilatus, and the others for "generic" ones
    whole = all((n + gap) % (module + gap) == 0 for n, module, gap in zip((nx, ny), MODULE, GAP))
    lines = [
        "###CBF: VERSION 1.5, CBFlib v0.7.8 - SLS/DECTRIS PILATUS detectors" if whole else "###CBF: VERSION 1.5",
        "",
        "data_" + Path(path).stem,
        "",
        '_array_data.header_convention "%s"' % ("PILATUS_1.2" if whole else "GENERIC_MINI"),
        "_array_data.header_contents",
        ";",
        *_header(experiment, number, "PILATUS simulated" if whole else "GENERIC simulated"),
        ";",
        "",
        "_array_data.data",
        ";",
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(packed)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {base64.b64encode(hashlib.md5(packed).digest()).decode()}",
        f"X-Binary-Number-of-Elements: {values.size}",
        f"X-Binary-Size-Fastest-Dimension: {nx}",
        f"X-Binary-Size-Second-Dimension: {ny}",
        "X-Binary-Size-Padding: 4095",
        "",
        "",
    ]
    with open(path, "wb") as handle:
        handle.write("\r\n".join(lines).encode("ascii"))
        handle.write(b"\x0c\x1a\x04\xd5" + packed + bytes(4095))
        handle.write(b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n")


def _header(experiment: Experiment, number: int, detector_name: str) -> list[str]:
    """The comment lines of the header."""
    panel, beam, scan = experiment.detector[0], experiment.beam, experiment.scan
    try:
        beam_x, beam_y = (mm / pixel for mm, pixel in zip(panel.get_beam_centre(beam.get_s0()), panel.get_pixel_size()))
    except RuntimeError:  # the beam misses the panel's plane
        beam_x = beam_y = 0.0
    pixel_x, pixel_y = (1e-3 * size for size in panel.get_pixel_size())
    if panel.get_thickness() > 0.0:
        sensor = f"# Silicon sensor, thickness {1e-3 * panel.get_thickness():.6f} m"
    else:
        sensor = "# CCD sensor"
    exposure, start, width = 1.0, 0.0, 0.0
    if scan is not None:
        width = scan.get_oscillation()[1]
        start = scan.get_oscillation()[0] + number * width
        exposure = scan.get_exposure_times()[number]
    return [
        f"# Detector: {detector_name}, S/N 00-0000",
        "# 2024-01-01T00:00:00.000",
        f"# Pixel_size {pixel_x:.9g} m x {pixel_y:.9g} m",
        sensor,
        f"# Exposure_time {exposure:.7f} s",
        f"# Exposure_period {exposure:.7f} s",
        "# Tau = 0 s",
        f"# Count_cutoff {CUTOFF} counts",
        "# Threshold_setting: 6000 eV",
        f"# Wavelength {beam.get_wavelength():.8g} A",
        f"# Detector_distance {1e-3 * panel.get_distance():.9g} m",
        f"# Beam_xy ({beam_x:.6f}, {beam_y:.6f}) pixels",
        f"# Start_angle {start:.6f} deg.",
        f"# Angle_increment {width:.6f} deg.",
    ]
