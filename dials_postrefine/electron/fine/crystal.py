"""
U + iU' between the beams, of atoms and of the parameters, and its derivatives.

    V_h = U_h + i U'_h,      U'_h = f U_h (f: absorption) but for groups that have an own U'

with U of the atoms, whose B may be refined, element by element, but for the groups (groups.py), whose U is a parameter:
U_h = u exp(i s phi) phase_h.  Parameters, by name: U111, Uprime111, phase111, absorption, B_Si.  The origin of the
atoms may be displaced by a vector d against that of the groups' phases: U_h of the atoms times exp(-2 pi i h.d).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import (
    Potential,
    Scattering,
    by_atoms,
    coefficients,
    differences,
    tabulate,
)
from dials_postrefine.electron.fine.groups import ReflectionGroup
from dials_postrefine.scattering.electron_atoms import ElectronAtoms


@dataclass(frozen=True)
class Crystal:
    """
    What the table of V is made of.

    Attributes
    ----------
    atoms : ElectronAtoms
    elements : tuple of str
        Names of the atoms' kinds.
    reciprocal : ndarray, shape (3, 3)
        A.
    scattering : Scattering
    groups : tuple of ReflectionGroup
    displaced : ndarray, shape (3,)
        d, fractional.
    """

    atoms: ElectronAtoms
    elements: tuple[str, ...]
    reciprocal: np.ndarray
    scattering: Scattering
    groups: tuple[ReflectionGroup, ...] = ()
    displaced: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def with_b(self, values: Mapping[str, float]) -> ElectronAtoms:
        """The atoms with the B of these parameters, where there are."""
        own = [values.get(f"B_{name}") for name in self.elements]
        b = [self.atoms.b[j] if own[kind] is None else own[kind] for j, kind in enumerate(self.atoms.kind)]
        return replace(self.atoms, b=np.array(b, dtype=float))

    def table(self, beams: np.ndarray) -> PotentialOfParameters:
        """V between beams (n, 3), to be evaluated for parameters."""
        hkl = differences(beams)
        members = tuple(group.places(hkl) for group in self.groups)
        numbers = {tuple(one): k for k, one in enumerate(hkl.tolist())}
        pairs = (np.asarray(beams)[:, None] - np.asarray(beams)[None]).reshape(-1, 3).tolist()
        between = np.array([numbers[tuple(one)] for one in pairs]).reshape(len(beams), len(beams))
        return PotentialOfParameters(self, hkl, members, between)


@dataclass(frozen=True)
class PotentialOfParameters:
    """V at the indices hkl (m, 3), between (n, n) of which beams are; members: which of them groups have."""

    crystal: Crystal
    hkl: np.ndarray
    members: tuple[tuple[np.ndarray, np.ndarray], ...]
    between: np.ndarray

    def coefficients(self, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """U and U' (m,) for parameters."""
        crystal, f = self.crystal, values.get("absorption", 0.0)
        u = coefficients(crystal.with_b(values), crystal.reciprocal, self.hkl, crystal.scattering)[0] * self._phases()
        u_prime = f * u
        for group, (places, rows) in zip(crystal.groups, self.members):
            phase = _phase(group, rows, values)
            u[places] = values[f"U{group.label}"] * phase
            u_prime[places] = values.get(f"Uprime{group.label}", f * values[f"U{group.label}"]) * phase
        return u, u_prime

    def potential(self, values: Mapping[str, float]) -> Potential:
        """The table for parameters."""
        return tabulate(self.hkl, *self.coefficients(values))

    def changes(self, values: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
        """dV_{g-h} by the parameters of these names, shape (p, n, n)."""
        u, _ = self.coefficients(values)
        f = values.get("absorption", 0.0)
        found = np.zeros((len(names), len(self.hkl)), dtype=complex)
        of_b = self._by_b(values, f) if any(name.startswith("B_") for name in names) else {}
        for k, name in enumerate(names):
            if name in of_b:
                found[k] = of_b[name]
            elif name == "absorption":
                found[k] = 1j * u
                for group, (places, _) in zip(self.crystal.groups, self.members):
                    if f"Uprime{group.label}" in values:
                        found[k, places] = 0.0
        for group, (places, rows) in zip(self.crystal.groups, self.members):
            for k, name in enumerate(names):
                if name.endswith(group.label):
                    found[k, places] = self._by_group(group, rows, values, name)
        found[:, np.all(self.hkl == 0, axis=1)] = 1j * found[:, np.all(self.hkl == 0, axis=1)].imag
        return found[:, self.between]

    def _phases(self) -> np.ndarray:
        """exp(-2 pi i h.d)."""
        return np.exp(-2j * np.pi * (self.hkl @ self.crystal.displaced))

    def _by_group(self, group: ReflectionGroup, rows: np.ndarray, values: Mapping[str, float], name: str) -> np.ndarray:
        """dV of a group's members by a parameter, 0 where it is none of its."""
        phase, label = _phase(group, rows, values), group.label
        own = f"Uprime{label}" in values
        f = 0.0 if own else values.get("absorption", 0.0)
        if name == f"U{label}":
            return (1.0 + 1j * f) * phase
        if name == f"Uprime{label}":
            return 1j * phase
        value = values[f"U{label}"] * (1.0 + 1j * f) + 1j * values.get(f"Uprime{label}", 0.0)
        return 1j * group.sense[rows] * value * phase

    def _by_b(self, values: Mapping[str, float], f: float) -> dict[str, np.ndarray]:
        """dV by B of each element, of all that is of the atoms."""
        crystal = self.crystal
        by_b = by_atoms(crystal.with_b(values), crystal.reciprocal, self.hkl, crystal.scattering)[1]
        by_b = by_b * self._phases()
        for places, _ in self.members:
            by_b[:, places] = 0.0
        return {
            f"B_{name}": (1.0 + 1j * f) * by_b[crystal.atoms.kind == kind].sum(axis=0)
            for kind, name in enumerate(crystal.elements)
        }


def _phase(group: ReflectionGroup, rows: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    turned = values.get(f"phase{group.label}", 0.0)
    return group.phase[rows] * np.exp(1j * group.sense[rows] * turned)
