"""
The cycles: reference -> lattices -> scaled observations -> reference.

Against an external reference one cycle is enough, and a second one where the population of the first restrains the
lattices.  One that is a model has errors of its own, which the lattices would inherit: from the second cycle on, three
in all, it counts as one observation more of each index beside the data's own, with the variance that `prior` finds for
it.  Without a reference the reference is the scaled mean of the data themselves.  It starts from the lattices' start
values (theta = 0, B = 0, r_s = RMS r_h, G to the current mean, three rounds), or from what an earlier run with the same
model ended with.  Each cycle fits every lattice to the mean of the others (`excludes_self`: the lattice's own weighted
contribution is subtracted) until the merged intensities stop changing; what
is done where they don't, convergence.py says.  A cycle that accepts no lattice any more is taken back, and is the last.
Neither the overall scale nor the overall B is determined then: the medians of ln G and B over the accepted lattices are
set to zero.  Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.parallel import ordered_map
from dials_postrefine.stills import convergence
from dials_postrefine.stills.convergence import Course, Cycle, Ended, Verdicts
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter, harmful_lattices
from dials_postrefine.stills.errormodel import ErrorModel, slope_of_variance
from dials_postrefine.stills.filters import LatticeFilters, reject_lattices, relation_to_reference
from dials_postrefine.stills.freereflections import FreeAgreement, compare, hidden, hide, mean_cc_free, no_agreement
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import FitSettings, LatticeFit, Reason, fit_lattices, no_fit
from dials_postrefine.stills.model import (
    LN_SCALE,
    MAX_RELATIVE_VARIANCE,
    PARAMETERS,
    scale_factor,
)
from dials_postrefine.stills.restraint import fix_gauge, population
from dials_postrefine.stills.scaling import (
    Scaled,
    WeightedMean,
    add_prior,
    first_mean,
    linear_scales,
    mean_of_kept,
    mean_of_others,
    merging_values,
    relative_change,
)

LATTICES_PER_CHUNK = 32
FEWEST_BATCHED = 20
MAX_CYCLES = 8
MODEL_CYCLES = 3  # one against the model, two against model and data


@dataclass(frozen=True)
class DatasetSettings:
    """
    What the cycles need to know: the fit's settings, None or a number of cycles, the convergence limit, whether a
    lattice's reference leaves the lattice out, the outlier limit, the engine (`auto`: batched from FEWEST_BATCHED
    lattices on), whether the population restrains each lattice, what lattices are tested for (filters.py) and whether
    those that lower CC1/2 of the last merge are rejected (deltacchalf.py); takes_best: of cycles that don't converge
    the best is taken, not the last (convergence.py).
    """

    fit: FitSettings = FitSettings()
    n_cycles: int | None = None
    convergence: float = 0.005
    excludes_self: bool = True
    outlier_z: float = 6.0
    engine: str = "auto"
    restraints: bool = True
    error_model: str = "basic"
    filters: LatticeFilters = LatticeFilters()
    delta_cc_half: DeltaCCHalfFilter | None = None
    takes_best: bool = True


@dataclass
class PostrefinedStills:
    """
    The outcome. model, profile, radius and unit_cell; x (L, 7), covariance (L, 7, 7), fits and reasons (L) by lattice;
    partiality, scale = G e, relative_variance of (G e p), kept and outlier (n,) by observation, outliers being among
    the kept, and variance_slope of all (errormodel.py); mean (n_unique,) their merged intensities and error_model the
    variances' (None: not wanted); reference (n_unique,) what the last cycle was fitted to, NaN for what is held out if
    it is the data's own mean; linear_scale (L,), the scales before; cycles and their course (convergence.py); free, the
    lattices' agreement with what was held out.
    """

    model: str
    profile: str
    radius: str
    unit_cell: str
    x: np.ndarray
    covariance: np.ndarray
    fits: list[LatticeFit]
    reasons: list[Reason | None]
    partiality: np.ndarray
    scale: np.ndarray
    relative_variance: np.ndarray
    variance_slope: float
    kept: np.ndarray
    outlier: np.ndarray
    mean: np.ndarray
    error_model: ErrorModel | None
    reference: np.ndarray
    linear_scale: np.ndarray
    cycles: list[Cycle]
    course: Course
    free: FreeAgreement

    def merging_values(self, stills: Stills, selection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scaled values of the selected observations and their variances, as they are to be merged."""
        return merging_values(stills, self, self.mean, self.error_model, selection)

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
    prior: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    agreement: Sequence[float] = (),
    each: Callable[[Scaled, WeightedMean], None] = lambda scaled, mean: None,
) -> PostrefinedStills:
    """
    Postrefine all lattices (module docstring).

    reference (n_unique,) external full intensities, NaN where unknown, or None for the scaled mean of the data.
    progress(what, done, total) is told how far each cycle is.  held_out (n_unique,) names unique indices that take no
    part in any fit: after the last cycle the lattices are compared with them, and those that are worse for having been
    refined go back (freereflections.py).  prior, where the reference is a model: of merged intensities and their
    standard deviations (n_unique,), NaN where unknown, it makes the model's on the same scale and their variances, or
    None where they are too few to tell.  agreement: the honest CC1/2 of each cycle, as far as half sets have gone, by
    which the best is chosen where the cycles don't converge; each(scaled, mean) is told what each of them merged.
    Never raises for a bad lattice: see `reasons`.
    """
    external = reference is not None
    known, seen = hidden(reference, held_out), hide(stills, held_out)
    linear_scale = linear_scales(seen, known)
    rows = slice(None) if held_out is None else ~held_out[stills.unique]
    slope = slope_of_variance(stills.intensity[rows], stills.variance[rows])
    error_model, fits_model = ErrorModel(b=settings.fit.model_error), settings.error_model == "basic"
    # what is held out now may not have been then
    earlier = {k: fit for k, fit in stills.earlier.items() if held_out is None and fit.suits(settings.fit)}
    starts: list[np.ndarray | None] = [earlier[k].x if k in earlier else None for k in range(stills.n_lattices)]
    mean = None
    if not external:
        mean = first_mean(seen, settings.fit, settings.outlier_z, linear_scale, earlier, slope, fits_model)
        error_model = mean.error_model
    del seen
    cycles: list[Cycle] = []
    verdicts, course, damped = Verdicts(stills.n_lattices), None, False
    restraint, outcome, best = None, None, None
    if settings.restraints:
        restraint = population(list(earlier.values()), restrained=True)

    def mean_of(some: Scaled) -> WeightedMean:
        return mean_of_kept(stills, some, error_model, settings.outlier_z, fits_model)

    with ordered_map(nproc) as mapped:
        for number in range(settings.n_cycles or _most_cycles(settings, external, prior is not None)):
            target = known if mean is None else mean.reference
            fits: list[LatticeFit] = []
            others = mean if settings.excludes_self else None
            chunks = _chunks(stills, target, others, starts, linear_scale, settings, restraint)
            for some in mapped(_fit_chunk, chunks):
                fits.extend(some)
                progress(f"cycle {number + 1}", len(fits), stills.n_lattices)
            reject_lattices(fits, settings.filters)
            verdicts.settle(fits)
            if not external:
                fix_gauge(fits, settings.fit)
            scaled = _spread(stills, settings, fits, slope)
            working = scaled if held_out is None else replace(scaled, kept=scaled.kept & ~held_out[stills.unique])
            new = mean_of(working)
            error_model = new.error_model
            accepted = [fit for fit in fits if fit.reason is None]
            if not accepted and outcome is not None:  # the lattices have led one another astray
                fits, scaled, new, target = outcome
                error_model = new.error_model
                course = Course(Ended.NO_LATTICE, len(cycles))
                break
            outcome = fits, scaled, new, target
            correlations = np.array([fit.correlation_after for fit in accepted])
            correlations = correlations[np.isfinite(correlations)]  # of too few reflections there is none
            mean_correlation = float(correlations.mean()) if len(correlations) else np.nan
            cycle = Cycle(len(accepted), mean_correlation, np.nan, damped=damped)
            cycles.append(cycle)
            each(scaled, new)
            if not external:
                cycle.change = relative_change(target, new.reference)
                cycle.change_esd = convergence.change_in_esds(target, new.reference, new.sigma)
                if held_out is not None:
                    cycle.agreement = mean_cc_free(stills, held_out, scaled, mean_of(scaled))
                elif len(agreement):
                    cycle.agreement = agreement[min(number, len(agreement) - 1)]
                if convergence.choose_cycle(cycles, held_out is not None)[0] == len(cycles):
                    best = outcome
                damped = damped or convergence.slows_down(cycles)
                mean = convergence.damped_mean(mean, new) if damped else new
            elif prior is not None:
                found = prior(new.reference, new.sigma)
                if found is None:
                    break
                mean = add_prior(new, np.where(np.isfinite(known), found[0], np.nan), found[1])
            starts = [fit.x if fit.reason is None else None for fit in fits]
            restraint = population(fits, restraint is not None) if settings.restraints else None
            if (
                not accepted
                or cycle.change < settings.convergence
                or (restraint is None and settings.n_cycles is None and external and prior is None)
            ):
                break
    if course is None:
        course = convergence.course_of(cycles, settings.convergence, external)
    if damped and settings.takes_best and course.ended is not Ended.CONVERGED:
        course.taken, course.chosen_by = convergence.choose_cycle(cycles, held_out is not None)
        fits, scaled, new, target = best
        error_model = new.error_model
    fitted_to, free = reference if mean is None else target, no_agreement(stills.n_lattices)
    if held_out is not None:
        new = mean_of(scaled)
        by_row = reference[stills.unique] if external else mean_of_others(stills, slice(None), new)
        free = _revert_worse(stills, settings, held_out, by_row, linear_scale, fits, scaled)
        if free.reverted.any():
            new = mean_of(scaled)
    if settings.delta_cc_half is not None:
        for k in harmful_lattices(stills, new, settings.delta_cc_half):
            fits[k].reason = Reason.DELTA_CC_HALF
            scaled.kept[stills.rows(k)] = False
        new = mean_of(scaled)
    return PostrefinedStills(
        model=settings.fit.model,
        profile=settings.fit.profile,
        radius=settings.fit.radius,
        unit_cell=settings.fit.unit_cell,
        x=np.array([fit.x for fit in fits]),
        covariance=np.array([fit.covariance for fit in fits]),
        fits=fits,
        reasons=[fit.reason for fit in fits],
        partiality=scaled.partiality,
        scale=scaled.scale,
        relative_variance=scaled.relative_variance,
        variance_slope=slope,
        kept=scaled.kept,
        outlier=new.outlier,
        mean=new.reference,
        error_model=new.error_model if fits_model else None,
        reference=fitted_to,
        linear_scale=linear_scale,
        cycles=cycles,
        course=course,
        free=free,
    )


