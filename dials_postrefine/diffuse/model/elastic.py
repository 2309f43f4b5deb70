"""
A Gaussian elastic network: springs between neighbours, each node held in its place by a weak one.

    K_RS = -w(d_RS),  K_RR = sum_S w(d_RS),     w(d) = exp(-d^2/a^2) for d < cutoff, else 0
    G = (K + anchor)^-1,     C_RS = G_RS/sqrt(G_RR G_SS),     V_RS = fraction C_RS sqrt(u_R u_S)

with the displacements u of the file: the network says which nodes move together, the file how far each moves, and
fraction how much of that is the network's.  Nodes are the atoms, of large models the residues (at the mean of their
atoms), whose atoms move alike.  A strong anchor makes correlations short, a weak one makes the molecule a rigid body.

Cutoff and width a are those of a few whose diagonal G_RR is most like u (in the least-squares sense, the anchor being
fitted, too), which is known before any voxel is looked at; fraction and anchor are fitted to the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.voxels import Voxels

MOST_NODES = 400  # atoms beyond which residues are the nodes
CUTOFFS = (6.0, 7.0, 8.0, 10.0, 12.0, 15.0)
WIDTHS = (3.0, 4.0, 5.0, 7.0, 10.0, np.inf)
ANCHOR = (1e-4, 30.0)
SPREAD = 0.02  # of u, relative, below which it says nothing about the network


@dataclass(frozen=True)
class Network:
    """A network: K (n, n), its cutoff and width (Angstrom), an anchor, and the correlation of G_RR with u."""

    stiffness: np.ndarray
    cutoff: float
    width: float
    anchor: float
    agreement: float


class Elastic:
    """The model (module docstring): atoms, voxels, and a network of the nodes that nodes_of has."""

    name = "elastic"

    def __init__(self, atoms: Atoms, voxels: Voxels, network: Network):
        self.network = network
        groups, _ = nodes_of(atoms)
        self.pairs = GroupPairs(atoms, groups, voxels)
        self.root = np.sqrt(np.outer(self.pairs.u, self.pairs.u))
        start = float(np.clip(network.anchor, 2.0 * ANCHOR[0], 0.5 * ANCHOR[1]))
        self.parameters = (
            Parameter("fraction", 0.95, 0.0, 1.0, "", natural=True),
            Parameter("anchor", start, *ANCHOR, ""),
        )

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        correlations, slopes = correlate(self.network.stiffness, values[1])
        intensity, by_fraction, by_anchor = self.pairs.interpolated(
            correlations * self.root, slopes * self.root, values[0]
        )
        return intensity, np.array([by_fraction, by_anchor * values[0] / max(values[0], 1e-12)])

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives, which take as long again."""
        correlations, slopes = correlate(self.network.stiffness, values[1])
        return self.pairs.interpolated(correlations * self.root, np.zeros_like(slopes), values[0])[0]

    def covariance(self, values: np.ndarray) -> np.ndarray:
        """V (n_nodes, n_nodes), its diagonal the displacements of the file, Angstrom^2."""
        v = values[0] * correlate(self.network.stiffness, values[1])[0] * self.root
        np.fill_diagonal(v, self.pairs.u)
        return v


def nodes_of(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """
    The nodes of a network.

    Parameters
    ----------
    atoms : Atoms

    Returns
    -------
    groups : ndarray (n_atoms,) of int
        The node of each atom.
    places : ndarray (n_nodes, 3)
        Angstrom.
    """
    groups = np.arange(len(atoms))
    if len(atoms) > MOST_NODES:
        groups = np.unique(atoms.residue, return_inverse=True)[1].reshape(-1)
    n = np.bincount(groups)
    return groups, np.stack([np.bincount(groups, x) / n for x in atoms.xyz.T], axis=1)


def make_stiffness(places: np.ndarray, cutoff: float, width: float) -> np.ndarray:
    """
    K of nodes at their places (module docstring).

    Parameters
    ----------
    places : ndarray (n, 3)
        Angstrom.
    cutoff, width : float
        Angstrom; the width may be infinite.

    Returns
    -------
    ndarray (n, n)
    """
    distance_sq = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    springs = np.where(distance_sq < cutoff**2, np.exp(-distance_sq / width**2), 0.0)
    np.fill_diagonal(springs, 0.0)
    return np.diag(springs.sum(axis=1)) - springs


def correlate(stiffness: np.ndarray, anchor: float) -> tuple[np.ndarray, np.ndarray]:
    """
    C and its derivative by the anchor (module docstring).

    Parameters
    ----------
    stiffness : ndarray (n, n)
        K.
    anchor : float
        What is added to the diagonal of K.

    Returns
    -------
    correlations, slopes : ndarray (n, n)
    """
    g = np.linalg.inv(stiffness + anchor * np.eye(len(stiffness)))
    slope = -g @ g
    size = np.sqrt(np.diag(g))
    correlations = g / np.outer(size, size)
    relative = np.diag(slope) / np.diag(g)
    return correlations, slope / np.outer(size, size) - 0.5 * correlations * (relative[:, None] + relative[None])


def find_network(atoms: Atoms, cutoff: float | None = None) -> Network:
    """
    The network whose fluctuations are most like the displacements of the file (module docstring).

    Parameters
    ----------
    atoms : Atoms
    cutoff : float or None
        Angstrom; None: the best of CUTOFFS.

    Returns
    -------
    Network
    """
    groups, places = nodes_of(atoms)
    u = np.bincount(groups, atoms.u_iso) / np.bincount(groups)
    if np.ptp(u) < SPREAD * u.mean():
        cutoff = cutoff or (8.0 if len(u) == len(atoms) else 10.0)
        return Network(make_stiffness(places, cutoff, np.inf), cutoff, np.inf, 0.1, float("nan"))
    best = None
    for one in (cutoff,) if cutoff else CUTOFFS:
        for width in WIDTHS:
            stiffness = make_stiffness(places, one, width)
            values, vectors = np.linalg.eigh(stiffness)
            squares = vectors**2

            def misfit(log_anchor, values=values, squares=squares):
                diagonal = squares @ (1.0 / (np.maximum(values, 0.0) + np.exp(log_anchor)))
                scale = (diagonal @ u) / (diagonal @ diagonal)
                return ((u - scale * diagonal) ** 2).sum()

            found = optimize.minimize_scalar(misfit, bounds=np.log(ANCHOR), method="bounded")
            if best is None or found.fun < best[0]:
                best = found.fun, Network(stiffness, one, width, float(np.exp(found.x)), 0.0)
    total = ((u - u.mean()) ** 2).sum()
    network = best[1]
    return Network(network.stiffness, network.cutoff, network.width, network.anchor, float(1.0 - best[0] / total))
