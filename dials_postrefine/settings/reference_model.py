"""What several programs take of an atomic model, or a reflection file, that they compare data with."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, phil


@dataclass(frozen=True)
class ReferenceModel:
    """The scope reference_model: d_min in Angstrom, k_sol in electrons/Angstrom^3, b_sol in Angstrom^2."""

    radiation: str = choice("radiation", "auto")
    table: str = choice("table", "auto")
    ions: bool = phil("ions", False)
    mott_bethe: str = choice("mott_bethe", "none")
    anomalous: str = choice("anomalous", "auto")
    bulk_solvent: str = choice("bulk_solvent", "auto")
    k_sol: float | None = phil("k_sol", None)
    b_sol: float | None = phil("b_sol", None)
    scale: str = choice("scale", "anisotropic")
    target: str = choice("target", "robust")
    d_min: float | None = phil("d_min", None)
    algorithm: str = choice("algorithm", "auto")
    rescale_cell: bool = phil("rescale_cell", False)
    labels: str | None = phil("labels", None)
    block: str | None = phil("block", None)
    model_error: float = phil("model_error", 0.2)
    n_shells: int = phil("n_shells", 10)
