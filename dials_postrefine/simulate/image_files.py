"""
Simulated image series as files: Pilatus mini-CBF images with the .expt beside them.

In: experiments without images (image_models.py) and an intensity in reciprocal space (simulate/diffuse.py).  Out:
files that DIALS reads as it reads those of a beamline.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import numpy as np

from dxtbx import flumpy
from dxtbx.ext import compress
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Detector, Experiment, ExperimentList

from dials_postrefine.simulate.image_models import CUTOFF, GAP, MODULE
from dials_postrefine.simulate.images import ImageOptions, Intensity, simulate_images, with_imageset


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
    for experiment, files in zip(experiments, paths):
        if experiment.scan is None:
            imageset = ImageSetFactory.make_imageset([str(files[0])], format_kwargs=format_kwargs)
            imageset.set_beam(experiment.beam, 0)
            imageset.set_detector(experiment.detector, 0)
            imageset.set_goniometer(None, 0)
            imageset.set_scan(None, 0)
        else:
            template = files[0].with_name(files[0].name[: -len("00001.cbf")] + "#####.cbf")
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
        result.append(with_imageset(experiment, imageset))
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
