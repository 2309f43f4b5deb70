"""
How the usable observations were recorded: what is in the files beside intensities and indices, as arrays.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from dials.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials.radiation import is_xray
from dials_postrefine.programs.stills_input import StillsFiles
from dials_postrefine.stills.systematics.deviations import Recording

POSITIONS = ("xyzobs.px.value", "xyzcal.px")


def read_recording(files: StillsFiles) -> Recording:
    """
    The Recording of what was read.

    The order of the lattices is that of their images by name (numbers in it as numbers) and number in the file, as far
    as all have images; else that of the input.  Programs that work in parallel do not write in the order of images.
    """
    table, row, experiments = files.table, files.usable.row, files.experiments
    with np.errstate(invalid="ignore", divide="ignore"):
        s1 = flumpy.to_numpy(table["s1"])[row]
        s1 = s1 / np.sqrt(np.einsum("ij,ij->i", s1, s1))[:, None]
    panel = np.zeros(len(row), dtype=np.int64)
    if isinstance(table["panel"] if "panel" in table else None, (flex.size_t, flex.int)):
        panel = flumpy.to_numpy(table["panel"])[row].astype(np.int64)
    beams = [experiment.beam for experiment in experiments]
    s0 = np.array([_unit(beam.get_s0()) for beam in beams])
    normal = np.array([_normal(beam.get_polarization_normal(), direction) for beam, direction in zip(beams, s0)])
    known = np.isfinite(normal).all(axis=1)
    polarised = [is_xray(beam, files.choice.radiation) and good for beam, good in zip(beams, known)]
    fraction = np.array([beam.get_polarization_fraction() if good else np.nan for beam, good in zip(beams, polarised)])
    goniometers = [_content(experiment.goniometer) for experiment in experiments]
    counts = Counter(goniometers)
    return Recording(
        s1=s1,
        panel=panel,
        position=_positions(table, row, experiments, files.usable.offsets, panel),
        correction=flumpy.to_numpy(table["lp"])[row],
        s0=s0,
        normal=normal,
        fraction=fraction,
        order=_order(experiments, files.place),
        shared=np.array([bool(one) and counts[one] > 1 for one in goniometers]),
    )


def _order(experiments, place: np.ndarray) -> np.ndarray:
    keys = [_image(experiment.imageset) for experiment in experiments]
    if not keys or None in keys or len(set(keys)) < 2:
        return place.astype(float)
    rank = {key: number for number, key in enumerate(sorted(set(keys)))}
    return np.array([rank[key] for key in keys], dtype=float)


def _image(imageset) -> tuple | None:
    """What images are ordered by: the parts of the name, numbers among them, and the number in the file."""
    if imageset is None or not len(imageset):
        return None
    parts = re.split(r"(\d+)", imageset.get_path(0))  # text and digits by turns
    return tuple(int(part) if k % 2 else part for k, part in enumerate(parts)), int(imageset.indices()[0])


def _content(goniometer) -> str:
    """What a goniometer model holds, "" of none: lattices may stand on one and have a model each."""
    return "" if goniometer is None else str(sorted(goniometer.to_dict().items()))


def _unit(vector) -> np.ndarray:
    vector = np.array(vector, dtype=float)
    return vector / np.linalg.norm(vector)


def _normal(normal, s0: np.ndarray) -> np.ndarray:
    """The unit normal, at right angles to the beam; NaN where there is none."""
    normal = np.array(normal, dtype=float)
    normal = normal - (normal @ s0) * s0
    length = np.linalg.norm(normal)
    return normal / length if length > 1e-6 else np.full(3, np.nan)


def _positions(table, row, experiments, offsets, panel) -> np.ndarray:
    """The positions (n, 2) in units of the size of the panel; NaN where the table does not say."""
    name = next((name for name in POSITIONS if name in table and isinstance(table[name], flex.vec3_double)), None)
    position = np.full((len(row), 2), np.nan)
    if name is None:
        return position
    xy = flumpy.to_numpy(table[name])[row][:, :2]
    detectors = [experiment.detector for experiment in experiments]  # kept, so that an id stays that of its detector
    by_id = {id(one): one for one in detectors}
    sizes = {key: np.array([one.get_image_size() for one in panels], dtype=float) for key, panels in by_id.items()}
    for k, detector in enumerate(detectors):
        rows = slice(offsets[k], offsets[k + 1])
        size, number = sizes[id(detector)], panel[rows]
        known = (number >= 0) & (number < len(size))
        of_panel = size[number[known]]
        position[rows][known] = xy[rows][known] / np.where(of_panel > 0.0, of_panel, np.nan)
    return position
