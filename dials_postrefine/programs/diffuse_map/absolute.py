"""The absolute scale of a map, from the atoms that a unit cell has."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from dials.util import Sorry

from dials_postrefine.settings.diffuse_map import Absolute

if TYPE_CHECKING:
    from dials_postrefine.diffuse.map.merging import Map
    from dials_postrefine.diffuse.map.records import Description


def check_composition(asked: Absolute) -> None:
    """Raises Sorry where the composition is none."""
    from dials_postrefine.scattering.incoherent import parse_composition

    if asked.composition is not None:
        try:
            parse_composition(asked.composition)
        except ValueError as error:
            raise Sorry(
                f"absolute.composition={asked.composition} can't be used, as {error}: give it as 'C3 H7 N O2'."
            ) from None


def find_absolute_scale(asked: Absolute, merged: Map, description: Description) -> tuple[dict | None, list[str]]:
    """The scale as the summary has it, None where it was not asked for or can't be found; and a note of the latter."""
    from dials_postrefine.diffuse.map.absolute import LOWEST, absolute_scale
    from dials_postrefine.scattering.incoherent import independent_scattering, parse_composition

    if asked.composition is None:
        return None, []
    radial = merged.radial
    expected = independent_scattering(parse_composition(asked.composition), radial.s, description.wavelength)
    found = absolute_scale(radial.s, radial.intensity, *expected, asked.b_factor)
    if found is None:
        return None, [
            f"No absolute scale was found, for which a map must reach well beyond {1.0 / LOWEST:.1f} Angstrom with an "
            "isotropic part above zero."
        ]
    return {"composition": asked.composition, "b_factor": asked.b_factor, **asdict(found)}, []
