"""
From parameters to t of all disks, with derivatives.

    t_d(p) = sum_q P(p - q) I_d(kt_q),      kt = tilt + step R(rotation) offset (- shift_d)

I of simulation.py, P of pointspread.py, there only where sigma is a parameter.  Where disks have a shift of their own
each is simulated at its own wave vectors, which costs as much as many patterns as there are disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import Potential
from dials_postrefine.electron.fine.crystal import PotentialOfParameters
from dials_postrefine.electron.fine.parameters import kind_of
from dials_postrefine.electron.fine.pointspread import convolve, voigt_kernel
from dials_postrefine.electron.fine.simulation import Derivatives, Slab, differentiate_disks, simulate_disks

OF_POTENTIAL = ("U", "Uprime", "phase", "absorption", "B_")


@dataclass(frozen=True)
class PatternModel:
    """
    What t is made of.

    Attributes
    ----------
    slab : Slab
    table : PotentialOfParameters
    offset : ndarray, shape (n, 2)
        Of the pixels that are simulated; 1/Angstrom.
    shape : tuple of int
        Of the images that the pixels make, for the point spread.
    half_width : int
        Of the point spread; pixels.
    pixel_step : int
        Every so manieth row and column is simulated.
    """

    slab: Slab
    table: PotentialOfParameters
    offset: np.ndarray
    shape: tuple[int, int]
    half_width: int = 10
    pixel_step: int = 1

    def simulate(self, values: Mapping[str, float], thickness: Sequence[float] = ()) -> np.ndarray:
        """t, shape (d, n), or (k, d, n) for k thicknesses in place of that of the parameters."""
        several = np.atleast_1d(np.asarray(thickness if len(thickness) else values["thickness"], dtype=float))
        potential = self.table.potential(values)
        parts = [simulate_disks(slab, potential, kt, several) for slab, kt in self._parts(values)]
        found = np.concatenate(parts, axis=1)
        if "sigma" in values:
            found = self._spread(found, self._kernels(values)[0])
        return found if len(thickness) else found[0]

    def differentiate(self, values: Mapping[str, float], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """t (d, n), and its derivatives by the parameters of these names (p, d, n)."""
        potential = self.table.potential(values)
        of_potential = [name for name in names if kind_of(name) in OF_POTENTIAL]
        changes = self.table.changes(values, of_potential)
        found = _joined(self._derivatives(values, potential, changes))
        sharp = found.intensity
        columns = np.empty((len(names), *sharp.shape))
        for k, name in enumerate(names):
            if name in of_potential:
                columns[k] = found.by_potential[of_potential.index(name)]
            elif name == "thickness":
                columns[k] = found.by_thickness
            elif name not in ("sigma", "gamma"):
                columns[k] = self._by_geometry(values, name, found.by_kt)
        if "sigma" not in values:
            return sharp, columns
        kernels = self._kernels(values)
        for k, name in enumerate(names):
            if name in ("sigma", "gamma"):
                columns[k] = self._spread(sharp, kernels[1 if name == "sigma" else 2])
            else:
                columns[k] = self._spread(columns[k], kernels[0])
        return self._spread(sharp, kernels[0]), columns

    def kt(self, values: Mapping[str, float]) -> np.ndarray:
        """The wave vectors of the pixels but for shifts of disks, shape (n, 2)."""
        tilt = np.array([values.get("tilt_x", 0.0), values.get("tilt_y", 0.0)])
        return tilt + values.get("step", 1.0) * self.offset @ _rotation(values.get("rotation", 0.0)).T

    def _parts(self, values: Mapping[str, float]) -> list[tuple[Slab, np.ndarray]]:
        """The disks that are simulated together, and their wave vectors."""
        kt, n_disks = self.kt(values), len(self.slab.disks)
        shifts = np.array([[values.get(f"shift_{axis}_{d + 1}", 0.0) for axis in "xy"] for d in range(n_disks)])
        if not any(name.startswith("shift_") for name in values):
            return [(self.slab, kt)]
        return [(replace(self.slab, disks=self.slab.disks[d : d + 1]), kt - shifts[d]) for d in range(n_disks)]

    def _derivatives(self, values: Mapping[str, float], potential: Potential, changes: np.ndarray) -> list[Derivatives]:
        thickness = values["thickness"]
        return [differentiate_disks(slab, potential, kt, thickness, changes) for slab, kt in self._parts(values)]

    def _by_geometry(self, values: Mapping[str, float], name: str, by_kt: np.ndarray) -> np.ndarray:
        """By tilt, step, rotation or a shift, of the derivatives by kt (2, d, n)."""
        if name in ("tilt_x", "tilt_y"):
            return by_kt["xy".index(name[-1])]
        if name.startswith("shift_"):
            axis, disk = "xy".index(name.split("_")[1]), int(name.split("_")[2]) - 1
            found = np.zeros_like(by_kt[axis])
            found[disk] = -by_kt[axis, disk]
            return found
        angle, step = values.get("rotation", 0.0), values.get("step", 1.0)
        turn = _rotation(angle) if name == "step" else step * _rotation(angle + 0.5 * np.pi)
        moved = self.offset @ turn.T
        return by_kt[0] * moved[:, 0] + by_kt[1] * moved[:, 1]

    def _kernels(self, values: Mapping[str, float]) -> np.ndarray:
        return voigt_kernel(values["sigma"], values["gamma"], self.half_width, self.pixel_step)

    def _spread(self, flat: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return convolve(flat.reshape(*flat.shape[:-1], *self.shape), kernel).reshape(flat.shape)


def _joined(parts: list[Derivatives]) -> Derivatives:
    """Those of disks that were simulated apart."""
    fields = zip(*((one.intensity, one.by_thickness, one.by_kt, one.by_potential) for one in parts))
    return Derivatives(*(np.concatenate(one, axis=-2) for one in fields))


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
