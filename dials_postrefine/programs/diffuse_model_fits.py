"""Which models dials.diffuse_model fits, their variants, and which of them is chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.comparison import choose, held_out_squares, preference
from dials_postrefine.diffuse.model.covariance import GivenCovariance
from dials_postrefine.diffuse.model.elastic import Elastic, find_network
from dials_postrefine.diffuse.model.fitting import Fit, Problem, fit, fit_background
from dials_postrefine.diffuse.model.liquid_like import LiquidLike
from dials_postrefine.diffuse.model.own_displacements import OwnDisplacements
from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.programs.diffuse_model_input import ModelInput
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

logger = logging.getLogger("dials.diffuse_model")
MOST_FOR_NETWORK = 8000  # voxels by which the parameters of a network are fitted
ALL = ("uncorrelated", "rigid_body", "liquid_like", "elastic")


@dataclass
class Variant:
    """A variant of a model: the model's name, what the variant is, how it is made, and which voxels are enough to fit it."""

    name: str
    variant: dict[str, str]
    make: Callable[[Voxels], Model]
    most_voxels: int | None = None


@dataclass
class Fitted:
    """A fitted variant: its fit, and by how many standard deviations it is worse than the best one."""

    candidate: Variant
    fit: Fit
    squares: np.ndarray
    worse: float = 0.0


@dataclass
class FittedModels:
    """The best variant of each model by name, all variants, and the name of the chosen one."""

    models: dict[str, Fitted]
    variants: list[Fitted]
    chosen: str
    notes: list[str] = field(default_factory=list)

    @property
    def chosen_fit(self) -> Fit:
        """The fit of the chosen model."""
        return self.models[self.chosen].fit


def fit_models(request: DiffuseModelRequest, given: ModelInput, progress) -> FittedModels:
    """Fit what is asked for; raises CannotModel where nothing can be."""
    voxels = given.voxels
    functions = background_functions(voxels.s, request.background.functions, request.background.n)
    problem = Problem(voxels, functions, ~voxels.held_out, request.robust)
    flat = Variant("background", {}, lambda voxels: None)
    fitted = [(flat, fit_background(problem))]
    notes: list[str] = []
    wanted = list(candidates(request, given))
    for number, candidate in enumerate(wanted):
        progress(candidate.name, number, len(wanted))
        try:
            begun = time.perf_counter()
            found = _fit_one(candidate, problem)
        except CannotModel as error:
            if len(request.models) == 1 and "auto" not in request.models:
                raise
            notes.append(f"{candidate.name}: {error}")
            continue
        fitted.append((candidate, found))
        taken = time.perf_counter() - begun
        logger.debug("%s %s: chi^2 %.4f, %.1f s", candidate.name, candidate.variant, found.chi_sq, taken)
    best = min(fitted, key=lambda one: one[1].chi_sq)[1]
    held = voxels.held_out if voxels.held_out.any() else np.ones(len(voxels), bool)
    every = [
        Fitted(candidate, one, held_out_squares(voxels.intensity, one.calculated, best.variance)[held])
        for candidate, one in fitted
    ]
    orbit = voxels.orbit[held]
    models = {}
    for name in dict.fromkeys(one.candidate.name for one in every):
        same = [one for one in every if one.candidate.name == name]
        models[name] = same[choose([one.squares for one in same], [_size(one) for one in same], orbit)]
    # a negative scale is no scattering; and what is isotropic is part of the background
    possible = [one for one in models.values() if one.candidate.name == "background" or one.fit.scale > 0.0]
    if given.atoms.is_isotropic:
        possible = [one for one in possible if one.candidate.name != "uncorrelated"]
    number = choose([one.squares for one in possible], [_size(one) for one in possible], orbit)
    top = min(possible, key=lambda one: one.squares.sum())
    for one in models.values():
        one.worse = preference(one.squares, top.squares, orbit)
    return FittedModels(models, every, possible[number].candidate.name, notes)


def _size(one: Fitted) -> float:
    """The number of parameters, the scale among them; displacements of the file make a half more."""
    taken = 0.5 if one.candidate.variant.get("displacements") == "file" else 0.0
    return len(one.fit.values) + (one.candidate.name != "background") + taken


