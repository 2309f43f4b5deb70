"""
A rigid body in which motions are liquid-like: two motions that know nothing of each other, whose covariances add,

    V_ij = s^2 + sigma^2 Gamma(r_ij) inside a molecule, sigma^2 Gamma(r_ij) outside,

and with C the first sum of (1) in liquid_like.py, over all pairs or over those of a molecule, P = |F|^2 - sum E_i^2 of
the molecules, x_s = q^2 s^2, and what atoms do alone

    I = C + [exp(x_s) - 1] (C_molecule + P) + sum_j o_j^2 f_j^2 [1 - exp(-q'u_j q)]
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.liquid_like import GAMMA, SIGMA, LiquidLike
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.voxels import Voxels

RIGID = Parameter("sigma_rigid", 0.2, 0.0, 2.0)


class Mixture:
    """The model (module docstring); parameters are sigma, gamma and s."""

    name = "mixture"
    parameters = (replace(SIGMA, start=0.3), GAMMA, RIGID)

    def __init__(self, atoms: Atoms, voxels: Voxels, across: str, kernel: str, order: int | None = None):
        self.liquid = LiquidLike(atoms, voxels, across, kernel, order)
        self.inside = self.liquid if across == "molecule" else LiquidLike(atoms, voxels, "molecule", kernel, order)
        (_, f_sq, _, elastic), *more = RigidBody([atoms], voxels).terms
        self.pairs = f_sq - elastic + sum(term[1] - term[3] for term in more)
        self.q_sq = voxels.q_sq

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        sigma, gamma, rigid = values
        x, grown = self.q_sq * sigma**2, np.exp(np.minimum(self.q_sq * rigid**2, 50.0))
        every = self.liquid.interpolate(x, gamma)
        inside = every if self.inside is self.liquid else self.inside.interpolate(x, gamma)
        body = inside[0] + self.pairs
        intensity = every[0] + (grown - 1.0) * body + self.liquid.own
        by_x = every[1] + (grown - 1.0) * inside[1]
        by_gamma = every[2] + (grown - 1.0) * inside[2]
        return intensity, np.array([2.0 * sigma * self.q_sq * by_x, by_gamma, 2.0 * rigid * self.q_sq * grown * body])
