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

from dials_postrefine.executors.processes import ordered_map
from dials_postrefine.stills import convergence
from dials_postrefine.stills.chunks import Chunk, fit_chunk, make_chunks, spread_fits
from dials_postrefine.stills.convergence import Course, Cycle, Ended, Verdicts
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter, harmful_lattices
from dials_postrefine.stills.errormodel import ErrorModel, slope_of_variance
from dials_postrefine.stills.filters import LatticeFilters, reject_lattices
from dials_postrefine.stills.freereflections import FreeAgreement, compare, hidden, hide, mean_cc_free, no_agreement
from dials_postrefine.stills.lattice import FitSettings, LatticeFit, Reason
from dials_postrefine.stills.model import LN_SCALE, PARAMETERS
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
    loop = _Loop(stills, settings, reference, held_out, prior, agreement)
    with ordered_map(nproc) as mapped:
        for number in range(settings.n_cycles or _most_cycles(settings, loop.external, prior is not None)):
            if not loop.goes_on(number, loop.fit(number, mapped, progress), each):
                break
    loop.choose()
    free = loop.compare_with_held_out()
    loop.reject_harmful()
    return loop.result(free)


@dataclass
class _Outcome:
    """What a cycle led to: the fits (L), the observations scaled by them, their mean, and what they were fitted to."""

    fits: list[LatticeFit]
    scaled: Scaled
    mean: WeightedMean
    target: np.ndarray


