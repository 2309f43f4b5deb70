"""
Elastic networks: springs between neighbours, each node held in its place by a weak one (springs.py has G).

    C_RS = G_RS/sqrt(g_R g_S),  g_R the mean diagonal element of G_RR,     V_RS = fraction C_RS sqrt(u_R u_S)

with the displacements u of the file: the network says which nodes move together, the file how far each moves, and
fraction how much of that is the network's.  Nodes are the atoms, of large models the residues (at the mean of their
atoms), whose atoms move alike.  A strong anchor makes correlations short, a weak one makes the molecule a rigid body.

Of the Gaussian network V is isotropic.  Of the anisotropic one C_RS is 3 x 3, and where the file's displacements are
isotropic those of the atoms of R are u_i 1 + fraction u_R (C_RR - 1): what is anisotropic is the network's.

Cutoff and width a are those of a few whose diagonal g_R is most like u (in the least-squares sense, the anchor being
fitted, too), which is known before any voxel is looked at; fraction and anchor are fitted to the map, and where there
are two force constants how much stiffer bonds are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.springs import NetworkNodes, Response, correlate, find_springs, nodes_of
from dials_postrefine.diffuse.model.tensor_pairs import TensorPairs
from dials_postrefine.diffuse.model.voxels import Voxels

CUTOFFS = (6.0, 7.0, 8.0, 10.0, 12.0, 15.0)
WIDTHS = (3.0, 4.0, 5.0, 7.0, 10.0, np.inf)
ANCHOR = (1e-4, 30.0)
FAR = 2.3  # widths, beyond which springs of an anisotropic network are too weak to try a longer cutoff
MOST = 1.2  # fraction; what is above 1 is no motion, but within the standard deviations of one
SPREAD = 0.02  # of u, relative, below which it says nothing about the network
BONDED = Parameter("bonded", 3.0, 0.05, 1000.0, "")


@dataclass(frozen=True)
class Network:
    """
    A network: its nodes and G, its cutoff and width (Angstrom), an anchor, and the correlation of g_R with u; whether
    bonds have a force constant of their own.
    """

    nodes: NetworkNodes
    response: Response
    cutoff: float
    width: float
    anchor: float
    agreement: float
    two_constants: bool = False

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Fraction and anchor, and of two force constants their ratio."""
        start = float(np.clip(self.anchor, 2.0 * ANCHOR[0], 0.5 * ANCHOR[1]))
        found = (Parameter("fraction", 0.95, 0.0, MOST, ""), Parameter("anchor", start, *ANCHOR, ""))
        return (*found, BONDED) if self.two_constants else found

    def covariances(self, values: Sequence[float]) -> tuple[np.ndarray, ...]:
        """V over fraction (n, n, n_axes, n_axes), Angstrom^2, and its derivatives by all parameters but fraction."""
        root = np.sqrt(np.outer(self.nodes.u, self.nodes.u))[:, :, None, None]
        return tuple(one * root for one in correlate(self.response, *values[1:])[: len(values)])


