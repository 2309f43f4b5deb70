"""
What is known of a set of images: where the crystal stood in the beam, and the intensities that were observed.

Images are numbered 0 .. n_images - 1 through all experiments.  An image of a rotation experiment holds the observations
whose spots have their centre in it, or in a bin of several; a still is one image.  q = A h, with A the setting matrix
in the laboratory frame in the middle of the image (reciprocal axes as columns) and s0 the incident beam, both in
1/Angstrom.  The symmetry is given as matrices M that take a row of indices h to h M.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.indices import pack


class Unusable(Exception):
    """Data that can't be analysed; the message says why, and what to do."""


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
        return len(self.experiment)

    @property
    def n_experiments(self) -> int:
        return int(self.experiment.max()) + 1

    def select(self, kept: np.ndarray, intensity: np.ndarray, variance: np.ndarray) -> Images:
        """All images with the observations where kept (n,) holds, of other intensities and variances (n,)."""
        names = ("image", "unique", "h", "d_star_sq")
        own = {name: getattr(self, name)[kept] for name in names}
        return replace(self, intensity=intensity[kept], variance=variance[kept], **own)


@dataclass
class Spots:
    """
    One entry for each image and index: the mean of the observations there, sorted by image and key.

    image, key, unique (m,), intensity, variance (m,) of the mean, d_star_sq (m,); offsets (n_images + 1,).
    """

    image: np.ndarray
    key: np.ndarray
    unique: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    d_star_sq: np.ndarray
    offsets: np.ndarray

    def keys_of(self, image: int) -> np.ndarray:
        """The keys on an image, in order."""
        return self.key[self.offsets[image] : self.offsets[image + 1]]


def make_spots(images: Images, key: np.ndarray) -> Spots:
    """The spots, key (n,) being what is the same index, >= 0."""
    n_keys = int(key.max()) + 1
    both = images.image.astype(np.int64) * n_keys + key
    order = np.argsort(both, kind="stable")
    starts = np.flatnonzero(np.diff(both[order], prepend=-1))
    first = order[starts]
    counts = np.diff(np.append(starts, len(order)))
    image = images.image[first]
    return Spots(
        image,
        key[first],
        images.unique[first],
        np.add.reduceat(images.intensity[order], starts) / counts,
        np.add.reduceat(images.variance[order], starts) / counts**2,
        images.d_star_sq[first],
        np.searchsorted(image, np.arange(images.n_images + 1)),
    )


def number_indices(h: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers (n,) of the indices h (n, 3), equal for equal ones, the packed integers (k,) behind them, their base."""
    base = 4 * int(np.abs(h).max()) + 1  # room for what symmetry makes of them, h + k
    packed, numbers = np.unique(pack(h, base), return_inverse=True)
    return numbers, packed, base
