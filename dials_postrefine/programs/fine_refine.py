"""dials.fine_refine: a convergent-beam pattern and a structure -> U, U' and all else that is refined, with esds."""

from __future__ import annotations

import logging

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.fine.factors import structure_factor
from dials_postrefine.electron.fine.sensitivity import shift_by_beams
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.files.electron.structure_factors import write_structure_factors
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.programs.fine_refine_fits import refine
from dials_postrefine.programs.fine_refine_input import prepare
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.fine.page import make_page
from dials_postrefine.report.fine.summary import make_summary
from dials_postrefine.report.fine.text import text
from dials_postrefine.settings.fine_refine import FineRefineRequest

logger = logging.getLogger("dials.fine_refine")


def run(request: FineRefineRequest, launch: Launch | None = None) -> Result:
    """Refine and write; raises Sorry for input that can't be used."""
    request.check()
    output = request.output
    with launched("dials.fine_refine", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        names = temporary_names(outputs, output, (), ["json", "cif", "html", "log"])
        log.start(launch.verbosity, names["log"], launch.provenance)
        with log.show_progress("step") as progress, single_thread():
            prepared = prepare(request)
            try:
                outcome = refine(request, prepared, progress)
                cut = {}
                if request.beams.sensitivity:
                    progress("Sensitivity to the cut on the beams", 0, 1)
                    model, fit = outcome.problem.model, outcome.fit
                    cut = shift_by_beams(
                        model, outcome.problem.comparison, fit.parameters, prepared.pattern.hkl, prepared.more
                    )
            except (Unusable, ValueError) as error:
                raise Sorry(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        factors = _factors(prepared, outcome)
        summary = make_summary(prepared.pattern, outcome, cut, factors, launch.unused_parameters(request))
        summary["beams"] = {"n": len(outcome.problem.model.slab.beams), "n_longer": len(prepared.more)}
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(text(summary))
        logger.info("\n%.1f s of CPU time", outcome.cpu)
        if names["cif"]:
            write_structure_factors(names["cif"], prepared.pattern, factors)
        write_reports(summary, lambda: make_page(summary, prepared.pattern, outcome), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, output))


def _factors(prepared, outcome) -> list:
    """The structure factors of the groups."""
    fit, found = outcome.fit, []
    esds = fit.esds()
    for group in prepared.crystal.groups:
        name = f"U{group.label}"
        own = prepared.u_atoms[group.label]
        found.append(
            structure_factor(prepared.crystal, group, prepared.charges, fit.parameters.values[name], esds[name], own)
        )
    return found
