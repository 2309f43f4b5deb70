"""
Covariances of a trajectory of molecular dynamics.

    V_ij = <(x_i - <x_i>)(x_j - <x_j>)'>

over its M frames x, which are superposed or taken as they lie.  Superposed are all frames on their mean by the
rotation and translation that have least squares (Kabsch, Acta Cryst. 1976, A32, 922), again until the mean stays, and
the mean on the positions of the atomic model, in whose Cartesian frame V is then; what moves as a whole is lost by
that.  V has rank M - 1 at most; its diagonal elements have relative standard deviations of sqrt(2/M) where frames are
independent, and larger ones where not.
"""

from __future__ import annotations

import numpy as np

MOST_ROUNDS = 50
SAME = 1e-6  # Angstrom


def superpose(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """
    Positions turned and shifted onto others.

    Parameters
    ----------
    moving : ndarray (..., n, 3)
    fixed : ndarray (n, 3)
        Angstrom.

    Returns
    -------
    ndarray (..., n, 3)
    """
    centre = moving.mean(axis=-2, keepdims=True)
    return (moving - centre) @ _rotation(moving, fixed) + fixed.mean(axis=0)


def _rotation(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """The rotations (..., 3, 3), from the right, that superpose positions (..., n, 3) on others (n, 3)."""
    centred = moving - moving.mean(axis=-2, keepdims=True)
    left, _, right = np.linalg.svd(centred.swapaxes(-1, -2) @ (fixed - fixed.mean(axis=0)))
    left[..., :, 2] *= np.sign(np.linalg.det(left @ right))[..., None]
    return left @ right


def covariance_of(frames: np.ndarray, reference: np.ndarray, superposed: bool = True) -> np.ndarray:
    """
    V of a trajectory (module docstring).

    Parameters
    ----------
    frames : ndarray (n_frames, n, 3)
    reference : ndarray (n, 3)
        The positions of the atomic model, Angstrom.
    superposed : bool

    Returns
    -------
    ndarray (3n, 3n)
        Angstrom^2; of each atom x, y, z.
    """
    if superposed:
        mean = reference
        for _ in range(MOST_ROUNDS):
            frames, last = superpose(frames, mean), mean
            mean = frames.mean(axis=0)
            if np.abs(superpose(mean, last) - last).max() < SAME:
                break
        frames = frames @ _rotation(mean, reference)
    moved = (frames - frames.mean(axis=0)).reshape(len(frames), -1)
    return moved.T @ moved / len(frames)
