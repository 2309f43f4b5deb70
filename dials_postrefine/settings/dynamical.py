"""The Request of dials.dynamical."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, part, phil, texts
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values


@dataclass(frozen=True)
class Thickness:
    """Where it starts, None: the best between least and most (Angstrom); one or by_frame; its distribution."""

    start: float | None = phil("start", None)
    least: float = phil("min", 50.0)
    most: float = phil("max", 2000.0)
    model: str = choice("model", "one")
    distribution: str = choice("distribution", "none")


@dataclass(frozen=True)
class Beams:
    """g_max and s_max in 1/Angstrom, step in degrees; None: of the data."""

    g_max: float | None = phil("g_max", None)
    s_max: float = phil("s_max", 0.02)
    step: float | None = phil("step", None)


@dataclass(frozen=True)
class Restrain:
    """Standard deviation of orientations, degrees."""

    orientation: float = phil("orientation", 0.2)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    experiments: str | None = phil("experiments", "dynamical.expt")
    reflections: str | None = phil("reflections", "dynamical.refl")
    structure: str | None = phil("structure", "dynamical.cif")
    observations: str | None = phil("observations", "dynamical.csv")
    json: str | None = phil("json", "dials.dynamical.json")
    html: str | None = phil("html", "dials.dynamical.html")
    log: str | None = phil("log", "dials.dynamical.log")


@dataclass(frozen=True)
class DynamicalRequest:
    """
    What dials.dynamical is asked for; phil/dynamical.phil describes each parameter.

    image_width in degrees of rotation (None: of the data), d_min and d_max in Angstrom.
    """

    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    structure: str | None = phil("input.structure", None)
    data: str | None = phil("input.data", None)
    intensity_choice: str = choice("intensity_choice", "scale")
    outliers: str = choice("outliers", "exclude")
    image_width: float | None = phil("image_width", None)
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    refine: tuple[str, ...] = phil("refine", ("auto",), convert=texts)
    hand: str = choice("hand", "auto")
    ions: str = choice("ions", "neutral")
    compare: str = choice("compare", "none")
    thickness: Thickness = part("thickness", Thickness)
    beams: Beams = part("beams", Beams)
    restrain: Restrain = part("restrain", Restrain)
    seed: int = phil("seed", 0)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and where there is nothing to calculate."""
        from dials.util import Sorry

        check_values("dynamical", self)
        check_limits(self)
        if not self.structure:
            raise Sorry("A structure is needed: give its CIF.")
        if self.data and (self.experiments or self.reflections):
            raise Sorry(f"Both data={self.data} and .expt or .refl files are given: give one of them.")
        if not self.data and not (self.experiments and self.reflections):
            raise Sorry("Data are needed: give a scaled .expt file with its .refl file, or data=frames.cif_pets.")
        if self.thickness.least >= self.thickness.most:
            raise Sorry("thickness.min= is not below thickness.max=: between them the thickness is looked for.")
        if self.compare == "order" and self.data:
            raise Sorry(
                "compare=order needs the .expt and .refl files of DIALS, whose intensities dials.scale can scale."
            )
