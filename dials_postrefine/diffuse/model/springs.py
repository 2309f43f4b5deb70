"""
Networks of springs between the nodes of a molecule, alone or in its crystal, and how far they let the nodes move.

Springs join nodes that are nearer than a cutoff, with the force constant w(d) = exp(-d^2/a^2), times `bonded` where the
nodes are bonded (two force constants).  A node moves along one coordinate that knows no direction (the Gaussian
network), or along three, and a spring resists what is along it (the anisotropic one; Atilgan et al., Biophys. J. 2001,
80, 505): with n the unit vector from R to S

    K_RS = -w  or  -w n n',      K_RR = - sum_{S != R} K_RS,      G = (K + anchor)^-1

In a crystal springs reach the copies and the other cells, K(k)_RS = - sum over cells T of w n n' exp(2 pi i k.T), and
what nodes of a molecule have in common is the mean of G(k) over wave vectors k of the Brillouin zone, here the
eight (+-1/4, +-1/4, +-1/4): as of a crystal of 4 x 4 x 4 cells of which only motions that are no sound of long waves
are counted (Born and von Karman; Riccardi, Cui and Phillips, Biophys. J. 2009, 96, 464, have k = 0 alone).

Only ratios of force constants matter, as the displacements of the file scale G (elastic.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms

MOST_NODES = 400  # atoms beyond which residues are the nodes
MOST_ROWS = 2600  # of K
BOND = 1.95  # Angstrom, of atoms
BONDED_RESIDUES = 6.0  # Angstrom, between the means of residues that follow one another
WAVES = np.array([(0.25, y, z) for y in (0.25, -0.25) for z in (0.25, -0.25)])  # and what is conjugate


@dataclass(frozen=True)
class NetworkNodes:
    """
    The nodes: the group of each atom (n_atoms,) of int, places (n, 3), Angstrom, residue (n,) of int and chain (n,) of
    str, whether they are atoms, and u (n,), the mean displacement of their atoms, Angstrom^2.
    """

    groups: np.ndarray
    places: np.ndarray
    residue: np.ndarray
    chain: np.ndarray
    single: bool
    u: np.ndarray


def nodes_of(atoms: Atoms) -> NetworkNodes:
    """
    The nodes of a network: atoms, of large models residues.

    Parameters
    ----------
    atoms : Atoms

    Returns
    -------
    NetworkNodes
    """
    single = len(atoms) <= MOST_NODES
    groups = np.arange(len(atoms))
    if not single:
        groups = np.unique(atoms.residue, return_inverse=True)[1].reshape(-1)
    first = np.unique(groups, return_index=True)[1]
    u = np.bincount(groups, atoms.u_iso) / np.bincount(groups)
    return NetworkNodes(groups, atoms.means(groups), atoms.residue[first], atoms.chain[first], single, u)


@dataclass(frozen=True)
class Springs:
    """
    Springs, each from both of its ends: from node i of the molecule to node j (m,) of the cell, in the cell at shift
    (m, 3); unit (m, 3) along it, length (m,), Angstrom, and whether its nodes are bonded.  n_nodes of a molecule, and
    n_cell of the cell.
    """

    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray
    unit: np.ndarray
    length: np.ndarray
    bonded: np.ndarray
    n_nodes: int
    n_cell: int

    def within(self, cutoff: float) -> Springs:
        """Those that are shorter than the cutoff."""
        chosen = self.length < cutoff
        names = ("i", "j", "shift", "unit", "length", "bonded")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def find_springs(atoms: Atoms, nodes: NetworkNodes, cutoff: float, crystal: bool = False) -> Springs:
    """
    The springs between nodes that are nearer than a cutoff.

    Parameters
    ----------
    atoms : Atoms
    nodes : NetworkNodes
    cutoff : float
        Angstrom.
    crystal : bool
        Those to copies and to other cells, too.

    Returns
    -------
    Springs
    """
    n, basis = len(nodes.places), atoms.orthogonal
    sites = nodes.places @ np.linalg.inv(basis).T
    copies = [(np.eye(3), np.zeros(3))]
    reach = np.zeros(3, int)
    if crystal:
        copies = list(zip(atoms.rotations, atoms.translations))
        every = np.concatenate([sites @ r.T + t for r, t in copies])
        reach = np.ceil(np.ptp(every, axis=0) + cutoff * np.linalg.norm(atoms.reciprocal, axis=0)).astype(int)
    cell = np.concatenate([sites @ r.T + t for r, t in copies])
    found = []
    tree = cKDTree(cell @ basis.T)
    for number in np.ndindex(*(2 * reach + 1)):
        shift = np.array(number) - reach
        near = tree.sparse_distance_matrix(cKDTree((cell + shift) @ basis.T), cutoff, output_type="coo_matrix")
        found.append((near.row, near.col, np.broadcast_to(shift, (len(near.row), 3))))
    i, j, shift = (np.concatenate([one[k] for one in found]) for k in range(3))
    vector = (cell[j] + shift - cell[i]) @ basis.T
    length = np.linalg.norm(vector, axis=1)
    order = np.lexsort((*shift.T, j, i))
    order = order[(length > 1e-6)[order]]
    i, j, shift, vector, length = (one[order] for one in (i, j, shift, vector, length))
    bonded = (i // n == j // n) & ~shift.any(axis=1) & _are_bonded(nodes, i % n, j % n, length)
    return Springs(i, j, shift, vector / length[:, None], length, bonded, n, len(cell))


def _are_bonded(nodes: NetworkNodes, i: np.ndarray, j: np.ndarray, length: np.ndarray) -> np.ndarray:
    if nodes.single:
        return length < BOND
    follows = (np.abs(nodes.residue[i] - nodes.residue[j]) == 1) & (nodes.chain[i] == nodes.chain[j])
    return follows & (length < BONDED_RESIDUES)


class Response:
    """
    G of a network (module docstring).

    springs : Springs; width : float, a in Angstrom, may be infinite; n_axes : int, 1 or 3, along which nodes move.
    """

    def __init__(self, springs: Springs, width: float, n_axes: int = 1):
        self.n, self.n_axes = springs.n_nodes, n_axes
        size = springs.n_cell * n_axes
        if size > MOST_ROWS:
            raise CannotModel(
                f"A network of {springs.n_cell} nodes is too large (at most {MOST_ROWS // n_axes}): use "
                "elastic.across=molecule, or elastic.network=gaussian."
            )
        weight = np.exp(-((springs.length / width) ** 2))
        blocks = weight[:, None, None] * (springs.unit[:, :, None] * springs.unit[:, None, :] if n_axes == 3 else 1.0)
        waves = WAVES if springs.shift.any() else np.zeros((1, 3))
        self.stiffness = []  # of each wave vector: K of the springs that are not bonded, and of those that are
        for wave in waves:
            phase = np.exp(2j * np.pi * springs.shift @ wave)
            parts = [_assemble(springs, blocks, phase, chosen, n_axes) for chosen in (~springs.bonded, springs.bonded)]
            self.stiffness.append(parts if wave.any() else [one.real for one in parts])

    def evaluate(self, anchor: float, bonded: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        G of the molecule, and its derivatives by the anchor and by the force constant of bonds.

        Parameters
        ----------
        anchor, bonded : float

        Returns
        -------
        g, by_anchor, by_bonded : ndarray (n, n, n_axes, n_axes)
        """
        here = slice(0, self.n * self.n_axes)
        found = np.zeros((3, here.stop, here.stop))
        for free, bonds in self.stiffness:
            g = np.linalg.inv(free + bonded * bonds + anchor * np.eye(len(free)))
            rows, columns = g[here], g[:, here]
            for out, one in zip(found, (g[here, here], -rows @ columns, -rows @ (bonds @ columns))):
                out += one.real / len(self.stiffness)
        shape = (3, self.n, self.n_axes, self.n, self.n_axes)
        return tuple(found.reshape(shape).transpose(0, 1, 3, 2, 4))

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of K of a molecule alone, all bonds as other springs, and the squares of its nodes' parts."""
        values, vectors = np.linalg.eigh(sum(self.stiffness[0]))
        squares = (vectors**2).reshape(-1, self.n_axes, len(values)).mean(axis=1)
        return np.maximum(values, 0.0), squares


