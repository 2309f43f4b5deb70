# LIBTBX_SET_DISPATCHER_NAME dials.image_spread
"""
Measure how reproducible scaled intensities are from image to image: which images show the same reflections, how far
these differ, whether more than their errors allow (the excess relative spread tau), and what it depends on.

Made for electron diffraction, where dynamical scattering spreads symmetry mates; X-ray data sets run the same way and
give the comparison.

Examples::

  dials.image_spread scaled.expt scaled.refl match=laue

  dials.image_spread scaled.expt scaled.refl match=laue min_angle=5 compare=profile

  dials.image_spread first.expt first.refl second.expt second.refl image_width=1
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace

from dials_postrefine.scopes import load

logger = logging.getLogger("dials.image_spread")

phil_scope = load("image_spread")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.image_spread from the command line."""
    from dials_postrefine.command_line import exit_with_sorry, parse_arguments

    with exit_with_sorry():
        usage = "dials.image_spread [options] scaled.expt scaled.refl [more pairs]"
        params, verbosity, provenance = parse_arguments(args, phil, usage, __doc__)
        if params is not None:
            analyse_files(params, verbosity, provenance)


def analyse_files(params, verbosity: int, provenance) -> None:
    """Read the files that params name, analyse, write; raises Sorry for input that can't be used."""
    from dials.util import Sorry

    from dials_postrefine import log
    from dials_postrefine.command_line import temporary_names, unused_parameters
    from dials_postrefine.electron.images import Unusable
    from dials_postrefine.electron.imagespread import analyse, measure_overall
    from dials_postrefine.files.image_pairs import write_pairs
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.files.scaled_images import read_images
    from dials_postrefine.report import spread as report
    from dials_postrefine.report import spread_figures, spread_summary, spread_text
    from dials_postrefine.report.remarks import remark_lines
    from dials_postrefine.scopes import compared_column, image_choice, spread_settings

    choice, settings = image_choice(params), spread_settings(params)
    column = compared_column(params)
    with Outputs(provenance.inputs) as outputs:
        names = temporary_names(outputs, params.output, (), ("json", "pairs", "html", "log"))
        log.start(verbosity, names["log"], provenance)
        with log.show_progress("step") as progress:
            files = read_images(params.input.experiments, params.input.reflections, choice, progress)
            try:
                found = analyse(files.images, settings, progress)
                used = replace(settings, match=found.pairs.match)
                others = None if column is None else files.of_column(column)
                other = None if others is None else (column, measure_overall(others[0], used))
            except Unusable as error:
                raise Sorry(str(error)) from None
        if settings.match == "auto":
            logger.info("Images are compared by match=%s (match=auto)", used.match)
        pairs_file = os.path.basename(params.output.pairs) if names["pairs"] else None
        summary = spread_summary.make_summary(
            files, choice, used, found, other, pairs_file, unused_parameters(params, provenance)
        )
        summary["provenance"] = provenance.as_dict()
        logger.info(spread_text.text(summary, verbosity > 0))
        if names["pairs"]:
            write_pairs(names["pairs"], files, found)
        figures = spread_figures.collect(files.images, found, found.pairs.match)
        report.write_reports(summary, figures, names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))


if __name__ == "__main__":
    sys.exit(run())
