"""
What a pixel sees: the direction s1 of its centre and its part of the exposure, Omega P eps air (__init__.py, eq. 1).

    Omega = q_x q_y |cos w| / d^2               q pixel size, d distance of pixel and sample, w angle of incidence
    P     = p (1 - (u.m)^2) + (1 - p) (1 - (u.n)^2)     u unit vector along s1, n normal to the plane of polarisation as
                                                DIALS has it, so that the field is along m = n x s0
    eps   = 1 - exp(-mu t / |cos w|)            mu, t of the sensor
    air   = exp(-mu_air d)

Positions come from a lattice of points on each panel, between which they are interpolated linearly.  Where they are
smooth a point every NODE_STEP pixels will do: on a flat panel to rounding, with the shift by parallax to less than a
thousandth of a pixel.  Where a map of distortions shifts each pixel by itself the points are the middles of all pixels
(and Omega stays that of the panel's pixel: what distortion does to areas belongs to the flat field).  P is that of
Kahn et al., J. Appl. Cryst. 1982, 15, 330, in the form of DIALS' corrections.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map import kernels

# In pixels: how far the points are apart between which positions are interpolated.
NODE_STEP = 32


@dataclass(frozen=True)
class Panel:
    """
    A panel: nodes (n_slow, n_fast, 3) positions (mm) of points at the pixel coordinates slow (n_slow,) and fast
    (n_fast,), its normal (3,), size of a pixel (fast, slow; mm), shape (slow, fast), attenuation mu (1/mm) and
    thickness (mm) of its sensor, zero where unknown; gain (counts a photon), pedestal (counts) and the smallest and
    largest count that can be trusted.
    """

    slow: np.ndarray
    fast: np.ndarray
    nodes: np.ndarray
    normal: np.ndarray
    pixel_size: tuple[float, float]
    shape: tuple[int, int]
    mu: float = 0.0
    thickness: float = 0.0
    gain: float = 1.0
    pedestal: float = 0.0
    trusted: tuple[float, float] = (0.0, np.inf)

    @property
    def n_pixels(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class IncidentBeam:
    """wavelength (Angstrom), s0 (3,; 1/Angstrom), polarisation normal (3,) and fraction; attenuation of air (1/mm)."""

    wavelength: float
    s0: np.ndarray
    normal: np.ndarray
    fraction: float
    mu_air: float = 0.0


@dataclass(frozen=True)
class Corrections:
    """Which corrections are made."""

    solid_angle: bool = True
    polarization: bool = True
    efficiency: bool = True
    air: bool = True


@dataclass(frozen=True)
class Pixels:
    """
    The pixels of all panels, one after the other: s1 (n, 3) and weight Omega P eps air (n,), sr, as float32; the first
    pixel of each panel and the end (n_panels + 1,).
    """

    s1: np.ndarray
    weight: np.ndarray
    starts: np.ndarray


def see(panels: list[Panel], beam: IncidentBeam, corrections: Corrections) -> Pixels:
    """The directions and weights of all pixels of a detector."""
    starts = np.concatenate([[0], np.cumsum([panel.n_pixels for panel in panels])])
    s1 = np.empty((starts[-1], 3), np.float32)
    weight = np.empty(starts[-1], np.float32)
    unit = beam.s0 / np.linalg.norm(beam.s0)
    n, m = polarization_axes(beam)
    fraction = beam.fraction if corrections.polarization else -1.0
    mu_air = beam.mu_air if corrections.air else 0.0
    fixed = 0.0
    if not corrections.solid_angle:  # one for all pixels: of that in the beam, on a detector that is not tilted
        first = panels[0]
        fixed = np.prod(first.pixel_size) / np.abs((first.nodes @ unit).mean()) ** 2
    for panel, start in zip(panels, starts):
        stop = start + panel.n_pixels
        depth = panel.mu * panel.thickness if corrections.efficiency else 0.0
        area = float(np.prod(panel.pixel_size))
        constants = np.array([area, fixed, fraction, depth, mu_air, 1.0 / beam.wavelength])
        kernels.see_panel(
            np.asarray(panel.slow, float),
            np.asarray(panel.fast, float),
            np.asarray(panel.nodes, float),
            np.asarray(panel.normal, float),
            n,
            m,
            constants,
            s1[start:stop].reshape(*panel.shape, 3),
            weight[start:stop].reshape(panel.shape),
        )
    return Pixels(s1, weight, starts)


def polarization_axes(beam: IncidentBeam) -> tuple[np.ndarray, np.ndarray]:
    """The polarisation normal n, made normal to the beam, and m = n x s0, as unit vectors (3,)."""
    unit = beam.s0 / np.linalg.norm(beam.s0)
    n = beam.normal - (beam.normal @ unit) * unit
    n = n / np.linalg.norm(n)
    return n, np.cross(n, unit)


def node_positions(n: int) -> np.ndarray:
    """The coordinates of the nodes along n pixels: the edges, and about every NODE_STEP between."""
    return np.linspace(0.0, n, max(2, int(np.ceil(n / NODE_STEP)) + 1))
