"""
The cycles: reference -> lattices -> scaled observations -> reference.

Against an external reference one cycle is enough, and a second one where the population of the first restrains the
lattices.  A reference that is a model has errors of its own, which the lattices would inherit: from the second cycle
on, three in all, it counts as one observation more of each index beside the data's own, with the variance that its
`prior` finds for it.

Where Friedel pairs are kept apart and an external reference does not tell them apart, it is the mean of both: from the
second cycle on, three in all, half of their difference in the data is added and taken off (friedel.py).

Without an external reference it is the scaled mean of the data themselves.  It starts from the lattices' start values
(theta = 0, B = 0, r_s = RMS r_h, G to the current mean, three rounds), or from what an earlier run with the same model
ended with.  Each cycle fits every lattice to the mean of the others (`excludes_self`: the lattice's own weighted
contribution is subtracted) until the merged intensities stop changing; what is done where they don't, convergence.py
says.  A cycle that accepts no lattice any more is taken back, and is the last.  Neither the overall scale nor the
overall B is determined then: the medians of ln G and B over the accepted lattices are set to zero.

Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.run import Run
from dials_postrefine.stills import convergence
from dials_postrefine.stills.batch import prepare
from dials_postrefine.stills.chunks import (
    Chunk,
    Start,
    choose_engine,
    fit_chunk,
    fit_task,
    keep_stills,
    make_tasks,
    spread_fits,
)
from dials_postrefine.stills.convergence import Course, Cycle, Ended, Verdicts
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter, harmful_lattices
from dials_postrefine.stills.errormodel import ErrorModel, slope_of_variance
from dials_postrefine.stills.filters import LatticeFilters, reject_lattices
from dials_postrefine.stills.firstmean import first_mean
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason
from dials_postrefine.stills.freereflections import FreeAgreement, compare, mean_cc_free, no_agreement
from dials_postrefine.stills.friedel import CentredPrior
from dials_postrefine.stills.lattice import no_starts
from dials_postrefine.stills.model import LN_SCALE, PARAMETERS
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.population import fix_gauge, restrain_to_population
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import (
    Scaled,
    WeightedMean,
    add_prior,
    linear_scales,
    mean_of_kept,
    mean_of_others,
    relative_change,
)

MAX_CYCLES = 8
MODEL_CYCLES = 3  # one against the model, two against model and data


@dataclass(frozen=True)
class DatasetSettings:
    """
    What the cycles need to know: the fit's settings, None or a number of cycles, the convergence limit, whether a
    lattice's reference leaves the lattice out, the outlier limit, the engine (chunks.choose_engine), whether the
    population restrains each lattice, the error model, what lattices are tested for (filters.py) and whether
    those that lower CC1/2 of the last merge are rejected (deltacchalf.py); takes_best: of cycles that don't converge
    the best is taken, not the last (convergence.py); requires_gain: where postrefinement against the data's own mean is
    no better than scaling alone, the data are scaled alone (refinement.py).
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
    requires_gain: bool = True


def postrefine(
    stills: Stills,
    settings: DatasetSettings,
    reference: FitReference | None = None,
    run: Run = Run(),
    agreement: Sequence[float] = (),
    each: Callable[[Scaled, WeightedMean], None] = lambda scaled, mean: None,
) -> PostrefinedStills:
    """
    Postrefine all lattices (module docstring).

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    reference : FitReference, optional
        What the lattices are fitted to; by default the scaled mean of the data, of which nothing is held out.  With the
        free indices of a reference the lattices are compared after the last cycle, and those that are worse for having
        been refined go back (freereflections.py).
    run : Run
    agreement : sequence of float
        The honest CC1/2 of each cycle, as far as half sets have gone, by which the best is chosen where the cycles
        don't converge.
    each : callable
        each(scaled, mean) is told what each cycle merged.

    Returns
    -------
    PostrefinedStills
        Bad lattices raise nothing: see its reasons.
    """
    if choose_engine(settings.engine, stills.n_lattices) == "batched":
        prepare()
    cycles = _Cycles(stills, settings, FitReference() if reference is None else reference, agreement)
    try:
        with run.executor(keep_stills, (stills,)) as executor:
            for number in range(cycles.most):
                if not cycles.goes_on(number, cycles.fit(number, executor, run), each):
                    break
    finally:
        keep_stills(None)  # where the worker was this process
    cycles.choose()
    free = cycles.compare_with_free()
    cycles.reject_harmful()
    return cycles.result(free)


@dataclass
class _CycleResult:
    """What a cycle led to: the fits (L), the observations scaled by them, their mean, and what they were fitted to."""

    fits: list[LatticeFit]
    scaled: Scaled
    mean: WeightedMean
    target: np.ndarray


