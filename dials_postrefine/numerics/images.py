"""
Intensities that were observed on images, and where the crystal stood in the beam: what files read and electron/ takes.

Images are numbered 0 .. n_images - 1 through all experiments.  An image of a rotation experiment holds the observations
whose spots have their centre in it, or in a bin of several; a still is one image.  q = A h, with A the setting matrix
in the laboratory frame in the middle of the image (reciprocal axes as columns) and s0 the incident beam, both in
1/Angstrom.  The symmetry is given as matrices M that take a row of indices h to h M.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# What the intensities may be, and the columns of a reflection table that have them (.value and .variance).
COLUMNS = {"scale": "intensity.scale", "profile": "intensity.prf", "sum": "intensity.sum"}


@dataclass
class Symmetry:
    """Rotations of the Laue group (k, 3, 3) and of the lattice (l, 3, 3), identity first (module docstring)."""

    laue: np.ndarray
    lattice: np.ndarray


@dataclass
class Images:
    """
    The images: experiment (n_images,), number and last (n_images,), the image numbers of the scan that it holds, angle
    (n_images,) of the rotation in radians, NaN of a still; a_matrix (n_images, 3, 3), s0 (n_images, 3), beam_intensity
    (n_images,), NaN where unknown.  The observations: image, unique (n,), numbers of image and of unique index by Laue
    class, h (n, 3), intensity, variance, d_star_sq (n,), in 1/Angstrom^2.
    """

    experiment: np.ndarray
    number: np.ndarray
    last: np.ndarray
    angle: np.ndarray
    a_matrix: np.ndarray
    s0: np.ndarray
    beam_intensity: np.ndarray
    image: np.ndarray
    unique: np.ndarray
    h: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    d_star_sq: np.ndarray
    symmetry: Symmetry

    @property
    def n_images(self) -> int:
        """How many images there are, those without observations included."""
        return len(self.experiment)

    @property
    def n_experiments(self) -> int:
        """How many experiments the images are of."""
        return int(self.experiment.max()) + 1

    def select(self, kept: np.ndarray, intensity: np.ndarray, variance: np.ndarray) -> Images:
        """All images with the observations where kept (n,) holds, of other intensities and variances (n,)."""
        observations = {name: getattr(self, name)[kept] for name in ("image", "unique", "h", "d_star_sq")}
        return replace(self, intensity=intensity[kept], variance=variance[kept], **observations)