def _fit_one(candidate: Variant, problem: Problem) -> Fit:
    """The fit of a variant, by fewer voxels where these are enough."""
    voxels, most = problem.voxels, candidate.most_voxels
    if most is None or problem.used.sum() <= 1.5 * most:
        return fit(candidate.make(voxels), problem)
    some = np.flatnonzero(problem.used)[:: int(np.ceil(problem.used.sum() / most))]
    part = Problem(voxels.select(some), problem.functions[:, some], np.ones(len(some), bool), problem.robust)
    first = fit(candidate.make(part.voxels), part)
    model = candidate.make(voxels)
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


class _Held:
    """A model whose parameters are held."""

    parameters = ()

    def __init__(self, model: Model, values: np.ndarray):
        self.name, self.model, self.values = model.name, model, values
        self.found = None

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.found is None:
            self.found = getattr(self.model, "calculate", lambda v: self.model.evaluate(v)[0])(self.values)
        return self.found, np.zeros((0, len(self.found)))


def candidates(request: DiffuseModelRequest, given: ModelInput) -> Iterator[Variant]:
    """The variants to fit, one after another."""
    atoms = given.atoms
    wanted = list(ALL) if "auto" in request.models else [name for name in request.models if name != "auto"]
    if request.covariance and "covariance" not in wanted:
        wanted.append("covariance")
    symmetric = len(atoms.rotations) > 1
    displacements = ("file", "model") if request.displacements == "auto" else (request.displacements,)
    if atoms.u_iso.max() <= 0.0:
        displacements = ("model",)
    if "uncorrelated" in wanted:
        yield Variant("uncorrelated", {}, lambda voxels: Uncorrelated(atoms, voxels))
    if "rigid_body" in wanted:
        for unit in _units(request, atoms, symmetric):
            for kind in displacements:
                yield Variant(
                    "rigid_body",
                    {"unit": unit, "displacements": kind},
                    lambda voxels, unit=unit, kind=kind: _rigid_body(request, atoms, voxels, (unit, kind)),
                )
    if "liquid_like" in wanted:
        across = request.liquid_like.across
        for one in ["molecule", "crystal", *(["cell"] if symmetric else [])] if across == "auto" else [across]:
            for kind in displacements:
                yield Variant(
                    "liquid_like",
                    {"across": one, "kernel": request.liquid_like.kernel, "displacements": kind},
                    lambda voxels, one=one, kind=kind: _liquid_like(request, atoms, voxels, (one, kind)),
                )
    if "elastic" in wanted and atoms.u_iso.max() > 0.0:
        network = find_network(atoms, request.elastic.cutoff)
        variant = {"cutoff": f"{network.cutoff:g}", "width": f"{network.width:g}"}
        yield Variant("elastic", variant, lambda voxels: Elastic(atoms, voxels, network), MOST_FOR_NETWORK)
    if "covariance" in wanted:
        v = read_covariance(request.covariance)
        yield Variant("covariance", {}, lambda voxels: GivenCovariance(atoms, voxels, v))


def read_covariance(path: str) -> np.ndarray:
    """V of a .npz; raises Sorry."""
    from dials.util import Sorry

    try:
        with np.load(path) as file:
            return np.asarray(file["V"], float)
    except (OSError, KeyError, ValueError) as error:
        raise Sorry(f"{path} can't be read as a covariance ({error}): give a .npz with an array V.") from None


def _units(request, atoms: Atoms, symmetric: bool) -> list[str]:
    if request.rigid_body.unit != "auto":
        return [request.rigid_body.unit]
    several = len(np.unique(atoms.chain)) > 1
    return ["molecule", *(["chain"] if several else []), *(["cell"] if symmetric else [])]


def _rigid_body(request, atoms: Atoms, voxels: Voxels, variant: tuple[str, str]) -> Model:
    unit, displacements = variant
    used = atoms if displacements == "file" else atoms.with_u(0.0)
    bodies = [used.expanded()] if unit == "cell" else [used]
    if unit == "chain":
        bodies = [used.select(used.chain == name) for name in np.unique(used.chain)]
    if displacements == "file":
        return RigidBody(bodies, voxels, request.rigid_body.tensor)
    return OwnDisplacements(RigidBody(bodies, voxels), atoms, voxels)


def _liquid_like(request, atoms: Atoms, voxels: Voxels, variant: tuple[str, str]) -> Model:
    across, displacements = variant
    kernel = request.liquid_like.kernel
    if displacements == "file":
        return LiquidLike(atoms, voxels, across, kernel)
    return OwnDisplacements(LiquidLike(atoms.with_u(0.0), voxels, across, kernel), atoms, voxels)
