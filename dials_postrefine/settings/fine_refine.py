"""The Request of dials.fine_refine."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, part, phil, texts, word_for_auto
from dials_postrefine.settings.limits import check_values


@dataclass(frozen=True)
class FineBeams:
    """Which beams there are: how many at most, largest |g| and excitation error (1/Angstrom); what more would do."""

    most: int | None = phil("most", None)
    g_max: float = phil("g_max", 3.0)
    s_max: float = phil("s_max", 0.04)
    sensitivity: bool = phil("sensitivity", True)


@dataclass(frozen=True)
class FineDetector:
    """The detector (Zuo 2000), and a kernel to deconvolve by."""

    var_b: float = phil("var_b", 0.0)
    delta: float = phil("delta", 0.0)
    a: float = phil("a", 1.0)
    gain: float | None = phil("gain", None)
    m: float = phil("m", 1.0)
    deconvolved: bool = phil("deconvolved", False)
    mtf: str | None = phil("mtf", None)
    mtf_iterations: int = phil("mtf_iterations", 10)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    json: str | None = phil("json", "dials.fine_refine.json")
    cif: str | None = phil("cif", "fine_refine.cif")
    html: str | None = phil("html", "dials.fine_refine.html")
    log: str | None = phil("log", "dials.fine_refine.log")


@dataclass(frozen=True)
class FineRefineRequest:
    """
    What dials.fine_refine is asked for; phil/fine_refine.phil describes each parameter.

    energy in volts, b_iso in Angstrom^2.
    """

    pattern: str | None = phil("input.pattern", None)
    structure: str | None = phil("input.structure", None)
    geometry: str | None = phil("input.geometry", None)
    energy: float | None = phil("energy", None)
    structure_factors: tuple[str, ...] = phil("structure_factors", (), convert=texts)
    phases: str = choice("phases", "fixed")
    refine: tuple[str, ...] = phil("refine", ("auto",), convert=texts)
    start: tuple[str, ...] = phil("start", (), convert=texts)
    range: tuple[str, ...] = phil("range", (), convert=texts)
    bound: bool = phil("bound", False)
    gof: str = phil("gof", "auto", convert=word_for_auto)
    disk_scale: str = choice("disk_scale", "auto")
    method: str = choice("method", "auto")
    max_iterations: int = phil("max_iterations", 40)
    pixel_step: int | None = phil("pixel_step", None)
    coarse: bool = phil("coarse", True)
    b_iso: float | None = phil("b_iso", None)
    origin: str = choice("origin", "auto")
    beams: FineBeams = part("beams", FineBeams)
    detector: FineDetector = part("detector", FineDetector)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have."""
        check_values("fine_refine", self)
