"""
dials.postrefine: integrated stills -> postrefined ones, as a scaled table, experiments and report.

Files are read (_read), reference, model and refinement follow (_refine), the summary is made of these (_summarise), and
all is written at the end (_write), which takes apart what was read: memory is tight there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.executors.methods import check_method, spread_work
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.files.dials.experiment_lists import OneSpaceGroup
from dials_postrefine.files.dials.models import detector_distances
from dials_postrefine.files.dials.symmetry import group_operations, map_to_asymmetric_unit
from dials_postrefine.files.dials.tables import write_table
from dials_postrefine.files.dials.versions import available_cores, scaled_history
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.files.stills import handover
from dials_postrefine.files.stills.observations import rows_by_lattice
from dials_postrefine.programs.algorithm_settings import (
    dataset_settings,
    model_candidates,
    reference_settings,
    stills_choice,
)
from dials_postrefine.programs.launch import Launch, Result, find_inputs, launched, temporary_names, written
from dials_postrefine.programs.merged_data import take_reference
from dials_postrefine.programs.stills_input import StillsFiles, read_stills
from dials_postrefine.programs.stills_output import apply_result, lattice_parameters
from dials_postrefine.programs.stills_recording import read_recording
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import DISTRUST, conclude, remark_lines
from dials_postrefine.report.reference import summary as model_report
from dials_postrefine.report.stills import page as report
from dials_postrefine.report.stills import text
from dials_postrefine.report.stills.diagnostics import collect_diagnostics
from dials_postrefine.report.stills.remarks import remarks
from dials_postrefine.report.stills.summary import (
    Counts,
    DatasetFacts,
    ListedLattices,
    count_observations,
    describe_dataset,
    make_summary,
)
from dials_postrefine.report.stills.systematics import describe_systematics
from dials_postrefine.scattering.prior import ModelPrior
from dials_postrefine.settings.postrefine import PostrefineRequest
from dials_postrefine.stills.freereflections import free_set
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import FitReference, make_reference
from dials_postrefine.stills.refinement import Refinement, refine
from dials_postrefine.stills.statistics import ResolutionShells
from dials_postrefine.stills.symmetry import weigh_symmetry
from dials_postrefine.stills.systematics.systematics import find_systematics

logger = logging.getLogger("dials.postrefine")


@dataclass
class _Given:
    """
    What was read: the files; reference, what the lattices are fitted to, with the prior of an atomic model; described,
    what the report says of that, None without one; tally of a reflection file as reference; drawn, the numbers of the
    lattices to draw.
    """

    files: StillsFiles
    reference: FitReference
    described: dict | None = None
    tally: dict | None = None
    drawn: list[int] = field(default_factory=list)

    @property
    def symbol(self) -> str:
        return self.files.space_group.type().lookup_symbol()

    @property
    def identifiers(self) -> list[str]:
        return list(self.files.experiments.identifiers())


def run(request: PostrefineRequest, launch: Launch | None = None) -> Result:
    """Postrefine and write; raises Sorry for input that can't be used."""
    with launched("dials.postrefine", request, launch) as launch:
        request, launch = find_inputs(request, launch, pairs_only=True)
        request.check()
        check_method(request.mp_method)
        output = request.output
        with Outputs(launch.provenance.inputs) as outputs, single_thread():
            names = _names(outputs, output)
            log.start(launch.verbosity, names["log"], launch.provenance)
            given = _read(request)
            refinement = _refine(request, given)
            wide, order = launch.verbosity > 0, given.files.order
            logger.info(text.course(given.identifiers, refinement, order, request.convergence, wide))
            if refinement.statistics is None:
                raise Sorry(text.all_rejected(refinement.result))
            summary = _summarise(request, given, refinement, launch)
            logger.info(text.outcome(summary, wide))
            if given.described is not None:
                logger.info(model_report.share_text(given.described["share"]))
            write_reports(summary, lambda: report.make_page(summary), names["json"], names["html"])
            _write(given, refinement, names)
            commands = [summary["merge_command"], summary["xfel_merge_command"]]
            kept = "it all the same" if summary["verdict"]["grade"] == DISTRUST else "what was kept"
            logger.info("\nTo merge %s:\n\n  %s\n", kept, "\n\n  ".join(filter(None, commands)))
            logger.info(remark_lines(summary))
        if output.mtz:
            with Outputs() as outputs:
                handover.merge_to_mtz(summary["merge_command"], outputs.temporary(output.mtz))
    pair = handover.xfel_merge_files(output.xfel_merge)
    files = written(names, output) | dict(zip(("xfel_experiments", "xfel_reflections"), pair))
    return Result(summary, files)


def _names(outputs: Outputs, output) -> dict[str, str | None]:
    """Where to write each file; what is there of an earlier MTZ stays until the others are written."""
    names = temporary_names(outputs, output, ("experiments", "reflections"), ("log", "json", "html", "mtz"))
    if names["mtz"]:  # can be written, but is not before the others are
        outputs.forget(output.mtz)
    pair = [outputs.temporary(name) for name in handover.xfel_merge_files(output.xfel_merge)]
    names["xfel_experiments"], names["xfel_reflections"] = pair or (None, None)
    return names