class _Cycles:
    """
    The cycles of a data set, with what stays the same through all of them and where they stand: mean and start are for
    the next cycle, now is what the last one led to, and best what the best one has.
    """

    def __init__(
        self, stills: Stills, settings: DatasetSettings, reference: FitReference, agreement: Sequence[float]
    ) -> None:
        self.stills, self.settings, self.reference, self.agreement = stills, settings, reference, agreement
        visible = reference.hide(stills)
        linear_scale = linear_scales(visible, reference.working if reference.external else None)
        working = ~reference.free[stills.unique] if reference.has_free else slice(None)
        self.slope = slope_of_variance(stills.intensity[working], stills.variance[working])
        self.error_model, self.fits_model = ErrorModel(b=settings.fit.model_error), settings.error_model == "basic"
        # what is free now may not have been then
        earlier = {k: fit for k, fit in stills.earlier.items() if not reference.has_free and fit.suits(settings.fit)}
        x = no_starts(stills.n_lattices)
        for k, fit in earlier.items():
            x[k] = fit.x
        self.mean: WeightedMean | None = None
        if not reference.external:
            self.mean = first_mean(
                visible, settings.fit, settings.outlier_z, linear_scale, earlier, self.slope, self.fits_model
            )
            self.error_model = self.mean.error_model
        restraint = restrain_to_population(list(earlier.values()), restrained=True) if settings.restraints else None
        self.start = Start(x, linear_scale, restraint)
        self.cycles: list[Cycle] = []
        self.verdicts, self.damped = Verdicts(stills.n_lattices), False
        self.course: Course | None = None
        self.now: _CycleResult | None = None
        self.best: _CycleResult | None = None

    @property
    def most(self) -> int:
        """How many cycles there are at most."""
        settings, reference = self.settings, self.reference
        if settings.n_cycles:
            return settings.n_cycles
        if not reference.external:
            return MAX_CYCLES
        return MODEL_CYCLES if reference.prior is not None or reference.lacks_differences else 1 + settings.restraints

    def mean_of(self, scaled: Scaled) -> WeightedMean:
        """The weighted mean of the kept observations, with the error model as it is now."""
        return mean_of_kept(self.stills, scaled, self.error_model, self.settings.outlier_z, self.fits_model)

    def fit(self, number: int, executor: Executor, run: Run) -> _CycleResult:
        """Fit all lattices to the mean, or to the reference, and merge them."""
        stills, settings = self.stills, self.settings
        centred = self.mean is not None and self.mean.centred
        target = self.reference.working if self.mean is None or centred else self.mean.reference
        others = self.mean if settings.excludes_self or centred else None
        fits: list[LatticeFit] = []
        tasks = make_tasks(stills, target, others, self.start, settings.fit, settings.engine)
        for fits_of_chunk in executor.map(fit_task, tasks):
            fits.extend(fits_of_chunk)
            run.progress(f"cycle {number + 1}", len(fits), stills.n_lattices)
        reject_lattices(fits, settings.filters)
        self.verdicts.settle(fits)
        if not self.reference.external:
            fix_gauge(fits, settings.fit)
        scaled = spread_fits(stills, settings.fit, fits, self.slope)
        working = scaled
        if self.reference.has_free:
            working = replace(scaled, kept=scaled.kept & ~self.reference.free[stills.unique])
        mean = self.mean_of(working)
        self.error_model = mean.error_model
        return _CycleResult(fits, scaled, mean, target)

    def goes_on(self, number: int, outcome: _CycleResult, each: Callable[[Scaled, WeightedMean], None]) -> bool:
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
        settings, reference = self.settings, self.reference
        if not reference.external:
            self._judge_change(number, cycle, outcome)
        elif reference.prior is not None:
            found = reference.prior(outcome.mean.reference, outcome.mean.sigma)
            if found is None:
                return False
            known = np.isfinite(reference.working)
            self.mean = add_prior(outcome.mean, np.where(known, found[0], np.nan), found[1])
        elif reference.lacks_differences and self.stills.friedel is not None:
            differences = CentredPrior(outcome.mean.differences.variance, reference.working)
            self.mean = replace(outcome.mean, differences=differences)
        self._renew_start(outcome.fits)
        nothing_changes = self.start.restraint is None and reference.external and self.mean is None
        done = nothing_changes and settings.n_cycles is None
        return bool(accepted) and not cycle.change < settings.convergence and not done

    def _renew_start(self, fits: Sequence[LatticeFit]) -> None:
        """The next cycle goes on from the accepted fits, within their population."""
        x, restraint = no_starts(len(fits)), None
        for k, fit in enumerate(fits):
            if fit.reason is None:
                x[k] = fit.x
        if self.settings.restraints:
            restraint = restrain_to_population(fits, restrained=self.start.restraint is not None)
        self.start = replace(self.start, x=x, restraint=restraint)

    def _judge_change(self, number: int, cycle: Cycle, outcome: _CycleResult) -> None:
        """How much a cycle changed the data's own mean, how good it is, and the mean for the next one."""
        new = outcome.mean
        cycle.change = relative_change(outcome.target, new.reference)
        cycle.change_esd = convergence.change_in_esds(outcome.target, new.reference, new.sigma)
        free = self.reference.free
        if self.reference.has_free:
            cycle.agreement = mean_cc_free(self.stills, free, outcome.scaled, self.mean_of(outcome.scaled))
        elif len(self.agreement):
            cycle.agreement = self.agreement[min(number, len(self.agreement) - 1)]
        if convergence.choose_cycle(self.cycles, self.reference.has_free)[0] == len(self.cycles):
            self.best = outcome
        self.damped = self.damped or convergence.slows_down(self.cycles)
        self.mean = convergence.damped_mean(self.mean, new) if self.damped else new

    def choose(self) -> None:
        """Say how the cycles ended, and go back to the best one where they do not converge (convergence.py)."""
        if self.course is None:
            self.course = convergence.course_of(self.cycles, self.settings.convergence, self.reference.external)
        if self.damped and self.settings.takes_best and self.course.ended is not Ended.CONVERGED:
            chosen = convergence.choose_cycle(self.cycles, self.reference.has_free)
            self.course.taken, self.course.chosen_by = chosen
            self.now = self.best
            self.error_model = self.now.mean.error_model

    def compare_with_free(self) -> FreeAgreement:
        """The agreement with what was held out, which is merged from now on; lattices that are worse for it go back."""
        stills, reference, now = self.stills, self.reference, self.now
        if not reference.has_free:
            return no_agreement(stills.n_lattices)
        now.mean = self.mean_of(now.scaled)
        by_row = reference.intensity[stills.unique] if reference.external else mean_of_others(stills, now.mean)
        free = self._revert_worse(by_row)
        if free.reverted.any():
            now.mean = self.mean_of(now.scaled)
        return free

    def _revert_worse(self, reference: np.ndarray) -> FreeAgreement:
        """
        Compare the lattices with what no fit has seen, and fit the worse ones anew, their scale alone: changes the fits
        and what they say of the observations.

        reference (n,) is that of each observation.  This comes after the last cycle and not in each: through the mean,
        what a lattice went back for would reach the fits of the others.
        """
        stills, settings, fits, scaled = self.stills, self.settings, self.now.fits, self.now.scaled
        held_out = self.reference.free
        fitted = np.array([np.isfinite(fit.x).all() for fit in fits])
        refined = np.where(fitted[stills.lattice()], scaled.partiality * scaled.scale * reference, np.nan)
        free = compare(stills, settings.fit, held_out, reference, refined)
        free.reverted = free.worse & [fit.refined and fit.reason is None for fit in fits]
        if free.reverted.any():
            part, rows = select_lattices(stills, free.reverted), free.reverted[stills.lattice()]
            working = np.where(held_out[part.unique], np.nan, reference[rows])
            unrefined = _fit_scales(part, working, self.start.linear_scale[free.reverted], settings.fit)
            spread = spread_fits(part, settings.fit, unrefined, scaled.variance_slope)
            for name in ("partiality", "scale", "relative_variance", "kept"):
                getattr(scaled, name)[rows] = getattr(spread, name)
            for k, fit in zip(np.flatnonzero(free.reverted), unrefined):
                fit.refined = False
                fits[k] = fit
        return free

    def reject_harmful(self) -> None:
        """Reject the lattices that lower CC1/2, where that is wanted."""
        if self.settings.delta_cc_half is None:
            return
        now = self.now
        for k in harmful_lattices(self.stills, now.scaled, now.mean.weight > 0.0, self.settings.delta_cc_half):
            now.fits[k].reason = Reason.DELTA_CC_HALF
            now.scaled.kept[self.stills.rows(k)] = False
        now.mean = self.mean_of(now.scaled)

    def result(self, free: FreeAgreement) -> PostrefinedStills:
        """The outcome as it is given back."""
        model, now = self.settings.fit, self.now
        given = self.mean is None or self.mean.centred
        return PostrefinedStills(
            model=model.model,
            profile=model.profile,
            radius=model.radius,
            unit_cell=model.unit_cell,
            x=np.array([fit.x for fit in now.fits]),
            covariance=np.array([fit.covariance for fit in now.fits]),
            fits=now.fits,
            reasons=[fit.reason for fit in now.fits],
            partiality=now.scaled.partiality,
            scale=now.scaled.scale,
            relative_variance=now.scaled.relative_variance,
            variance_slope=self.slope,
            kept=now.scaled.kept,
            outlier=now.mean.outlier,
            mean=now.mean.reference,
            error_model=now.mean.error_model if self.fits_model else None,
            reference=self.reference.intensity if given else now.target,
            linear_scale=self.start.linear_scale,
            cycles=self.cycles,
            course=self.course,
            free=free,
            restraint=self.start.restraint,
        )


def _fit_scales(
    stills: Stills, reference: np.ndarray, linear_scale: np.ndarray, settings: FitSettings
) -> list[LatticeFit]:
    """Fits (L) of the scale alone, all else at its start, to the reference (n,) of each observation."""
    others = tuple(name for name in PARAMETERS if name != PARAMETERS[LN_SCALE])
    alone = replace(settings, fix=(*others, *settings.fix))
    start = Start(no_starts(stills.n_lattices), linear_scale)
    return fit_chunk(Chunk(stills.joined(reference), stills.rejected, start, alone, "lstbx"))
