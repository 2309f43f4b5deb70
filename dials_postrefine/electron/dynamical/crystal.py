"""
The crystal of a dynamical refinement: atoms in a hand and a setting, and U_g of them with the derivatives of a fit.

Hand.  The inverted crystal has all atoms at -r; its operations are x -> R x - t, so that P3(1)21 becomes P3(2)21, and
U_-1(g) = U(g)*.  Setting.  An index h of the data (a row) is h M of the structure, M a rotation of the lattice: with
the matrix A of the data, A' = A M^-T is that of the structure.  Settings that a rotation of the structure's own point
group joins are one; where it has operations that invert (R of determinant -1), so are one hand in one setting and the
other hand in another.

Parameters.  overall_b, which is added to the B of all atoms, kappa = U'/U, and of the structure the shifts that site
symmetry and the polar axes leave: dr of atom j is V_j p with V_j (3, q_j) a basis of the common fixed space of the
operations that leave the atom where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import (
    Scattering,
    by_atoms,
    by_displacements,
    coefficients,
    indices_within,
)
from dials_postrefine.scattering.electron_atoms import ElectronAtoms

NEAR = 1e-3  # fractional, within which an operation leaves an atom where it is
MOST_VALUES = 1e8  # of the tables of U and its derivatives


@dataclass(frozen=True)
class Setting:
    """Hand (1 as given, -1 inverted) and M (3, 3) (module docstring)."""

    hand: int
    operation: np.ndarray

    @property
    def name(self) -> str:
        """As a reader has it: as given, inverted, and what h,k,l are read as."""
        hand = "as given" if self.hand == 1 else "inverted"
        if np.array_equal(self.operation, np.eye(3)):
            return hand
        return f"{hand}, read as {','.join(_sum_of_indices(column) for column in self.operation.T)}"


def _sum_of_indices(column: np.ndarray) -> str:
    terms = [f"{'-' if n < 0 else '+'}{'' if abs(n) == 1 else abs(n)}{name}" for n, name in zip(column, "hkl") if n]
    return "".join(terms).lstrip("+") or "0"


def settings_of(atoms: ElectronAtoms, lattice: np.ndarray) -> list[Setting]:
    """
    All hands and settings that are different crystals.

    Parameters
    ----------
    atoms : ElectronAtoms
    lattice : ndarray, shape (m, 3, 3)
        The rotations M of the lattice, identity first.

    Returns
    -------
    list of Setting
        As given first, then its inverted one, where that is another.
    """
    # x -> R x + t takes a row of indices h to h R
    point_group = {(_sign(one), _key(_sign(one) * one)) for one in atoms.rotations}
    found: list[Setting] = []
    seen: set[tuple] = set()
    for operation in np.rint(lattice).astype(int):
        for hand in (1, -1):
            if (hand, _key(operation)) in seen:
                continue
            found.append(Setting(hand, operation))
            seen |= {(hand * sign, _key(operation @ np.reshape(key, (3, 3)))) for sign, key in point_group}
    return found


def _sign(rotation: np.ndarray) -> int:
    return int(round(np.linalg.det(rotation)))


def _key(rotation: np.ndarray) -> tuple[int, ...]:
    return tuple(np.rint(rotation).astype(int).ravel())


def in_hand(atoms: ElectronAtoms, hand: int) -> ElectronAtoms:
    """
    The atoms, inverted where hand is -1.

    Parameters
    ----------
    atoms : ElectronAtoms
    hand : int

    Returns
    -------
    ElectronAtoms
    """
    if hand == 1:
        return atoms
    return replace(atoms, sites=-atoms.sites, translations=-atoms.translations)


@dataclass(frozen=True)
class Freedom:
    """
    What of the structure can be refined.

    Attributes
    ----------
    shifts : ndarray, shape (q, a, 3)
        Fractional shifts of the atoms by each free coordinate.
    isotropic : ndarray of int, shape (i,)
        The atoms whose B is free.
    displacements : ndarray, shape (w, a, 3, 3)
        Changes of U* by each free one of the others.
    """

    shifts: np.ndarray
    isotropic: np.ndarray
    displacements: np.ndarray

    @property
    def n(self) -> int:
        """Parameters."""
        return len(self.shifts) + len(self.isotropic) + len(self.displacements)


def freedom_of(atoms: ElectronAtoms) -> Freedom:
    """
    The shifts that site symmetry and the origin leave.

    Parameters
    ----------
    atoms : ElectronAtoms

    Returns
    -------
    Freedom
    """
    n = len(atoms.sites)
    found, displaced = [], []
    isotropic = ~np.any(atoms.u_star, axis=(1, 2))
    for j, site in enumerate(atoms.sites):
        moved = atoms.rotations @ site + atoms.translations - site
        of_site = atoms.rotations[np.all(np.abs(moved - np.rint(moved)) < NEAR, axis=1)]
        found += [_of_atom(vector, j, n) for vector in _fixed_space(of_site)]
        if not isotropic[j]:
            displaced += [_of_atom(change, j, n) for change in _fixed_tensors(of_site)]
    shifts = np.array(found).reshape(-1, n, 3)
    polar = _fixed_space(atoms.rotations)
    if len(polar) and len(shifts):
        # moving all atoms along a polar axis changes nothing: the shifts are orthogonal to that
        flat = shifts.reshape(len(shifts), -1)
        rigid = np.array([np.tile(axis, len(atoms.sites)) for axis in polar])
        inside = np.linalg.lstsq(flat.T, rigid.T, rcond=None)[0]
        _, _, vectors = np.linalg.svd(inside.T)
        shifts = np.tensordot(vectors[len(polar) :], shifts, 1)
    return Freedom(shifts, np.flatnonzero(isotropic), np.array(displaced).reshape(-1, n, 3, 3))


def _of_atom(value: np.ndarray, j: int, n: int) -> np.ndarray:
    """The value for atom j, 0 for the others of n."""
    found = np.zeros((n, *value.shape))
    found[j] = value
    return found


def _fixed_tensors(rotations: np.ndarray) -> np.ndarray:
    """A basis (w, 3, 3) of the symmetric tensors that all rotations leave as they are."""
    swap = np.eye(9).reshape(3, 3, 9).swapaxes(0, 1).reshape(9, 9)
    mean = np.mean([np.kron(one, one) for one in rotations], axis=0) @ (0.5 * (np.eye(9) + swap))
    vectors, values, _ = np.linalg.svd(mean)
    return vectors[:, values > 0.5 * values[0]].T.reshape(-1, 3, 3)


def _fixed_space(rotations: np.ndarray) -> np.ndarray:
    """A basis (q, 3) of what all rotations leave as it is."""
    mean = np.mean(rotations, axis=0)  # a projector, of a group
    vectors, values, _ = np.linalg.svd(mean)
    return vectors[:, values > 0.5].T


@dataclass(frozen=True)
class Tables:
    """
    U and its derivatives by index, of the crystal's own origin.

    Attributes
    ----------
    values : ndarray of complex, shape (1 + p, n)
        U and then dU by each parameter, flat by index; 1/Angstrom^2.
    u_prime_0 : float
        U'_0 for kappa = 1, 1/Angstrom^2.
    largest : ndarray of int, shape (3,)
    """

    values: np.ndarray
    u_prime_0: float
    largest: np.ndarray

    def places(self, hkl: np.ndarray) -> np.ndarray:
        """Where indices (..., 3) are in the flat tables; ValueError beyond."""
        if np.any(np.abs(hkl) > self.largest):
            raise ValueError("an index is beyond the table of U: make it to twice the |g| of the beams")
        shape = 2 * self.largest + 1
        h, k, l = np.moveaxis(hkl + self.largest, -1, 0)  # noqa: E741
        return (h * shape[1] + k) * shape[2] + l

    def between(self, beams: np.ndarray) -> np.ndarray:
        """U_{g-h} and its derivatives (1 + p, b, b) of beams (b, 3), U_0 left out of the diagonal."""
        found = self.values[:, self.places(beams[:, None, :] - beams[None, :, :])]
        here = np.arange(len(beams))
        found[:, here, here] = 0.0
        return found


@dataclass(frozen=True)
class Refined:
    """What of U is refined: overall_b, and the structure."""

    overall_b: bool = False
    structure: bool = False


def tabulate_crystal(
    atoms: ElectronAtoms, reciprocal: np.ndarray, d_star_max: float, scattering: Scattering, refined: Refined
) -> Tables:
    """
    The tables of a crystal (module docstring); derivatives in the order overall_b, shifts, B, U*.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A, of any orientation; 1/Angstrom.
    d_star_max : float
        Twice the largest |g| of the beams; 1/Angstrom.
    scattering : Scattering
        Whose absorption is none or proportional.
    refined : Refined

    Returns
    -------
    Tables

    Raises
    ------
    ValueError
        Where the tables need too much memory.
    """
    hkl = indices_within(reciprocal, d_star_max)
    first = np.where(hkl[:, 0] != 0, hkl[:, 0], np.where(hkl[:, 1] != 0, hkl[:, 1], hkl[:, 2]))
    hkl = hkl[first >= 0]  # of a Friedel pair one is enough
    largest = np.abs(hkl).max(axis=0)
    u, _ = coefficients(atoms, reciprocal, hkl, scattering)
    values = [u]
    if refined.overall_b:
        s_sq = 0.25 * np.sum((hkl @ reciprocal.T) ** 2, axis=1)
        values.append(-s_sq * u)
    if refined.structure:
        by_sites, by_b = by_atoms(atoms, reciprocal, hkl, scattering)
        freedom = freedom_of(atoms)
        values += [*(freedom.shifts.reshape(-1, len(by_sites)) @ by_sites), *by_b[freedom.isotropic]]
        if len(freedom.displacements):
            by_u = by_displacements(atoms, reciprocal, hkl, scattering)
            values += [*(freedom.displacements.reshape(-1, len(by_u)) @ by_u)]
    n = np.prod(2 * largest + 1, dtype=float)
    if n * len(values) > MOST_VALUES:
        raise ValueError(f"tables of U with {n * len(values):.0f} values are too large: lower g_max")
    tables = Tables(np.zeros((len(values), int(n)), dtype=complex), float(u[0].real), largest)
    tables.values[:, tables.places(-hkl)] = np.conj(values)
    tables.values[:, tables.places(hkl)] = values
    return tables
