"""The fits of dials.fine_refine: weights, the start, and the method that was asked for."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace

import numpy as np

from dials.util import Sorry

from dials_postrefine.electron.fine.coarse import STEPS, Coarse, search, sharp, sparse
from dials_postrefine.electron.fine.detector import Detector, deconvolve
from dials_postrefine.electron.fine.goodness import METRICS, Comparison, correlation_weights
from dials_postrefine.electron.fine.model import PatternModel
from dials_postrefine.electron.fine.parameters import Parameters
from dials_postrefine.electron.fine.refinement import FineFit, FineProblem, gauss_newton
from dials_postrefine.electron.fine.simplex import nelder_mead
from dials_postrefine.files.electron.pattern_arrays import read_named_arrays
from dials_postrefine.numerics.disks import Pattern
from dials_postrefine.programs.fine_refine_input import Prepared, scale_of
from dials_postrefine.settings.fine_refine import FineRefineRequest

FEW_PIXELS = 300  # of each disk, that the fit begins with
ROUGH, ROUGHLY = 10, 1e-3  # iterations of that, and the relative step that ends them
NO_LIKENESS = 0.25  # mean correlation of the disks
THICKNESSES = np.arange(100.0, 5001.0, 10.0)


@dataclass(frozen=True)
class Outcome:
    """
    A fit, what it was of, which of the pattern's pixels (n,), how it came about: the metric, the method, the coarse
    start, whether the atoms' origin is displaced, evaluations of the model with the coarse ones apart, CPU seconds,
    notes.
    """

    fit: FineFit
    problem: FineProblem
    pixels: np.ndarray
    gof: str
    method: str
    coarse_correlation: float
    displaced: bool
    n_evaluations: int
    cpu: float
    notes: tuple[str, ...]


def refine(request: FineRefineRequest, prepared: Prepared, progress) -> Outcome:
    """Start, fit; raises Sorry where pattern and structure do not agree, or there are too few pixels."""
    begun = time.process_time()
    pattern = prepared.pattern
    gof, merit = metric_of(request, pattern)
    comparison = comparison_of(request, pattern, gof)
    comparison = replace(
        comparison, data=comparison.data[:, prepared.pixels], weight=comparison.weight[:, prepared.pixels]
    )
    free, n = prepared.parameters.free, int(np.count_nonzero(comparison.weight))
    if not free:
        raise Sorry("Nothing is to be refined: say what, by structure_factors= and refine=.")
    n_linear = comparison.eliminate(comparison.data).n
    if n <= len(free) + n_linear:
        raise Sorry(
            f"There are fewer pixels than parameters ({n} pixels, {len(free) + n_linear} parameters): refine fewer, or "
            "mask fewer."
        )
    progress("Start", 0, 1)
    known = METRICS[gof].variance != "none" if gof in METRICS else False
    starts = _starts(request, prepared, comparison)
    problems = {one: FineProblem(model, comparison, known) for one, (model, _) in starts.items()}
    method = request.method if request.method != "auto" else ("gauss_newton" if merit is None else "nelder_mead")
    if method == "gauss_newton" and merit is not None:
        raise Sorry(f"gof={gof} has no derivatives: take method=nelder_mead with it.")
    counted = [0]

    def step(_: int) -> None:
        counted[0] += 1
        progress("Refinement", counted[0], counted[0] + 1)

    rough = {
        one: _rough(problem, replace(prepared.parameters, values=starts[one][1].values), request, step)
        for one, problem in problems.items()
    }
    displaced = min(rough, key=lambda one: rough[one][1])
    problem, parameters, coarse = problems[displaced], rough[displaced][0], starts[displaced][1]
    if method == "nelder_mead":
        parameters = replace(prepared.parameters, values=coarse.values)
        fit = nelder_mead(problem, parameters, request.max_iterations, merit)
        counted[0] += len(fit.course.chi2)
    else:
        fit = gauss_newton(problem, parameters, request.max_iterations, step)
    return Outcome(
        fit,
        problem,
        prepared.pixels,
        gof,
        method,
        coarse.correlation,
        displaced,
        counted[0],
        time.process_time() - begun,
        prepared.notes,
    )


def _rough(problem: FineProblem, parameters: Parameters, request: FineRefineRequest, step) -> tuple[Parameters, float]:
    """The parameters after a fit of few pixels, where there are many, and its chi^2."""
    model, comparison = sparse(problem.model, problem.comparison, FEW_PIXELS)
    free = tuple(name for name in parameters.free if name in sharp(parameters.values))
    few = FineProblem(model, comparison, problem.known_variance)
    start = replace(parameters, values=sharp(parameters.values), free=free)
    if len(problem.model.offset) < 2 * FEW_PIXELS or not free:
        return parameters, float(np.sum(comparison.eliminate(model.simulate(start.values)).residuals ** 2))
    rough = gauss_newton(few, start, min(ROUGH, request.max_iterations), step, ROUGHLY)
    return replace(parameters, values={**parameters.values, **rough.parameters.values}), rough.chi2


def _starts(
    request: FineRefineRequest, prepared: Prepared, comparison: Comparison
) -> dict[bool, tuple[PatternModel, Coarse]]:
    """The model and where the fit starts, by whether the atoms' origin is displaced."""
    pattern, values = prepared.pattern, dict(prepared.parameters.values)
    shift = 2.0 * pattern.origin_shift
    models = {False: prepared.model}
    if shift and prepared.crystal.groups and request.origin != "structure":
        crystal = replace(prepared.model.table.crystal, displaced=np.full(3, shift))
        other = replace(prepared.model, table=crystal.table(prepared.model.slab.beams))
        models = {False: prepared.model, True: other} if request.origin == "auto" else {True: other}
    thickness = np.array([values["thickness"]])
    if request.coarse:
        thickness = THICKNESSES
        if prepared.knows_thickness:
            thickness = values["thickness"] * np.linspace(0.9, 1.1, 41)
    names = [name for name in prepared.parameters.free if name in STEPS] if request.coarse else []
    found = {
        displaced: search(model, comparison, values, thickness, names, pattern.pixel)
        for displaced, model in models.items()
    }
    best = max(found.values(), key=lambda one: one.correlation)
    if not best.correlation > NO_LIKENESS:
        raise Sorry(
            f"Pattern and structure have nothing in common (mean correlation of the disks {best.correlation:.2f}): the "
            "structure is not of this crystal, or orientation, indices or energy are wrong."
        )
    return {displaced: (model, found[displaced]) for displaced, model in models.items()}


