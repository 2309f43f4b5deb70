"""
Which hand and setting a crystal has: all that differ are compared before anything but the thickness is refined.

Settings by single scattering alone first, as it does not see the hand: those whose R1 is within NEAR of the best are
calculated dynamically, for thicknesses on a grid, with scales and B fitted to each.  The best one of each hand is then
refined alike, and the difference of their log-likelihoods, with the sigma of the better one,

    D = sum_i [rho(u_i^2) of the other - rho(u_i^2) of the better]/2

is judged by its sums over the frames d_f: deviation = D/sqrt(F var d_f), so that errors that the observations of a
frame have in common count once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.electron.dynamical.crystal import Refined, tabulate_crystal
from dials_postrefine.electron.dynamical.curves import scan
from dials_postrefine.electron.dynamical.refinement import (
    LOSS,
    DynamicalProblem,
    RefinedState,
    fit_scales,
    sigma_of,
)
from dials_postrefine.electron.dynamical.residuals import B_VALUES, r1
from dials_postrefine.numerics.robust import LOSSES

NEAR = 0.05


def kinematical_r1(problem: DynamicalProblem, kinematical: np.ndarray) -> float:
    """
    R1 of single scattering with its own scales and B.

    Parameters
    ----------
    problem : DynamicalProblem
    kinematical : ndarray, shape (n,)

    Returns
    -------
    float
    """
    return _best_b(problem, kinematical)[0]


def _best_b(problem: DynamicalProblem, intensity: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """R1, x and scaled intensities with the B of B_VALUES that is best, by exp(-2 B s^2)."""
    data, places, some = problem.data, problem.layout.places, problem.judged
    best = (np.inf, np.zeros(0), intensity)
    for b in B_VALUES:
        damped = intensity * np.exp(-0.5 * b * data.d_star**2)
        x = fit_scales(problem, damped, problem.start(1.0))
        x[places["overall_b"]] = b
        scaled = problem.scales_at(x)[data.frame] * damped
        found = r1(data.intensity[some], scaled[some])
        if found < best[0]:
            best = found, x, scaled
    return best


def scan_thickness(problem: DynamicalProblem, thickness: np.ndarray) -> tuple[np.ndarray, RefinedState]:
    """
    R1 for thicknesses, with scales and B fitted to each, and where a refinement starts: at the best one.

    Parameters
    ----------
    problem : DynamicalProblem
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    r1 : ndarray, shape (t,)
    state : RefinedState
    """
    tables = tabulate_crystal(
        problem.atoms, problem.reciprocal, 2.0 * problem.choice.limits.g_max, problem.scattering, Refined()
    )
    found = scan(problem.grid, tables, thickness, problem.data.n)
    every = [_best_b(problem, one) for one in found.T]
    values = np.array([one[0] for one in every])
    best = int(np.argmin(values))
    _, x, intensity = every[best]
    x[problem.layout.places["thickness"]] = thickness[best]
    return values, RefinedState(x, np.zeros((len(x), len(x))), intensity)


def log_likelihoods(problem: DynamicalProblem, calculated: Sequence[np.ndarray]) -> np.ndarray:
    """
    ln L of each frame for several calculations, with the sigma of the first.

    Parameters
    ----------
    problem : DynamicalProblem
    calculated : sequence of ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (c, f)
    """
    data, used = problem.data, problem.used
    sigma = sigma_of(problem, calculated[0])
    found = []
    for one in calculated:
        rho = LOSSES[LOSS](((one - data.intensity) / sigma)[used] ** 2).rho
        found.append(np.bincount(data.frame[used], -0.5 * rho, data.frames.n))
    return np.array(found)


def deviation(by_frame: np.ndarray) -> float:
    """
    The difference of two log-likelihoods in units of chance (module docstring).

    Parameters
    ----------
    by_frame : ndarray, shape (f,)
        Of the better one less of the other.

    Returns
    -------
    float
    """
    some = by_frame[by_frame != 0.0]
    if len(some) < 2:
        return float("nan")
    return float(some.sum() / np.sqrt(len(some) * some.var(ddof=1)))
