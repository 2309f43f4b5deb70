"""
Whether the cycles converge, and what is done where they don't.

With m the mean that the lattices of a cycle were fitted to and F(m) the mean of the lattices so fitted, cycles against
the data's own mean look for m = F(m).  Their measures are, over the unique indices and with s the robust slope between
the two,

    change       sum |F(m) - s m| / sum |F(m)|                     converged: below the limit
    change_esd   mean of |F(m) - s m| / sigma(F(m))

All lattices are fitted at once, each to the others as they were: where few observations share an index, each of a pair
takes the place of the other in turn, and the cycles never settle (Jacobi's iteration, whose error has an eigenvalue
near -1).  So from the first cycle on whose change is not below SLOWEST of the one before, the next mean is

    m' = (1 - DAMPING) m + DAMPING F(m),      in the sums of weights and of weight times value,

which has the same solutions and takes an eigenvalue of -1 to 0.  The measures are those of F(m) - m, not of the shorter
step, so that damping does not pass for convergence.  Verdicts may turn in circles as well: a lattice that has been
rejected, accepted and rejected again stays out for the rest of the cycles.

Where the cycles were damped and have not converged even so, the one that agrees best with what it has not seen is
taken: by the free reflections where there are any, else by independently refined half sets (crossvalidation.py); where
either is not known of every cycle, one of those that accept most lattices, the one that changed least.  The figure that
chose is the best of a few and so slightly too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from dials_postrefine.numerics.robust import slope_through_origin
from dials_postrefine.stills.fits import LatticeFit, Reason
from dials_postrefine.stills.scaling import WeightedMean

SLOWEST = 0.9
DAMPING = 0.5


class Ended(str, Enum):
    """Why the cycles ended."""

    CONVERGED = "converged"
    MOST = "the largest number of cycles was reached"
    NO_LATTICE = "a cycle accepted no lattice any more and was taken back"
    EXTERNAL = "the reference is external"


class ChosenBy(str, Enum):
    """What chose the cycle that was taken."""

    LAST = "last"
    FREE = "mean CC_free"
    HALF_SETS = "honest CC1/2"
    CHANGE = "most lattices and smallest change"


@dataclass
class Cycle:
    """
    One cycle's account: lattices accepted, their mean correlation; change and change_esd (module docstring), NaN
    against an external reference; agreement with what no fit has seen, NaN where that is not known; damped: whether the
    mean it was fitted to was.
    """

    n_accepted: int
    correlation: float
    change: float
    change_esd: float = np.nan
    agreement: float = np.nan
    damped: bool = False


@dataclass
class Course:
    """How the cycles ended: why, which cycle was taken (from 1), and what chose it."""

    ended: Ended
    taken: int
    chosen_by: ChosenBy = ChosenBy.LAST


def change_in_esds(old: np.ndarray, new: np.ndarray, sigma: np.ndarray) -> float:
    """
    How far the mean has moved, mean of |new - s old| / sigma (module docstring).

    Parameters
    ----------
    old, new : ndarray, shape (n_unique,)
        Merged intensities, NaN where there is none: those that both know count.
    sigma : ndarray, shape (n_unique,)
        The standard deviation of the new ones.

    Returns
    -------
    float
        NaN of nothing.
    """
    both = np.isfinite(old) & np.isfinite(new) & (sigma > 0.0)
    if not both.any():
        return np.nan
    old, new = old[both], new[both]
    return float(np.mean(np.abs(new - slope_through_origin(new, old) * old) / sigma[both]))


def slows_down(cycles: Sequence[Cycle]) -> bool:
    """
    Whether the last cycle changed the merged intensities as much, or nearly, as the one before.

    Parameters
    ----------
    cycles : sequence of Cycle

    Returns
    -------
    bool
    """
    return len(cycles) > 1 and not cycles[-1].change < SLOWEST * cycles[-2].change


def damped_mean(old: WeightedMean, new: WeightedMean) -> WeightedMean:
    """
    The mean m' for the next cycle where cycles are damped (module docstring).

    Parameters
    ----------
    old, new : WeightedMean
        m, which the lattices were fitted to, and F(m), which they led to.

    Returns
    -------
    WeightedMean
        With outliers, error model and absences of the new one.
    """

    def between(name: str) -> np.ndarray:
        return (1.0 - DAMPING) * getattr(old, name) + DAMPING * getattr(new, name)

    sum_w, sum_wi = between("sum_w"), between("sum_wi")
    reference = np.divide(sum_wi, sum_w, out=np.full(len(sum_w), np.nan), where=sum_w > 0.0)
    for mean in (old, new):
        reference[np.isnan(mean.reference) & (mean.sum_w > 0.0)] = np.nan  # an absence
    weight, weighted = between("weight"), between("weighted")
    return replace(new, weight=weight, weighted=weighted, sum_w=sum_w, sum_wi=sum_wi, reference=reference)


def course_of(cycles: Sequence[Cycle], limit: float, external: bool) -> Course:
    """
    How cycles ended of which none was taken back.

    Parameters
    ----------
    cycles : sequence of Cycle
    limit : float
        The change below which they have converged.
    external : bool
        Whether the reference is.

    Returns
    -------
    Course
    """
    if external:
        return Course(Ended.EXTERNAL, len(cycles))
    return Course(Ended.CONVERGED if cycles[-1].change < limit else Ended.MOST, len(cycles))


def choose_cycle(cycles: Sequence[Cycle], free: bool) -> tuple[int, ChosenBy]:
    """
    The best cycle (module docstring).

    Parameters
    ----------
    cycles : sequence of Cycle
    free : bool
        Whether their agreement is the mean CC_free, or else the honest CC1/2.

    Returns
    -------
    number : int
        From 1.
    chosen_by : ChosenBy
    """
    agreement = np.array([cycle.agreement for cycle in cycles])
    if np.isfinite(agreement).all():
        return int(np.argmax(agreement)) + 1, ChosenBy.FREE if free else ChosenBy.HALF_SETS
    change = [cycle.change if np.isfinite(cycle.change) else np.inf for cycle in cycles]
    order = sorted(range(len(cycles)), key=lambda i: (-cycles[i].n_accepted, change[i], i))
    return order[0] + 1, ChosenBy.CHANGE


class Verdicts:
    """The verdicts on L lattices from cycle to cycle."""

    def __init__(self, n_lattices: int) -> None:
        self._accepted: list[bool] = [True] * n_lattices
        self._n_falls = [0] * n_lattices
        self._reason: list[Reason | None] = [None] * n_lattices

    def settle(self, fits: Sequence[LatticeFit]) -> None:
        """Take notice of a cycle's verdicts (L), and reject once more what has been rejected twice."""
        for k, fit in enumerate(fits):
            if fit.reason is None and self._n_falls[k] > 1:
                fit.reason = self._reason[k]
            if fit.reason is not None:
                self._n_falls[k] += self._accepted[k]
                self._reason[k] = fit.reason
            self._accepted[k] = fit.reason is None
