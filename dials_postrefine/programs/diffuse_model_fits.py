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
from dials_postrefine.diffuse.model.covariance import GivenCovariance, GroupPairs
from dials_postrefine.diffuse.model.elastic import Elastic, find_network
from dials_postrefine.diffuse.model.fitting import Fit, Problem, fit, fit_background, join_equivalents
from dials_postrefine.diffuse.model.group_covariance import GroupCovariance, groups_of
from dials_postrefine.diffuse.model.libration import LibratingBody
from dials_postrefine.diffuse.model.liquid_like import LiquidLike
from dials_postrefine.diffuse.model.mixture import Mixture
from dials_postrefine.diffuse.model.own_displacements import OwnDisplacements, RefinedDisplacements
from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.programs.diffuse_model_input import ModelInput
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

logger = logging.getLogger("dials.diffuse_model")
MOST_FOR_NETWORK = 8000  # voxels by which the parameters of a network are fitted
MOST_IN_CELL = 3000  # atoms for which motions of the cell's content are tried, too
ABSOLUTE = 3.0  # standard deviations of the scale within which 1 is it
WELL_KNOWN = 0.2  # the standard deviation of such a scale
ALIKE = 0.02  # by which the displacements of a file that has one for all atoms differ, relative
ALL = ("uncorrelated", "rigid_body", "liquid_like", "elastic")


@dataclass(frozen=True)
class Variant:
    """A variant of a model: the model's name, how it is meant and made, and how many voxels are enough to fit it."""

    name: str
    variant: dict[str, str]
    make: Callable[[Voxels], Model]
    most_voxels: int | None = None


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


def fit_models(request: DiffuseModelRequest, given: ModelInput, progress) -> FittedModels:
    """Fit what is asked for; raises CannotModel where nothing can be."""
    voxels = given.voxels
    functions = background_functions(voxels.s, request.background.functions, request.background.n)
    scale = 1.0 if request.scale == "absolute" else None
    problem = join_equivalents(Problem(voxels, functions, ~voxels.held_out, request.robust, scale))
    flat = Variant("background", {}, lambda voxels: None)
    fitted = [(flat, fit_background(problem))]
    notes: list[str] = []
    wanted = list(first_variants(request, given.atoms))
    for number, candidate in enumerate(wanted):
        progress(candidate.name, number, 2 * len(wanted))
        _try(candidate, problem, fitted, notes, len(wanted) == 1)
    for name in ("rigid_body", "liquid_like"):
        progress(name, len(wanted), 2 * len(wanted))
        same = [one for one in fitted if one[0].name == name]
        if same and request.displacements == "auto" and not request.rigid_body.tensor:
            best = min(same, key=lambda one: one[1].chi_sq)[0].variant
            for kind in ("refined",) if "libration" in best else ("model", "refined"):
                _try(_variant(given.atoms, name, best | {"displacements": kind}), problem, fitted, notes, False)
    found = compare(fitted, problem, given.atoms)
    found.notes += notes
    found.absolute = request.scale == "absolute"
    return _hold_scale(found, problem) if request.scale == "auto" else found


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
        models[name] = every[same[choose([squares[k] for k in same], sizes, voxels.orbit)]]
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


def _hold_scale(found: FittedModels, problem: Problem) -> FittedModels:
    """
    The chosen model with its scale held at 1, where that is what was fitted.

    A map in arbitrary units has a scale of 1 by chance only; one in squared electrons a cell has it, and then scale and
    width of a motion, which are nearly one number, are told apart.
    """
    one = found.models[found.chosen]
    fit = one.fit
    if not fit.names or not fit.scale_esd < WELL_KNOWN or not abs(fit.scale - 1.0) < ABSOLUTE * fit.scale_esd:
        return found
    held = _fit_one(one.candidate, replace(problem, scale=1.0), fit.values)
    n = problem.used.sum()
    if n * (held.chi_sq - fit.chi_sq) > ABSOLUTE**2 * max(1.0, fit.chi_sq):
        return found
    one.fit, found.absolute = held, True
    return found


def _fit_one(candidate: Variant, problem: Problem, start: np.ndarray | None = None) -> Fit:
    """The fit of a variant, by fewer voxels where these are enough."""
    voxels, most = problem.distinct, candidate.most_voxels
    some = np.flatnonzero(problem.gather(np.ones(len(problem.voxels))))
    if most is None or len(some) <= 1.5 * most:
        return fit(candidate.make(voxels), problem, start)
    first = fit(*_part(candidate, problem, some[:: int(np.ceil(len(some) / most))]), start)
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


def _part(candidate: Variant, problem: Problem, some: np.ndarray) -> tuple[Model, Problem]:
    """The model and the problem of some of the distinct voxels, with all equivalents that are used."""
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
    part = join_equivalents(part)
    return candidate.make(part.distinct), part


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


