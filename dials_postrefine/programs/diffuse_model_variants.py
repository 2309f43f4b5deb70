"""Which variants of models dials.diffuse_model fits, how each is made, and what it says of the atoms."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials.util import Sorry

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.bodies import SeparateParts
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.elastic import AnisotropicElastic, Elastic, Network, NetworkChoice, find_network
from dials_postrefine.diffuse.model.fitting import Fit
from dials_postrefine.diffuse.model.fluctuations import GroupMotions, motions_of
from dials_postrefine.diffuse.model.given_covariance import GivenCovariance
from dials_postrefine.diffuse.model.group_covariance import GroupCovariance, low_rank
from dials_postrefine.diffuse.model.groups import Groups, domains_of, marked, runs_of_residues, selected
from dials_postrefine.diffuse.model.libration import LibratingBody
from dials_postrefine.diffuse.model.liquid_like import LiquidLike
from dials_postrefine.diffuse.model.mixture import Mixture
from dials_postrefine.diffuse.model.own_displacements import OwnDisplacements, RefinedDisplacements
from dials_postrefine.diffuse.model.parameters import Model
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.springs import MOST_ROWS, nodes_of
from dials_postrefine.diffuse.model.tls import TLSBody
from dials_postrefine.diffuse.model.trajectory import covariance_of
from dials_postrefine.diffuse.model.uncorrelated import Uncorrelated
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.files.reference.selections import secondary_structure, select_atoms
from dials_postrefine.files.reference.trajectories import read_trajectory
from dials_postrefine.programs.diffuse_model_input import ModelInput
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

logger = logging.getLogger("dials.diffuse_model")
MOST_NAMED = 20  # groups in the log
MOST_FOR_NETWORK = 8000  # voxels by which the parameters of a network are fitted
MOST_FOR_TENSORS = 4000  # and of what has tensors
MOST_IN_CELL = 3000  # atoms for which motions of the cell's content are tried, too
MOST_GROUPS = 60  # that are made, and that are tried without being asked for
MOST_PAIRS = 1e10  # of nodes, times voxels and orientations, to try an anisotropic network without being asked to
ALL = ("uncorrelated", "rigid_body", "liquid_like", "elastic")


@dataclass(frozen=True)
class Variant:
    """
    A variant of a model: the model's name, how it is meant and made, how many voxels are enough to fit it; what a fit
    says of groups of atoms, where it does, and the rigid bodies that are selections, (n_atoms,) of bool each.
    """

    name: str
    variant: dict[str, str]
    make: Callable[[Voxels], Model]
    most_voxels: int | None = None
    motions: Callable[[Fit], GroupMotions] | None = None
    bodies: Sequence[np.ndarray] = ()

    @property
    def of_pairs(self) -> bool:
        """Whether it is a sum over pairs of atoms or groups at each voxel, which takes long."""
        return self.most_voxels is not None or self.name == "covariance" or "libration" in self.variant

    @property
    def needs_file(self) -> bool:
        """Whether it is one of the file's displacements alone."""
        return bool(
            {"libration", "parameters"} & set(self.variant) or self.variant.get("motion") == "TLS" or self.bodies
        )


def first_variants(request: DiffuseModelRequest, given: ModelInput) -> Iterator[Variant]:
    """
    The variants to fit; of displacements=auto those of the file, the others follow for the best of them.

    Of an inferred covariance whose rank is to be found that of rank 1; with_rank(..) has the others.
    """
    atoms = given.atoms
    displacements = displacements_of(request, atoms)
    for name in wanted_models(request, given):
        if name == "uncorrelated":
            yield Variant(name, {}, lambda voxels: Uncorrelated(atoms, voxels))
        elif name == "rigid_body":
            yield from _rigid_bodies(request, atoms, displacements)
        elif name in ("liquid_like", "mixture"):
            kind = "file" if name == "mixture" and displacements == "model" else displacements
            for across in _acrosses(request, atoms):
                variant = {"across": across, "kernel": request.liquid_like.kernel}
                if request.liquid_like.order:
                    variant["order"] = str(request.liquid_like.order)
                yield with_displacements(atoms, Variant(name, variant, lambda voxels: None), kind)
        elif name == "elastic" and atoms.u_iso.max() > 0.0:
            yield from _networks(request, given)
        elif name == "covariance":
            if request.covariance:
                yield _given(request, atoms)
            else:
                groups = groups_for(request, atoms)
                logger.info("%s", groups_text(groups))
                yield with_rank(request, atoms, groups, request.inferred.rank or 1)


def wanted_models(request: DiffuseModelRequest, given: ModelInput) -> list[str]:
    """The names of the models to fit."""
    wanted = list(request.models)
    if "auto" in wanted:
        wanted = [*ALL, *(one for one in wanted if one not in ("auto", *ALL))]
        several = 1 < len(np.unique(given.atoms.residue)) <= MOST_GROUPS
        if (_groups_asked(request) or several) and "covariance" not in wanted and given.atoms.u_iso.max() > 0.0:
            wanted.append("covariance")
    if request.covariance and "covariance" not in wanted:
        wanted.append("covariance")
    return wanted


