"""
The spots of each image: the mean of all observations of an index on it, which is what pairs of images have in common.

In: the Images (numerics/images.py) and a key of each observation, equal where the index counts as the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.images import Images
from dials_postrefine.numerics.indices import pack


@dataclass
class Spots:
    """
    One entry for each image and index: the mean of the observations there, sorted by image and key.

    Attributes
    ----------
    image, key, unique : ndarray of int, shape (m,)
    intensity, variance : ndarray, shape (m,)
        The mean, and the variance of it.
    d_star_sq : ndarray, shape (m,)
        1/Angstrom^2.
    offsets : ndarray of int, shape (n_images + 1,)
        Where the spots of each image begin.
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
    """
    The spots of the images.

    Parameters
    ----------
    images : Images
        Of n observations.
    key : ndarray of int, shape (n,)
        Not negative, equal where the index counts as the same.

    Returns
    -------
    Spots
    """
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
    """
    Numbers of indices, equal for equal ones.

    Parameters
    ----------
    h : ndarray of int, shape (n, 3)

    Returns
    -------
    numbers : ndarray of int, shape (n,)
    packed : ndarray of int, shape (k,)
        The packed integers (numerics.indices.pack) behind the k numbers, sorted.
    base : int
        With which they are packed.
    """
    base = 4 * int(np.abs(h).max()) + 1  # room for what symmetry makes of them, h + k
    packed, numbers = np.unique(pack(h, base), return_inverse=True)
    return numbers, packed, base
