"""
The images of one experiment as arrays: what mapping takes, without files or DIALS' objects.

A Series has the panels of its detector, its incident beam, the settings of its crystal and a function that reads an
image; its Peaks say which pixels belong to Bragg reflections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np


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
        """Of the panel."""
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
class Peaks:
    """
    The Bragg peaks of a series (bragg.py): panel (m,), images from and to (m, 2), numbers in the scan array with parts
    of images.

    Either centres (m, 2) fast and slow (pixels) and ellipses (m, 3) about them, a, b, c of
    a dx^2 + 2 b dx dy + c dy^2 < 1, or boxes (m, 4) int: fast from and to, slow from and to (pixels).  What is not
    given is empty.
    """

    panel: np.ndarray
    images: np.ndarray
    centres: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    ellipses: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4), np.int64))


@dataclass
class Series:
    """
    The images of one experiment.

    read(i) gives the values of the panels of the i-th image, arrays (slow, fast), or raises BadImage; numbers (n,) are
    those of the images, z (n,) those in the array of the scan; settings (n, n_steps, 3, 3) take h to the laboratory
    (1/Angstrom) at the middles of n_steps equal parts of the image's time, middle (n, 3, 3) at that of the image; s0
    (n, 3); times (n,) of exposure, s; usable (n_pixels,) uint8 or empty; peaks or box (indices), or neither, mask Bragg
    peaks; others: the series of other crystals on the same images, whose peaks are masked as well, and with each which
    of its images the i-th one is (n,), -1 for none; scales (n,) or empty; background and its variance (n_pixels,)
    photons / s, or empty; noise (n_pixels,) the variance of a pixel by reading it, photons^2, or empty.  detector names
    what the geometry of pixels depends on: series with the same name share it.
    """

    identifier: str
    detector: str
    panels: list[Panel]
    beam: IncidentBeam
    read: Callable[[int], Sequence[np.ndarray]]
    numbers: np.ndarray
    z: np.ndarray
    settings: np.ndarray
    middle: np.ndarray
    s0: np.ndarray
    times: np.ndarray
    usable: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    peaks: Peaks | None = None
    box: float = 0.0
    scales: np.ndarray = field(default_factory=lambda: np.empty(0))
    background: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    background_variance: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    others: tuple[tuple[Series, np.ndarray], ...] = ()
    noise: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def n_images(self) -> int:
        """Of the series."""
        return len(self.numbers)

    def beam_at(self, i: int) -> IncidentBeam:
        """
        The beam of an image: another one than `beam` where it moves, or changes its wavelength.

        Parameters
        ----------
        i : int
            The i-th image.

        Returns
        -------
        IncidentBeam
        """
        s0 = self.s0[i]
        if np.array_equal(s0, self.beam.s0):
            return self.beam
        return replace(self.beam, s0=s0, wavelength=1.0 / float(np.linalg.norm(s0)))