class Elastic:
    """The model of a Gaussian network (module docstring): atoms, voxels, and the network."""

    name = "elastic"

    def __init__(self, atoms: Atoms, voxels: Voxels, network: Network):
        self.network, self.parameters = network, network.parameters
        self.pairs = GroupPairs(atoms, network.nodes.groups, voxels)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        v, *slopes = (one[:, :, 0, 0] for one in self.network.covariances(values))
        found = [self.pairs.interpolated(v, slope, values[0]) for slope in slopes]
        return found[0][0], np.array([found[0][1], *(one[2] * values[0] / max(values[0], 1e-12) for one in found)])

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives, which take as long again."""
        v = self.network.covariances(values)[0][:, :, 0, 0]
        return self.pairs.interpolated(v, np.zeros_like(v), values[0])[0]


class AnisotropicElastic:
    """The model of an anisotropic network (module docstring): atoms, voxels, and the network."""

    name = "elastic"

    def __init__(self, atoms: Atoms, voxels: Voxels, network: Network):
        self.network, self.parameters = network, network.parameters
        self.has_tensors = not atoms.is_isotropic
        self.sums = TensorPairs(atoms, network.nodes.groups, voxels)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        v, *slopes = self.network.covariances(values)
        slopes = [v, *(values[0] * one for one in slopes)]
        return self.sums.evaluate(
            self._displacements(values[0] * v), values[0] * v, [(self._displacements(one), one) for one in slopes]
        )

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives."""
        v = values[0] * self.network.covariances(values)[0]
        return self.sums.evaluate(self._displacements(v), v)[0]

    def _displacements(self, v: np.ndarray) -> np.ndarray:
        """What of V_RR is anisotropic (n, 3, 3); nothing where the file has tensors."""
        own = v[np.arange(len(v)), np.arange(len(v))]
        mean = np.trace(own, axis1=1, axis2=2)[:, None, None] / 3.0 * np.eye(3)
        return np.zeros_like(own) if self.has_tensors else own - mean


@dataclass(frozen=True)
class NetworkChoice:
    """
    What is asked of a network: along how many axes nodes move (1 or 3), its cutoff and width (Angstrom, the width may
    be infinite; NaN: the best of a few), whether it reaches through the crystal, and has two force constants.
    """

    n_axes: int = 1
    cutoff: float = float("nan")
    width: float = float("nan")
    crystal: bool = False
    two_constants: bool = False


def find_network(atoms: Atoms, choice: NetworkChoice) -> Network:
    """
    The network whose fluctuations are most like the displacements of the file (module docstring).

    Parameters
    ----------
    atoms : Atoms
    choice : NetworkChoice

    Returns
    -------
    Network
    """
    nodes = nodes_of(atoms)
    cutoff, width, anchor, agreement = _search(atoms, nodes, choice)
    springs = find_springs(atoms, nodes, cutoff, choice.crystal)
    response = Response(springs, width, choice.n_axes)
    return Network(nodes, response, cutoff, width, anchor, agreement, choice.two_constants)


def _search(atoms: Atoms, nodes: NetworkNodes, choice: NetworkChoice) -> tuple[float, float, float, float]:
    """Cutoff, width, anchor and agreement with u of the best network of a molecule alone."""
    u = nodes.u
    if np.ptp(u) < SPREAD * u.mean():
        cutoff = choice.cutoff if np.isfinite(choice.cutoff) else (8.0 if nodes.single else 10.0)
        return cutoff, np.inf if np.isnan(choice.width) else choice.width, 0.1, float("nan")
    cutoffs = CUTOFFS if np.isnan(choice.cutoff) else (choice.cutoff,)
    widths = WIDTHS if np.isnan(choice.width) else (choice.width,)
    springs = find_springs(atoms, nodes, max(cutoffs))
    tried = {}
    for width in widths:
        for cutoff in cutoffs:
            if choice.n_axes == 1 or cutoff == min(cutoffs) or cutoff < FAR * width:
                response = Response(springs.within(cutoff), width, choice.n_axes)
                tried[cutoff, width] = _fit_anchor(response, u)
    cutoff, width = min(tried, key=lambda pair: tried[pair][0])
    misfit, anchor = tried[cutoff, width]
    return cutoff, width, anchor, float(1.0 - misfit / ((u - u.mean()) ** 2).sum())


def _fit_anchor(response: Response, u: np.ndarray) -> tuple[float, float]:
    """The least misfit of g_R to u, scaled, and the anchor that has it."""
    values, squares = response.modes()

    def misfit(log_anchor):
        diagonal = squares @ (1.0 / (values + np.exp(log_anchor)))
        scale = (diagonal @ u) / (diagonal @ diagonal)
        return ((u - scale * diagonal) ** 2).sum()

    found = optimize.minimize_scalar(misfit, bounds=np.log(ANCHOR), method="bounded")
    return float(found.fun), float(np.exp(found.x))
