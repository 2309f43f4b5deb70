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

from dials_postrefine import scopes

logger = logging.getLogger("dials.postrefine")

phil_scope = scopes.load("postrefine")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.postrefine from the command line."""
    from dials_postrefine.command_line import exit_with_sorry, parse_arguments

    with exit_with_sorry():
        from dials.util import Sorry

        usage = "dials.postrefine [options] integrated.expt integrated.refl [more pairs] [reference=FILE]"
        params, verbosity, provenance = parse_arguments(args, phil, usage, __doc__)
        if params is None:
            return
        if not params.input.experiments or not params.input.reflections:
            raise Sorry("Both experiments (.expt) and reflections (.refl) are needed: name one or more pairs of files.")
        postrefine_files(params, verbosity, provenance)


def postrefine_files(params, verbosity: int, provenance) -> None:
    """Read the files that params name, postrefine, write; raises Sorry for input that can't be used."""
    from dials.util import Sorry
    from libtbx import Auto

    from dials_postrefine import log
    from dials_postrefine.command_line import temporary_names, unused_parameters
    from dials_postrefine.files import handover
    from dials_postrefine.files.merged_data import take_reference
    from dials_postrefine.files.models import detector_distances
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.files.stills import apply_result, lattice_parameters, read_stills, rows_by_lattice
    from dials_postrefine.files.symmetry import group_operations
    from dials_postrefine.files.tables import write_table
    from dials_postrefine.files.versions import available_cores, scaled_history
    from dials_postrefine.parallel import single_thread
    from dials_postrefine.report import reference as model_report
    from dials_postrefine.report import stills as report
    from dials_postrefine.report import text
    from dials_postrefine.report.diagnostics import collect_diagnostics
    from dials_postrefine.report.remarks import conclude, remark_lines
    from dials_postrefine.report.stills_remarks import remarks
    from dials_postrefine.report.summary import count_observations, describe_dataset, make_summary
    from dials_postrefine.scattering.prior import ModelPrior
    from dials_postrefine.stills.refinement import refine
    from dials_postrefine.stills.symmetry import weigh_symmetry

    cores = available_cores()
    nproc = cores if params.nproc in (None, Auto) else params.nproc
    given = scopes.reading(params)
    with Outputs(provenance.inputs) as outputs, single_thread():
        names = temporary_names(outputs, params.output, ("experiments", "reflections"), ("log", "json", "html", "mtz"))
        if names["mtz"]:  # can be written, but is not before the others are
            outputs.forget(params.output.mtz)
        prefix = params.output.xfel_merge
        handed_over = [outputs.temporary(name) for name in handover.xfel_merge_files(prefix)]
        log.start(verbosity, names["log"], provenance)

        files, reference, model = take_reference(
            read_stills(**given),
            params.reference,
            scopes.reference_settings(params.reference_model),
            scopes.word(params.reindex) == "auto",
        )
        stills, identifiers = files.stills, list(files.experiments.identifiers())
        symbol, excluded = files.space_group.type().lookup_symbol(), files.usable.n_excluded
        drawn = report.numbers_of(identifiers, params.lattice_plots)
        choices = files.choices.counts(), files.reindexed
        logger.info(text.input_lines(stills, symbol, files.cell, excluded, files.ambiguity, *choices))
        described, prior, tally = None, None, files.reference_tally
        if tally is not None:
            tally = model_report.describe_tally(tally)
            logger.info("\n".join(model_report.tally_lines(tally, "reference")))
        if model is not None:
            described = model_report.summarise(params.reference, model)
            logger.info(model_report.text(described))
            prior = ModelPrior(reference, files.d_star_sq, stills.prior.epsilon, stills.prior.centric)

        nproc = min(nproc, stills.n_lattices)
        logger.info("Processes: %d of one thread each, on %d cores", nproc, cores)
        with log.show_progress("lattice") as show:
            own = {"reference": reference, "prior": prior, "nproc": nproc, "progress": show}
            shared = scopes.refining(params, files.h_unique)
            refinement = refine(stills, d_star_sq=files.d_star_sq, complete=files.complete, **shared, **own)
        result, statistics, tried = refinement.result, refinement.statistics, refinement.tried
        logger.info(text.course(identifiers, result, tried, files.order, params.convergence, verbosity > 0))
        if statistics is None:
            raise Sorry(text.all_rejected(result))

        pair = params.output.experiments, params.output.reflections
        merge_command = text.merge_command(*pair, params.partiality_threshold, stills.s0[result.accepted])
        if model is not None:
            weighed = prior.last if len(result.cycles) > 1 else None
            described["share"] = model_report.describe_share(weighed, files.d_star_sq)
        parameters = [lattice_parameters(result, k, files.ambiguity) for k in range(stills.n_lattices)]
        counts = count_observations(stills, result, rows_by_lattice(files))
        distances = detector_distances(files.experiments)
        about = (counts, params.reference, params.convergence, *choices, files.choices.others, distances)
        dataset = describe_dataset(stills, result, symbol, files.cell, excluded, *about)
        operations = group_operations(files.experiments, files.space_group)
        evidence = weigh_symmetry(stills, result.linear_scale, result.accepted, files.d_star_sq, *operations)
        diagnostics = collect_diagnostics(stills, result, reference, files.d_star_sq, drawn)
        of_run = (merge_command, diagnostics, dataset, counts, evidence, tried, files.order)
        record = make_summary(identifiers, result, statistics, parameters, *of_run)
        xfel_merge = handover.xfel_merge_command(prefix, files.space_group, files.cell, statistics.d_min)
        record |= {
            "xfel_merge_command": xfel_merge,
            "reference_model": described,
            "reference_observations": tally,
            "provenance": provenance.as_dict(),
        }
        said = [] if tally is None else model_report.tally_remarks(tally, symbol)
        said += described["notes"] if described else []
        record |= conclude([*remarks(record), *said, *unused_parameters(params, provenance)])
        logger.info(text.outcome(record, verbosity > 0))
        if model is not None:
            logger.info(model_report.share_text(described["share"]))
        report.write_reports(record, names["json"], names["html"])
        apply_result(files, result)
        write_table(files.table, names["reflections"])
        if prefix:
            write_table(handover.xfel_merge_table(files.table, files.experiments), handed_over[1])
        # what the experiments become on their way to a file is large: make room first
        files.table = files.usable = files.stills = stills = result = statistics = reference = None
        for name in (names["experiments"], *handed_over[:1]):
            files.experiments.as_file(name, **scaled_history(files.experiments))
        commands = [merge_command, *([xfel_merge] if prefix else [])]
        logger.info("\nTo merge what was kept:\n\n  %s\n", "\n\n  ".join(commands))
        logger.info(remark_lines(record))
    if params.output.mtz:
        with Outputs() as outputs:
            handover.merge_to_mtz(merge_command, outputs.temporary(params.output.mtz))


if __name__ == "__main__":
    sys.exit(run())
