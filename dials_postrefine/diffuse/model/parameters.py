"""What a model is to the fit: its name, its parameters with where they begin and may go, and I with derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Parameter:
    """
    A parameter of a model: its name, where it begins, its limits, its unit as text, and the precision (1/variance) of a
    normal prior about 0, none as a rule; tensor says that it is an element of one (positive_tensors.py).
    """

    name: str
    start: float
    low: float
    high: float
    unit: str = "A"
    precision: float = 0.0
    tensor: bool = False


class Model(Protocol):
    """
    A model on the voxels that it was made for.

    name, and parameters in the order of the values that evaluate takes.
    """

    name: str
    parameters: tuple[Parameter, ...]

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I (n,) at the voxels for values (p,) of the parameters, and dI/dvalue (p, n)."""


def calculate(model: Model, values: np.ndarray) -> np.ndarray:
    """
    I of a model without the derivatives, by its own `calculate` where it can do without them.

    Parameters
    ----------
    model : Model
    values : ndarray (p,)

    Returns
    -------
    ndarray (n,)
    """
    if hasattr(model, "calculate"):
        return model.calculate(values)
    return model.evaluate(values)[0]
