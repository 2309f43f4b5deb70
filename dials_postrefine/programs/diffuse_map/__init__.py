"""
dials.diffuse_map: images, or the maps of earlier runs -> sums -> a map with its statistics, as files and report.

    series.py    experiments and images -> series of images as arrays
    scaling.py   series -> sums, scaled by symmetry equivalents where that can be done
    absolute.py  the scale of a map by its composition
    sums.py      series, or earlier maps -> sums, and what is to be said of them
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.executors.methods import check_method
from dials_postrefine.programs.diffuse_map.absolute import check_composition, find_absolute_scale
from dials_postrefine.programs.launch import Launch, Result, find_inputs, launched, temporary_names, written
from dials_postrefine.settings.diffuse_map import DiffuseMapRequest

# What maps is imported by the functions: it needs numba, of which check_numba speaks first.
if TYPE_CHECKING:
    from dials_postrefine.diffuse.map.merging import Map
    from dials_postrefine.programs.diffuse_map.sums import MapInput
    from dials_postrefine.report.common.provenance import Provenance

logger = logging.getLogger("dials.diffuse_map")

OPTIONAL = ("ccp4", "anisotropic", "mtz", "delta_pdf", "radial", "html", "json", "log")


def run(request: DiffuseMapRequest, launch: Launch | None = None) -> Result:
    """Map, or add maps, and write; raises Sorry for what can't be used."""
    request.check_input()
    check_numba()
    request.check()
    check_composition(request.absolute)
    check_method(request.mp_method)

    from dials_postrefine.files.safety.outputs import Outputs
    from dials_postrefine.programs.diffuse_map.sums import collect_sums
    from dials_postrefine.report.common.page import write_reports
    from dials_postrefine.report.common.remarks import remark_lines
    from dials_postrefine.report.diffuse.page import make_page
    from dials_postrefine.report.diffuse.text import summary_text

    with launched("dials.diffuse_map", request, launch) as launch:
        request, launch = find_inputs(request, launch, pairs_only=False)
        provenance = launch.provenance
        with Outputs(provenance.inputs) as outputs:
            names = temporary_names(outputs, request.output, ("nxs",), OPTIONAL)
            log.start(launch.verbosity, names["log"], provenance)
            with log.show_progress("image") as progress:
                given = collect_sums(request, provenance, outputs.protect, progress)
            merged, notes = _write_map(given, names)
            if names["mtz"] and not os.path.exists(names["mtz"]):  # a note says why
                outputs.forget(request.output.mtz)
                names["mtz"] = None
            unused = launch.unused_parameters(request, given.chosen)
            absolute, note = find_absolute_scale(request.absolute, merged, given.total.description)
            summary = _summarise(given, merged, provenance, [*notes, *note], unused) | {"absolute": absolute}
            logger.info(summary_text(summary, launch.verbosity > 0))
            sections = given.sections.sections
            write_reports(summary, lambda: make_page(summary, sections), names["json"], names["html"])
            logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, request.output))


def check_numba() -> None:
    """Raises Sorry where there is no numba that can be used."""
    try:
        import numba  # noqa: F401
    except (ImportError, AttributeError) as error:  # the latter beside an old coverage
        raise Sorry(f"numba is needed ({error}): conda install numba, or pip install numba 'coverage>=7'.") from None


def _write_map(given: MapInput, names: dict[str, str | None]) -> tuple[Map, list[str]]:
    """Write the sums, and the map that is made of them: the map, and notes on what was not written."""
    from dials_postrefine.diffuse.map.delta_pdf import transform
    from dials_postrefine.files.maps.sums import write_sums
    from dials_postrefine.files.maps.writing import write_delta_pdf, write_map, write_radial

    write_sums(names["nxs"], given.total)
    merged = given.merge()
    paths = {key: names[key] for key in ("nxs", "ccp4", "anisotropic", "mtz")}
    notes = write_map(merged, given.total.description, **paths, sections=given.sections)
    if names["radial"]:
        write_radial(names["radial"], merged.radial)
    if names["delta_pdf"]:
        write_delta_pdf(names["delta_pdf"], transform(merged), merged.grid, given.total.description)
    return merged, notes


def _summarise(
    given: MapInput, merged: Map, provenance: Provenance, notes: Sequence[str], unused: Sequence[str]
) -> dict:
    """The summary with the remarks on it, which stand between the notes on the map and those on parameters."""
    from dials_postrefine.report.common.remarks import conclude
    from dials_postrefine.report.diffuse.remarks import remarks
    from dials_postrefine.report.diffuse.summary import make_summary

    total = given.total
    summary = make_summary(merged, total.images, total.description.identifiers, {}, given.dataset, given.diagnosis)
    said = conclude([*given.remarks, *notes, *remarks(summary), *unused])
    return summary | {"provenance": provenance.as_dict(), **said}
