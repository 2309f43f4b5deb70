"""
The fits of many lattices, a chunk of them at a time: what goes to a worker, and what comes back.

A chunk holds the arrays of its lattices alone.  `engine` is lstbx, one lattice after the other (leastsquares.py), or
batched, all of a chunk together (batch.py); auto takes the second one from FEWEST_BATCHED lattices on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.filters import relation_to_reference
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import FitSettings, LatticeFit, fit_lattices, no_fit
from dials_postrefine.stills.model import MAX_RELATIVE_VARIANCE, scale_factor
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_others

LATTICES_PER_CHUNK = 32
FEWEST_BATCHED = 20


@dataclass
class Chunk:
    """Some lattices on their way to a worker: the arrays of those lattices alone."""

    stills: Stills
    reference: np.ndarray
    starts: list[np.ndarray | None]
    linear_scale: np.ndarray
    settings: FitSettings
    restraint: Restraint | None
    engine: str


def fit_chunk(chunk: Chunk) -> list[LatticeFit]:
    """The fits of all lattices of a chunk, those included that were rejected before, with their reasons."""
    stills, rejected = chunk.stills, chunk.stills.rejected
    lattices = [stills.observations(k, chunk.reference[stills.rows(k)]) for k in range(stills.n_lattices)]
    numbers = [k for k in range(stills.n_lattices) if k not in rejected]
    fitted = iter(
        fit_lattices(
            [lattices[k] for k in numbers],
            chunk.settings,
            [chunk.starts[k] for k in numbers],
            [chunk.linear_scale[k] for k in numbers],
            chunk.restraint,
            chunk.engine,
        )
    )
    fits = [no_fit(one, rejected[k]) if k in rejected else next(fitted) for k, one in enumerate(lattices)]
    for one, fit in zip(lattices, fits):
        fit.partial_correlation = relation_to_reference(one, fit)
    return fits


def make_chunks(
    stills: Stills,
    target: np.ndarray,
    mean: WeightedMean | None,
    starts: list[np.ndarray | None],
    linear_scale: np.ndarray,
    settings: FitSettings,
    restraint: Restraint | None,
    engine: str,
) -> Iterator[Chunk]:
    """The lattices in chunks with what each observation is fitted to: the target, or the mean of the other lattices."""
    if engine == "auto":
        engine = "batched" if stills.n_lattices >= FEWEST_BATCHED else "lstbx"
    for first in range(0, stills.n_lattices, LATTICES_PER_CHUNK):
        last = min(first + LATTICES_PER_CHUNK, stills.n_lattices)
        rows = slice(stills.offsets[first], stills.offsets[last])
        part = Stills(
            stills.a_matrix[first:last],
            stills.s0[first:last],
            stills.offsets[first : last + 1] - stills.offsets[first],
            stills.h[rows],
            stills.unique[rows],
            stills.intensity[rows],
            stills.variance[rows],
            stills.half[first:last],
            stills.absent[:0],
            rejected={k - first: reason for k, reason in stills.rejected.items() if first <= k < last},
        )
        reference = target[part.unique] if mean is None else mean_of_others(part, rows, mean)
        yield Chunk(part, reference, starts[first:last], linear_scale[first:last], settings, restraint, engine)


def spread_fits(stills: Stills, settings: FitSettings, fits: list[LatticeFit], variance_slope: float) -> Scaled:
    """What the fits (L) say of every observation; they give their own arrays away, lest these be held twice."""
    n = len(stills.unique)
    p, scale, relative = np.empty(n), np.ones(n), np.full(n, MAX_RELATIVE_VARIANCE)
    kept = np.zeros(n, dtype=bool)
    for k, fit in enumerate(fits):
        rows = stills.rows(k)
        p[rows] = fit.partiality
        if fit.relative_variance is not None:
            relative[rows] = fit.relative_variance
        fit.partiality = fit.relative_variance = None
        if np.isfinite(fit.x).all():
            q = scattering_vectors(stills.a_matrix[k], stills.h[rows])
            scale[rows] = scale_factor(fit.x, np.einsum("ij,ij->i", q, q))
        if fit.reason is None:
            kept[rows] = p[rows] >= settings.partiality_threshold
    return Scaled(p, scale, relative, kept, variance_slope)
