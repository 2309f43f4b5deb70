"""
Smooth intensities in reciprocal space, and what a pixel counts of them: the physics behind the simulated images.

A pixel that an X-ray beam of direction s0 illuminates for the time t (s) counts, on average,

    n = t int_pixel dOmega  P(s1) eps(s1) air(s1) <K I(h) + b(s)>,     s = s1 - s0,  |s1| = |s0| = 1/wavelength,

where I (photons / (s sr)) is a function of the fractional Miller index h = A^-1 s, the average <> is over the time of
the exposure, in which the crystal turns, b is a background that does not turn with the crystal and K the scale of the
crystal in that image.  There is no Lorentz factor.  The factors, with s1_hat = s1/|s1|:

    dOmega = |dA . r| / |r|^3 for the area vector dA (mm^2) of a piece of the sensor at r (mm) from the sample;
    P      = p (1 - (s1_hat.m)^2) + (1 - p) (1 - (s1_hat.n)^2), m = n x s0 / |n x s0|, with n the normal of the plane of
             polarisation and p the fraction of the intensity polarised in that plane, i.e. along m.  This is the P of
             XDS and DIALS, (1 - 2p)(1 - (n.s1_hat)^2) + p (1 + (s1_hat.s0_hat)^2) (Kabsch, J. Appl. Cryst. 21 (1988)
             916), for n perpendicular to s0: at a scattering angle of 90 degrees P is 1 - p in the plane of
             polarisation and p perpendicular to it;
    eps    = 1 - exp(-mu t0 / |cos w|), the fraction absorbed in a sensor of thickness t0 and attenuation mu (1/mm), w
             being the angle between s1 and the normal of the sensor; 1 if the sensor has no mu or no thickness;
    air    = exp(-mu_air |r|).

Nothing here knows of dials_postrefine.diffuse, which it is to test.  Shapes: vectors (n, 3), values (n,); lengths in mm
in the laboratory and in 1/A in reciprocal space, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def polarisation(s1_hat: np.ndarray, s0: np.ndarray, normal: np.ndarray, fraction: float) -> np.ndarray:
    """P of the module docstring for unit vectors s1_hat (n, 3); s0 and normal (3,) of any length."""
    n = np.asarray(normal) / np.linalg.norm(normal)
    m = np.cross(n, s0)
    m /= np.linalg.norm(m)
    return fraction * (1.0 - (s1_hat @ m) ** 2) + (1.0 - fraction) * (1.0 - (s1_hat @ n) ** 2)


def efficiency(mu: float, thickness: float, cos_w: np.ndarray) -> np.ndarray:
    """eps of the module docstring; cos_w (n,) may have either sign."""
    if mu <= 0.0 or thickness <= 0.0:
        return np.ones_like(cos_w)
    return -np.expm1(-mu * thickness / np.abs(cos_w))


def solid_angles(corners: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """
    Solid angles (...) of small quadrilaterals, seen from the origin; their corners (..., 3) go round in order.

    The area vector is half the cross product of the diagonals, and r the mean of the corners: right to the second order
    in size over distance.
    """
    a, b, c, d = corners
    area = 0.5 * np.cross(c - a, d - b)
    r = 0.25 * (a + b + c + d)
    return np.abs(np.sum(area * r, axis=-1)) / np.sum(r * r, axis=-1) ** 1.5


# Intensities.  Each is called with h (n, 3) and returns photons / (s sr), (n,).


@dataclass(frozen=True)
class _Crystalline:
    """
    What the intensities share: `metric` is G* (3, 3) in |s|^2 = h.G*.h, `operators` (g, 3, 3) the rotations of the Laue
    group acting on h as W h.
    """

    metric: np.ndarray
    operators: np.ndarray
    level: float = 1.0e6

    def s_squared(self, h: np.ndarray) -> np.ndarray:
        """|s|^2 (n,) in 1/A^2."""
        return np.einsum("ni,ij,nj->n", h, self.metric, h)

    def rotations(self) -> np.ndarray:
        """The operators with one of each pair W, -W, which act alike on everything here."""
        unique = {max(tuple(w.ravel()), tuple(-w.ravel())) for w in np.rint(self.operators).astype(int)}
        return np.array(sorted(unique)).reshape(-1, 3, 3)


@dataclass(frozen=True)
class SmoothIntensity(_Crystalline):
    """
    A sum of cosines on an isotropic fall-off with a broad ring:

        I = level [exp(-B |s|^2 / 2) + ring exp(-(|s| - ring_s)^2 / (2 ring_width^2))] [1 + contrast C(h)],
        C = mean_W sum_j a_j cos(2 pi (W h).u_j),  a_j = 1/number of u.

    C is anisotropic, obeys the Laue symmetry, has |C| <= 1 and, averaged over a shell, is near 0.  Its shortest period
    is 1/|u| of an index: with u = 0.5 along one, a voxel of a third of an index has 0.955 of the contrast on average.
    """

    b_factor: float = 8.0  # A^2
    ring: float = 0.3
    ring_s: float = 0.3  # 1/A
    ring_width: float = 0.06  # 1/A
    contrast: float = 0.9
    waves: tuple[tuple[float, float, float], ...] = ((0.31, 0.17, 0.05), (0.08, 0.37, 0.21))  # u, of cell edges

    def isotropic(self, h: np.ndarray) -> np.ndarray:
        """The factor that depends on |s| only, (n,)."""
        s_sq = self.s_squared(h)
        ring = self.ring * np.exp(-0.5 * ((np.sqrt(s_sq) - self.ring_s) / self.ring_width) ** 2)
        return self.level * (np.exp(-0.5 * self.b_factor * s_sq) + ring)

    def __call__(self, h: np.ndarray) -> np.ndarray:
        waves = 2.0 * np.pi * np.einsum("gij,ui->guj", self.rotations(), np.array(self.waves)).reshape(-1, 3)
        pattern = np.zeros(len(h))
        for wave in waves:
            pattern += np.cos(h @ wave)
        return self.isotropic(h) * (1.0 + self.contrast / len(waves) * pattern)


@dataclass(frozen=True)
class HaloIntensity(_Crystalline):
    """
    Broad anisotropic haloes about every integer index, as of thermal diffuse scatter but finite on it:

        I = level exp(-B |s|^2 / 2) [floor + mean_W exp(sum_i k_i (cos 2 pi (W h)_i - 1))].

    The sigma of a halo along index i is 1/(2 pi sqrt(k_i)) of an index: 0.16 for k = 1.
    """

    b_factor: float = 8.0  # A^2
    floor: float = 0.2
    sharpness: tuple[float, float, float] = (1.0, 0.6, 0.4)  # k

    def __call__(self, h: np.ndarray) -> np.ndarray:
        halo, rotations = np.zeros(len(h)), self.rotations()
        for w in rotations:
            halo += np.exp((np.cos(2.0 * np.pi * (h @ w.T)) - 1.0) @ np.array(self.sharpness))
        return self.level * np.exp(-0.5 * self.b_factor * self.s_squared(h)) * (self.floor + halo / len(rotations))


@dataclass(frozen=True)
class BraggPeaks(_Crystalline):
    """
    Gaussian spots of sigma `width` (in index units, the same along each index) at the integer indices but not at 000:

        I = level exp(-B |s|^2 / 2) E(h_0) exp(-|h - h_0|^2 / (2 width^2)),  h_0 = h rounded.

    E is a fixed, pseudo-random draw of the exponential distribution (acentric Wilson statistics), the same for indices
    that the symmetry relates.  To be added to a smooth intensity; the samples of pixel and image must resolve `width`.
    """

    b_factor: float = 8.0  # A^2
    width: float = 0.05

    def heights(self, h_0: np.ndarray) -> np.ndarray:
        """E (n,) of integer indices h_0 (n, 3)."""
        equivalents = np.einsum("gij,nj->gni", self.rotations(), np.rint(h_0).astype(np.int64))
        # Friedel pairs share one
        keys = np.abs(equivalents @ np.array([4000037, 2003, 1])).max(axis=0).astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64, Steele et al. 2014
            keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
        keys ^= keys >> np.uint64(31)
        uniform = ((keys >> np.uint64(11)).astype(float) + 0.5) / 2.0**53
        return np.where(np.any(h_0 != 0, axis=1), -np.log(uniform), 0.0)

    def __call__(self, h: np.ndarray) -> np.ndarray:
        h_0 = np.rint(h)
        distance_sq = np.sum((h - h_0) ** 2, axis=1)
        intensity = np.zeros(len(h))
        near = np.flatnonzero(distance_sq < (6.0 * self.width) ** 2)
        intensity[near] = self.heights(h_0[near]) * np.exp(
            -0.5 * (distance_sq[near] / self.width**2 + self.b_factor * self.s_squared(h_0[near]))
        )
        return self.level * intensity
