"""
The cycles: reference -> lattices -> scaled observations -> reference.

Against an external reference one cycle is enough.  Without one the reference is the scaled mean of the data themselves.
It starts from the lattices' start values (theta = 0, B = 0, r_s = RMS r_h, G to the current mean, three rounds) and
each cycle fits every lattice to the mean of the others (`excludes_self`: the lattice's own weighted contribution is
subtracted) until the merged intensities stop changing.  Neither the overall scale nor the overall B is determined
then: the medians of ln G and B over the accepted lattices are set to zero.  Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dials_postrefine.parallel import ordered_map
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import FitSettings, LatticeFit, Reason, fit_lattices, no_fit, signed_root
from dials_postrefine.stills.merging import correlation
from dials_postrefine.stills.minimise import Restraint
from dials_postrefine.stills.model import B_FACTOR, LN_SCALE, PARAMETERS, THETA_X, THETA_Y, scale_factor
from dials_postrefine.stills.scaling import (
    first_mean,
    linear_scales,
    mean_of_kept,
    mean_of_others,
    relative_change,
)

LATTICES_PER_CHUNK = 32
FEWEST_BATCHED = 20
MIN_POPULATION = 20
MAX_CYCLES = 8


@dataclass(frozen=True)
class DatasetSettings:
    """
    What the cycles need to know: the fit's settings, None or a number of cycles, the convergence limit, whether a
    lattice's reference leaves the lattice out, the outlier limit, the engine (`auto`: batched from FEWEST_BATCHED
    lattices on), and whether the population restrains each lattice.
    """

    fit: FitSettings = FitSettings()
    n_cycles: int | None = None
    convergence: float = 0.005
    excludes_self: bool = True
    outlier_z: float = 6.0
    engine: str = "auto"
    restraints: bool = False


@dataclass
class Cycle:
    """
    One cycle's account: lattices accepted, their mean correlation, and the change of the merged intensities, NaN
    against an external reference.
    """

    n_accepted: int
    correlation: float
    change: float


@dataclass
class PostrefinedStills:
    """
    The outcome.  model, profile and radius; x (L, 6), covariance (L, 6, 6), fits and reasons (L) by lattice;
    partiality, scale = G e, kept and outlier (n,) by observation, outliers being among the kept; reference (n_unique,)
    what the last cycle was fitted to; linear_scale (L,), the scales before; cycles; free_correlation (L,), see
    free_correlations, NaN where nothing was held out.
    """

    model: str
    profile: str
    radius: str
    x: np.ndarray
    covariance: np.ndarray
    fits: list[LatticeFit]
    reasons: list[Reason | None]
    partiality: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    outlier: np.ndarray
    reference: np.ndarray
    linear_scale: np.ndarray
    cycles: list[Cycle]
    free_correlation: np.ndarray

    @property
    def accepted(self) -> np.ndarray:
        """Which lattices are accepted (L,)."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)


@dataclass
class _Chunk:
    """Some lattices on their way to a worker: the arrays of those lattices alone."""

    stills: Stills
    reference: np.ndarray
    starts: list[np.ndarray | None]
    linear_scale: np.ndarray
    settings: FitSettings
    restraint: Restraint | None
    engine: str


def postrefine(
    stills: Stills,
    settings: DatasetSettings,
    reference: np.ndarray | None = None,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    held_out: np.ndarray | None = None,
) -> PostrefinedStills:
    """
    Postrefine all lattices (module docstring).

    reference (n_unique,) external full intensities, NaN where unknown, or None for the scaled mean of the data.
    progress(what, done, total) is told how far each cycle is.  held_out (n_unique,) names unique indices that take no
    part in any fit: the result then has each lattice's correlation with the model on them.  Never raises for a bad
    lattice: see `reasons`.
    """
    external = reference is not None
    linear_scale = linear_scales(stills, reference)
    mean = None if external else first_mean(stills, settings, linear_scale)
    starts: list[np.ndarray | None] = [None] * stills.n_lattices
    cycles: list[Cycle] = []
    restraint = None
    free = np.full(stills.n_lattices, np.nan)
    with ordered_map(nproc) as mapped:
        for number in range(settings.n_cycles or (1 + settings.restraints if external else MAX_CYCLES)):
            target = reference if external else mean.reference
            fits: list[LatticeFit] = []
            others = mean if settings.excludes_self else None
            chunks = _chunks(stills, target, others, starts, linear_scale, settings, restraint, held_out)
            for some in mapped(_fit_chunk, chunks):
                fits.extend(some)
                progress(f"cycle {number + 1}", len(fits), stills.n_lattices)
            if not external:
                _fix_gauge(fits, settings.fit)
            p, scale, kept = _spread(stills, settings, fits)
            new = mean_of_kept(stills, settings, p, scale, kept, target)
            change = np.nan if external else relative_change(target, new.reference)
            accepted = [fit for fit in fits if fit.reason is None]
            mean_correlation = float(np.mean([fit.correlation_after for fit in accepted])) if accepted else np.nan
            cycles.append(Cycle(len(accepted), mean_correlation, change))
            if held_out is not None:
                free = free_correlations(stills, p * scale, held_out, target, others)
            mean = None if external else new
            starts = [fit.x if fit.reason is None else None for fit in fits]
            restraint = population(fits) if settings.restraints else None
            if not accepted or change < settings.convergence:
                break
    return PostrefinedStills(
        model=settings.fit.model,
        profile=settings.fit.profile,
        radius=settings.fit.radius,
        x=np.array([fit.x for fit in fits]),
        covariance=np.array([fit.covariance for fit in fits]),
        fits=fits,
        reasons=[fit.reason for fit in fits],
        partiality=p,
        scale=scale,
        kept=kept,
        outlier=new.outlier,
        reference=target,
        linear_scale=linear_scale,
        cycles=cycles,
        free_correlation=free,
    )


