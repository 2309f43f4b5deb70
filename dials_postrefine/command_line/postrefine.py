# LIBTBX_SET_DISPATCHER_NAME dials.postrefine
"""
Postrefine stills: refine the scale, B factor, orientation and reciprocal-lattice point radius of each lattice against
reference intensities, and write a scaled table that dials.merge, dials.export and dials.report take.

Without a reference, the scaled mean of the data themselves is used and improved from cycle to cycle.

Examples::

  dials.postrefine integrated.expt integrated.refl

  dials.postrefine integrated.expt integrated.refl reference=model.mtz space_group=P43212

  dials.postrefine run_1.expt run_1.refl run_2.expt run_2.refl d_min=1.8 nproc=8
"""

from __future__ import annotations

import logging
import sys
from collections import Counter

import dials_postrefine
from dials_postrefine.scopes import load

logger = logging.getLogger("dials.postrefine")

phil_scope = load("postrefine")

FAR_FROM_SETTLED = 10.0  # times the convergence limit, after the last cycle


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.postrefine from the command line."""
    from dials.util import Sorry

    from dials_postrefine.command_line import exit_with_sorry, parse_arguments

    with exit_with_sorry():
        usage = "dials.postrefine [options] integrated.expt integrated.refl [more pairs] [reference=FILE]"
        params, verbosity, diff_phil = parse_arguments(args, phil, usage, __doc__)
        if params is None:
            return
        if not params.input.experiments or not params.input.reflections:
            raise Sorry("Both experiments (.expt) and reflections (.refl) are needed: name one or more pairs of files.")
        postrefine_files(params, verbosity, diff_phil)


def postrefine_files(params, verbosity: int = 0, diff_phil: str = "") -> None:
    """Read the files that params name, postrefine, write; raises Sorry for input that can't be used."""
    from dials.util import Sorry, log
    from dials.util.version import dials_version
    from libtbx import Auto

    from dials_postrefine.command_line import show_progress, temporary_names
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.files.reference import align, read_reference
    from dials_postrefine.files.stills import apply_result, lattice_parameters, read_stills, resolve_ambiguity
    from dials_postrefine.files.versions import available_cores, scaled_history
    from dials_postrefine.report import summary, text
    from dials_postrefine.scopes import candidates, dataset_settings, free_reflections, input_filters, word
    from dials_postrefine.stills.crossvalidation import merge_half_sets
    from dials_postrefine.stills.cycles import postrefine
    from dials_postrefine.stills.selection import choose_model
    from dials_postrefine.stills.statistics import collect_statistics

    nproc = available_cores() if params.nproc in (None, Auto) else params.nproc
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise Sorry(f"d_min={params.d_min:g} is not below d_max={params.d_max:g}: d_min is the high resolution limit.")
    with Outputs() as outputs:
        names = temporary_names(outputs, params.output, ("experiments", "reflections"), ("log", "json"))
        log.config(verbosity, logfile=names["log"])
        logger.info("%s, dials_postrefine %s", dials_version(), dials_postrefine.__version__)
        if diff_phil:
            logger.info("The following parameters have been modified:\n\n%s", diff_phil)

        space_group = str(params.space_group) if params.space_group else None
        files = read_stills(
            params.input.experiments,
            params.input.reflections,
            space_group,
            params.intensity_choice,
            params.d_min,
            params.d_max,
            params.seed,
            input_filters(params),
        )
        external = read_reference(params.reference, files.space_group, files.cell) if params.reference else None
        if word(params.reindex) == "auto":
            files = resolve_ambiguity(files, external)
        stills, identifiers = files.stills, list(files.experiments.identifiers())
        symbol, excluded = files.space_group.type().lookup_symbol(), files.usable.n_excluded
        logger.info(text.input_lines(stills, symbol, files.cell, excluded, files.ambiguity))
        reference = None
        if stills.n_lattices == 1 and not params.reference:
            raise Sorry("A single lattice can't be postrefined against itself: give more lattices, or a reference.")
        if params.reference:
            reference = align(files.h_unique, *external)
            reference[stills.absent] = float("nan")
            if not (reference == reference).any():
                raise Sorry(f"No observed reflection is in the reference {params.reference}: check its resolution.")

        free = free_reflections(params, files.h_unique)
        with show_progress("lattice") as show:
            nproc = min(nproc, stills.n_lattices)
            settings, tried = choose_model(
                stills, dataset_settings(params), *candidates(params), reference, nproc, params.seed, show, free
            )
            result = postrefine(stills, settings, reference, nproc, show, free)
            honest = None
            if reference is None and word(params.cross_validation) == "half_sets" and result.accepted.any():
                honest = merge_half_sets(stills, settings, files.d_star_sq, nproc, show)
        logger.info(text.course(identifiers, result, tried))
        change = result.cycles[-1].change
        if params.n_cycles in (None, Auto) and change > FAR_FROM_SETTLED * params.convergence:
            logger.warning(text.unsettled_warning(change))
        if not result.accepted.any():
            reason = Counter(reason.value for reason in result.reasons).most_common(1)[0][0]
            raise Sorry(
                f"All {stills.n_lattices} lattices were rejected, most often because of '{reason}': check space group, "
                "resolution limits and reference."
            )

        statistics = collect_statistics(
            stills, result, reference, files.d_star_sq, files.complete, params.n_shells, honest
        )
        merge_command = text.merge_command(
            params.output.experiments, params.output.reflections, params.partiality_threshold, stills.s0
        )
        logger.info(text.outcome(stills, result, statistics))

        if names["json"]:
            parameters = [lattice_parameters(result, k, files.ambiguity) for k in range(stills.n_lattices)]
            record = summary.make_summary(identifiers, result, statistics, parameters, merge_command)
            summary.write_summary(record, names["json"])
        apply_result(files, result)
        files.table.as_file(names["reflections"])
        # what the experiments become on their way to a file is large: make room first
        files.table = files.usable = files.stills = stills = result = statistics = reference = None
        files.experiments.as_file(names["experiments"], **scaled_history(files.experiments))
        logger.info("\nTo merge what was kept:\n\n  %s\n", merge_command)


if __name__ == "__main__":
    sys.exit(run())