class _Loop:
    """
    The cycles of a data set, with what stays the same through all of them and where they stand: mean, starts and
    restraint are for the next cycle, now is what the last one led to, and best what the best one has.
    """

    def __init__(self, stills, settings, reference, held_out, prior, agreement) -> None:
        self.stills, self.settings, self.reference, self.held_out = stills, settings, reference, held_out
        self.prior, self.agreement = prior, agreement
        self.external = reference is not None
        self.known, seen = hidden(reference, held_out), hide(stills, held_out)
        self.linear_scale = linear_scales(seen, self.known)
        rows = slice(None) if held_out is None else ~held_out[stills.unique]
        self.slope = slope_of_variance(stills.intensity[rows], stills.variance[rows])
        self.error_model, self.fits_model = ErrorModel(b=settings.fit.model_error), settings.error_model == "basic"
        # what is held out now may not have been then
        earlier = {k: fit for k, fit in stills.earlier.items() if held_out is None and fit.suits(settings.fit)}
        self.starts: list[np.ndarray | None] = [
            earlier[k].x if k in earlier else None for k in range(stills.n_lattices)
        ]
        self.mean: WeightedMean | None = None
        if not self.external:
            self.mean = first_mean(
                seen, settings.fit, settings.outlier_z, self.linear_scale, earlier, self.slope, self.fits_model
            )
            self.error_model = self.mean.error_model
        self.restraint = population(list(earlier.values()), restrained=True) if settings.restraints else None
        self.cycles: list[Cycle] = []
        self.verdicts, self.damped = Verdicts(stills.n_lattices), False
        self.course: Course | None = None
        self.now: _Outcome | None = None
        self.best: _Outcome | None = None

    def mean_of(self, scaled: Scaled) -> WeightedMean:
        """The weighted mean of the kept observations, with the error model as it is now."""
        return mean_of_kept(self.stills, scaled, self.error_model, self.settings.outlier_z, self.fits_model)

    def fit(self, number: int, mapped, progress: Callable[[str, int, int], None]) -> _Outcome:
        """Fit all lattices to the mean, or to the reference, and merge them."""
        stills, settings = self.stills, self.settings
        target = self.known if self.mean is None else self.mean.reference
        fits: list[LatticeFit] = []
        others = self.mean if settings.excludes_self else None
        chunks = make_chunks(
            stills, target, others, self.starts, self.linear_scale, settings.fit, self.restraint, settings.engine
        )
        for some in mapped(fit_chunk, chunks):
            fits.extend(some)
            progress(f"cycle {number + 1}", len(fits), stills.n_lattices)
        reject_lattices(fits, settings.filters)
        self.verdicts.settle(fits)
        if not self.external:
            fix_gauge(fits, settings.fit)
        scaled = spread_fits(stills, settings.fit, fits, self.slope)
        working = scaled
        if self.held_out is not None:
            working = replace(scaled, kept=scaled.kept & ~self.held_out[stills.unique])
        mean = self.mean_of(working)
        self.error_model = mean.error_model
        return _Outcome(fits, scaled, mean, target)

    def goes_on(self, number: int, outcome: _Outcome, each: Callable[[Scaled, WeightedMean], None]) -> bool:
        """Take what a cycle led to, or take the cycle back; whether there is to be another one."""
        accepted = [fit for fit in outcome.fits if fit.reason is None]
        if not accepted and self.now is not None:  # the lattices have led one another astray
            self.error_model = self.now.mean.error_model
            self.course = Course(Ended.NO_LATTICE, len(self.cycles))
            return False
        self.now = outcome
        correlations = np.array([fit.correlation_after for fit in accepted])
        correlations = correlations[np.isfinite(correlations)]  # of too few reflections there is none
        mean_correlation = float(correlations.mean()) if len(correlations) else np.nan
        cycle = Cycle(len(accepted), mean_correlation, np.nan, damped=self.damped)
        self.cycles.append(cycle)
        each(outcome.scaled, outcome.mean)
        if not self.external:
            self._judge_change(number, cycle, outcome)
        elif self.prior is not None:
            found = self.prior(outcome.mean.reference, outcome.mean.sigma)
            if found is None:
                return False
            self.mean = add_prior(outcome.mean, np.where(np.isfinite(self.known), found[0], np.nan), found[1])
        self.starts = [fit.x if fit.reason is None else None for fit in outcome.fits]
        settings = self.settings
        self.restraint = population(outcome.fits, self.restraint is not None) if settings.restraints else None
        done = self.restraint is None and settings.n_cycles is None and self.external and self.prior is None
        return bool(accepted) and not cycle.change < settings.convergence and not done

    def _judge_change(self, number: int, cycle: Cycle, outcome: _Outcome) -> None:
        """How much a cycle changed the data's own mean, how good it is, and the mean for the next one."""
        new = outcome.mean
        cycle.change = relative_change(outcome.target, new.reference)
        cycle.change_esd = convergence.change_in_esds(outcome.target, new.reference, new.sigma)
        if self.held_out is not None:
            cycle.agreement = mean_cc_free(self.stills, self.held_out, outcome.scaled, self.mean_of(outcome.scaled))
        elif len(self.agreement):
            cycle.agreement = self.agreement[min(number, len(self.agreement) - 1)]
        if convergence.choose_cycle(self.cycles, self.held_out is not None)[0] == len(self.cycles):
            self.best = outcome
        self.damped = self.damped or convergence.slows_down(self.cycles)
        self.mean = convergence.damped_mean(self.mean, new) if self.damped else new

    def choose(self) -> None:
        """Say how the cycles ended, and go back to the best one where they do not converge (convergence.py)."""
        if self.course is None:
            self.course = convergence.course_of(self.cycles, self.settings.convergence, self.external)
        if self.damped and self.settings.takes_best and self.course.ended is not Ended.CONVERGED:
            chosen = convergence.choose_cycle(self.cycles, self.held_out is not None)
            self.course.taken, self.course.chosen_by = chosen
            self.now = self.best
            self.error_model = self.now.mean.error_model

    def compare_with_held_out(self) -> FreeAgreement:
        """The agreement with what was held out, which is merged from now on; lattices that are worse for it go back."""
        stills, now = self.stills, self.now
        if self.held_out is None:
            return no_agreement(stills.n_lattices)
        now.mean = self.mean_of(now.scaled)
        by_row = self.reference[stills.unique] if self.external else mean_of_others(stills, slice(None), now.mean)
        free = _revert_worse(stills, self.settings, self.held_out, by_row, self.linear_scale, now.fits, now.scaled)
        if free.reverted.any():
            now.mean = self.mean_of(now.scaled)
        return free

    def reject_harmful(self) -> None:
        """Reject the lattices that lower CC1/2, where that is wanted."""
        if self.settings.delta_cc_half is None:
            return
        now = self.now
        for k in harmful_lattices(self.stills, now.mean, self.settings.delta_cc_half):
            now.fits[k].reason = Reason.DELTA_CC_HALF
            now.scaled.kept[self.stills.rows(k)] = False
        now.mean = self.mean_of(now.scaled)

    def result(self, free: FreeAgreement) -> PostrefinedStills:
        """The outcome as it is given back."""
        fit, now = self.settings.fit, self.now
        return PostrefinedStills(
            model=fit.model,
            profile=fit.profile,
            radius=fit.radius,
            unit_cell=fit.unit_cell,
            x=np.array([one.x for one in now.fits]),
            covariance=np.array([one.covariance for one in now.fits]),
            fits=now.fits,
            reasons=[one.reason for one in now.fits],
            partiality=now.scaled.partiality,
            scale=now.scaled.scale,
            relative_variance=now.scaled.relative_variance,
            variance_slope=self.slope,
            kept=now.scaled.kept,
            outlier=now.mean.outlier,
            mean=now.mean.reference,
            error_model=now.mean.error_model if self.fits_model else None,
            reference=self.reference if self.mean is None else now.target,
            linear_scale=self.linear_scale,
            cycles=self.cycles,
            course=self.course,
            free=free,
        )


def _most_cycles(settings: DatasetSettings, external: bool, model: bool) -> int:
    if not external:
        return MAX_CYCLES
    return MODEL_CYCLES if model else 1 + settings.restraints


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
        unrefined = fit_chunk(Chunk(part, known, starts, linear_scale[free.reverted], alone, None, "lstbx"))
        spread = spread_fits(part, settings.fit, unrefined, scaled.variance_slope)
        for name in ("partiality", "scale", "relative_variance", "kept"):
            getattr(scaled, name)[rows] = getattr(spread, name)
        for k, fit in zip(np.flatnonzero(free.reverted), unrefined):
            fit.refined = False
            fits[k] = fit
    return free
