"""
What is known of an observation before it is made: the features from which its amplitude is predicted.

    index         h, k, l of the representative of its symmetry equivalents
    resolution    d*, 1/Angstrom
    orientation   the unit vector of the beam in the crystal's Cartesian frame
    excitation    s_g = (K^2 - |K + g|^2)/(2 K), 1/Angstrom, in the middle of the image
    scale         ln of the inverse scale factor
    background    mean background of the spot, counts a pixel
    f_calc        |F_calc| of a model

Symmetry equivalents are told apart by the orientation alone: the operation of the Laue class (with inversion) that
takes an index to its representative takes the beam along, so that what happens to one of them is known of the others.
The representative is the equivalent with the largest h, of these with the largest k, and l.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from dials_postrefine.electron.spread.orientation import excitation_error
from dials_postrefine.numerics.images import Images
from dials_postrefine.numerics.indices import pack


@dataclass
class Features:
    """
    The features of n observations.

    Attributes
    ----------
    values : ndarray, shape (n, p)
    group : ndarray of int, shape (p,)
        Which of the names each column belongs to.
    names : list of str
        As in the module docstring.
    representative : ndarray of int, shape (n, 3)
    """

    values: np.ndarray
    group: np.ndarray
    names: list[str]
    representative: np.ndarray

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """The columns (n, ...) that belong to these names."""
        return self.values[:, np.isin(self.group, [self.names.index(name) for name in names])]

    def select(self, rows: np.ndarray) -> Features:
        """The features of these observations (mask or numbers)."""
        return replace(self, values=self.values[rows], representative=self.representative[rows])

    @property
    def has_f_calc(self) -> bool:
        """Whether there is a model."""
        return "f_calc" in self.names

    @property
    def f_calc(self) -> np.ndarray:
        """|F_calc| (n,) of the model, NaN where it is not known."""
        return self.columns(["f_calc"])[:, 0]


def make_features(
    images: Images, reciprocal: np.ndarray, measured: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Features:
    """
    The features of all observations.

    Parameters
    ----------
    images : Images
        Of n observations.
    reciprocal : ndarray, shape (3, 3)
        B, which takes h to the crystal's Cartesian frame (1/Angstrom).
    measured : mapping of str to ndarray, shape (n,)
        What is known besides the geometry: any of ``scale``, the inverse scale factor, ``background`` and ``f_calc``.

    Returns
    -------
    Features
    """
    representative, operation = find_representatives(images.h, images.symmetry.laue)
    a_matrix, s0 = images.a_matrix[images.image], images.s0[images.image]
    beam = np.linalg.solve(a_matrix, s0[:, :, None])[:, :, 0]  # in units of the reciprocal axes
    beam = np.einsum("ni,nij->nj", beam, operation) @ reciprocal.T
    beam /= np.linalg.norm(beam, axis=1, keepdims=True)
    columns = {
        "index": representative,
        "resolution": np.sqrt(images.d_star_sq),
        "orientation": beam,
        "excitation": excitation_error(a_matrix, s0, images.h),
    }
    columns |= {name: np.log(values) if name == "scale" else values for name, values in measured.items()}
    names = list(columns)
    parts = [np.reshape(column, (len(images.h), -1)) for column in columns.values()]
    group = np.repeat(np.arange(len(names)), [part.shape[1] for part in parts])
    return Features(np.concatenate(parts, axis=1).astype(float), group, names, representative)


def find_representatives(h: np.ndarray, laue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The representative of each index among its symmetry equivalents.

    Parameters
    ----------
    h : ndarray of int, shape (n, 3)
    laue : ndarray, shape (k, 3, 3)
        The rotations of the Laue group.

    Returns
    -------
    representative : ndarray of int, shape (n, 3)
    operation : ndarray, shape (n, 3, 3)
        The M that makes it, h M, with inversion where it takes one.
    """
    operations = np.concatenate([laue, -laue])
    equivalents = np.rint(np.einsum("ni,kij->knj", h, operations)).astype(np.int64)
    base = 2 * int(np.abs(equivalents).max()) + 1
    packed = np.array([pack(indices, base) for indices in equivalents])
    best = np.argmax(packed, axis=0)
    return equivalents[best, np.arange(len(h))], operations[best]