def metric_of(request: FineRefineRequest, pattern: Pattern):
    """The name of the metric, and the function where it is one's own."""
    gof = request.gof
    if gof == "auto":
        if scale_of(request, pattern) == "each_disk":
            return "XCorrelation", None
        if not pattern.variance.size and detector_of(request, pattern) is None:
            return "chi2", None
        large = pattern.is_large_angle and pattern.variance.size
        return ("chi2_larbed_multibackground" if large else "chi2_multibackground"), None
    if gof in METRICS:
        return gof, None
    if ":" not in gof:
        raise Sorry(f"gof={gof} is no goodness of fit: it is one of {', '.join(METRICS)}, or module:function.")
    module, _, name = gof.partition(":")
    try:
        return gof, getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Sorry(
            f"gof={gof} can't be imported ({error}): write module:function, both to be found by Python."
        ) from None


def detector_of(request: FineRefineRequest, pattern: Pattern) -> Detector | None:
    """The detector of the request, or of the pattern."""
    own = request.detector
    if own.gain is not None:
        return Detector(own.var_b, own.delta, own.a, own.gain, own.m, own.deconvolved)
    return Detector(*pattern.detector, own.deconvolved) if len(pattern.detector) == 5 else None


def comparison_of(request: FineRefineRequest, pattern: Pattern, gof: str) -> Comparison:
    """The data with their weights."""
    data, by_disk = pattern.data, scale_of(request, pattern) == "each_disk"
    if request.detector.mtf is not None:
        data = _deconvolved(request, pattern)
    metric = METRICS.get(gof, METRICS["chi2_multibackground"])
    if metric.variance == "none":
        return Comparison(data, correlation_weights(data, pattern.used, by_disk), by_disk, by_disk)
    detector = detector_of(request, pattern)
    if metric.variance == "counts":
        variance = np.maximum(data, 1.0)
    elif pattern.variance.size and (metric.variance == "map" or request.detector.gain is None):
        variance = pattern.variance
    elif metric.variance == "map":
        raise Sorry(f"gof={gof} needs a variance map: give variance with the pattern, or take another gof=.")
    elif detector is not None:
        variance = detector.variance(data)
    elif gof in METRICS:
        raise Sorry(f"gof={gof} needs the detector: set detector.gain= and what belongs to it, or take gof=chi2.")
    else:
        variance = np.ones_like(data)
    weight = np.where(pattern.used, 1.0 / np.where(pattern.used, variance, 1.0), 0.0)
    return Comparison(data, weight, metric.multibackground or by_disk, by_disk)


def _deconvolved(request: FineRefineRequest, pattern: Pattern) -> np.ndarray:
    kernels = [np.asarray(one) for one in read_named_arrays(request.detector.mtf).values() if np.ndim(one) == 2]
    if not pattern.is_grid or not kernels or kernels[0].shape[0] != kernels[0].shape[1] or not kernels[0].shape[0] % 2:
        raise Sorry("detector.mtf needs images, and a square kernel with an odd number of rows.")
    kernel = kernels[0].astype(float)
    images = pattern.data.reshape(-1, *pattern.shape)
    return deconvolve(images, kernel / kernel.sum(), request.detector.mtf_iterations).reshape(pattern.data.shape)
