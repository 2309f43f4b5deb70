"""The Request of dials.diffuse_model."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, none_for_auto, part, phil, symbol, texts, word_for_auto
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values


def words(values) -> tuple[str, ...]:
    """The chosen words of a choice of several, as they are written."""
    from libtbx import Auto

    if values is Auto:  # model=Auto
        return ("auto",)
    return tuple("auto" if value is Auto else str(value) for value in values or ())


@dataclass(frozen=True)
class RigidBodies:
    """What moves as a whole, whether each on its own parameters, by a tensor, librating, or by T, L and S."""

    unit: str = choice("unit", "auto")
    selection: tuple[str, ...] = phil("selection", (), convert=texts)
    per_body: bool = phil("per_body", False)
    tensor: bool = phil("tensor", False)
    libration: bool = phil("libration", False)
    tls: bool = phil("tls", False)


@dataclass(frozen=True)
class LiquidLikeMotions:
    """Which atoms move together, how that falls with their distance, and to which order (None: all)."""

    across: str = choice("across", "auto")
    kernel: str = choice("kernel", "exponential")
    order: int | None = phil("order", None)


@dataclass(frozen=True)
class ElasticNetwork:
    """
    The network: which, the cutoff of the springs (Angstrom; None: the best of a few), their width ("auto": the best
    of a few, None: infinite), what they reach, and how many force constants there are.
    """

    network: str = choice("network", "auto")
    cutoff: float | None = phil("cutoff", None, convert=none_for_auto)
    width: float | str | None = phil("width", "auto", convert=word_for_auto)
    across: str = choice("across", "molecule")
    force_constants: int = phil("force_constants", 1)


@dataclass(frozen=True)
class InferredCovariance:
    """
    Groups, rank of V (None: to be found), strength of the prior, the length of its kernel (Angstrom); and of a
    trajectory whether frames are superposed, and V is 3 x 3.
    """

    groups: str = choice("groups", "auto")
    residues: int | None = phil("residues", None, convert=none_for_auto)
    n_domains: int = phil("n_domains", 4)
    selection: tuple[str, ...] = phil("selection", (), convert=texts)
    rank: int | None = phil("rank", None, convert=none_for_auto)
    strength: float = phil("strength", 1.0)
    length: float = phil("length", 10.0)
    superpose: bool = phil("superpose", True)
    tensor: bool = phil("tensor", False)


@dataclass(frozen=True)
class IsotropicBackground:
    """The functions of the background, and how many."""

    functions: str = choice("functions", "smooth")
    n: int = phil("n", 16)


@dataclass(frozen=True)
class HeldOut:
    """Which part of the voxels is held out, by what, and the seed of the choice."""

    fraction: float = phil("fraction", 0.1)
    by: str = choice("by", "orbits")
    seed: int = phil("seed", 0)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    nxs: str | None = phil("nxs", "model.nxs")
    ccp4: str | None = phil("ccp4", None)
    covariance: str | None = phil("covariance", "model_covariance.npz")
    pdb: str | None = phil("pdb", "model_fluctuations.pdb")
    html: str | None = phil("html", "dials.diffuse_model.html")
    json: str | None = phil("json", "dials.diffuse_model.json")
    log: str | None = phil("log", "dials.diffuse_model.log")


@dataclass(frozen=True)
class DiffuseModelRequest:
    """
    What dials.diffuse_model is asked for; phil/diffuse_model.phil describes each parameter.

    d_min and d_max in Angstrom; nproc None for as many as there are cores; models has words, "auto" among them for all.
    """

    map: str | None = phil("input.map", None)
    structure: str | None = phil("input.structure", None)
    covariance: str | None = phil("input.covariance", None)
    models: tuple[str, ...] = phil("model", ("auto",), convert=words)
    space_group: str | None = phil("space_group", None, convert=symbol)
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    reindex_operation: str | None = phil("reindex_operation", None)
    radiation: str = choice("radiation", "xray")
    bulk_solvent: bool = phil("bulk_solvent", False)
    k_sol: float = phil("k_sol", 0.35)
    b_sol: float = phil("b_sol", 46.0)
    displacements: str = choice("displacements", "auto")
    rigid_body: RigidBodies = part("rigid_body", RigidBodies)
    liquid_like: LiquidLikeMotions = part("liquid_like", LiquidLikeMotions)
    elastic: ElasticNetwork = part("elastic", ElasticNetwork)
    inferred: InferredCovariance = part("covariance", InferredCovariance)
    background: IsotropicBackground = part("background", IsotropicBackground)
    scale: str = choice("scale", "auto")
    robust: bool = phil("robust", False)
    held_out: HeldOut = part("held_out", HeldOut)
    nproc: int | None = phil("nproc", None, convert=none_for_auto)
    n_shells: int = phil("n_shells", 10)
    output: Output = part("output", Output)

    def check_input(self) -> None:
        """Raises Sorry where the map or the model is missing."""
        from dials.util import Sorry

        if not self.map:
            raise Sorry("There is no map: give diffuse.nxs of dials.diffuse_map.")
        if not self.structure:
            raise Sorry("There is no atomic model: give a .pdb or .cif file.")

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and for what does not go together."""
        from dials.util import Sorry

        check_values("diffuse_model", self)
        check_limits(self)
        if not self.models:
            raise Sorry(
                "model=None leaves nothing to fit: name models, as model=rigid_body+liquid_like, or leave it out."
            )
        body = self.rigid_body
        kinds = [name for name in ("tensor", "libration", "tls") if getattr(body, name)]
        for name in kinds:
            if self.displacements == "model":
                raise Sorry(
                    f"rigid_body.{name}=True needs the file's displacements: use displacements=file, or refined."
                )
        if body.tls and len(kinds) > 1:
            raise Sorry(f"rigid_body.tls=True has what {kinds[0]} has: leave rigid_body.{kinds[0]} out.")
        for name, chosen in (("rigid_body", body.unit), ("covariance", self.inferred.groups)):
            if chosen == "selection" and not getattr(body if name == "rigid_body" else self.inferred, "selection"):
                raise Sorry(f'There is no {name}.selection: say which atoms, as {name}.selection="chain A".')
        if self.displacements == "model" and (body.selection or body.per_body):
            raise Sorry(
                "rigid_body.selection and per_body need the file's displacements: use displacements=file, or refined."
            )
