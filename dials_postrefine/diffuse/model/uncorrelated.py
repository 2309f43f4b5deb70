"""
Atoms that move each on its own: V_ij = 0 for i != j, so that nothing interferes,

    I = sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)]

with the displacements u_j of the file.  It has no parameter.  Where all u_j are isotropic so is I, and no map can tell
it from a background.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.voxels import Voxels


class Uncorrelated:
    """The model (module docstring) of atoms with their operations, on voxels."""

    name = "uncorrelated"
    parameters: tuple[Parameter, ...] = ()

    def __init__(self, atoms: Atoms, voxels: Voxels):
        self.intensity = np.zeros(len(voxels))
        for rotation in atoms.rotations[:1] if atoms.is_isotropic else atoms.rotations:
            total, elastic = incoherent(atoms, 2.0 * np.pi * (voxels.h @ rotation) @ atoms.reciprocal.T)
            self.intensity += total - elastic
        if atoms.is_isotropic:
            self.intensity *= len(atoms.rotations)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives, of which there are none (parameters.Model)."""
        return self.intensity, np.zeros((0, len(self.intensity)))
