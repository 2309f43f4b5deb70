"""
Bodies that move as a whole, each on its own: V_ij = U inside a body, 0 between them.  With (2) of the room

    I = sum_bodies { |F|^2 [exp(x) - 1] + sum_j o_j^2 f_j^2 - exp(x) sum_j o_j^2 f_j^2 exp(-q'u_j q) },     x = q'U q

where F has the displacements u_j of the file, in which U is contained: what is left of them, e_j = u_j - U, is motion
of the atom alone, and the sum is (1 - e^{-x}) |F_e|^2 + sum f^2 (1 - exp(-q'e_j q)) with F_e of the e_j.

U = sigma^2 is isotropic, or U has the six elements of a tensor in the Cartesian frame of the file, which turns with the
copies; a fit keeps it positive semidefinite (positive_tensors.py).  A copy that an operation x -> R x + t makes has the
intensity of the first one at h R.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.diffuse.model.amplitudes import calculate_parts, incoherent, make_box, structure_factors
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.voxels import Voxels

SIGMA = Parameter("sigma", 0.3, 0.005, 2.0)
ELEMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
TENSOR = tuple(
    Parameter(
        f"u{i + 1}{j + 1}", 0.09 if i == j else 0.0, 0.0 if i == j else -1.0, 4.0 if i == j else 1.0, "A^2", tensor=True
    )
    for i, j in ELEMENTS
)


class RigidBody:
    """
    The model (module docstring) of bodies, each the atoms of one with its operations.

    bodies : sequence of Atoms; voxels : Voxels; tensor : bool, U with six elements.
    """

    name = "rigid_body"

    def __init__(self, bodies: Sequence[Atoms], voxels: Voxels, tensor: bool = False):
        self.parameters = TENSOR if tensor else (SIGMA,)
        self.tensor = tensor
        self.terms = []  # of each body and orientation: q, |F|^2, sum f^2, sum f^2 exp(-q'u q)
        for atoms in bodies:
            box = make_box(atoms, cells_for(atoms, voxels.cells), voxels.s.max())
            parts = calculate_parts(atoms, box)
            for rotation in atoms.rotations:
                h = voxels.h @ rotation
                q = 2.0 * np.pi * h @ atoms.reciprocal.T
                f_sq = structure_factors(atoms, parts, box, h)
                self.terms.append((q, f_sq, *incoherent(atoms, q)))
        if not tensor:  # q^2 is that of all orientations
            q = self.terms[0][0]
            self.terms = [(q, *(sum(term[k] for term in self.terms) for k in (1, 2, 3)))]

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        n = len(self.terms[0][0])
        intensity, derivatives = np.zeros(n), np.zeros((len(values), n))
        for q, f_sq, total, elastic in self.terms:
            dx = self._products(q, values)
            x = values[0] ** 2 * (q**2).sum(axis=1) if not self.tensor else values @ dx
            grown = np.exp(np.minimum(x, 50.0))
            intensity += f_sq * np.expm1(np.minimum(x, 50.0)) + total - grown * elastic
            derivatives += dx * ((f_sq - elastic) * grown)
        return intensity, derivatives

    def _products(self, q: np.ndarray, values: np.ndarray) -> np.ndarray:
        """dx/dvalue (p, n)."""
        if not self.tensor:
            return 2.0 * values[0] * (q**2).sum(axis=1)[None]
        return np.array([(1.0 if i == j else 2.0) * q[:, i] * q[:, j] for i, j in ELEMENTS])


def cells_for(atoms: Atoms, cells: np.ndarray) -> np.ndarray:
    """
    The cells m for which all rotations of the atoms take multiples of 1/m to such.

    Parameters
    ----------
    atoms : Atoms
    cells : ndarray (3,) of int
        Those that m are multiples of.

    Returns
    -------
    ndarray (3,) of int
        The cells, or their least common multiple along each axis.
    """
    cells = np.asarray(cells, int)
    diagonal, inverse = np.diag(cells), np.diag(1.0 / cells)
    images = np.array([inverse @ rotation @ diagonal for rotation in atoms.rotations])
    if np.allclose(images, np.rint(images)):
        return cells
    return np.full(3, np.lcm.reduce(cells))
