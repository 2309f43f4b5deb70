"""
What is known of an observation before it is made: the features from which its amplitude is predicted.

    index         h, k, l of the representative of its symmetry mates
    resolution    d*, 1/Angstrom
    orientation   the unit vector of the beam in the crystal's Cartesian frame
    excitation    s_g = (K^2 - |K + g|^2)/(2 K), 1/Angstrom, in the middle of the image
    scale         ln of the inverse scale factor
    background    mean background of the spot, counts a pixel
    f_calc        |F_calc| of a model

Mates are told apart by the orientation alone: the operation of the Laue class (with inversion) that takes an index to
its representative takes the beam along, so that what happens to one of them is known of the others.  The representative
is the mate with the largest h, of these with the largest k, and l.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.spread.images import Images
from dials_postrefine.electron.spread.orientation import excitation_error
from dials_postrefine.numerics.indices import pack


@dataclass
class Features:
    """values (n, p), group (p,) of the names (module docstring) that each column belongs to, representative (n, 3)."""

    values: np.ndarray
    group: np.ndarray
    names: list[str]
    representative: np.ndarray

    def of(self, names: list[str]) -> np.ndarray:
        """The columns that belong to these names."""
        return self.values[:, np.isin(self.group, [self.names.index(name) for name in names])]


def make_features(
    images: Images,
    reciprocal: np.ndarray,
    scale: np.ndarray | None = None,
    background: np.ndarray | None = None,
    f_calc: np.ndarray | None = None,
) -> Features:
    """
    The features of all observations (n,); reciprocal: B (3, 3), which takes h to the crystal's Cartesian frame;
    scale, background, f_calc (n,), NaN where unknown, or None.
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
    if scale is not None:
        columns["scale"] = np.log(scale)
    if background is not None:
        columns["background"] = background
    if f_calc is not None:
        columns["f_calc"] = f_calc
    names = list(columns)
    parts = [np.reshape(column, (len(images.h), -1)) for column in columns.values()]
    group = np.repeat(np.arange(len(names)), [part.shape[1] for part in parts])
    return Features(np.concatenate(parts, axis=1).astype(float), group, names, representative)


def find_representatives(h: np.ndarray, laue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The representatives (n, 3) of indices h (n, 3) by the rotations laue (k, 3, 3), and the operations M (n, 3, 3), with
    inversion where it takes one, that make them: h M.
    """
    operations = np.concatenate([laue, -laue])
    mates = np.rint(np.einsum("ni,kij->knj", h, operations)).astype(np.int64)
    base = 2 * int(np.abs(mates).max()) + 1
    packed = np.array([pack(one, base) for one in mates])
    best = np.argmax(packed, axis=0)
    return mates[best, np.arange(len(h))], operations[best]
