"""
Where records of unmerged sums (blocks.py) were measured: direction, moment and panel.

A record is a voxel seen in a block of images.  Of these it was on that for which | |s0 + A h| - K | is smallest, K =
1/wavelength: there its centre is nearest to Ewald's sphere.  s1 = s0 + A h is its direction there, given by

    u, v = tan 2theta (cos a, sin a)        a the azimuth about the beam from m towards n (geometry.polarization_axes)

which are coordinates on a flat detector normal to the beam, in units of its distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map.blocks import Blocks
from dials_postrefine.diffuse.map.geometry import polarization_axes
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.series import Panel, Series
from dials_postrefine.numerics.grouped import rows_of_groups

# Images of a block that are tried, evenly spread.
MOST_TRIED = 9
# tan 2theta is taken for this beyond it, 76 degrees.
MOST_TANGENT = 4.0


@dataclass(frozen=True)
class Places:
    """
    Of n records: s |s|, 1/Angstrom; u and v; the series, and the detector among those that differ, each by number; z
    the image in its series; panel by number in its detector; how many images each series
    has (n_series,), and how many there are of detectors and of panels of one.
    """

    s: np.ndarray
    u: np.ndarray
    v: np.ndarray
    series: np.ndarray
    detector: np.ndarray
    z: np.ndarray
    panel: np.ndarray
    images: np.ndarray
    n_detectors: int
    n_panels: int

    def take(self, rows: np.ndarray | slice) -> Places:
        """
        Some of them.

        Parameters
        ----------
        rows : ndarray or slice

        Returns
        -------
        Places
        """
        arrays = (getattr(self, name)[rows] for name in ("s", "u", "v", "series", "detector", "z", "panel"))
        return Places(*arrays, self.images, self.n_detectors, self.n_panels)


def find_places(blocks: Blocks, x: np.ndarray, grid: Grid, series: list[Series]) -> Places:
    """
    Where records were measured.

    Parameters
    ----------
    blocks : Blocks
    x : ndarray (n, 3) of int
        Voxel coordinates of the records.
    grid : Grid
    series : list of Series

    Returns
    -------
    Places
    """
    names = list(dict.fromkeys(one.detector for one in series))
    n = len(x)
    u, v, z, panel = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, np.int32)
    number, detector = np.zeros(n, np.int32), np.zeros(n, np.int32)
    h = x @ np.linalg.inv(grid.to_voxel).T
    for images, rows in zip(blocks.images, rows_of_groups(blocks.block, len(blocks.images))):
        one = series[images[0, 0]]
        tried = images[np.unique(np.linspace(0, len(images) - 1, MOST_TRIED).round().astype(int)), 1]
        s1, chosen = _nearest(one, tried, h[rows])
        number[rows], detector[rows] = images[0, 0], names.index(one.detector)
        z[rows] = tried[chosen]
        u[rows], v[rows] = _tangents(one, int(tried[0]), s1)
        panel[rows] = _panels(one.panels, s1)
    return Places(
        np.linalg.norm(x @ grid.to_s.T, axis=1),
        *(u, v, number, detector, z, panel),
        np.array([one.n_images for one in series]),
        len(names),
        max(len(one.panels) for one in series),
    )


def _nearest(series: Series, images: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s1 (n, 3) on that of the images on which each index h (n, 3) is nearest to Ewald's sphere, and which that is."""
    best, s1, chosen = np.full(len(h), np.inf), np.zeros((len(h), 3)), np.zeros(len(h), int)
    for number, i in enumerate(images):
        found = series.s0[i] + h @ series.middle[i].T
        off = np.abs(np.linalg.norm(found, axis=1) - np.linalg.norm(series.s0[i]))
        nearer = off < best
        best[nearer], s1[nearer], chosen[nearer] = off[nearer], found[nearer], number
    return s1, chosen


def _tangents(series: Series, i: int, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    beam = series.beam_at(i)
    n, m = polarization_axes(beam)
    along = s1 @ (beam.s0 / np.linalg.norm(beam.s0))
    across = s1 @ np.stack([m, n], axis=1)
    length = np.linalg.norm(across, axis=1)
    tangent = np.where(along * MOST_TANGENT > length, length / np.maximum(along, 1e-9), MOST_TANGENT)
    return tuple((across * (tangent / np.maximum(length, 1e-12))[:, None]).T)


def _panels(panels: list[Panel], s1: np.ndarray) -> np.ndarray:
    """The panel that rays along s1 (n, 3) meet, or of none that whose middle is nearest in direction."""
    if len(panels) == 1:
        return np.zeros(len(s1), np.int32)
    unit = s1 / np.linalg.norm(s1, axis=1)[:, None]
    middles = np.array([panel.nodes.reshape(-1, 3).mean(axis=0) for panel in panels])
    middles /= np.linalg.norm(middles, axis=1)[:, None]
    found = np.argmax(unit @ middles.T, axis=1).astype(np.int32)
    for number, panel in enumerate(panels):
        corner, fast, slow = panel.nodes[0, 0], panel.nodes[0, -1], panel.nodes[-1, 0]
        across = np.stack([fast - corner, slow - corner], axis=1)
        facing = unit @ panel.normal
        with np.errstate(divide="ignore", invalid="ignore"):
            met = unit * (corner @ panel.normal / facing)[:, None] - corner
        parts = met @ np.linalg.pinv(across).T
        found[(facing * (corner @ panel.normal) > 0.0) & ((parts >= 0.0) & (parts <= 1.0)).all(axis=1)] = number
    return found
