"""
What the mean square displacements of atoms are, where they are not the file's.

OwnDisplacements: the model's own motion is all that there is, V_ii = sigma^2 of all atoms.  Of a model of atoms without
displacements, J(theta) by (2) of the room with u = 0,

    I = exp(-x) J + sum_j o_j^2 f_j^2 [1 - exp(-x)],     x = q^2 sigma^2,

which for a rigid body is (1 - e^{-x}) |F_0|^2.  sigma is the first parameter of the model.

RefinedDisplacements: those of the file and one more, V_ii = u_i + b/(8 pi^2), b a B factor that is fitted: with the
model J(theta) by (2) of the room, T = sum_j o_j^2 f_j^2, and d = q^2 b/(8 pi^2), as all pairs are damped alike,

    I = exp(-d) (J - T) + T
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Model, Parameter
from dials_postrefine.diffuse.model.voxels import Voxels

B_EXTRA = Parameter("b_extra", 0.0, -20.0, 100.0, "A^2")


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


class RefinedDisplacements:
    """A model (module docstring) made of one of atoms with the displacements of the file."""

    def __init__(self, model: Model, atoms: Atoms, voxels: Voxels):
        self.model, self.name = model, model.name
        self.parameters = (*model.parameters, B_EXTRA)
        self.d = voxels.q_sq / (8.0 * np.pi**2)
        self.total = incoherent(atoms, voxels.q)[0] * len(atoms.rotations)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        raw, derivatives = self.model.evaluate(values[:-1])
        damping = np.exp(-self.d * values[-1])
        damped = damping * (raw - self.total)
        return damped + self.total, np.concatenate([damping * derivatives, -(self.d * damped)[None]])
