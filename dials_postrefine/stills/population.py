"""
The population of the lattices of a cycle: what it says of those of the next, and the gauge that it fixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.numerics.robust import robust_width
from dials_postrefine.stills.dataset import EarlierFit
from dials_postrefine.stills.filters import MIN_POPULATION
from dials_postrefine.stills.fits import FitSettings, LatticeFit
from dials_postrefine.stills.model import B_FACTOR, LN_SCALE, PARAMETERS, THETA_X, THETA_Y

# What is left at least of the variance of a parameter between the lattices when that of its own error is taken off.
LEAST_SPREAD = 0.1


def restrain_to_population(fits: Sequence[LatticeFit | EarlierFit], restrained: bool = False) -> Restraint | None:
    """
    The restraint that the refined and accepted lattices of a cycle put on the next: a normal distribution of each
    parameter, empirical Bayes.

    Its mean is the median.  Its variance is that of the estimates, (1.48 MAD)^2, less the median variance of their
    errors; of estimates that were restrained themselves, and so drawn to the median, plus that of what is left open:
    the step of expectation maximisation.  The angles are restrained to zero, as indexing left them; the scale is free.

    Parameters
    ----------
    fits : sequence of LatticeFit or EarlierFit
    restrained : bool
        Whether they were restrained themselves.

    Returns
    -------
    Restraint or None
        Of the 7 parameters of model.py; None of fewer than MIN_POPULATION lattices.
    """
    used = [fit for fit in fits if fit.reason is None and fit.refined]
    x = np.array([fit.x for fit in used])
    if len(x) < MIN_POPULATION:
        return None
    mean = np.median(x, axis=0)
    mean[[THETA_X, THETA_Y]] = 0.0
    width_sq = robust_width(x - mean, axis=0) ** 2
    error_sq = np.median(np.array([fit.covariance for fit in used]).diagonal(axis1=1, axis2=2), axis=0)
    width = np.sqrt(np.maximum(width_sq + (error_sq if restrained else -error_sq), LEAST_SPREAD * width_sq))
    width[(width <= 0.0) | (np.arange(len(width)) == LN_SCALE)] = np.inf
    return Restraint(mean, width)


def fix_gauge(fits: list[LatticeFit], settings: FitSettings) -> None:
    """
    Set the medians of ln G and B over the accepted lattices to zero, but for what is fixed: without an external
    reference neither is determined.

    Parameters
    ----------
    fits : list of LatticeFit
        Their x is changed in place.
    settings : FitSettings
    """
    accepted = [fit for fit in fits if fit.reason is None]
    for i in (LN_SCALE, B_FACTOR):
        if accepted and PARAMETERS[i] not in settings.fix:
            median = np.median([fit.x[i] for fit in accepted])
            for fit in fits:
                fit.x[i] -= median
