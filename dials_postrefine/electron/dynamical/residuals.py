"""
How well calculated intensities agree with observed ones, as a whole and by groups: of resolution, intensity, frames.

    R1 = sum|F_obs - F_calc|/sum F_obs,   F = sqrt(max(I, 0))
    ln L = -1/2 sum [(I_obs - I_calc)^2/V + ln 2 pi V],   V = v + (e I_calc)^2

e is what the model lacks beyond the counting error v, relative to the intensity: one number, that of the largest ln L.
Two models of the same observations are compared by the ratio of their largest likelihoods, each with its own e,

    Lambda = sum_f Lambda_f,   Lambda_f = ln L_f(second) - ln L_f(first),   sd = sqrt(n var Lambda_f)

by frames f, as observations of one frame have errors in common; Lambda/sd says how far it is from chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

LARGEST_ERROR = 3.0  # e
B_VALUES = np.arange(-2.0, 3.01, 0.25)  # Angstrom^2


@dataclass(frozen=True)
class ModelComparison:
    """
    Two models of n observations in f frames.

    Attributes
    ----------
    error : tuple of float
        e of each alone.
    log_ratio : ndarray, shape (n,)
        Of each observation, positive for the second model.
    total, deviation : float
        Lambda and its sd; NaN of one frame.
    """

    error: tuple[float, float]
    log_ratio: np.ndarray
    total: float
    deviation: float


def r1(observed: np.ndarray, calculated: np.ndarray) -> float:
    """
    R1 (module docstring).

    Parameters
    ----------
    observed, calculated : ndarray, shape (n,)
        Intensities, on one scale.

    Returns
    -------
    float
    """
    f = np.sqrt(np.maximum(observed, 0.0))
    return float(np.sum(np.abs(f - np.sqrt(np.maximum(calculated, 0.0)))) / np.sum(f))


def amplitude_residuals(observed: np.ndarray, calculated: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    R1 (module docstring) of groups.

    Parameters
    ----------
    observed, calculated : ndarray, shape (n,)
        Intensities on one scale.
    group : ndarray of int, shape (n,)
        -1: of none.
    n_groups : int

    Returns
    -------
    ndarray, shape (n_groups,)
        NaN of a group without observations.
    """
    kept = group >= 0
    f_observed, f_calculated = (np.sqrt(np.maximum(one[kept], 0.0)) for one in (observed, calculated))
    total = np.bincount(group[kept], f_observed, n_groups)
    difference = np.bincount(group[kept], np.abs(f_observed - f_calculated), n_groups)
    return np.where(total > 0.0, difference / np.where(total > 0.0, total, 1.0), np.nan)


def scaled_by_itself(observed: np.ndarray, calculated: np.ndarray, d_star: np.ndarray, some: np.ndarray) -> np.ndarray:
    """
    Intensities k exp(-B s^2)^2 I_calc with the k and B of the least R1, B in steps of a quarter.

    Parameters
    ----------
    observed, calculated : ndarray, shape (n,)
    d_star : ndarray, shape (n,)
        |g| = 2 s, 1/Angstrom.
    some : ndarray of bool, shape (n,)
        What they are fitted to.

    Returns
    -------
    ndarray, shape (n,)
    """
    one_group, tried = np.where(some, 0, -1), []
    for b in B_VALUES:
        damped = calculated * np.exp(-0.5 * b * d_star**2)
        f_observed, f_calculated = (np.sqrt(np.maximum(one[some], 0.0)) for one in (observed, damped))
        total = f_calculated @ f_calculated
        scaled = damped * ((f_observed @ f_calculated / total) ** 2 if total > 0.0 else 1.0)
        tried.append((float(np.nan_to_num(amplitude_residuals(observed, scaled, one_group, 1)[0])), scaled))
    return min(tried, key=lambda one: one[0])[1]


def log_densities(observed: np.ndarray, variance: np.ndarray, calculated: np.ndarray, error: float) -> np.ndarray:
    """
    The terms of ln L (module docstring).

    Parameters
    ----------
    observed, variance, calculated : ndarray, shape (n,)
    error : float
        e.

    Returns
    -------
    ndarray, shape (n,)
    """
    v = variance + (error * calculated) ** 2
    return -0.5 * ((observed - calculated) ** 2 / v + np.log(2.0 * np.pi * v))


def model_error(observed: np.ndarray, variance: np.ndarray, calculated: np.ndarray) -> float:
    """
    e of the largest ln L.

    Parameters
    ----------
    observed, variance, calculated : ndarray, shape (n,)

    Returns
    -------
    float
    """
    best = minimize_scalar(
        lambda e: -log_densities(observed, variance, calculated, e).sum(), bounds=(0.0, LARGEST_ERROR), method="bounded"
    )
    return float(best.x)


def compare_models(
    observed: np.ndarray, variance: np.ndarray, first: np.ndarray, second: np.ndarray, frame: np.ndarray
) -> ModelComparison:
    """
    Which of two models the observations speak for (module docstring).

    Parameters
    ----------
    observed, variance : ndarray, shape (n,)
    first, second : ndarray, shape (n,)
        What the models calculate.
    frame : ndarray of int, shape (n,)

    Returns
    -------
    ModelComparison
    """
    error = tuple(model_error(observed, variance, one) for one in (first, second))
    terms = [log_densities(observed, variance, one, e) for one, e in zip((first, second), error)]
    log_ratio = terms[1] - terms[0]
    _, number = np.unique(frame, return_inverse=True)
    by_frame = np.bincount(number.ravel(), log_ratio)
    several = len(by_frame) > 1
    deviation = float(np.sqrt(len(by_frame) * by_frame.var(ddof=1))) if several else np.nan
    return ModelComparison(error, log_ratio, float(log_ratio.sum()), deviation)
