"""The Request of dials.intensity_model."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, part, phil, symbol, texts
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values
from dials_postrefine.settings.reference_model import ReferenceModel


@dataclass(frozen=True)
class Trees:
    """How many trees, how fast they learn, how few observations a leaf has; permutations of each feature."""

    max_iter: int = phil("max_iter", 100)
    learning_rate: float = phil("learning_rate", 0.05)
    min_samples_leaf: int = phil("min_samples_leaf", 5)
    permutations: int = phil("permutations", 5)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    reflections: str | None = phil("reflections", "intensity_model.refl")
    experiments: str | None = phil("experiments", "intensity_model.expt")
    json: str | None = phil("json", "dials.intensity_model.json")
    html: str | None = phil("html", "dials.intensity_model.html")
    log: str | None = phil("log", "dials.intensity_model.log")


@dataclass(frozen=True)
class IntensityModelRequest:
    """
    What dials.intensity_model is asked for; phil/intensity_model.phil describes each parameter.

    d_min and d_max in Angstrom.
    """

    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    train: tuple[str, ...] = phil("train", (), convert=texts)
    test: tuple[str, ...] = phil("test", (), convert=texts)
    split: str = choice("split", "auto")
    n_folds: int = phil("n_folds", 5)
    reference: str | None = phil("reference", None)
    intensity_choice: str = choice("intensity_choice", "scale")
    compare: str = choice("compare", "auto")
    outliers: str = choice("outliers", "exclude")
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    space_group: str | None = phil("space_group", None, convert=symbol)
    trees: Trees = part("trees", Trees)
    seed: int = phil("seed", 0)
    reference_model: ReferenceModel = part("reference_model", ReferenceModel)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and for limits that cross."""
        check_values("intensity_model", self)
        check_limits(self)
