"""
Which model held-out voxels prefer.

Of two models the difference of their squared normalised residuals, voxel by voxel, says which is better:

    z = sum_v (z_A^2 - z_B^2) / sqrt(sum over orbits of the squares of the orbits' sums)

A model is compared with the best one; of those that are not worse by more than LIMIT of these standard deviations, that
with the fewest parameters is chosen, and of equals the better one.  The background alone is among them: it is chosen
where no model is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LIMIT = 3.0


def held_out_squares(observed: np.ndarray, calculated: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """
    Squared normalised residuals.

    Parameters
    ----------
    observed, calculated : ndarray (n,)
        In one unit.
    variance : ndarray (n,)
        In its square.

    Returns
    -------
    ndarray (n,)
    """
    return (observed - calculated) ** 2 / variance


def preference(squares_a: np.ndarray, squares_b: np.ndarray, orbit: np.ndarray) -> float:
    """
    By how many standard deviations model A is worse than B.

    Parameters
    ----------
    squares_a, squares_b : ndarray (n,)
    orbit : ndarray (n,) of int

    Returns
    -------
    float
        0 where they are the same.
    """
    difference = squares_a - squares_b
    sums = np.bincount(np.unique(orbit, return_inverse=True)[1].reshape(-1), difference)
    spread = np.sqrt((sums**2).sum())
    return float(sums.sum() / spread) if spread > 0.0 else 0.0


def choose(squares: Sequence[np.ndarray], n_parameters: Sequence[int], orbit: np.ndarray) -> int:
    """
    The number of the model that is chosen (module docstring).

    Parameters
    ----------
    squares : sequence of ndarray (n,)
        Of each model, at the held-out voxels.
    n_parameters : sequence of int
    orbit : ndarray (n,) of int

    Returns
    -------
    int
    """
    totals = [float(one.sum()) for one in squares]
    best = int(np.argmin(totals))
    alike = [k for k, one in enumerate(squares) if k == best or preference(one, squares[best], orbit) < LIMIT]
    return min(alike, key=lambda k: (n_parameters[k], totals[k]))