def _try(candidate: Variant, problem: Problem, fitted: list, notes: list[str], alone: bool) -> None:
    """Fit a variant and add it to those that are fitted; where it can't be a note says why, unless it is alone."""
    begun = time.perf_counter()
    try:
        found = _fit_one(candidate, problem)
    except CannotModel as error:
        if alone:
            raise
        notes.append(f"{candidate.name} was not fitted: {error}")
        return
    fitted.append((candidate, found))
    taken = time.perf_counter() - begun
    logger.debug("%s %s: chi^2 %.4f, %.1f s", candidate.name, candidate.variant, found.chi_sq, taken)


def first_variants(request: DiffuseModelRequest, atoms: Atoms) -> Iterator[Variant]:
    """The variants to fit; of displacements=auto those of the file, the others follow for the best of them."""
    wanted = list(ALL) if "auto" in request.models else list(request.models)
    if request.covariance and "covariance" not in wanted:
        wanted.append("covariance")
    displacements = "file" if request.displacements == "auto" else request.displacements
    if atoms.u_iso.max() <= 0.0:
        displacements = "model"
    for name in wanted:
        if name == "uncorrelated":
            yield Variant(name, {}, lambda voxels: Uncorrelated(atoms, voxels))
        elif name == "rigid_body":
            kind = "tensor" if request.rigid_body.tensor else "isotropic"
            turning = {"libration": "librating"} if request.rigid_body.libration else {}
            for unit in _units(request, atoms):
                yield _variant(atoms, name, {"unit": unit, "motion": kind} | turning | {"displacements": displacements})
        elif name in ("liquid_like", "mixture"):
            for across in _acrosses(request, atoms):
                variant = {"across": across, "kernel": request.liquid_like.kernel}
                yield _variant(
                    atoms,
                    name,
                    variant
                    | {"displacements": "file" if name == "mixture" and displacements == "model" else displacements},
                )
        elif name == "elastic" and atoms.u_iso.max() > 0.0:
            network = find_network(atoms, request.elastic.cutoff)
            variant = {"cutoff": f"{network.cutoff:g}", "width": f"{network.width:g}"}
            yield Variant(
                name, variant, lambda voxels, network=network: Elastic(atoms, voxels, network), MOST_FOR_NETWORK
            )
        elif name == "covariance":
            yield _inferred(request, atoms) if not request.covariance else _given(request, atoms)


def _units(request, atoms: Atoms) -> list[str]:
    if request.rigid_body.unit != "auto":
        return [request.rigid_body.unit]
    several = len(np.unique(atoms.chain)) > 1
    return ["molecule", *(["chain"] if several else []), *(["cell"] if len(atoms.rotations) > 1 else [])]


def _acrosses(request, atoms: Atoms) -> list[str]:
    if request.liquid_like.across != "auto":
        return [request.liquid_like.across]
    small = 1 < len(atoms.rotations) <= MOST_IN_CELL / len(atoms)
    return ["molecule", "crystal", *(["cell"] if small else [])]


def _variant(atoms: Atoms, name: str, variant: dict[str, str]) -> Variant:
    """A rigid body or liquid-like motions as the variant has them."""

    def make(voxels: Voxels) -> Model:
        own = variant["displacements"] == "model"
        used = atoms.with_u(0.0) if own else atoms
        if name == "rigid_body":
            bodies = [used.expanded()] if variant["unit"] == "cell" else [used]
            if variant["unit"] == "chain":
                bodies = [used.select(used.chain == one) for one in np.unique(used.chain)]
            kind = LibratingBody if "libration" in variant else RigidBody
            model: Model = kind(bodies, voxels, variant["motion"] == "tensor")
        elif name == "mixture":
            model = Mixture(used, voxels, variant["across"], variant["kernel"])
        else:
            model = LiquidLike(used, voxels, variant["across"], variant["kernel"])
        if variant["displacements"] == "refined":
            return RefinedDisplacements(model, atoms, voxels)
        return OwnDisplacements(model, atoms, voxels) if own else model

    return Variant(name, variant, make)


def _given(request, atoms: Atoms) -> Variant:
    v = read_covariance(request.covariance)
    return Variant("covariance", {}, lambda voxels: GivenCovariance(atoms, voxels, v))


def _inferred(request, atoms: Atoms) -> Variant:
    """Covariances of groups that are inferred from the map."""
    given = request.inferred
    groups, places = groups_of(atoms, given.residues)

    def make(voxels: Voxels) -> Model:
        pairs = GroupPairs(atoms, groups, voxels)
        return GroupCovariance(pairs, places, voxels, given.rank, given.strength, given.length)

    variant = {"residues": str(given.residues), "rank": str(given.rank), "length": f"{given.length:g}"}
    return Variant("covariance", variant, make, MOST_FOR_NETWORK)


def read_covariance(path: str) -> np.ndarray:
    """V of a .npz; raises Sorry."""
    from dials.util import Sorry

    try:
        with np.load(path) as file:
            return np.asarray(file["V"], float)
    except (OSError, KeyError, ValueError) as error:
        raise Sorry(f"{path} can't be read as a covariance ({error}): give a .npz with an array V.") from None
