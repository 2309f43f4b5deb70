"""The Request of dials.reference_intensities."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, part, phil, symbol, texts
from dials_postrefine.settings.limits import check_values
from dials_postrefine.settings.reference_model import ReferenceModel


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    mtz: str | None = phil("mtz", "reference.mtz")
    reflections: str | None = phil("reflections", "reference.refl")
    experiments: str | None = phil("experiments", "reference.expt")
    log: str | None = phil("log", "dials.reference_intensities.log")
    json: str | None = phil("json", "dials.reference_intensities.json")


@dataclass(frozen=True)
class ReferenceIntensitiesRequest:
    """
    What dials.reference_intensities is asked for; phil/reference_intensities.phil describes each parameter.

    wavelength in Angstrom, None for that of the data.
    """

    reference: str | None = phil("input.reference", None)
    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    intensity_choice: str = choice("input.intensity_choice", "sum")
    data: str | None = phil("input.data", None)
    data_labels: str | None = phil("input.data_labels", None)
    wavelength: float | None = phil("input.wavelength", None)
    space_group: str | None = phil("space_group", None, convert=symbol)
    merge_friedel_mates: bool = phil("merge_friedel_mates", True)
    reference_model: ReferenceModel = part("reference_model", ReferenceModel)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and where there is nothing to calculate."""
        from dials.util import Sorry

        check_values("reference_intensities", self)
        if not self.reference:
            raise Sorry("A reference is needed: name an atomic model or a reflection file.")
