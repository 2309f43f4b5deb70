"""
Systematic absences: how strong the observations are that should not be there.

    R = sum of I/sigma of the systematically absent observations / sum of what the others of their resolution shells
        have on average; with its esd, from the scatter of the absent ones

Nothing but noise gives R = 0, reflections that are there R = 1.  They are as strong as the rest where R is above STRONG
by SIGNIFICANT esds: then centring or screw axis are wrong (or, of electrons, multiple scattering is strong).

In: I/sigma of the observations, their shells and which are absent; out: Absences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.grouped import grouped_mean

N_SHELLS = 20
FEWEST_ABSENT = 2
STRONG = 0.5
SIGNIFICANT = 3.0


@dataclass
class Absences:
    """The absent observations: n, their mean I/sigma, that of the others in their shells, R, its esd, the verdict."""

    n: int
    i_over_sigma: float
    i_over_sigma_others: float
    ratio: float
    ratio_esd: float
    strong: bool


def weigh_absences(ratio: np.ndarray, shell: np.ndarray, absent: np.ndarray) -> Absences:
    """
    R of observations, some of which are of absent reflections (module docstring).

    Parameters
    ----------
    ratio : ndarray, shape (n,)
        I/sigma.
    shell : ndarray of int, shape (n,)
        The resolution shell of each, 0 to N_SHELLS - 1 (shells.shells_of_equal_numbers).
    absent : ndarray of bool, shape (n,)

    Returns
    -------
    Absences
        NaN, and not strong, of fewer than FEWEST_ABSENT absent ones in shells with others.
    """
    n = int(np.count_nonzero(absent))
    mean = grouped_mean(ratio[~absent], shell[~absent], N_SHELLS)
    known = absent & np.isfinite(mean[shell])
    absent, expected = ratio[known], mean[shell[known]]
    if len(absent) < FEWEST_ABSENT or not expected.sum() > 0.0:
        return Absences(n, float(absent.mean()) if len(absent) else np.nan, np.nan, np.nan, np.nan, False)
    r = float(absent.sum() / expected.sum())
    # the scatter, and of few no less than that of the errors, which is one
    esd = float(max(absent.std(ddof=1), 1.0) * np.sqrt(len(absent)) / expected.sum())
    strong = r - STRONG > SIGNIFICANT * esd
    return Absences(n, float(absent.mean()), float(expected.mean()), r, esd, bool(strong))
