"""
Groups of atoms that move each as a whole, for covariances that are inferred (group_covariance.py).

    residues    runs of so many residues of a chain
    domains     parts of the molecule that its network holds together most: the residues (at the means of their atoms,
                springs between those nearer than NEAR) are halved by the sign of the slowest mode of the largest part,
                Fiedler's vector, until there are as many parts as are asked for
    marked      what is said to be one, as helices and strands are; in between are runs of what is not
    selected    what is said to be one, and no other atom is in any
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms

NEAR = 10.0  # Angstrom


@dataclass(frozen=True)
class Groups:
    """
    Groups: the number of each atom's (n_atoms,) of int, -1 where it is in none, their names, and what says so.
    """

    number: np.ndarray
    names: tuple[str, ...]
    source: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def places(self, atoms: Atoms) -> np.ndarray:
        """The means of their atoms (n_groups, 3), Angstrom."""
        inside = self.number >= 0
        return atoms.select(inside).means(self.number[inside])


def runs_of_residues(atoms: Atoms, n_residues: int) -> Groups:
    """
    Groups of so many residues of a chain that follow one another.

    Parameters
    ----------
    atoms : Atoms
    n_residues : int

    Returns
    -------
    Groups
    """
    number, names = np.zeros(len(atoms), int), []
    for chain in dict.fromkeys(atoms.chain):
        here = np.flatnonzero(atoms.chain == chain)
        order = np.unique(atoms.residue[here], return_inverse=True)[1].reshape(-1) // n_residues
        number[here] = len(names) + order
        first = np.arange(order.max() + 1) * n_residues + 1
        last = np.minimum(first + n_residues - 1, len(np.unique(atoms.residue[here])))
        names += [f"{chain.strip()} {a}" + (f"-{b}" if b > a else "") for a, b in zip(first.tolist(), last.tolist())]
    return Groups(number, tuple(one.strip() for one in names))


def domains_of(atoms: Atoms, n_domains: int) -> Groups:
    """
    Domains of a molecule (module docstring).

    Parameters
    ----------
    atoms : Atoms
    n_domains : int

    Returns
    -------
    Groups
        In the order of their first residues.
    """
    residues = np.unique(atoms.residue, return_inverse=True)[1].reshape(-1)
    places = atoms.means(residues)
    distance = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2))
    springs = np.exp(-((distance / NEAR) ** 2)) * ~np.eye(len(places), dtype=bool)
    part = np.zeros(len(places), int)
    for new in range(1, min(n_domains, len(places))):
        here = np.flatnonzero(part == np.bincount(part).argmax())
        inside = springs[np.ix_(here, here)]
        slowest = np.linalg.eigh(np.diag(inside.sum(axis=1)) - inside)[1][:, 1]
        half = slowest > 0.0
        part[here[half if half.any() and not half.all() else np.arange(len(here)) < len(here) // 2]] = new
    first = np.unique(part, return_index=True)[1]
    order = np.argsort(np.argsort(first))
    return Groups(order[part][residues], tuple(f"domain {k + 1}" for k in range(len(first))))


def marked(atoms: Atoms, parts: Sequence[np.ndarray], names: Sequence[str]) -> Groups:
    """
    Groups that are given, and runs of what is in between.

    Parameters
    ----------
    atoms : Atoms
    parts : sequence of ndarray (n_atoms,) of bool
    names : sequence of str

    Returns
    -------
    Groups
        In the order of the atoms.
    """
    given = selected(parts, names)
    label, found, number = None, [], np.zeros(len(atoms), int)
    runs = 0
    for k, (one, chain, residue) in enumerate(zip(given.number, atoms.chain, atoms.residue)):
        # a residue whose atoms are apart in the file (alternates, waters) begins a run of its own
        if label is None or one != label[0] or (one < 0 and (chain != label[1] or abs(residue - label[2]) > 1)):
            runs += one < 0
            found.append(one if one >= 0 else -runs)
        label = (one, chain, residue)
        number[k] = found[-1]
    order = {value: k for k, value in enumerate(dict.fromkeys(found))}
    called = tuple(names[one] if one >= 0 else f"between {-one}" for one in order)
    return Groups(np.array([order[one] for one in number.tolist()]), called)


def selected(parts: Sequence[np.ndarray], names: Sequence[str]) -> Groups:
    """
    Groups that are given; other atoms are in none.

    Parameters
    ----------
    parts : sequence of ndarray (n_atoms,) of bool
    names : sequence of str

    Returns
    -------
    Groups
    """
    number = np.full(len(parts[0]), -1)
    for k, part in enumerate(parts):
        number[part] = k
    return Groups(number, tuple(names))
