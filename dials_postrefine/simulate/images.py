"""
Simulated image series of a known intensity in reciprocal space: to test and time dials.diffuse_map, and for the demo.

In: the models, from image_models.py or from anywhere else, and an intensity I(h) in photons / (s sr), a function of
fractional Miller indices (n, 3) -> (n,) such as those of dials_postrefine.simulate.diffuse.  Out: expected counts as
arrays (`expected_image`), counts (`simulate_image`), or experiments that serve the images from memory through dxtbx
(`simulate_in_memory`).  image_files.py writes them as files.

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

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dxtbx import flumpy
from dxtbx.imageset import ImageSequence, ImageSet, ImageSetData, MemReader
from dxtbx.model import (
    Experiment,
    ExperimentList,
)

from dials_postrefine.simulate.diffuse import efficiency, polarisation, solid_angles
from dials_postrefine.simulate.stills import rotation_matrices

Intensity = Callable[[np.ndarray], np.ndarray]


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
    for experiment, arrays in zip(experiments, images):
        data = ImageSetData(MemReader(list(arrays)), None)
        if experiment.scan is not None:
            imageset = ImageSequence(data, experiment.beam, experiment.detector, experiment.goniometer, experiment.scan)
        else:
            imageset = ImageSet(data)
            imageset.set_beam(experiment.beam, 0)
            imageset.set_detector(experiment.detector, 0)
        result.append(with_imageset(experiment, imageset))
    return result


def with_imageset(experiment: Experiment, imageset) -> Experiment:
    """The experiment with another image set; its models are the same objects."""
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
