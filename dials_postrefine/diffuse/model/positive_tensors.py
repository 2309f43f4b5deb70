"""
Tensors that are the covariance of something, U = C C' with C lower triangular: positive semidefinite whatever C is.

Of parameters those with Parameter.tensor are elements of such tensors, six that follow one another being one, in the
order 11, 22, 33, 12, 13, 23.  A fit moves C_11, C_22, C_33, C_21, C_31, C_32 in their place,

    U_ij = sum_k C_ik C_jk,     dU_ij/dC_ab = delta_ia C_jb + delta_ja C_ib

and what is said of the result, standard deviations too, is in terms of U.  Diagonal elements of C may have any sign: at
an edge of what is possible, where one is 0, a fit would not leave it otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.diffuse.model.parameters import Parameter

ELEMENTS = ((0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (2, 1))  # of C, and of U below its diagonal
SMALLEST = 1e-9  # of the largest eigenvalue, to have a C of what has none


class PositiveTensors:
    """
    What a fit moves, of parameters some of which are tensors (module docstring).

    lower and upper (p,) are its limits.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        inside = np.array([one.tensor for one in parameters], bool)
        self.slices = [slice(k, k + 6) for k in np.flatnonzero(inside)[::6]]
        self.lower = np.array([one.low for one in parameters], float)
        self.upper = np.array([one.high for one in parameters], float)
        for here in self.slices:
            size = np.sqrt(self.upper[here][:3].max())
            self.lower[here], self.upper[here] = -size, size

    def moved(self, values: np.ndarray) -> np.ndarray:
        """C in the place of U (p,)."""
        found = np.array(values, float)
        for here in self.slices:
            strength, axes = np.linalg.eigh(tensor_of(values[here]))
            strength = np.maximum(strength, SMALLEST * max(strength.max(), 1e-6))
            c = np.linalg.cholesky((axes * strength) @ axes.T)
            found[here] = [c[i, j] for i, j in ELEMENTS]
        return np.clip(found, self.lower, self.upper)

    def values(self, moved: np.ndarray) -> np.ndarray:
        """U in the place of C (p,)."""
        found = np.array(moved, float)
        for here in self.slices:
            c = _triangle(moved[here])
            u = c @ c.T
            found[here] = [u[i, j] for i, j in ELEMENTS]
        return found

    def slopes(self, moved: np.ndarray) -> np.ndarray:
        """d values/d moved (p, p)."""
        found = np.eye(len(moved))
        for here in self.slices:
            c = _triangle(moved[here])
            for row, (i, j) in enumerate(ELEMENTS):
                for column, (a, b) in enumerate(ELEMENTS):
                    found[here.start + row, here.start + column] = (i == a) * c[j, b] + (j == a) * c[i, b]
        return found


def tensor_of(elements: Sequence[float]) -> np.ndarray:
    """
    U of its six elements.

    Parameters
    ----------
    elements : sequence of 6 float
        11, 22, 33, 12, 13, 23.

    Returns
    -------
    ndarray (3, 3)
        Symmetric.
    """
    c = _triangle(elements)
    return c + c.T - np.diag(np.diag(c))


def _triangle(elements: Sequence[float]) -> np.ndarray:
    """A lower triangle of six elements."""
    found = np.zeros((3, 3))
    for (i, j), one in zip(ELEMENTS, elements):
        found[i, j] = one
    return found
