"""
Reflections whose U is refined: with all their symmetry equivalents, as one number.

    U(h R) = U(h) exp(2 pi i h.t),      U(-h) = U(h)*

for every operation x -> R x + t of the space group, in the convention U_g ~ sum f exp(-2 pi i g.r).  A group has the
value |U| of all its members, times a phase each: that of the atoms, or where these have no U (the 222 of silicon) the
one that is real about the centre of symmetry, so that the value has a sign.  Where there is no centre the phase of the
first may be refined; it turns those of Friedel mates the other way.  U' has the phases of U.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.scattering.electron_atoms import ElectronAtoms

NO_U = 1e-6  # of the largest, less is rounding or a cancelling of the atoms' factors


@dataclass(frozen=True)
class ReflectionGroup:
    """
    Reflections that are one.

    Attributes
    ----------
    label : str
        The indices of the first, 111 or 1-11.
    hkl : ndarray of int, shape (n, 3)
    phase : ndarray of complex, shape (n,)
        Of length 1.
    sense : ndarray, shape (n,)
        1, or -1 of those that a refined phase turns the other way; 0 where it can't be refined.
    forbidden : bool
        Whether the atoms, as spheres, have no U for it.
    """

    label: str
    hkl: np.ndarray
    phase: np.ndarray
    sense: np.ndarray
    forbidden: bool

    def places(self, hkl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where indices (m, 3) are members: their places (k,), and those of the members."""
        known = {tuple(one): k for k, one in enumerate(self.hkl.tolist())}
        found = [(i, known[tuple(one)]) for i, one in enumerate(hkl.tolist()) if tuple(one) in known]
        return tuple(np.array(found, dtype=int).reshape(-1, 2).T)


def equivalents(atoms: ElectronAtoms, hkl: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The symmetry equivalents of a reflection and its Friedel mate.

    Parameters
    ----------
    atoms : ElectronAtoms
        Whose operations are taken.
    hkl : ndarray of int, shape (3,)

    Returns
    -------
    hkl : ndarray of int, shape (n, 3)
    phase : ndarray of complex, shape (n,)
        U over that of the first.
    sense : ndarray, shape (n,)
    """
    hkl = np.asarray(hkl, dtype=int)
    rows: dict[tuple, tuple[complex, int]] = {}
    for rotation, translation in zip(atoms.rotations, atoms.translations):
        turned = tuple(np.rint(hkl @ rotation).astype(int).tolist())
        rows.setdefault(turned, (np.exp(2j * np.pi * (hkl @ translation)), 1))
    centric = tuple((-hkl).tolist()) in rows
    for turned, (phase, _) in list(rows.items()):
        rows.setdefault(tuple(-one for one in turned), (np.conj(phase), -1))
    phases, senses = zip(*rows.values())
    return np.array(list(rows)), np.array(phases), np.zeros(len(rows)) if centric else np.array(senses, dtype=float)


def representative(atoms: ElectronAtoms, hkl: np.ndarray) -> tuple[int, int, int]:
    """
    The equivalent that a group is called by: the one that sorts last.

    Parameters
    ----------
    atoms : ElectronAtoms
    hkl : ndarray of int, shape (3,)

    Returns
    -------
    tuple of int
    """
    return tuple(max(equivalents(atoms, hkl)[0].tolist()))


def make_group(
    atoms: ElectronAtoms, hkl: np.ndarray, u: complex, largest: float, central_phase: complex
) -> ReflectionGroup:
    """
    The group of a reflection.

    Parameters
    ----------
    atoms : ElectronAtoms
    hkl : ndarray of int, shape (3,)
        The representative.
    u : complex
        U of the atoms; 1/Angstrom^2.
    largest : float
        The largest |U| of the crystal.
    central_phase : complex
        The phase of what is real about the centre of symmetry; 1 where there is none.

    Returns
    -------
    ReflectionGroup
    """
    members, phase, sense = equivalents(atoms, hkl)
    forbidden = abs(u) < NO_U * largest
    first = central_phase if forbidden else u / abs(u)
    # those with sense -1 are Friedel mates: the conjugate of the first's phase, too
    mates = {tuple(one) for one in (-members).tolist()} if not np.any(sense) else set()
    turned = phase * (first if mates else np.where(sense < 0, np.conj(first), first))
    return ReflectionGroup("".join(map(str, np.asarray(hkl).tolist())), members, turned, sense, forbidden)
