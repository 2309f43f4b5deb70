"""
How well calculated and observed intensities agree, by shells of resolution.

    R = sum |F_obs - F_model|/sum F_obs,   F = sqrt(max(I, 0)),   CC(I), CC(F) the linear correlations

of amplitudes and intensities on one scale (scaling.py).  In: arrays over the reflections that have both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.amplitudes import amplitudes
from dials_postrefine.numerics.correlation import correlation_from_covariance
from dials_postrefine.numerics.shells import resolution_range, shell_of

STRONG = 2.0  # times sigma


@dataclass
class ShellAgreement:
    """
    One shell of resolution, or all; a number is NaN where there are too few reflections for it.

    Attributes
    ----------
    d_max, d_min : float
        Angstrom.
    n : int
        Reflections.
    r : float
    r_strong : float
        R of the reflections with I > 2 sigma.
    cc_i, cc_f : float
        CC of intensities and of amplitudes.
    i_over_sigma : float
        The mean of the data.
    model_error : float
        sqrt(Sigma) over the rms amplitude.
    """

    d_max: float
    d_min: float
    n: int
    r: float
    r_strong: float
    cc_i: float
    cc_f: float
    i_over_sigma: float
    model_error: float


def r_factor(observed: np.ndarray, model: np.ndarray) -> float:
    """
    R of the amplitudes (module docstring).

    Parameters
    ----------
    observed, model : ndarray, shape (n,)
        Intensities on one scale.

    Returns
    -------
    float
        NaN where nothing observed is above zero.
    """
    f_observed = amplitudes(observed)
    total = f_observed.sum()
    return float(np.abs(f_observed - amplitudes(model)).sum() / total) if total > 0.0 else np.nan


def agreement_by_shell(
    d_star_sq: np.ndarray,
    observed: np.ndarray,
    sigma: np.ndarray,
    model: np.ndarray,
    edges: np.ndarray,
    sigma_f: np.ndarray,
) -> list[ShellAgreement]:
    """
    The agreement in shells, from low to high resolution, and last of all reflections together.

    Parameters
    ----------
    d_star_sq : ndarray, shape (n,)
        1/Angstrom^2.
    observed, sigma, model : ndarray, shape (n,)
        Intensities on one scale.
    edges : ndarray, shape (s + 1,)
        Of the shells, in d*^2.
    sigma_f : ndarray, shape (s,)
        The model error as in scaling.ScaleFit.

    Returns
    -------
    list of ShellAgreement
        Empty shells are left out.
    """
    shell = shell_of(d_star_sq, edges)
    limits = list(zip(edges[:-1], edges[1:]))
    rows = [np.flatnonzero(shell == k) for k in range(len(limits))]
    found = []
    for selected, (low, high), error in zip(
        [*rows, np.arange(len(shell))], [*limits, (edges[0], edges[-1])], [*sigma_f, np.nan]
    ):
        if not len(selected):
            continue
        d_max, d_min = resolution_range(low, high)
        o, m = observed[selected], model[selected]
        strong = o > STRONG * sigma[selected]
        if np.isnan(error):  # of all: Sigma of each reflection's shell, averaged
            error = np.sqrt(np.mean(sigma_f[shell] ** 2))
        found.append(
            ShellAgreement(
                d_max=d_max,
                d_min=d_min,
                n=len(selected),
                r=r_factor(o, m),
                r_strong=r_factor(o[strong], m[strong]),
                cc_i=correlation_from_covariance(o, m),
                cc_f=correlation_from_covariance(amplitudes(o), amplitudes(m)),
                i_over_sigma=float(np.mean(o / sigma[selected])),
                model_error=float(error / np.sqrt(np.mean(m))),
            )
        )
    return found
