"""Which models dials.diffuse_model fits, their variants, and which of them is chosen."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.comparison import LIMIT, choose, held_out_squares, preference
from dials_postrefine.diffuse.model.fitting import Fit, Problem, fit, fit_background, join_equivalents
from dials_postrefine.diffuse.model.parameters import Model, calculate
from dials_postrefine.diffuse.model.spread import spread
from dials_postrefine.diffuse.model.tls import is_covariance
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.numerics.run import Run
from dials_postrefine.programs.diffuse_model_input import ModelInput
from dials_postrefine.programs.diffuse_model_variants import (
    Variant,
    first_variants,
    groups_for,
    is_costly,
    with_displacements,
    with_rank,
)
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

logger = logging.getLogger("dials.diffuse_model")
ABSOLUTE = 3.0  # standard deviations of the scale within which 1 is it
WELL_KNOWN = 0.2  # the standard deviation of such a scale
HIGHEST_RANK = 12  # that is tried
COARSE = 6  # times fewer voxels find where to start
NOISE = 0.1  # from 1 of chi^2, and
LEFT = 0.01  # of chi^2 - 1 of the background, where nothing is left for costly models to explain
ALIKE = 0.02  # by which the displacements of a file that has one for all atoms differ, relative


@dataclass
class Fitted:
    """
    A fitted variant: its fit, squared residuals of the held-out voxels, by how many standard deviations it is worse
    than the best one, and chi^2 of the fitted voxels plus p ln n of its p parameters.
    """

    candidate: Variant
    fit: Fit
    squares: np.ndarray
    worse: float = 0.0
    bic: float = 0.0


@dataclass
class FittedModels:
    """The best variant of each model by name, all variants, and the name of the chosen one."""

    models: dict[str, Fitted]
    variants: list[Fitted]
    chosen: str
    notes: list[str] = field(default_factory=list)
    absolute: bool = False

    @property
    def chosen_fit(self) -> Fit:
        """The fit of the chosen model."""
        return self.models[self.chosen].fit


def fit_models(request: DiffuseModelRequest, given: ModelInput, run: Run) -> FittedModels:
    """Fit what is asked for; raises CannotModel where nothing can be."""
    voxels = given.voxels
    functions = background_functions(voxels.s, request.background.functions, request.background.n)
    scale = 1.0 if request.scale == "absolute" else None
    problem = join_equivalents(Problem(voxels, functions, ~voxels.held_out, request.robust, scale))
    flat = Variant("background", {}, lambda voxels: None)
    fitted = [(flat, fit_background(problem))]
    notes: list[str] = []
    wanted = list(first_variants(request, given))
    costly = [one for one in wanted if is_costly(request, one)]
    for number, candidate in enumerate(one for one in wanted if one not in costly):
        run.progress(candidate.name, number, 2 * len(wanted))
        _try_growing(request, given, candidate, problem, run, (fitted, notes if len(wanted) > 1 else None))
    for name in ("rigid_body", "liquid_like"):
        run.progress(name, len(wanted), 2 * len(wanted))
        same = [one for one in fitted if one[0].name == name]
        if same and request.displacements == "auto" and not request.rigid_body.tensor:
            best = min(same, key=lambda one: one[1].chi_sq)[0]
            for kind in ("refined",) if best.needs_file else ("model", "refined"):
                _try(with_displacements(given.atoms, best, kind), problem, run, (fitted, notes))
    for candidate in costly:
        if _explains(fitted):
            names = " and ".join(_costly_name(one) for one in costly)
            notes.append(
                f"Not tried, as a model of few parameters leaves less than {LEFT:.0%} of what the background leaves "
                f"beyond noise: {names}."
            )
            break
        run.progress(candidate.name, len(wanted), 2 * len(wanted))
        _try_growing(request, given, candidate, problem, run, (fitted, notes))
    found = compare(fitted, problem, given.atoms)
    found.notes += [*notes, *_tls_notes(found)]
    found.absolute = request.scale == "absolute"
    return _hold_scale(found, problem, run) if request.scale == "auto" else found


def _explains(fitted: list[tuple[Variant, Fit]]) -> bool:
    """Whether a model leaves next to nothing of what the background, the first of them, leaves beyond noise."""
    best = min((one.chi_sq for _, one in fitted[1:] if one.scale > 0.0), default=np.inf)
    return abs(best - 1.0) < min(NOISE, LEFT * (fitted[0][1].chi_sq - 1.0))


def _costly_name(one: Variant) -> str:
    return "an inferred covariance" if one.name == "covariance" else f"the {one.variant['network']} network"


def compare(fitted: list[tuple[Variant, Fit]], problem: Problem, atoms: Atoms) -> FittedModels:
    """The best variant of each model, by all voxels, and the model that held-out voxels prefer."""
    voxels, best = problem.voxels, min(fitted, key=lambda one: one[1].chi_sq)[1]
    held = voxels.held_out if voxels.held_out.any() else np.ones(len(voxels), bool)
    squares = [held_out_squares(voxels.intensity, one.calculated, best.variance) for _, one in fitted]
    every = [Fitted(candidate, one, each[held]) for (candidate, one), each in zip(fitted, squares)]
    for one, each in zip(every, squares):
        one.bic = float(each[problem.used].sum()) + n_parameters(one) * np.log(problem.used.sum())
    preferred = "model" if np.std(atoms.u_iso) < ALIKE * np.mean(atoms.u_iso) else "file"
    models = {}
    for name in dict.fromkeys(one.candidate.name for one in every):
        same = [k for k, one in enumerate(every) if one.candidate.name == name]
        sizes = [_size(every[k], preferred) for k in same]
        # of few parameters each: all voxels say ten times as much as those that are held out
        seen = held if name == "covariance" else np.ones(len(voxels), bool)
        models[name] = every[same[choose([squares[k][seen] for k in same], sizes, voxels.orbit[seen])]]
    # a negative scale is no scattering; and what is isotropic is part of the background
    possible = [one for one in models.values() if one.candidate.name == "background" or one.fit.scale > 0.0]
    if atoms.is_isotropic:
        possible = [one for one in possible if one.candidate.name != "uncorrelated"]
    orbit = voxels.orbit[held]
    sizes = [_size(one, preferred) for one in possible]
    number = choose([one.squares for one in possible], sizes, orbit)
    top = min(possible, key=lambda one: one.squares.sum())
    for one in models.values():
        one.worse = preference(one.squares, top.squares, orbit)
    return FittedModels(models, every, possible[number].candidate.name)


def n_parameters(one: Fitted) -> int:
    """The number of parameters, the scale among them where it is fitted."""
    return len(one.fit.correlations)


def _size(one: Fitted, preferred: str) -> float:
    """The number of parameters; displacements that are not the preferred ones make a half more."""
    return n_parameters(one) + 0.5 * (one.candidate.variant.get("displacements", preferred) != preferred)


def _hold_scale(found: FittedModels, problem: Problem, run: Run) -> FittedModels:
    """
    The chosen model with its scale held at 1, where that is what was fitted.

    A map in arbitrary units has a scale of 1 by chance only; one in squared electrons a cell has it, and then scale and
    width of a motion, which are nearly one number, are told apart.
    """
    one = found.models[found.chosen]
    fit = one.fit
    if not fit.names or not fit.scale_esd < WELL_KNOWN or not abs(fit.scale - 1.0) < ABSOLUTE * fit.scale_esd:
        return found
    held = _fit_one(one.candidate, replace(problem, scale=1.0), run, fit.values)
    n = problem.used.sum()
    if n * (held.chi_sq - fit.chi_sq) > ABSOLUTE**2 * max(1.0, fit.chi_sq):
        return found
    one.fit, found.absolute = held, True
    return found


def _try_growing(request, given: ModelInput, candidate: Variant, problem: Problem, run: Run, results) -> None:
    """Fit a variant, and an inferred covariance whose rank is to be found of all ranks that help."""
    _try(candidate, problem, run, results)
    if candidate.name == "covariance" and "rank" in candidate.variant and request.inferred.rank is None:
        _grow_rank(request, given.atoms, problem, results[0], run)


def _grow_rank(request: DiffuseModelRequest, atoms: Atoms, problem: Problem, fitted: list, run: Run) -> None:
    """Fit an inferred covariance of more and more motions, as long as held-out voxels find one more better."""
    if not fitted or fitted[-1][0].name != "covariance":
        return
    groups, held, voxels = groups_for(request, atoms), problem.voxels.held_out, problem.voxels
    for rank in range(2, min(HIGHEST_RANK, len(groups)) + 1):
        before = fitted[-1][1]
        candidate = with_rank(request, atoms, groups, rank)
        found = _fit_one(candidate, problem, run, before.values)
        fitted.append((candidate, found))
        squares = [held_out_squares(voxels.intensity, one.calculated, found.variance)[held] for one in (before, found)]
        if preference(*squares, voxels.orbit[held]) < LIMIT:
            break


def _tls_notes(found: FittedModels) -> list[str]:
    """Of T, L and S that no motion has."""
    one = found.models.get("rigid_body")
    if one is None or one.candidate.variant.get("motion") != "TLS":
        return []
    parts = np.split(one.fit.values[: 20 * (len(one.fit.values) // 20)], len(one.fit.values) // 20)
    if all(is_covariance(part) for part in parts):
        return []
    return [
        "T, L and S of the rigid body are not those of any motion (their 6 x 6 matrix has a negative eigenvalue for "
        "every trace of S): mind their standard deviations."
    ]


def _fit_one(candidate: Variant, problem: Problem, run: Run, start: np.ndarray | None = None) -> Fit:
    """The fit of a variant, by fewer voxels where these are enough; a start of fewer values is grown by the model."""
    voxels, most = problem.distinct, candidate.most_voxels

    def begun(model: Model, part: Problem) -> Fit:
        return fit(model, part, start if start is None or len(start) == len(model.parameters) else model.grown(start))

    some = np.flatnonzero(problem.gather(np.ones(len(problem.voxels))))
    if most is None or len(some) <= 1.5 * most:
        with _made(candidate, voxels, run) as model:
            return begun(model, problem)
    for n in (most // COARSE, most):  # most steps by few voxels
        part = _part(problem, some[:: int(np.ceil(len(some) / n))])
        with _made(candidate, part.distinct, run) as model:
            first = begun(model, part)
        start = first.values
    with _made(candidate, voxels, run) as model:
        whole = fit(_Held(model, first.values), problem)
    return replace(
        whole,
        names=first.names,
        units=first.units,
        values=first.values,
        esds=first.esds,
        correlations=first.correlations,
        scale_esd=first.scale_esd,
        undetermined=first.undetermined,
    )


def _made(candidate: Variant, voxels: Voxels, run: Run):
    """A context with the model at voxels, which processes share where it is a sum over pairs."""
    return spread(run, candidate.make, voxels) if candidate.of_pairs else nullcontext(candidate.make(voxels))


def _part(problem: Problem, some: np.ndarray) -> Problem:
    """The problem of some of the distinct voxels, with all equivalents that are used."""
    chosen = np.zeros(len(problem.distinct), bool)
    chosen[some] = True
    here = np.flatnonzero(problem.spread(chosen) & problem.used)
    part = replace(
        problem,
        voxels=problem.voxels.select(here),
        functions=problem.functions[:, here],
        used=np.ones(len(here), bool),
        orbits=None,
    )
    return join_equivalents(part)


class _Held:
    """A model whose parameters are held."""

    parameters = ()

    def __init__(self, model: Model, values: np.ndarray):
        self.name, self.model, self.values = model.name, model, values
        self.found = None

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.found is None:
            self.found = calculate(self.model, self.values)
        return self.found, np.zeros((0, len(self.found)))


def _try(candidate: Variant, problem: Problem, run: Run, results: tuple[list, list[str] | None]) -> None:
    """Fit a variant and add it to those that are fitted; where it can't be a note says why, unless it is alone."""
    fitted, notes = results
    begun = time.perf_counter()
    try:
        found = _fit_one(candidate, problem, run)
    except CannotModel as error:
        if notes is None:
            raise
        notes.append(f"{candidate.name} was not fitted: {error}")
        return
    fitted.append((candidate, found))
    taken = time.perf_counter() - begun
    logger.debug("%s %s: chi^2 %.4f, %.1f s", candidate.name, candidate.variant, found.chi_sq, taken)