def _read(request: PostrefineRequest) -> _Given:
    """Read stills and reference, and say what they are."""
    settings, reindex = reference_settings(request.reference_model), request.reindex == "auto"
    files = read_stills(request.experiments, request.reflections, stills_choice(request))
    files, intensity, model = take_reference(files, request.reference, settings, reindex)
    free, prior = None, None
    if request.cross_validation == "free_reflections":
        # the same for both of a Friedel pair, one of which tells of the other
        one_of_pair = map_to_asymmetric_unit(files.h_unique, files.space_group)
        free = free_set(one_of_pair, request.free_fraction, request.seed)
    if model is not None:
        wilson = files.stills.prior
        prior = ModelPrior(intensity, files.d_star_sq, wilson.epsilon, wilson.centric)
    given = _Given(files, make_reference(intensity, free, prior, files.friedel_merged))
    given.drawn = report.numbers_of(given.identifiers, request.lattice_plots)
    found = files.cell, files.usable.n_excluded, files.ambiguity, files.cell_choices.counts(), files.choice.reindex
    logger.info(text.input_lines(files.stills, given.symbol, *found))
    if files.reference_tally is not None:
        given.tally = model_report.describe_tally(files.reference_tally)
        logger.info("\n".join(model_report.tally_lines(given.tally, "reference")))
    if model is not None:
        given.described = model_report.summarise(request.reference, model)
        logger.info(model_report.text(given.described))
    return given


def _refine(request: PostrefineRequest, given: _Given) -> Refinement:
    """Refine with as many processes as are wanted and useful."""
    files = given.files
    with log.show_progress("lattice") as show:
        how = request.mp_method, request.nproc, available_cores()
        work, words = spread_work(*how, show, request.seed, files.stills.n_lattices)
        logger.info(words)
        return refine(
            files.stills,
            dataset_settings(request),
            model_candidates(request),
            ResolutionShells(files.d_star_sq, files.complete, request.n_shells, files.complete_pairs),
            given.reference,
            half_sets=request.cross_validation == "half_sets",
            run=work,
        )


def _summarise(request: PostrefineRequest, given: _Given, refinement: Refinement, launch: Launch) -> dict:
    """The summary with its remarks; the share of the data beside a model is added to what describes that."""
    files, stills, result, described = given.files, given.files.stills, refinement.result, given.described
    pair = request.output.experiments, request.output.reflections
    merge_command = text.merge_command(*pair, request.partiality_threshold, stills.s0[result.accepted])
    if described is not None:
        weighed = given.reference.prior.last if len(result.cycles) > 1 else None
        described["share"] = model_report.describe_share(weighed, files.d_star_sq)
    parameters = [lattice_parameters(result, k, files.ambiguity) for k in range(stills.n_lattices)]
    counts = count_observations(stills, result, rows_by_lattice(files))
    operations = group_operations(files.experiments, files.space_group)
    record = make_summary(
        refinement,
        ListedLattices(given.identifiers, parameters, counts, files.order),
        dataset=_describe_dataset(request, given, result, counts),
        diagnostics=collect_diagnostics(stills, result, refinement.observed, files.d_star_sq, given.drawn),
        symmetry=weigh_symmetry(stills, result.linear_scale, result.accepted, files.d_star_sq, *operations),
    )
    recording = read_recording(files)
    where = (
        request.output.xfel_merge,
        files.space_group,
        files.cell,
        refinement.statistics.d_min,
        request.anomalous,
    )
    record |= {
        "systematics": describe_systematics(find_systematics(stills, result, recording, given.reference)),
        "merge_command": merge_command,
        "xfel_merge_command": handover.xfel_merge_command(*where),
        "reference_model": described,
        "reference_observations": given.tally,
        "provenance": launch.provenance.as_dict(),
    }
    said = [] if given.tally is None else model_report.tally_remarks(given.tally, given.symbol)
    said += described["notes"] if described else []
    if request.polarization_fraction is not None and np.isnan(recording.fraction).all():
        said.append("polarization_fraction= has no effect, as the radiation is not X-rays.")
    return record | conclude([*remarks(record), *said, *launch.unused_parameters(request)])


def _describe_dataset(request: PostrefineRequest, given: _Given, result: PostrefinedStills, counts: Counts) -> dict:
    files = given.files
    facts = DatasetFacts(
        space_group=given.symbol,
        cell=files.cell,
        n_excluded=files.usable.n_excluded,
        reference=request.reference,
        anomalous=request.anomalous,
        convergence=request.convergence,
        cell_choices=files.cell_choices.counts(),
        reindexed=files.choice.reindex,
        other_cells=files.cell_choices.others,
        distances=detector_distances(files.experiments),
    )
    return describe_dataset(files.stills, result, counts, facts)


def _write(given: _Given, refinement: Refinement, names: dict[str, str | None]) -> None:
    """Write tables and experiments; files, result and statistics are gone afterwards."""
    files = given.files
    apply_result(files, refinement.result)
    write_table(files.table, names["reflections"])
    if names["xfel_reflections"]:
        write_table(
            handover.xfel_merge_table(files.table, files.experiments, files.choice.anomalous), names["xfel_reflections"]
        )
    # what the experiments become on their way to a file is large: make room first
    del files.table, files.usable, files.stills, given.reference, refinement.result, refinement.statistics
    experiments = OneSpaceGroup(files.experiments, files.space_group)
    for name in filter(None, (names["experiments"], names["xfel_experiments"])):
        experiments.as_file(name, **scaled_history(experiments))
