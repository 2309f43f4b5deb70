"""
Scaled sweeps of electrons -> their frames and what was integrated in each (numerics/frames.py).

A frame is an image, or a bin of as many as hold enough spots (scaled_images.py).  A reflection was integrated over the
images of its bbox, and its intensity times lp is int I ds over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.radiation import choose_radiation, common_probe
from dials_postrefine.files.electron.intensities import intensities
from dials_postrefine.files.electron.scaled_images import ImageChoice, ImageFiles, read_images
from dials_postrefine.numerics.frames import FrameData, Frames, slopes_of_excitation


def read_frames(
    experiment_paths: Sequence[str],
    reflection_paths: Sequence[str],
    choice: ImageChoice = ImageChoice(beam="none"),
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[ImageFiles, FrameData]:
    """
    Read sweeps of one crystal form.

    Raises Sorry with one sentence for what can't be used.
    """
    files = read_images(experiment_paths, reflection_paths, choice, progress)
    check_electrons(files.experiments)
    if "bbox" not in files.table:
        raise Sorry(
            "The reflections have no bbox, so that the angles of their integration are not known: integrate again."
        )
    images = files.images
    frames = _frames(files)
    start, end = _intervals(files, frames)
    data = FrameData(
        frames=frames,
        frame=images.image,
        h=images.h,
        intensity=images.intensity,
        variance=images.variance,
        start=start,
        end=end,
        weight=np.ones(len(images.h)),
        row=files.row,
        cell=np.array(files.cell),
        unique=images.unique,
        laue=images.symmetry.laue,
        lattice=images.symmetry.lattice,
        error_variance=intensities(files.table, choice.intensity, "scaled")[1][files.row],
    )
    return files, replace(data, weight=np.abs(slopes_of_excitation(data)))


def check_electrons(experiments) -> None:
    """Raises Sorry for radiation that is none of electrons, and for stills."""
    beams = [experiment.beam for experiment in experiments]
    radiation = choose_radiation(max(beam.get_wavelength() for beam in beams), common_probe(beams))
    if radiation != "electron":
        name = {"xray": "X-rays", "neutron": "neutrons"}[radiation]
        raise Sorry(f"The data are of {name}: dynamical scattering is calculated for electrons alone.")
    if not all(models.rotates(experiment) for experiment in experiments):
        raise Sorry("Some experiments are stills: rocking curves need sweeps of images with a width in angle.")


def _frames(files: ImageFiles) -> Frames:
    images = files.images
    scans = [experiment.scan for experiment in files.experiments]
    width = np.radians([abs(scan.get_oscillation()[1]) for scan in scans])[images.experiment]
    sweeps = (files.experiments[int(k)] for k in images.experiment)
    axis = [models.rotation_axis(one, first) for one, first in zip(sweeps, images.number - 1)]
    return Frames(
        number=images.number,
        sweep=images.experiment,
        angle=images.angle,
        semi_width=0.5 * width * (images.last - images.number + 1),
        a_matrix=images.a_matrix,
        axis=np.array(axis),
        k=images.s0,
        tile=True,
    )


def _intervals(files: ImageFiles, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (n,) of each observation, radians from the middle of its frame; a scan may turn backwards."""
    images = files.images
    z0, z1 = (flumpy.to_numpy(part)[files.row] for part in files.table["bbox"].parts()[4:])
    found = np.empty((2, len(z0)))
    for k, experiment in enumerate(files.experiments):
        rows = images.experiment[images.image] == k
        first, width = experiment.scan.get_oscillation()
        start = experiment.scan.get_array_range()[0]
        ends = [np.radians(first + width * (z[rows] - start)) for z in (z0, z1)]
        middle = frames.angle[images.image[rows]]
        found[0, rows], found[1, rows] = np.sort(ends, axis=0) - middle
    return found[0], found[1]
