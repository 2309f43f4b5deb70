"""
The fits of many lattices, a chunk of them at a time: what a worker keeps, what goes to it, and what comes back.

The observations are with the workers from the start (keep_stills); a Task names the lattices, and has what changes from
cycle to cycle: the reference of each observation, and the start of each lattice.

Two engines minimise the same objective from the same start (choose_engine).  lstbx is the reference: scitbx's own
minimiser, one lattice after the other, simple and slow (lattice.py, numerics/leastsquares.py).  It is what the tests
hold against scipy and cctbx.xfel and then the batched engine against; it fits single lattices and small data sets, and
the lattices that go back to their unrefined geometry.  The batched engine (batch.py) takes all lattices of a chunk
together in compiled loops, in a fraction of the time, and ends at the same minimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.stills.batch import fit_batch
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.filters import relation_to_reference
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason, no_fit
from dials_postrefine.stills.lattice import fit_lattices
from dials_postrefine.stills.model import N_PARAMETERS, JoinedObservations, Observations, scale_factor
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_others

LATTICES_PER_CHUNK = 32
FEWEST_BATCHED = 20


@dataclass(frozen=True)
class Start:
    """
    What the fits of L lattices go on from.

    Parameters
    ----------
    x : ndarray, shape (L, 7)
        Parameters to start from, NaN where a lattice starts from its start values.
    linear_scale : ndarray, shape (L,)
        Scales without any other parameter, for lattices that can't be scaled by themselves.
    restraint : Restraint, optional
        The population that restrains each lattice.
    """

    x: np.ndarray
    linear_scale: np.ndarray
    restraint: Restraint | None = None


@dataclass(frozen=True)
class Chunk:
    """
    A few lattices to be fitted: their observations with the reference, which of them are rejected already, what they
    start from, and the settings and the engine of their fits.
    """

    observations: JoinedObservations
    rejected: dict[int, Reason]
    start: Start
    settings: FitSettings
    engine: str

    @property
    def lattices(self) -> list[Observations]:
        """The observations lattice by lattice."""
        return self.observations.split()


@dataclass(frozen=True)
class Task:
    """
    The lattices from first up to and without last, which a worker has: reference, by observation, rejected lattices,
    numbered from first, start, settings and engine as Chunk has them.
    """

    first: int
    last: int
    reference: np.ndarray
    rejected: dict[int, Reason]
    start: Start
    settings: FitSettings
    engine: str

    def chunk(self, stills: Stills) -> Chunk:
        """The lattices themselves, of the data set."""
        observations = stills.joined(self.reference, self.first, self.last)
        return Chunk(observations, self.rejected, self.start, self.settings, self.engine)


# What the initializer leaves in a worker.
_stills: Stills | None = None


def keep_stills(stills: Stills | None) -> None:
    """
    Leave the data set with this worker.

    Parameters
    ----------
    stills : Stills or None
        None for none any more.
    """
    global _stills
    _stills = stills


def fit_task(task: Task) -> list[LatticeFit]:
    """
    Fit lattices of the data set that the worker has.

    Parameters
    ----------
    task : Task

    Returns
    -------
    list of LatticeFit
        As fit_chunk gives them.
    """
    return fit_chunk(task.chunk(_stills))


def choose_engine(engine: str, n_lattices: int) -> str:
    """
    The engine for a data set (module docstring).

    Parameters
    ----------
    engine : str
        `lstbx` or `batched`; `auto` is batched from FEWEST_BATCHED lattices on.
    n_lattices : int

    Returns
    -------
    str
        `lstbx` or `batched`.
    """
    if engine == "auto":
        return "batched" if n_lattices >= FEWEST_BATCHED else "lstbx"
    return engine


def fit_chunk(chunk: Chunk) -> list[LatticeFit]:
    """
    Fit the lattices of a chunk: what a worker does.

    Parameters
    ----------
    chunk : Chunk
        Of L lattices.

    Returns
    -------
    list of L LatticeFit
        Those included that were rejected before, with their reasons.
    """
    rejected, start = chunk.rejected, chunk.start
    if chunk.engine == "batched":
        return fit_batch(
            chunk.observations, chunk.settings, start.x, start.linear_scale, start.restraint, chunk.rejected
        )
    lattices = chunk.lattices
    numbers = [k for k in range(len(lattices)) if k not in rejected]
    fitted = iter(
        fit_lattices(
            [lattices[k] for k in numbers],
            chunk.settings,
            start.x[numbers],
            start.linear_scale[numbers],
            start.restraint,
        )
    )
    fits = [no_fit(lattice, rejected[k]) if k in rejected else next(fitted) for k, lattice in enumerate(lattices)]
    for lattice, fit in zip(lattices, fits):
        fit.partial_correlation = relation_to_reference(lattice, fit)
    return fits


def make_tasks(
    stills: Stills,
    target: np.ndarray,
    mean: WeightedMean | None,
    start: Start,
    settings: FitSettings,
    engine: str,
) -> Iterator[Task]:
    """
    The lattices in chunks, with what each observation is fitted to.

    Parameters
    ----------
    stills : Stills
        L lattices, n_unique indices.
    target : ndarray, shape (n_unique,)
        Full intensities, NaN where there is none.
    mean : WeightedMean, optional
        If given, each lattice is fitted to the mean of the others instead of the target.
    start : Start
        Of L lattices.
    settings : FitSettings
    engine : str
        As choose_engine takes it.

    Yields
    ------
    Task
        Of LATTICES_PER_CHUNK lattices; made when it is asked for.
    """
    engine = choose_engine(engine, stills.n_lattices)
    for first in range(0, stills.n_lattices, LATTICES_PER_CHUNK):
        last = min(first + LATTICES_PER_CHUNK, stills.n_lattices)
        if mean is None:
            reference = target[stills.unique[stills.rows(first, last)]]
        else:
            reference = mean_of_others(stills, mean, first, last)
        yield Task(
            first,
            last,
            reference,
            {k - first: reason for k, reason in stills.rejected.items() if first <= k < last},
            Start(start.x[first:last], start.linear_scale[first:last], start.restraint),
            settings,
            engine,
        )


def spread_fits(stills: Stills, settings: FitSettings, fits: list[LatticeFit], variance_slope: float) -> Scaled:
    """
    What the fits say of every observation.

    Parameters
    ----------
    stills : Stills
        L lattices, n observations.
    settings : FitSettings
        Of the fits.
    fits : list of L LatticeFit
        They give their partiality and relative_variance away, lest these be held twice.
    variance_slope : float
        As in Scaled.

    Returns
    -------
    Scaled
    """
    nothing = np.zeros(0)
    p, relative = (
        np.concatenate([nothing, *(getattr(fit, name) for fit in fits)]) for name in ("partiality", "relative_variance")
    )
    for fit in fits:
        fit.partiality = fit.relative_variance = nothing
    n, x = np.diff(stills.offsets), np.array([fit.x for fit in fits]).reshape(-1, N_PARAMETERS)
    known = np.repeat(np.isfinite(x).all(axis=1), n)
    # contiguous, as model.JoinedObservations.parameters is and for its reason
    by_row = np.ascontiguousarray(np.repeat(np.nan_to_num(x), n, axis=0).T)
    scale = np.where(known, scale_factor(by_row, stills.q_sq), 1.0)
    accepted = np.repeat(np.array([fit.reason is None for fit in fits], dtype=bool), n)
    return Scaled(p, scale, relative, accepted & (p >= settings.partiality_threshold), variance_slope)
