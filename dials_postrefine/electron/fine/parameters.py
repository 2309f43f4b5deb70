"""
What can be refined, by name: its value, what it is, its range, whether it is free.

U111, Uprime111 (1/Angstrom^2), phase111 (radians), absorption (U'/U of all others), B_Si (Angstrom^2), thickness
(Angstrom), tilt_x, tilt_y (1/Angstrom: the shift of the pattern), step (the size of a pixel over that given), rotation
(radians), sigma, gamma (pixels), shift_x_3, shift_y_3 (1/Angstrom, of the third disk against the first).

A range normalises: the simplex' first steps are tenths of it, and Gauss-Newton needs none.  It bounds nothing unless
that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

UNITS = {
    "U": "1/A^2",
    "Uprime": "1/A^2",
    "phase": "rad",
    "absorption": "",
    "B_": "A^2",
    "thickness": "A",
    "tilt_": "1/A",
    "step": "",
    "rotation": "rad",
    "sigma": "px",
    "gamma": "px",
    "shift_": "1/A",
}


@dataclass(frozen=True)
class Parameters:
    """
    Values by name, the free ones in their order, ranges by name, and whether these bound.
    """

    values: Mapping[str, float]
    free: tuple[str, ...]
    ranges: Mapping[str, float]
    bound: bool = False

    @property
    def x(self) -> np.ndarray:
        """The values of the free ones (p,)."""
        return np.array([self.values[name] for name in self.free])

    def at(self, x: Iterable[float]) -> dict[str, float]:
        """All values, with these of the free ones."""
        return {**self.values, **dict(zip(self.free, (float(one) for one in x)))}

    def half_ranges(self) -> np.ndarray:
        """Half of the ranges of the free ones (p,)."""
        return 0.5 * np.array([self.ranges[name] for name in self.free])


def kind_of(name: str) -> str:
    """
    The kind of a parameter, as UNITS has it.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
    """
    return max((kind for kind in UNITS if name.startswith(kind)), key=len)


def default_range(name: str, value: float, pixel: float) -> float:
    """
    The range of a parameter.

    Parameters
    ----------
    name : str
    value : float
        The start.
    pixel : float
        1/Angstrom.

    Returns
    -------
    float
        In its units.
    """
    of_kinds = {
        "U": 0.1 * max(abs(value), 0.01),
        "Uprime": max(abs(value), 1e-4),
        "phase": 1.0,
        "absorption": max(abs(value), 0.01),
        "B_": 0.5,
        "thickness": 0.05 * abs(value),
        "tilt_": 5.0 * pixel,
        "step": 0.04,
        "rotation": np.radians(4.0),
        "sigma": 1.0,
        "gamma": 0.5,
        "shift_": 2.0 * pixel,
    }
    return of_kinds[kind_of(name)]
