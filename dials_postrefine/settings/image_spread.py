"""The Request of dials.image_spread."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, part, phil, radians, symbol, texts
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values


@dataclass(frozen=True)
class Beam:
    """Where the intensity of the beam is from; the outer and inner resolution of an annulus (Angstrom)."""

    intensity: str = choice("intensity", "auto")
    annulus: tuple[float, float] = phil("annulus", (20.0, 5.0), convert=tuple)


@dataclass(frozen=True)
class RandomMatch:
    """The test whether pairs are better than chance: prior probability; number of permutations, None: of the data."""

    prior: float = phil("prior", 0.5)
    permutations: int | None = phil("permutations", None)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    json: str | None = phil("json", "dials.image_spread.json")
    pairs: str | None = phil("pairs", "image_pairs.csv")
    html: str | None = phil("html", "dials.image_spread.html")
    log: str | None = phil("log", "dials.image_spread.log")


@dataclass(frozen=True)
class ImageSpreadRequest:
    """
    What dials.image_spread is asked for; phil/image_spread.phil describes each parameter.

    min_angle in radians, image_width in degrees of rotation (None: of the data), d_min and d_max in Angstrom.
    """

    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    intensity_choice: str = choice("intensity_choice", "scale")
    variance: str = choice("variance", "counting")
    compare: str = choice("compare", "none")
    outliers: str = choice("outliers", "exclude")
    dynamical: str | None = phil("dynamical", None)
    match: str = choice("match", "auto")
    min_common: int = phil("min_common", 5)
    min_angle: float = phil("min_angle", 0.0, convert=radians)
    max_pairs: int = phil("max_pairs", 5000)
    image_width: float | None = phil("image_width", None)
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    space_group: str | None = phil("space_group", None, convert=symbol)
    strong: float = phil("strong", 3.0)
    n_shells: int = phil("n_shells", 10)
    beam: Beam = part("beam", Beam)
    random_match: RandomMatch = part("random_match", RandomMatch)
    zone_axis_index: int = phil("zone_axis.max_index", 2)
    seed: int = phil("seed", 0)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and for limits that cross."""
        from dials.util import Sorry

        check_values("image_spread", self)
        check_limits(self)
        outer, inner = self.beam.annulus
        if inner >= outer:
            raise Sorry(f"beam.annulus={outer:g} {inner:g} ends before it begins: the larger resolution comes first.")