def _fit_chunk(chunk: _Chunk) -> list[LatticeFit]:
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
    return [no_fit(one, rejected[k]) if k in rejected else next(fitted) for k, one in enumerate(lattices)]


def _chunks(stills, target, mean, starts, linear_scale, settings, restraint, held_out=None):
    """The lattices in chunks with what each observation is fitted to: the target, or the mean of the other lattices."""
    engine = settings.engine
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
        if held_out is not None:
            reference = np.where(held_out[part.unique], np.nan, reference)
        yield _Chunk(part, reference, starts[first:last], linear_scale[first:last], settings.fit, restraint, engine)


def free_correlations(stills, factor, held_out, target, mean) -> np.ndarray:
    """
    Each lattice's correlation (L,) of I_obs and I_calc, as signed roots, over the reflections that no fit has seen.

    factor (n,) is p G e; the reference is the target or, where mean is given, the mean of the other lattices.
    """
    reference = target[stills.unique] if mean is None else mean_of_others(stills, slice(None), mean)
    used = held_out[stills.unique] & np.isfinite(reference)
    observed, calculated = signed_root(stills.intensity), signed_root(factor * reference)
    found = np.full(stills.n_lattices, np.nan)
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        found[k] = correlation(observed[rows][used[rows]], calculated[rows][used[rows]])
    return found


def population(fits: list[LatticeFit]) -> Restraint | None:
    """
    The restraint that the refined and accepted lattices of a cycle put on the next: their medians, and as widths 1.48
    times the median absolute deviations.

    The angles are restrained to zero, as indexing left them; the scale is free.  None of fewer than MIN_POPULATION.
    """
    x = np.array([fit.x for fit in fits if fit.reason is None and fit.refined])
    if len(x) < MIN_POPULATION:
        return None
    mean = np.median(x, axis=0)
    mean[[THETA_X, THETA_Y]] = 0.0
    width = 1.4826 * np.median(np.abs(x - mean), axis=0)
    width[(width <= 0.0) | (np.arange(len(width)) == LN_SCALE)] = np.inf
    return Restraint(mean, width)


def _fix_gauge(fits: list[LatticeFit], settings: FitSettings) -> None:
    """Without an external reference: medians of ln G and B of the accepted lattices to zero, but for fixed ones."""
    accepted = [fit for fit in fits if fit.reason is None]
    for i in (LN_SCALE, B_FACTOR):
        if accepted and PARAMETERS[i] not in settings.fix:
            median = np.median([fit.x[i] for fit in accepted])
            for fit in fits:
                fit.x[i] -= median


def _spread(stills: Stills, settings: DatasetSettings, fits: list[LatticeFit]):
    """p, G e and kept of every observation (n,); the fits give their partialities away."""
    p = np.empty(len(stills.unique))
    scale = np.ones(len(stills.unique))
    kept = np.zeros(len(stills.unique), dtype=bool)
    for k, fit in enumerate(fits):
        rows = stills.rows(k)
        p[rows] = fit.partiality
        fit.partiality = None
        if np.isfinite(fit.x).all():
            q = scattering_vectors(stills.a_matrix[k], stills.h[rows])
            scale[rows] = scale_factor(fit.x, np.einsum("ij,ij->i", q, q))
        if fit.reason is None:
            kept[rows] = p[rows] >= settings.fit.partiality_threshold
    return p, scale, kept
