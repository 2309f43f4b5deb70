"""
A model whose own motion is all that there is: V_ii = sigma^2 for all atoms, whatever the file has.

Of a model of the atoms without displacements, J(theta) by (2) of the room with u = 0,

    I = exp(-x) J + sum_j o_j^2 f_j^2 [1 - exp(-x)],     x = q^2 sigma^2,

which for a rigid body is (1 - e^{-x}) |F_0|^2.  sigma is the first parameter of the model.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.voxels import Voxels


class OwnDisplacements:
    """A model (module docstring) made of one of atoms whose displacements are 0."""

    def __init__(self, model: Model, atoms: Atoms, voxels: Voxels):
        self.model, self.name, self.parameters = model, model.name, model.parameters
        self.q_sq = voxels.q_sq
        self.total = incoherent(atoms, voxels.q)[0] * len(atoms.rotations)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        x = self.q_sq * values[0] ** 2
        damping = np.exp(-x)
        raw, derivatives = self.model.evaluate(values)
        derivatives = damping * derivatives
        derivatives[0] += 2.0 * values[0] * self.q_sq * damping * (self.total - raw)
        return damping * raw - self.total * np.expm1(-x), derivatives
