"""
How far a detector sees: the limit of resolution that a map has where none is asked for.

    |s| = |u/lambda - s0|       u unit vector to a place on the detector

Where the beam meets the detector, or a gap of it, well inside: what its edges reach all around (dxtbx's inscribed
circle).  Where it is seen from one side only (a two-theta arm, a beam at the edge or beyond), there is no such circle,
or a small one that has little of the detector in it: then the farthest place that it has.
"""

from __future__ import annotations

import numpy as np

from dials.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials import models

# Places along each side of a panel that are looked at.
N_PLACES = 21
# Sectors of the azimuth, all of which must be seen, and the least part of the detector inside of the circle.
N_SECTORS, LEAST_PART = 16, 0.25


def default_limit(experiments) -> float:
    """d_min (Angstrom) that all experiments see, wherever the beam of each goes."""
    return max(max(detector_limit(e.detector, s0) for s0 in _beams(e)) for e in experiments)


def detector_limit(detector, s0: np.ndarray) -> float:
    """d_min (Angstrom) of a detector (module docstring) in a beam s0 (3,), 1/Angstrom."""
    k = float(np.linalg.norm(s0))
    unit = np.concatenate([_directions(panel) for panel in detector])
    s = np.linalg.norm(unit * k - s0, axis=1)
    farthest = 1.0 / float(s.max())
    first = np.cross(s0, np.eye(3)[np.argmin(np.abs(s0))])
    second = np.cross(s0, first) / k
    sector = np.floor(N_SECTORS * (np.arctan2(unit @ second, unit @ first) / (2.0 * np.pi) + 0.5)).astype(int)
    if len(np.unique(np.clip(sector, 0, N_SECTORS - 1))) < N_SECTORS:
        return farthest
    try:
        inscribed = float(detector.get_max_inscribed_resolution(tuple(s0)))
    except RuntimeError:  # a panel along the beam
        return farthest
    if not np.isfinite(inscribed) or np.mean(s <= 1.0 / inscribed) < LEAST_PART:
        return farthest
    return inscribed


def _directions(panel) -> np.ndarray:
    n_fast, n_slow = panel.get_image_size()
    places = [(x, y) for y in np.linspace(0.0, n_slow, N_PLACES) for x in np.linspace(0.0, n_fast, N_PLACES)]
    lab = flumpy.to_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(flex.vec2_double(places))))
    return lab / np.linalg.norm(lab, axis=1, keepdims=True)


def _beams(experiment) -> list[np.ndarray]:
    """s0 on the first, the middle and the last image."""
    if experiment.scan is None or experiment.beam.num_scan_points < 2:
        return [np.array(experiment.beam.get_s0())]
    first, end = experiment.scan.get_array_range()
    return [models.incident_beam(experiment, image) for image in (first, (first + end) // 2, end - 1)]
