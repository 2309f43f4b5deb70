"""dials.diffuse_model: a map and an atomic model -> models of motion, fitted to the map and compared."""

from __future__ import annotations

import logging

import numpy as np

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.programs.diffuse_map import check_numba
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

OPTIONAL = ("nxs", "ccp4", "covariance", "pdb", "html", "json", "log")
logger = logging.getLogger("dials.diffuse_model")


def run(request: DiffuseModelRequest, launch: Launch | None = None) -> Result:
    """Fit, compare and write; raises Sorry for what can't be used."""
    request.check_input()
    check_numba()
    request.check()

    from scipy.fft import set_workers

    from dials_postrefine.diffuse.model import CannotModel
    from dials_postrefine.executors.processes import make_run, single_thread
    from dials_postrefine.files.dials.versions import available_cores
    from dials_postrefine.files.safety.outputs import Outputs
    from dials_postrefine.programs.diffuse_model_fits import fit_models
    from dials_postrefine.programs.diffuse_model_input import collect_input
    from dials_postrefine.report.common.page import write_reports
    from dials_postrefine.report.common.remarks import remark_lines
    from dials_postrefine.report.diffuse_model.page import make_page
    from dials_postrefine.report.diffuse_model.summary import make_summary
    from dials_postrefine.report.diffuse_model.text import summary_text

    with launched("dials.diffuse_model", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        names = temporary_names(outputs, request.output, (), OPTIONAL)
        log.start(launch.verbosity, names["log"], launch.provenance)
        try:
            given = collect_input(request)
            logger.info(given.text())
            nproc = available_cores() if request.nproc is None else request.nproc
            with log.show_progress("model") as progress, single_thread(), set_workers(nproc):
                found = fit_models(request, given, make_run(nproc, progress))
        except CannotModel as error:
            raise Sorry(str(error)) from None
        unused = launch.unused_parameters(request, {"model": list(found.models)})
        summary = make_summary(given.description, given.voxels, found, request.n_shells, [*given.notes, *unused])
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(summary_text(summary))
        _write_maps(names, given, found)
        fluctuations, motions = _fluctuations(given, found)
        _write_fluctuations(request, names, given, (fluctuations, motions), outputs)
        sections = given.sections(found.chosen_fit)
        write_reports(summary, lambda: make_page(summary, sections, fluctuations), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, request.output))


def _write_maps(names, given, found) -> None:
    from dials_postrefine.files.maps.reading import write_ccp4, write_model_map

    fit = found.chosen_fit
    calculated = given.on_grid(fit.calculated)
    if names["nxs"]:
        residual = np.where(np.isfinite(calculated), given.observed.intensity - calculated, np.nan)
        volumes = {"calculated": calculated, "residual": residual, "background": given.on_grid(fit.isotropic)}
        write_model_map(names["nxs"], given.observed, volumes, found.chosen)
    if names["ccp4"]:
        write_ccp4(names["ccp4"], given.observed, calculated)


def _fluctuations(given, found):
    from dials_postrefine.diffuse.model.fluctuations import describe_fluctuations

    fit, candidate = found.chosen_fit, found.models[found.chosen].candidate
    values = dict(zip(fit.names, map(float, fit.values)))
    motions = candidate.motions(fit) if candidate.motions else None
    found = describe_fluctuations(candidate.name, candidate.variant, values, given.atoms, motions, candidate.bodies)
    return found, motions


def _write_fluctuations(request, names, given, found, outputs) -> None:
    """Covariances and the PDB; a model that has none leaves none."""
    from dials_postrefine.files.reference.fluctuations import write_with_u

    fluctuations, motions = found
    if fluctuations is None:
        for key in ("covariance", "pdb"):
            if names[key]:
                outputs.forget(getattr(request.output, key))
                names[key] = None
        return
    if names["covariance"]:
        groups = {}
        if motions is not None and motions.names:
            groups = {"V_group": motions.v, "V_group_esd": motions.esds}
            groups |= {"group": motions.number, "names": np.array(motions.names)}
        with open(names["covariance"], "wb") as file:
            np.savez_compressed(
                file,
                V=fluctuations.v.astype(np.float32),
                V_residue=fluctuations.v_residue,
                residue=given.atoms.residue,
                xyz=given.atoms.xyz,
                U=fluctuations.tensors,
                **groups,
            )
    if names["pdb"] and not write_with_u(request.structure, names["pdb"], fluctuations.tensors):
        outputs.forget(request.output.pdb)
        names["pdb"] = None
