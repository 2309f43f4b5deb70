"""
What the parameters of the lattices have in common: their mean where it should be zero, and their trend along the run.

A value v_l (one parameter of accepted, refined lattices), in the order of the images t_l from -1/2 to 1/2 by rank:

    mean    v_l = r_l m + noise             drift    v_l = r_l (m + b t_l) + noise

by Huber's M-estimate, esds by the sandwich (hc3): b is the change from the first image to the last one.  The noise is
what lattices differ by, errors and all.  r_l is the part of a departure from zero that a restraint to zero leaves, one
without: 1 - C/w^2, with C the variance of the restrained value and w the width of the restraint.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.numerics.robust import LOSSES, robust_width
from dials_postrefine.numerics.sandwich import sandwich_hc3

N_ROUNDS = 10
NOTHING = (np.nan, np.nan)


def common_mean(values: np.ndarray, left: np.ndarray | float = 1.0) -> tuple[float, float]:
    """
    The mean of values, of which a restraint leaves a part, and its esd.

    Parameters
    ----------
    values : ndarray, shape (L,)
    left : float or ndarray, shape (L,)
        The part that is left, r (module docstring).

    Returns
    -------
    mean, esd : float
        In the unit of the values; NaN of fewer than two.
    """
    return _fit(values, np.ones((len(values), 1)) * np.broadcast_to(left, len(values))[:, None])


def drift(values: np.ndarray, order: np.ndarray, left: np.ndarray | float = 1.0) -> tuple[float, float]:
    """
    The change of values, of which a restraint leaves a part, along their order, and its esd.

    Parameters
    ----------
    values : ndarray, shape (L,)
    order : ndarray, shape (L,)
        Any numbers: their ranks count.
    left : float or ndarray, shape (L,)
        The part that is left, r (module docstring).

    Returns
    -------
    change, esd : float
        From the first to the last, in the unit of the values; NaN of fewer than three, or where order is one number.
    """
    if len(values) < 3:
        return NOTHING
    rank = np.unique(order, return_inverse=True)[1].astype(float)
    if not rank.max() > 0.0:
        return NOTHING
    design = np.column_stack([rank / rank.max() - 0.5, np.ones(len(values))])
    return _fit(values, design * np.broadcast_to(left, len(values))[:, None])


def _fit(values: np.ndarray, design: np.ndarray) -> tuple[float, float]:
    """The first coefficient of a robust linear fit and its esd."""
    if len(values) <= design.shape[1]:
        return NOTHING
    weight = np.ones(len(values))
    for _ in range(N_ROUNDS):
        root = np.sqrt(weight)
        a = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        residual = values - design @ a
        width = float(robust_width(residual))
        if not width > 0.0:
            return float(a[0]), 0.0
        weight = LOSSES["huber"]((residual / width) ** 2)[1]
    covariance = sandwich_hc3(residual / width, design / width, "huber")
    return float(a[0]), float(np.sqrt(covariance[0, 0]))
