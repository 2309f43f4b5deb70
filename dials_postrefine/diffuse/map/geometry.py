"""
The geometry of pixels: the direction s1 of the centre of each, and its part of the exposure, Omega P eps air
(diffuse/__init__.py, eq. 1).

    Omega = q_x q_y |cos w| / d^2               q pixel size, d distance of pixel and sample, w angle of incidence
    P     = p (1 - (u.m)^2) + (1 - p) (1 - (u.n)^2)     u unit vector along s1, n normal to the plane of polarisation as
                                                DIALS has it, so that the field is along m = n x s0
    eps   = 1 - exp(-mu t / |cos w|)            mu, t of the sensor
    air   = exp(-mu_air d)

Positions come from a lattice of points on each panel (Panel.nodes), between which they are interpolated linearly.
Where a map of distortions shifts each pixel by itself the points are the middles of all pixels (and Omega stays that of
the panel's pixel: what distortion does to areas belongs to the flat field).  P is that of
Kahn et al., J. Appl. Cryst. 1982, 15, 330, in the form of DIALS' corrections.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dials_postrefine.diffuse.map.compiled import jit
from dials_postrefine.diffuse.map.records import Corrections
from dials_postrefine.diffuse.map.series import IncidentBeam, Panel


@dataclass(frozen=True)
class Pixels:
    """
    The pixels of all panels, one after the other: s1 (n, 3) and weight Omega P eps air (n,), sr, as float32; the first
    pixel of each panel and the end (n_panels + 1,).
    """

    s1: np.ndarray
    weight: np.ndarray
    starts: np.ndarray


class Nodes(NamedTuple):
    """Positions (n_slow, n_fast, 3), mm, at the pixel coordinates slow (n_slow,) and fast (n_fast,)."""

    slow: np.ndarray
    fast: np.ndarray
    positions: np.ndarray


class Factors(NamedTuple):
    """
    What the exposure of a panel's pixels is made of: area of a pixel (mm^2); fixed, a solid angle (sr) in place of that
    of each, or 0; fraction of the polarisation, or -1; depth mu t of the sensor; mu_air (1/mm); 1/wavelength.
    """

    area: float
    fixed: float
    fraction: float
    depth: float
    mu_air: float
    inverse_wavelength: float


def make_pixels(panels: list[Panel], beam: IncidentBeam, corrections: Corrections) -> Pixels:
    """
    The directions and weights of all pixels of a detector.

    Parameters
    ----------
    panels : list of Panel
    beam : IncidentBeam
    corrections : Corrections
        Those that are not made leave their factor out; without that of the solid angle all pixels have the one in the
        beam, on a detector that is not tilted.

    Returns
    -------
    Pixels
        Source of P: Kahn et al., J. Appl. Cryst. 1982, 15, 330.
    """
    starts = np.concatenate([[0], np.cumsum([panel.n_pixels for panel in panels])])
    s1 = np.empty((starts[-1], 3), np.float32)
    weight = np.empty(starts[-1], np.float32)
    unit = beam.s0 / np.linalg.norm(beam.s0)
    axes = polarization_axes(beam)
    fixed = 0.0
    if not corrections.solid_angle:
        first = panels[0]
        fixed = np.prod(first.pixel_size) / np.abs((first.nodes @ unit).mean()) ** 2
    for panel, start in zip(panels, starts):
        stop = start + panel.n_pixels
        factors = Factors(
            area=float(np.prod(panel.pixel_size)),
            fixed=float(fixed),
            fraction=float(beam.fraction) if corrections.polarization else -1.0,
            depth=float(panel.mu * panel.thickness) if corrections.efficiency else 0.0,
            mu_air=float(beam.mu_air) if corrections.air else 0.0,
            inverse_wavelength=1.0 / float(beam.wavelength),
        )
        nodes = Nodes(*(np.asarray(array, float) for array in (panel.slow, panel.fast, panel.nodes)))
        _fill_panel(
            nodes,
            np.asarray(panel.normal, float),
            axes,
            factors,
            s1[start:stop].reshape(*panel.shape, 3),
            weight[start:stop].reshape(panel.shape),
        )
    return Pixels(s1, weight, starts)


@jit
def _fill_panel(nodes, normal, axes, factors, s1, weight):
    """Fill s1 (slow, fast, 3) and weight (slow, fast) of one panel; axes: those of the polarisation."""
    slow, fast, positions = nodes
    n, m = axes
    area, fixed, fraction, depth, mu_air, inverse_wavelength = factors
    n_slow, n_fast = weight.shape
    step_slow = slow[1] - slow[0]
    step_fast = fast[1] - fast[0]
    x = np.empty(3)
    for i in range(n_slow):
        a = min(int((i + 0.5) / step_slow), len(slow) - 2)
        u = (i + 0.5 - slow[a]) / step_slow
        for j in range(n_fast):
            b = min(int((j + 0.5) / step_fast), len(fast) - 2)
            v = (j + 0.5 - fast[b]) / step_fast
            d_sq = 0.0
            for k in range(3):
                x[k] = (1.0 - u) * ((1.0 - v) * positions[a, b, k] + v * positions[a, b + 1, k]) + u * (
                    (1.0 - v) * positions[a + 1, b, k] + v * positions[a + 1, b + 1, k]
                )
                d_sq += x[k] * x[k]
            d = np.sqrt(d_sq)
            cosine = abs(x[0] * normal[0] + x[1] * normal[1] + x[2] * normal[2]) / d
            value = fixed if fixed > 0.0 else area * cosine / d_sq
            if fraction >= 0.0:
                along_n = (x[0] * n[0] + x[1] * n[1] + x[2] * n[2]) / d
                along_m = (x[0] * m[0] + x[1] * m[1] + x[2] * m[2]) / d
                value *= fraction * (1.0 - along_m * along_m) + (1.0 - fraction) * (1.0 - along_n * along_n)
            if depth > 0.0 and cosine > 0.0:
                value *= 1.0 - np.exp(-depth / cosine)
            if mu_air > 0.0:
                value *= np.exp(-mu_air * d)
            weight[i, j] = value
            for k in range(3):
                s1[i, j, k] = x[k] / d * inverse_wavelength


def polarization_axes(beam: IncidentBeam) -> tuple[np.ndarray, np.ndarray]:
    """
    The axes of the polarisation.

    Parameters
    ----------
    beam : IncidentBeam

    Returns
    -------
    n, m : ndarray (3,)
        Unit vectors: the polarisation normal, made normal to the beam, and m = n x s0.
    """
    unit = beam.s0 / np.linalg.norm(beam.s0)
    n = beam.normal - (beam.normal @ unit) * unit
    n = n / np.linalg.norm(n)
    return n, np.cross(n, unit)