def _assemble(springs: Springs, blocks: np.ndarray, phase: np.ndarray, chosen: np.ndarray, n_axes: int) -> np.ndarray:
    """K of some of the springs at a wave vector."""
    k = np.zeros((springs.n_cell, springs.n_cell, n_axes, n_axes), complex)
    i, j, block = springs.i[chosen], springs.j[chosen], blocks[chosen]
    np.add.at(k, (i, i), block)
    np.add.at(k, (i, j), -block * phase[chosen, None, None])
    return k.transpose(0, 2, 1, 3).reshape(springs.n_cell * n_axes, -1)


def correlate(response: Response, anchor: float, bonded: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    G over the roots of its mean diagonal elements, C_RS = G_RS/sqrt(g_R g_S), g_R = tr G_RR/n_axes.

    Parameters
    ----------
    response : Response
    anchor, bonded : float

    Returns
    -------
    correlations, by_anchor, by_bonded : ndarray (n, n, n_axes, n_axes)
    """
    g, *slopes = response.evaluate(anchor, bonded)
    every = np.arange(response.n)
    diagonal = np.trace(g[every, every], axis1=1, axis2=2) / response.n_axes
    root = np.sqrt(np.outer(diagonal, diagonal))[:, :, None, None]
    correlations, found = g / root, []
    for slope in slopes:
        relative = np.trace(slope[every, every], axis1=1, axis2=2) / response.n_axes / diagonal
        found.append(slope / root - 0.5 * correlations * (relative[:, None] + relative[None])[:, :, None, None])
    return correlations, *found
