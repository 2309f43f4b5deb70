"""
Orientations of frames, each for itself: a damped Gauss-Newton fit of every frame's two tilts and scale at once.

With what all frames share at rest a frame depends on its own three parameters alone, and a step that is too long for
one frame, as intensities go up and down with the tilt within 1/(t |g|), must not hold back the others: each frame has
its damping (Levenberg and Marquardt), takes its step where its own

    f = 1/2 sum rho(u^2) + 1/2 |w|^2/width^2

falls, and else stays.  All are calculated together.  u, rho and sigma are those of refinement.py, sigma renewed from
round to round.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.electron.dynamical.refinement import (
    FEWEST_OF_FRAME,
    LOSS,
    DynamicalProblem,
    RefinedState,
    sigma_of,
)
from dials_postrefine.numerics.robust import LOSSES

REFINED = ("frame_scale", "tilt")
FIRST_DAMPING, LESS, MORE = 1e-2, 0.2, 8.0


def orient(problem: DynamicalProblem, before: RefinedState, rounds: int = 8) -> RefinedState:
    """
    The state with the frames turned.

    Parameters
    ----------
    problem : DynamicalProblem
    before : RefinedState
    rounds : int
        Calculations.

    Returns
    -------
    RefinedState
        Its covariance as before.
    """
    data, places = problem.data, problem.layout.places
    x, n = before.x.copy(), data.frames.n
    damping = np.full(n, FIRST_DAMPING)
    counts = np.bincount(data.frame[problem.used], minlength=n)
    columns = np.stack(
        [
            places["frame_scale"].start + np.arange(n),
            places["tilt"].start + 2 * np.arange(n),
            places["tilt"].start + 2 * np.arange(n) + 1,
        ],
        axis=1,
    )[counts >= FEWEST_OF_FRAME]
    moving = np.flatnonzero(counts >= FEWEST_OF_FRAME)
    value, jacobian = problem.derivatives(x, REFINED)
    for _ in range(rounds):
        sigma = sigma_of(problem, value)
        trial = x.copy()
        for f, place in zip(moving, columns):
            trial[place] = x[place] + _step(problem, (value, jacobian), sigma, (f, place, x[place]), damping[f])
        new_value, new_jacobian = problem.derivatives(trial, REFINED)
        old, new = (_objectives(problem, *one, sigma) for one in ((value, x), (new_value, trial)))
        better = new < old
        damping = np.where(better, LESS, MORE) * damping
        for f, place in zip(moving, columns):
            if better[f]:
                x[place] = trial[place]
        taken = better[data.frame]
        value = np.where(taken, new_value, value)
        jacobian = np.where(taken[:, None], new_jacobian, jacobian)
    return replace(before, x=x, calculated=value)


def _step(problem: DynamicalProblem, at: tuple, sigma: np.ndarray, of_frame: tuple, damping: float) -> np.ndarray:
    """The step of one frame's parameters (3,)."""
    (value, jacobian), (f, place, now), choice = at, of_frame, problem.choice
    rows = np.flatnonzero((problem.data.frame == f) & problem.used)
    u = (value - problem.data.intensity)[rows] / sigma[rows]
    j = jacobian[np.ix_(rows, place)] / sigma[rows, None]
    weight = LOSSES[LOSS](u * u).weight
    precision = np.array([choice.scale_width, choice.tilt_width, choice.tilt_width]) ** -2.0
    normal = (j * weight[:, None]).T @ j + np.diag(precision)
    gradient = (j * weight[:, None]).T @ u + precision * now * np.isfinite(precision)
    normal += damping * np.diag(np.maximum(np.diag(normal), 1e-12))
    return -np.linalg.solve(normal, gradient)


def _objectives(problem: DynamicalProblem, value: np.ndarray, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """f of each frame (module docstring), shape (f,)."""
    data, places, choice = problem.data, problem.layout.places, problem.choice
    rho = LOSSES[LOSS](((value - data.intensity) / sigma)[problem.used] ** 2).rho
    found = np.bincount(data.frame[problem.used], rho, data.frames.n)
    found += np.sum(x[places["tilt"]].reshape(-1, 2) ** 2, axis=1) / choice.tilt_width**2
    return 0.5 * (found + x[places["frame_scale"]] ** 2 / choice.scale_width**2)
