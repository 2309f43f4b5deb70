"""
From which thickness a refinement starts: the minima of R1 over a grid of thicknesses, each with some frames turned.

Rocking curves of neighbouring thicknesses differ in their ripples, and with orientations that are off by a few
hundredths of a degree a wrong thickness can fit as well as the right one: R1 over the thickness has several minima of
nearly one depth.  Each that is within NEAR of the least is refined on every k-th frame, orientations and thickness in
turn, with k such that FEWEST observed reflections are left; the start is that of the least R1 then.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.electron.dynamical.hands import scan_thickness
from dials_postrefine.electron.dynamical.orientations import orient
from dials_postrefine.electron.dynamical.refinement import SHARED, DynamicalProblem
from dials_postrefine.electron.dynamical.residuals import r1
from dials_postrefine.electron.dynamical.rocking import enough_step

NEAR = 0.15  # of the least R1
MOST = 4  # minima
FEWEST = 150
ROUNDS = (4, 2)  # of orientations with the thickness, and alone


def minima(values: np.ndarray) -> np.ndarray:
    """
    The deepest minima, those within NEAR of the least and MOST at most.

    Parameters
    ----------
    values : ndarray, shape (t,)

    Returns
    -------
    ndarray of int, shape (m,)
        Where they are, the deepest first.
    """
    padded = np.concatenate([[np.inf], values, [np.inf]])
    places = np.flatnonzero((values <= padded[:-2]) & (values < padded[2:]) & (values <= (1.0 + NEAR) * values.min()))
    return places[np.argsort(values[places], kind="stable")][:MOST]


def best_start(problem: DynamicalProblem, thickness: np.ndarray, scanned: np.ndarray) -> float:
    """
    The thickness to start from (module docstring).

    Parameters
    ----------
    problem : DynamicalProblem
    thickness, scanned : ndarray, shape (t,)
        The grid, Angstrom, and R1.

    Returns
    -------
    float
    """
    tried = thickness[minima(scanned)]
    if len(tried) < 2:
        return float(thickness[np.argmin(scanned)])
    data = problem.data
    every = max(1, int(problem.judged.sum()) // FEWEST)
    some = data.frame % every == 0
    part = replace(problem, data=data.select(some), used=problem.used[some])
    found = [_refined_r1(part.with_step(enough_step(part.data, one)), one) for one in tried]
    return float(tried[np.argmin(found)])


def _refined_r1(problem: DynamicalProblem, thickness: float) -> float:
    """R1 from a thickness on."""
    _, state = scan_thickness(problem, np.array([thickness]))
    state = orient(problem, state, ROUNDS[0], SHARED)
    state = orient(problem, state, ROUNDS[1])
    some = problem.judged
    return r1(problem.data.intensity[some], state.calculated[some])
