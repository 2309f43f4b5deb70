"""
Neutral atoms or ions: two refinements against the same observations, and where the difference comes from.

Charge changes the potential at long range alone: an ion's factor has q/s^2 (scattering/electron_atoms.py), so that low
reflections tell, U111 of MgO by +31 %, of NaCl by -13 %.  Both models are refined alike, thickness and B included, and
compared by the likelihood ratio of residuals.py, whose terms are summed by resolution and by intensity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.dynamical.residuals import ModelComparison, compare_models
from dials_postrefine.electron.dynamical.results import DynamicalFit
from dials_postrefine.numerics.frames import FrameData
from dials_postrefine.numerics.grouped import even_groups

N_GROUPS = 5


@dataclass(frozen=True)
class Part:
    """A part of the observations: the range of what they are grouped by, their number, and their share of Lambda."""

    low: float
    high: float
    n: int
    log_ratio: float


@dataclass(frozen=True)
class Charge:
    """
    The two models.

    Attributes
    ----------
    first, second : str
        What the atoms are in each.
    fits : tuple of DynamicalFit
        Of each.
    comparison : ModelComparison
        Positive for the second.
    by_resolution : tuple of Part
        Of |g|, 1/Angstrom, equal numbers of observations each.
    by_intensity : tuple of Part
        Of I_obs.
    """

    first: str
    second: str
    fits: tuple[DynamicalFit, DynamicalFit]
    comparison: ModelComparison
    by_resolution: tuple[Part, ...]
    by_intensity: tuple[Part, ...]


def compare_charges(data: FrameData, names: tuple[str, str], fits: tuple[DynamicalFit, DynamicalFit]) -> Charge:
    """
    Compare two refinements (module docstring), by the observations that both calculate.

    Parameters
    ----------
    data : FrameData
    names : tuple of str
    fits : tuple of DynamicalFit
        Against these data.

    Returns
    -------
    Charge
    """
    both = np.isfinite(fits[0].dynamical) & np.isfinite(fits[1].dynamical)
    first, second = (fit.dynamical[both] for fit in fits)
    data = data.select(both)
    comparison = compare_models(data.intensity, data.variance, first, second, data.frame)
    parts = (_parts(comparison.log_ratio, by) for by in (data.d_star, data.intensity))
    return Charge(*names, fits, comparison, *parts)


def _parts(log_ratio: np.ndarray, value: np.ndarray) -> tuple[Part, ...]:
    group = even_groups(value, N_GROUPS)
    found = []
    for k in range(N_GROUPS):
        mine = value[group == k]
        if len(mine):
            found.append(Part(float(mine.min()), float(mine.max()), len(mine), float(log_ratio[group == k].sum())))
    return tuple(found)