def _groups_asked(request: DiffuseModelRequest) -> bool:
    """Whether groups of an inferred covariance are said."""
    asked = request.inferred
    return bool(asked.groups != "auto" or asked.selection or asked.residues)


def is_costly(request: DiffuseModelRequest, candidate: Variant) -> bool:
    """Whether nobody asked for a variant that takes minutes, so that it is for maps which others don't explain."""
    if candidate.name == "covariance":
        return not ("covariance" in request.models or request.covariance or _groups_asked(request))
    return candidate.variant.get("network") == "anisotropic" and request.elastic.network == "auto"


def displacements_of(request: DiffuseModelRequest, atoms: Atoms) -> str:
    """Whose displacements are tried first."""
    if atoms.u_iso.max() <= 0.0:
        return "model"
    return "file" if request.displacements == "auto" else request.displacements


def _rigid_bodies(request: DiffuseModelRequest, atoms: Atoms, displacements: str) -> Iterator[Variant]:
    body = request.rigid_body
    kind = {"motion": "TLS" if body.tls else "tensor" if body.tensor else "isotropic"}
    if body.libration:
        kind["libration"] = "librating"
    for unit in _units(request, atoms):
        selections = ()
        if unit == "selection":
            selections = select_atoms(request.structure, body.selection, len(atoms), "rigid_body.selection")
        variant = {"unit": unit} | kind | ({"parameters": "of each"} if body.per_body else {})
        most = MOST_FOR_TENSORS if body.tls else None
        plain = Variant("rigid_body", variant, lambda voxels: None, most, bodies=selections)
        yield with_displacements(atoms, plain, displacements)


def _units(request: DiffuseModelRequest, atoms: Atoms) -> list[str]:
    if request.rigid_body.unit != "auto":
        return [request.rigid_body.unit]
    if request.rigid_body.selection:
        return ["selection"]
    several = len(np.unique(atoms.chain)) > 1
    if several and request.rigid_body.per_body:
        return ["chain"]
    return ["molecule", *(["chain"] if several else []), *(["cell"] if len(atoms.rotations) > 1 else [])]


def _acrosses(request: DiffuseModelRequest, atoms: Atoms) -> list[str]:
    if request.liquid_like.across != "auto":
        return [request.liquid_like.across]
    small = 1 < len(atoms.rotations) <= MOST_IN_CELL / len(atoms)
    return ["molecule", "crystal", *(["cell"] if small else [])]


def with_displacements(atoms: Atoms, candidate: Variant, displacements: str) -> Variant:
    """Rigid bodies or liquid-like motions with these displacements: file, model or refined."""
    variant = candidate.variant | {"displacements": displacements}
    name, bodies = candidate.name, candidate.bodies

    def make(voxels: Voxels) -> Model:
        own = displacements == "model"
        used = atoms.with_u(0.0) if own else atoms
        if name == "rigid_body":
            model = _make_bodies(used, voxels, variant, bodies)
        else:
            kind = Mixture if name == "mixture" else LiquidLike
            order = {"order": int(variant["order"])} if "order" in variant else {}
            model = kind(used, voxels, variant["across"], variant["kernel"], **order)
        if displacements == "refined":
            return RefinedDisplacements(model, atoms, voxels)
        return OwnDisplacements(model, atoms, voxels) if own else model

    return Variant(name, variant, make, candidate.most_voxels, bodies=bodies)


def _make_bodies(atoms: Atoms, voxels: Voxels, variant: dict[str, str], selections: Sequence[np.ndarray]) -> Model:
    """Rigid bodies as the variant has them."""
    inside = np.ones(len(atoms), bool)
    bodies = [atoms.expanded()] if variant["unit"] == "cell" else [atoms]
    if variant["unit"] == "chain":
        bodies = [atoms.select(atoms.chain == one) for one in np.unique(atoms.chain)]
    elif variant["unit"] == "selection":
        bodies, inside = [atoms.select(one) for one in selections], np.any(selections, axis=0)

    def one(parts: Sequence[Atoms]) -> Model:
        if variant["motion"] == "TLS":
            return TLSBody(parts, voxels)
        kind = LibratingBody if "libration" in variant else RigidBody
        return kind(parts, voxels, variant["motion"] == "tensor")

    parts = [one([body]) for body in bodies] if "parameters" in variant else [one(bodies)]
    if len(parts) == 1 and inside.all():
        return parts[0]
    return SeparateParts(parts, atoms.select(~inside), voxels)


