"""
The fits of many lattices, a chunk of them at a time: what goes to a worker, and what comes back.

Two engines minimise the same objective from the same start (choose_engine).  lstbx is the reference: scitbx's own
minimiser, one lattice after the other, simple and slow (lattice.py, numerics/leastsquares.py).  It is what the tests
hold against scipy and cctbx.xfel and then the batched engine against; it fits single lattices and small data sets, the
lattices that go back to their unrefined geometry, and a chunk in which a lattice's normal matrix is singular.  The
batched engine (batch.py) takes all lattices of a chunk together, in a fraction of the time, and ends at the same
minimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.filters import relation_to_reference
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason, no_fit
from dials_postrefine.stills.lattice import fit_lattices
from dials_postrefine.stills.model import Observations, scale_factor
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
    A few lattices on their way to a worker: their observations with the reference, which of them are rejected already,
    what they start from, and the settings and the engine of their fits.
    """

    lattices: list[Observations]
    rejected: dict[int, Reason]
    start: Start
    settings: FitSettings
    engine: str


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
    lattices, rejected, start = chunk.lattices, chunk.rejected, chunk.start
    numbers = [k for k in range(len(lattices)) if k not in rejected]
    fitted = iter(
        fit_lattices(
            [lattices[k] for k in numbers],
            chunk.settings,
            start.x[numbers],
            start.linear_scale[numbers],
            start.restraint,
            chunk.engine,
        )
    )
    fits = [no_fit(lattice, rejected[k]) if k in rejected else next(fitted) for k, lattice in enumerate(lattices)]
    for lattice, fit in zip(lattices, fits):
        fit.partial_correlation = relation_to_reference(lattice, fit)
    return fits


def make_chunks(
    stills: Stills,
    target: np.ndarray,
    mean: WeightedMean | None,
    start: Start,
    settings: FitSettings,
    engine: str,
) -> Iterator[Chunk]:
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
    Chunk
        Of LATTICES_PER_CHUNK lattices; made when it is asked for.
    """
    engine = choose_engine(engine, stills.n_lattices)
    for first in range(0, stills.n_lattices, LATTICES_PER_CHUNK):
        last = min(first + LATTICES_PER_CHUNK, stills.n_lattices)
        if mean is None:
            reference = target[stills.unique[stills.rows(first, last)]]
        else:
            reference = mean_of_others(stills, mean, first, last)
        references = np.split(reference, stills.offsets[first + 1 : last] - stills.offsets[first])
        yield Chunk(
            [stills.observations(k, values) for k, values in zip(range(first, last), references)],
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
    n = len(stills.unique)
    p, scale, relative = np.empty(n), np.ones(n), np.empty(n)
    kept = np.zeros(n, dtype=bool)
    for k, fit in enumerate(fits):
        rows = stills.rows(k)
        p[rows], relative[rows] = fit.partiality, fit.relative_variance
        fit.partiality = fit.relative_variance = np.zeros(0)
        if np.isfinite(fit.x).all():
            scale[rows] = scale_factor(fit.x, stills.q_sq[rows])
        if fit.reason is None:
            kept[rows] = p[rows] >= settings.partiality_threshold
    return Scaled(p, scale, relative, kept, variance_slope)
