"""
The model with V as given, of atoms: isotropic V_ij (a number times the unit matrix, covariance.py), or 3 x 3 blocks
(tensor_pairs.py), exactly.

One parameter, the fraction c of V that neighbours have in common, V_ij = c V_ij of the file for i != j; displacements
V_ii of atoms are those of V.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.tensor_pairs import TensorPairs
from dials_postrefine.diffuse.model.voxels import Voxels


class GivenCovariance:
    """
    The model (module docstring).

    atoms : Atoms; voxels : Voxels; v : ndarray (n, n), or (3n, 3n) whose blocks are 3 x 3, Angstrom^2.
    """

    name = "covariance"
    parameters = (Parameter("fraction", 0.95, 0.0, 1.2, ""),)

    def __init__(self, atoms: Atoms, voxels: Voxels, v: np.ndarray):
        n = len(atoms)
        self.tensor = v.shape == (3 * n, 3 * n) and n > 0
        if not self.tensor and v.shape != (n, n):
            raise CannotModel(
                f"V is {v.shape[0]} x {v.shape[-1]}, not of the {n} atoms of the model, ({n}, {n}) or 3 times it."
            )
        if not np.isfinite(v).all() or np.abs(v - v.T).max() > 1e-6 * np.abs(v).max():
            raise CannotModel("V is not symmetric, or not finite: give a covariance.")
        if np.diag(v).min() < 0.0:
            raise CannotModel("V has negative mean square displacements on its diagonal: give a covariance.")
        every = np.arange(n)
        if self.tensor:
            self.blocks = np.asarray(v, float).reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
            self.u = self.blocks[every, every]
            self.sums = TensorPairs(atoms.with_u(0.0), every, voxels)
            return
        self.pairs = GroupPairs(atoms.with_u(np.diag(v)), every, voxels)
        self.v = v

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        if self.tensor:
            return self.sums.evaluate(self.u, values[0] * self.blocks, [(np.zeros_like(self.u), self.blocks)])
        intensity, by_scale, _ = self.pairs.interpolated(self.v, np.zeros_like(self.v), values[0])
        return intensity, by_scale[None]

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives."""
        return self.sums.evaluate(self.u, values[0] * self.blocks)[0] if self.tensor else self.evaluate(values)[0]