def _networks(request: DiffuseModelRequest, given: ModelInput) -> Iterator[Variant]:
    """Elastic networks; of network=auto the anisotropic one where it takes no more than a minute or two."""
    atoms, asked = given.atoms, request.elastic
    nodes = nodes_of(atoms)
    n = len(nodes.places) * (len(atoms.rotations) if asked.across == "crystal" else 1)
    pairs = len(nodes.places) ** 2 / 2 * len(given.voxels) * len(atoms.rotations)
    kinds = [asked.network]
    if asked.network == "auto":
        kinds = ["gaussian", *(["anisotropic"] if 3 * n <= MOST_ROWS / 2 and pairs <= MOST_PAIRS else [])]
    width = float("nan") if asked.width == "auto" else float("inf") if asked.width is None else float(asked.width)
    for kind in kinds:
        choice = NetworkChoice(
            3 if kind == "anisotropic" else 1,
            float("nan") if asked.cutoff is None else asked.cutoff,
            width,
            asked.across == "crystal",
            asked.force_constants == 2,
        )
        network = find_network(atoms, choice)
        variant = {"network": kind, "cutoff": f"{network.cutoff:g}", "width": f"{network.width:g}"}
        if asked.across == "crystal":
            variant["across"] = "crystal"
        yield _network(atoms, network, variant)


def _network(atoms: Atoms, network: Network, variant: dict[str, str]) -> Variant:
    tensors = variant["network"] == "anisotropic"
    model = AnisotropicElastic if tensors else Elastic

    def motions(fit: Fit) -> GroupMotions:
        v = fit.values[0] * network.covariances(fit.values)[0]
        return motions_of(network.nodes.groups, v if tensors else v[:, :, 0, 0])

    most = MOST_FOR_TENSORS if tensors else MOST_FOR_NETWORK
    return Variant("elastic", variant, lambda voxels: model(atoms, voxels, network), most, motions)


def _given(request: DiffuseModelRequest, atoms: Atoms) -> Variant:
    """The covariance of a file."""
    path, variant = request.covariance, {}
    if path.lower().endswith(".npz"):
        v = read_covariance(path)
    else:
        frames = read_trajectory(path, request.structure, len(atoms))
        v = covariance_of(frames, atoms.xyz, request.inferred.superpose)
        variant = {"frames": str(len(frames)), "motion": "3 x 3" if request.inferred.tensor else "isotropic"}
        if not request.inferred.tensor:
            v = v.reshape(len(atoms), 3, len(atoms), 3).trace(axis1=1, axis2=3) / 3.0

    def motions(fit: Fit) -> GroupMotions:
        n = len(atoms)
        blocks = v if v.shape == (n, n) else v.reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
        return motions_of(np.arange(n), fit.values[0] * blocks)

    return Variant("covariance", variant, lambda voxels: GivenCovariance(atoms, voxels, v), motions=motions)


def groups_for(request: DiffuseModelRequest, atoms: Atoms) -> Groups:
    """The groups whose covariances are inferred."""
    asked, n = request.inferred, len(atoms)
    if asked.groups == "selection" or (asked.groups == "auto" and asked.selection):
        parts = select_atoms(request.structure, asked.selection, n, "covariance.selection")
        return selected(parts, asked.selection)
    if asked.groups == "secondary_structure":
        names, parts, source = secondary_structure(request.structure, n)
        return replace(marked(atoms, parts, names), source=source)
    if asked.groups == "domains":
        return domains_of(atoms, asked.n_domains)
    number = asked.residues or math.ceil(len(np.unique(atoms.residue)) / MOST_GROUPS)
    return runs_of_residues(atoms, number)


def groups_text(groups: Groups) -> str:
    """What the groups of an inferred covariance are, for the log."""
    listed = ", ".join(groups.names[:MOST_NAMED]) + (", ..." if len(groups) > MOST_NAMED else "")
    source = f" (by {groups.source})" if groups.source else ""
    outside = int((groups.number < 0).sum())
    others = f"; {outside} atoms are in none and move each on their own" if outside else ""
    return f"Covariances are inferred between {len(groups)} groups{source}: {listed}{others}."


def with_rank(request: DiffuseModelRequest, atoms: Atoms, groups: Groups, rank: int) -> Variant:
    """Covariances of groups that are inferred from the map, of a rank."""
    asked = request.inferred
    places, inside = groups.places(atoms), groups.number >= 0
    form = low_rank(places, asked.length, rank)

    def make(voxels: Voxels) -> Model:
        pairs = GroupPairs(atoms.select(inside), groups.number[inside], voxels)
        model = GroupCovariance(pairs, places, voxels, rank, asked.strength, asked.length)
        return model if inside.all() else SeparateParts([model], atoms.select(~inside), voxels)

    def motions(fit: Fit) -> GroupMotions:
        p = len(fit.values)
        covariance = fit.correlations[:p, :p] * np.outer(fit.esds, fit.esds)
        v = form.covariance(fit.values)
        found = motions_of(groups.number, v, groups.names)
        return GroupMotions(found.number, found.v, found.u, found.names, form.esds(fit.values, covariance))

    variant = {"groups": f"{len(groups)} groups", "rank": str(form.rank), "length": f"{asked.length:g}"}
    return Variant("covariance", variant, make, MOST_FOR_NETWORK, motions)


def read_covariance(path: str) -> np.ndarray:
    """V of a .npz; raises Sorry."""
    try:
        with np.load(path) as file:
            return np.asarray(file["V"], float)
    except (OSError, KeyError, ValueError) as error:
        raise Sorry(f"{path} can't be read as a covariance ({error}): give a .npz with an array V.") from None
