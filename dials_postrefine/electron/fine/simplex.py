"""
The published way, for comparison: Nelder-Mead on the structure factors, and for each of their values Powell on the
rest.

Derivative-free and without esds of its own.  Parameters are in units of their ranges.  Outside: U, U' and phases, each
step re-diagonalising; inside: thickness, orientation, step, rotation, ...  (scipy.optimize).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from dials_postrefine.electron.fine.parameters import Parameters, kind_of
from dials_postrefine.electron.fine.refinement import FineCourse, FineFit, FineProblem, bounds_of, finish

OUTSIDE = ("U", "Uprime", "phase")
TOLERANCE = 1e-4  # of a range

# Of t, scaled, and x: a number that is to be small
Merit = Callable[[np.ndarray, np.ndarray], float]


def nelder_mead(
    problem: FineProblem,
    parameters: Parameters,
    n_max: int = 200,
    merit: Merit | None = None,
    n_evaluations: int = 100000,
) -> FineFit:
    """
    Refine the free parameters without derivatives.

    Parameters
    ----------
    problem : FineProblem
    parameters : Parameters
        The start.
    n_max : int
        Iterations outside.
    merit : callable or None
        What is minimised, of the scaled simulated and the measured pixels (d, n); None: chi^2.
    n_evaluations : int
        After which no new search begins inside.

    Returns
    -------
    FineFit
    """
    names, course, unit = list(parameters.free), FineCourse(), 2.0 * parameters.half_ranges()
    outside = np.array([kind_of(name) in OUTSIDE for name in names])
    bounds, here = bounds_of(parameters), parameters.x.copy()

    def value_at(x: np.ndarray) -> float:
        if np.any(x < bounds.lower) or np.any(x > bounds.upper):
            return 1e30
        simulated = problem.model.simulate(parameters.at(x))
        linear = problem.comparison.eliminate(simulated)
        value = float(np.sum(linear.residuals**2))
        if merit is not None:
            value = float(
                merit(linear.scale[:, None] * simulated + linear.background[:, None], problem.comparison.data)
            )
        course.add(value, x)
        return value

    def inside(outer: np.ndarray) -> float:
        here[outside] = parameters.x[outside] + outer * unit[outside]
        if outside.all() or len(course.chi2) >= n_evaluations:
            return value_at(here)
        start = ((here - parameters.x) / unit)[~outside]

        def inner(y: np.ndarray) -> float:
            x = here.copy()
            x[~outside] = parameters.x[~outside] + y * unit[~outside]
            return value_at(x)

        found = minimize(inner, start, method="Powell", options={"xtol": TOLERANCE, "ftol": 1e-6, "maxiter": 3})
        here[~outside] = parameters.x[~outside] + np.atleast_1d(found.x) * unit[~outside]
        return float(found.fun)

    n_outside = int(outside.sum())
    if n_outside:
        simplex = np.vstack([np.zeros(n_outside), 0.1 * np.eye(n_outside)])
        options = {"initial_simplex": simplex, "maxiter": n_max, "xatol": TOLERANCE, "fatol": 1e-6}
        minimize(inside, np.zeros(n_outside), method="Nelder-Mead", options=options)
    else:
        inside(np.zeros(0))
    best = course.x[int(np.argmin(course.chi2))]
    return finish(problem, replace(parameters, values=parameters.at(best)), course)
