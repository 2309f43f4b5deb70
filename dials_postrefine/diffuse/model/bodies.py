"""
Parts of a structure that move each on its own: intensities of parts that know nothing of each other add.

    I = sum_parts I_part + sum_{i in no part} o_i^2 f_i^2 [1 - exp(-q'u_i q)]

Parameters are those of the parts, with the number of the part where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.parameters import Model, calculate
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated
from dials_postrefine.diffuse.model.voxels import Voxels


class SeparateParts:
    """
    The model (module docstring).

    parts : sequence of Model; others : Atoms, those of no part, none or more; voxels : Voxels.
    """

    def __init__(self, parts: Sequence[Model], others: Atoms, voxels: Voxels):
        self.parts, self.name = parts, parts[0].name
        alone = len(parts) == 1
        self.parameters = tuple(
            one if alone else replace(one, name=f"{one.name}_{k + 1}")
            for k, part in enumerate(parts)
            for one in part.parameters
        )
        self.alone = Uncorrelated(others, voxels).intensity if len(others) else np.zeros(len(voxels))

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        intensity, derivatives, begin = self.alone.copy(), [], 0
        for part in self.parts:
            end = begin + len(part.parameters)
            one, slopes = part.evaluate(values[begin:end])
            intensity += one
            derivatives.append(slopes)
            begin = end
        return intensity, np.concatenate(derivatives)

    def grown(self, values: np.ndarray) -> np.ndarray:
        """Values to begin with from those of a single part of fewer parameters."""
        return self.parts[0].grown(values)

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives, where a part can do without them."""
        intensity, begin = self.alone.copy(), 0
        for part in self.parts:
            end = begin + len(part.parameters)
            intensity += calculate(part, values[begin:end])
            begin = end
        return intensity
