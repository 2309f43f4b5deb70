"""
The disks of a convergent-beam pattern: what was measured, at which tangential wave vectors; files read it,
electron/fine/ takes it.

    kt = tilt + step R(rotation) offset,        k = (kt_x, kt_y, sqrt(K^2 - kt^2))

offset (n, 2) are the pixels' places about the centre of their disk in 1/Angstrom, the same in each disk: pixel p of all
disks belongs to one incident direction.  d disks, n pixels; the normal of the slab is +z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Pattern:
    """
    A pattern.

    Attributes
    ----------
    hkl : ndarray of int, shape (d, 3)
        The reflection of each disk.
    data : ndarray, shape (d, n)
        Counts.
    used : ndarray of bool, shape (d, n)
        The pixels that are not masked.
    variance : ndarray, shape (d, n)
        Of the data; empty where none is given.
    offset : ndarray, shape (n, 2)
        1/Angstrom.
    shape : tuple of int
        Rows and columns of the pixels, (n, 1) where they make no grid.
    direct : ndarray, shape (3, 3)
        Rows are the cell vectors in the laboratory; Angstrom.
    energy : float
        Volts.
    pixel : float
        Size of a pixel; 1/Angstrom.
    beams : ndarray of int, shape (b, 3)
        A list of beams that comes with the data; (0, 3) where there is none.
    start : mapping of str to float
        Starting values of parameters, by name.
    debye_waller : float
        B of all atoms that comes with the data; NaN where none does.
    detector : tuple of float
        var_B, Delta, A, g, m (electron/fine/detector.py); empty where unknown.
    origin_shift : float
        Where the data come with one: how far along x, y and z the origin was shifted to the centre; else 0.
    images_apart : bool
        Whether each disk is on a scale of its own.
    notes : tuple of str
        What the reader assumed.
    """

    hkl: np.ndarray
    data: np.ndarray
    used: np.ndarray
    variance: np.ndarray
    offset: np.ndarray
    shape: tuple[int, int]
    direct: np.ndarray
    energy: float
    pixel: float
    beams: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=int))
    start: Mapping[str, float] = field(default_factory=dict)
    debye_waller: float = float("nan")
    detector: tuple[float, ...] = ()
    origin_shift: float = 0.0
    images_apart: bool = False
    notes: tuple[str, ...] = ()

    def thinned(self, step: int) -> Pattern:
        """Every so manieth row and column of the images."""

        def thin(values: np.ndarray) -> np.ndarray:
            if values.shape[-1] == 0:
                return values
            images = values.reshape(*values.shape[:-1], *self.shape)[..., ::step, ::step]
            return images.reshape(*values.shape[:-1], -1)

        rows, columns = (len(range(0, n, step)) for n in self.shape)
        return replace(
            self,
            data=thin(self.data),
            used=thin(self.used),
            variance=thin(self.variance),
            offset=thin(self.offset.T).T,
            shape=(rows, columns),
        )

    @property
    def is_grid(self) -> bool:
        """Whether the pixels make images, which a point spread can be applied to."""
        return self.shape[1] > 1

    @property
    def is_large_angle(self) -> bool:
        """Whether the incident cone is wider than the Bragg angle of the nearest disk, so that disks would overlap."""
        g = np.linalg.norm(self.hkl @ self.reciprocal.T, axis=1)
        return bool(np.abs(self.offset).max() > 0.55 * g[g > 0].min()) if np.any(g > 0) else False

    @property
    def reciprocal(self) -> np.ndarray:
        """The reciprocal basis in columns, as DIALS' A; 1/Angstrom."""
        return np.linalg.inv(self.direct)

    @property
    def names(self) -> list[str]:
        """The disks' indices as text."""
        return [" ".join(map(str, one)) for one in self.hkl.tolist()]
