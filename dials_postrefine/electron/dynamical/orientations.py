"""
Orientations of frames, each for itself: a damped Gauss-Newton fit of every frame's two tilts and scale at once.

With what all frames share at rest a frame depends on its own three parameters alone, and a step that is too long for
one frame, as intensities go up and down with the tilt within 1/(t |g|), must not hold back the others: each frame has
its damping (Levenberg and Marquardt), takes its step where its own

    f = 1/2 sum rho(u^2) + 1/2 |w|^2/width^2

falls, and else stays.  All are calculated together.  u, rho and sigma are those of refinement.py, sigma renewed from
round to round.

What frames share, as the thickness, goes with their tilts: turning all frames a little makes up for much of a change of
it, and refining the two in turn creeps.  With N_f of a frame's own parameters, M_f between these and the shared ones,
and N of the shared ones,

    (N - sum M_f^T N_f^-1 M_f) dy = -(g - sum M_f^T N_f^-1 g_f),      dx_f = -N_f^-1 (g_f + M_f dy)

(Schur complement), each N_f with its damping.  Such a step is taken where the sum of all f falls.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.electron.dynamical.refinement import (
    FEWEST_OF_FRAME,
    LOSS,
    DynamicalProblem,
    RefinedState,
    bounds_of,
    sigma_of,
)
from dials_postrefine.numerics.robust import LOSSES

OWN = ("frame_scale", "tilt")
FIRST_DAMPING, LESS, MORE = 1e-2, 0.2, 8.0


def orient(
    problem: DynamicalProblem, before: RefinedState, rounds: int = 8, shared: tuple[str, ...] = ()
) -> RefinedState:
    """
    The state with the frames turned.

    Parameters
    ----------
    problem : DynamicalProblem
    before : RefinedState
    rounds : int
        Calculations.
    shared : tuple of str
        Names of parameters of all frames that are refined with them.

    Returns
    -------
    RefinedState
        Its covariance as before.
    """
    data, places = problem.data, problem.layout.places
    x, n = before.x.copy(), data.frames.n
    counts = np.bincount(data.frame[problem.used], minlength=n)
    moving = np.flatnonzero(counts >= FEWEST_OF_FRAME)
    tilt = places["tilt"].start + 2 * moving
    columns = np.stack([places["frame_scale"].start + moving, tilt, tilt + 1], axis=1)
    if shared and np.isfinite(problem.choice.scale_width):
        shared = ("scale", *shared)
    common = np.array(problem.layout.of(shared), dtype=int)
    bounds = bounds_of(problem.layout)
    damping, of_all = np.full(n, FIRST_DAMPING), FIRST_DAMPING
    names = (*OWN, *shared)
    value, jacobian = problem.derivatives(x, names)
    for _ in range(rounds):
        sigma = sigma_of(problem, value)
        trial = x.copy()
        own, together = _steps(problem, (value, jacobian), sigma, (x, moving, columns, common), (damping, of_all))
        trial[columns] += own
        trial[common] = np.clip(x[common] + together, bounds.lower[common], bounds.upper[common])
        new_value, new_jacobian = problem.derivatives(trial, names)
        old, new = (_objectives(problem, *one, sigma) for one in ((value, x), (new_value, trial)))
        better = new < old
        damping = np.where(better, LESS, MORE) * damping
        if len(common):
            # what all share has moved every frame: all of the step or none of it
            fallen = new.sum() < old.sum()
            of_all *= LESS if fallen else MORE
            better = np.full(n, fallen)
        x[columns[better[moving]]] = trial[columns[better[moving]]]
        if better.all():
            x[common] = trial[common]
        taken = better[data.frame]
        value = np.where(taken, new_value, value)
        jacobian = np.where(taken[:, None], new_jacobian, jacobian)
    return replace(before, x=x, calculated=value)


def _steps(
    problem: DynamicalProblem, at: tuple, sigma: np.ndarray, parameters: tuple, damping: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the frames' parameters (m, 3) and of what they share (s,), by the Schur complement."""
    (value, jacobian), (x, moving, columns, common), choice = at, parameters, problem.choice
    of_frame, of_all = damping
    precision = np.array([choice.scale_width, choice.tilt_width, choice.tilt_width]) ** -2.0
    u = (value - problem.data.intensity) / sigma
    weight = np.where(problem.used, LOSSES[LOSS](u * u).weight, 0.0)
    j_all = jacobian[:, common] / sigma[:, None]
    together = (j_all * weight[:, None]).T @ j_all
    together += of_all * np.diag(np.maximum(np.diag(together), 1e-12))
    slope = (j_all * weight[:, None]).T @ u
    parts = []
    for f, place in zip(moving, columns):
        rows = np.flatnonzero((problem.data.frame == f) & problem.used)
        j = jacobian[np.ix_(rows, place)] / sigma[rows, None]
        weighted = (j * weight[rows, None]).T
        normal = weighted @ j + np.diag(precision)
        normal += of_frame[f] * np.diag(np.maximum(np.diag(normal), 1e-12))
        mixed = weighted @ j_all[rows]
        gradient = weighted @ u[rows] + precision * x[place] * np.isfinite(precision)
        solved = np.linalg.solve(normal, np.column_stack([gradient, mixed]))
        together -= mixed.T @ solved[:, 1:]
        slope -= mixed.T @ solved[:, 0]
        parts.append(solved)
    step = -np.linalg.solve(together, slope) if len(common) else np.zeros(0)
    return np.array([-one[:, 0] - one[:, 1:] @ step for one in parts]).reshape(-1, 3), step


def _objectives(problem: DynamicalProblem, value: np.ndarray, x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """f of each frame (module docstring), shape (f,)."""
    data, places, choice = problem.data, problem.layout.places, problem.choice
    rho = LOSSES[LOSS](((value - data.intensity) / sigma)[problem.used] ** 2).rho
    found = np.bincount(data.frame[problem.used], rho, data.frames.n)
    found += np.sum(x[places["tilt"]].reshape(-1, 2) ** 2, axis=1) / choice.tilt_width**2
    return 0.5 * (found + x[places["frame_scale"]] ** 2 / choice.scale_width**2)
