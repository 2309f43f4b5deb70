"""
The models of simulated image series: beam, goniometer, detector and crystal as dxtbx has them, without images.

In: SeriesOptions.  Out: an ExperimentList, one sweep or stills, whose images simulate/images.py makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import sgtbx, uctbx
from cctbx.eltbx import attenuation_coefficient
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

from dials_postrefine.simulate.stills import rotation_matrices

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