def _most_cycles(settings: DatasetSettings, external: bool, model: bool) -> int:
    if not external:
        return MAX_CYCLES
    return MODEL_CYCLES if model else 1 + settings.restraints


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
    fits = [no_fit(one, rejected[k]) if k in rejected else next(fitted) for k, one in enumerate(lattices)]
    for one, fit in zip(lattices, fits):
        fit.partial_correlation = relation_to_reference(one, fit)
    return fits


def _chunks(stills, target, mean, starts, linear_scale, settings, restraint):
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
        yield _Chunk(part, reference, starts[first:last], linear_scale[first:last], settings.fit, restraint, engine)


def _revert_worse(stills, settings, held_out, reference, linear_scale, fits, scaled) -> FreeAgreement:
    """
    Compare the lattices with what no fit has seen, and fit the worse ones anew, their scale alone: changes fits and
    scaled.

    reference (n,) is that of each observation.  This comes after the last cycle and not in each: through the mean, what
    a lattice went back for would reach the fits of the others.
    """
    fitted = np.array([np.isfinite(fit.x).all() for fit in fits])
    refined = np.where(fitted[stills.lattice()], scaled.partiality * scaled.scale * reference, np.nan)
    free = compare(stills, settings.fit, held_out, reference, refined)
    free.reverted = free.worse & [fit.refined and fit.reason is None for fit in fits]
    if free.reverted.any():
        part, rows = select_lattices(stills, free.reverted), free.reverted[stills.lattice()]
        known, starts = hidden(reference[rows], held_out[part.unique]), [None] * part.n_lattices
        others = tuple(name for name in PARAMETERS if name != PARAMETERS[LN_SCALE])
        alone = replace(settings.fit, fix=(*others, *settings.fit.fix))
        unrefined = _fit_chunk(_Chunk(part, known, starts, linear_scale[free.reverted], alone, None, "lstbx"))
        spread = _spread(part, settings, unrefined, scaled.variance_slope)
        for name in ("partiality", "scale", "relative_variance", "kept"):
            getattr(scaled, name)[rows] = getattr(spread, name)
        for k, fit in zip(np.flatnonzero(free.reverted), unrefined):
            fit.refined = False
            fits[k] = fit
    return free


def _spread(stills: Stills, settings: DatasetSettings, fits: list[LatticeFit], variance_slope: float) -> Scaled:
    """What the fits say of every observation; they give their own arrays away."""
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
            kept[rows] = p[rows] >= settings.fit.partiality_threshold
    return Scaled(p, scale, relative, kept, variance_slope)
