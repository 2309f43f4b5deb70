# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_map
"""
Average the pixels of rotation series, or of stills, into a map of reciprocal space: the diffuse scattering between and
under the Bragg peaks, corrected for geometry, polarisation, sensor and air, with its errors and statistics that tell
whether it can be trusted.

Examples::

  dials.diffuse_map refined.expt d_min=1.8

  dials.diffuse_map integrated.expt integrated.refl d_min=1.8 grid.subdivide=3,3,3

  dials.diffuse_map refined.expt background.experiments=empty.expt nproc=4

  dials.diffuse_map add=first.nxs,second.nxs
"""

from __future__ import annotations

import logging
import os
import sys

from dials_postrefine.scopes import load

logger = logging.getLogger("dials.diffuse_map")

phil_scope = load("diffuse_map")

OPTIONAL = ("ccp4", "anisotropic", "mtz", "radial", "html", "json", "log")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_map from the command line."""
    from dials_postrefine.command_line import comma_lists, exit_with_sorry, parse_arguments

    with exit_with_sorry():
        from dials.util import Sorry

        usage = "dials.diffuse_map [options] refined.expt [refined.refl] [more data sets]"
        params, verbosity, provenance = parse_arguments(
            args, phil, usage, __doc__, lambda words: comma_lists(words, ("add", "planes"))
        )
        if params is None:
            return
        if bool(params.input.experiments) == bool(params.add):
            raise Sorry(
                "Either experiments or maps to add are needed: give an .expt file, or add=FIRST.nxs,SECOND.nxs."
            )
        try:
            import numba  # noqa: F401
        except (ImportError, AttributeError) as error:  # the latter beside an old coverage
            raise Sorry(
                f"numba is needed ({error}): conda install numba, or pip install numba 'coverage>=7'."
            ) from None
        map_files(params, verbosity, provenance)


def map_files(params, verbosity: int, provenance) -> None:
    """Read the files that params name, map, write; raises Sorry for input that can't be used."""
    from dials_postrefine import log
    from dials_postrefine.command_line import temporary_names, unused_parameters
    from dials_postrefine.files import map_input, map_sums, maps
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.report import diffuse as report
    from dials_postrefine.report import diffuse_remarks, diffuse_summary, diffuse_text
    from dials_postrefine.report.remarks import conclude, remark_lines
    from dials_postrefine.scopes import map_request

    request = map_request(params)
    with Outputs(provenance.inputs) as outputs:
        names = temporary_names(outputs, params.output, ("nxs",), OPTIONAL)
        log.start(verbosity, names["log"], provenance)
        with log.show_progress("image") as progress:
            given = map_input.collect(request, provenance.version, provenance.parameters, outputs.protect, progress)
        total = given.total
        map_sums.write_sums(names["nxs"], total.sums, total.images, total.grid, total.settings, total.description)
        merged = given.merge()
        paths = {key: names[key] for key in ("nxs", "ccp4", "anisotropic", "mtz")}
        notes = maps.write_map(merged, total.description, **paths, sections=given.sections)
        if names["mtz"] and not os.path.exists(names["mtz"]):  # a note says why
            outputs.forget(params.output.mtz)
        if names["radial"]:
            maps.write_radial(names["radial"], merged.radial)
        summary = diffuse_summary.make_summary(merged, total.images, total.description.identifiers, {}, given.dataset)
        unused = unused_parameters(params, provenance, given.chosen)
        said = conclude([*given.remarks, *notes, *diffuse_remarks.remarks(summary), *unused])
        summary |= {"provenance": provenance.as_dict(), **said}
        logger.info(diffuse_text.text(summary, verbosity > 0))
        report.write_reports(summary, given.sections.sections, names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))


if __name__ == "__main__":
    sys.exit(run())
