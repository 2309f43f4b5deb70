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

import dials_postrefine
from dials_postrefine.scopes import load

logger = logging.getLogger("dials.postrefine")

phil_scope = load("postrefine")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.postrefine from the command line."""
    from dials_postrefine.command_line import exit_with_sorry, parse_arguments

    with exit_with_sorry():
        from dials.util import Sorry

        usage = "dials.postrefine [options] integrated.expt integrated.refl [more pairs] [reference=FILE]"
        params, verbosity, diff_phil = parse_arguments(args, phil, usage, __doc__)
        if params is None:
            return
        if not params.input.experiments or not params.input.reflections:
            raise Sorry("Both experiments (.expt) and reflections (.refl) are needed: name one or more pairs of files.")
        postrefine_files(params, verbosity, diff_phil)


def postrefine_files(params, verbosity: int = 0, diff_phil: str = "") -> None:
    """Read the files that params name, postrefine, write; raises Sorry for input that can't be used."""
    from dials.util import Sorry
    from dials.util.version import dials_version
    from libtbx import Auto

    from dials_postrefine.command_line import configure_log, show_progress, temporary_names
    from dials_postrefine.files import handover
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.files.stills import apply_result, lattice_parameters, read_stills, take_reference
    from dials_postrefine.files.tables import write_table
    from dials_postrefine.files.versions import available_cores, scaled_history
    from dials_postrefine.parallel import single_thread
    from dials_postrefine.report import stills as report
    from dials_postrefine.report import text
    from dials_postrefine.report.diagnostics import collect_diagnostics
    from dials_postrefine.report.summary import describe_dataset, make_summary
    from dials_postrefine.scopes import candidates, dataset_settings, free_reflections, input_filters, word
    from dials_postrefine.stills.crossvalidation import merge_half_sets
    from dials_postrefine.stills.cycles import postrefine
    from dials_postrefine.stills.selection import choose_model
    from dials_postrefine.stills.statistics import collect_statistics

    cores = available_cores()
    nproc = cores if params.nproc in (None, Auto) else params.nproc
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise Sorry(f"d_min={params.d_min:g} is not below d_max={params.d_max:g}: d_min is the high resolution limit.")
    with Outputs() as outputs, single_thread():
        names = temporary_names(outputs, params.output, ("experiments", "reflections"), ("log", "json", "html", "mtz"))
        if names["mtz"]:  # can be written, but is not before the others are
            outputs.forget(params.output.mtz)
        prefix = params.output.xfel_merge
        handed_over = [outputs.temporary(name) for name in handover.xfel_merge_files(prefix)]
        configure_log(verbosity, names["log"])
        version = f"{dials_version()}, dials_postrefine {dials_postrefine.__version__}"
        logger.info(version)
        if diff_phil:
            logger.info("The following parameters have been modified:\n\n%s", diff_phil)

        files = read_stills(
            params.input.experiments,
            params.input.reflections,
            str(params.space_group) if params.space_group else None,
            params.intensity_choice,
            params.d_min,
            params.d_max,
            params.seed,
            input_filters(params),
        )
        files, reference = take_reference(files, params.reference, word(params.reindex) == "auto")
        stills, identifiers = files.stills, list(files.experiments.identifiers())
        symbol, excluded = files.space_group.type().lookup_symbol(), files.usable.n_excluded
        drawn = report.numbers_of(identifiers, params.lattice_plots)
        logger.info(text.input_lines(stills, symbol, files.cell, excluded, files.ambiguity))
        free = free_reflections(params, files.h_unique)
        nproc = min(nproc, stills.n_lattices)
        logger.info("Processes: %d of one thread each, on %d cores", nproc, cores)
        with show_progress("lattice") as show:
            settings, tried = choose_model(
                stills, dataset_settings(params), *candidates(params), reference, nproc, params.seed, show, free
            )
            result = postrefine(stills, settings, reference, nproc, show, free)
            honest = None
            if reference is None and word(params.cross_validation) == "half_sets" and result.accepted.any():
                honest = merge_half_sets(stills, settings, files.d_star_sq, nproc, show)
        logger.info(text.course(identifiers, result, tried, files.order))
        change = result.cycles[-1].change
        if params.n_cycles in (None, Auto) and change > text.FAR_FROM_SETTLED * params.convergence:
            logger.warning(text.unsettled_warning(change))
        if not result.accepted.any():
            raise Sorry(text.all_rejected(result))

        statistics = collect_statistics(
            stills, result, reference, files.d_star_sq, files.complete, params.n_shells, honest
        )
        merge_command = text.merge_command(
            params.output.experiments, params.output.reflections, params.partiality_threshold, stills.s0
        )
        logger.info(text.outcome(stills, result, statistics))

        parameters = [lattice_parameters(result, k, files.ambiguity) for k in range(stills.n_lattices)]
        dataset = describe_dataset(stills, result, symbol, files.cell, excluded, params.reference, params.convergence)
        diagnostics = collect_diagnostics(stills, result, reference, files.d_star_sq, drawn)
        described = (merge_command, diagnostics, dataset, tried, files.order)
        record = make_summary(identifiers, result, statistics, parameters, *described)
        xfel_merge = handover.xfel_merge_command(prefix, files.space_group, files.cell, files.d_star_sq)
        report.write_reports({**record, "xfel_merge_command": xfel_merge}, version, names["json"], names["html"])
        correlations = {
            lattice: (fit.correlation_before, fit.correlation_after) for lattice, fit in zip(identifiers, result.fits)
        }
        apply_result(files, result)
        write_table(files.table, names["reflections"])
        if prefix:
            write_table(handover.xfel_merge_table(files.table, files.space_group, correlations), handed_over[1])
        # what the experiments become on their way to a file is large: make room first
        files.table = files.usable = files.stills = stills = result = statistics = reference = None
        for name in (names["experiments"], *handed_over[:1]):
            files.experiments.as_file(name, **scaled_history(files.experiments))
        commands = [merge_command, *([xfel_merge] if prefix else [])]
        logger.info("\nTo merge what was kept:\n\n  %s\n", "\n\n  ".join(commands))
    if params.output.mtz:
        with Outputs() as outputs:
            handover.merge_to_mtz(merge_command, outputs.temporary(params.output.mtz))


if __name__ == "__main__":
    sys.exit(run())
