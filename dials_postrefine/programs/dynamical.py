"""dials.dynamical: frames of electron diffraction and a structure -> a dynamical model, and what it explains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.electron.dynamical.charge import Charge, compare_charges
from dials_postrefine.electron.dynamical.orders import Order
from dials_postrefine.electron.dynamical.results import DynamicalFit
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.files.electron.corrected import (
    move_orientations,
    refuse_corrected,
    write_corrected,
    write_observations,
)
from dials_postrefine.files.electron.moving import read_frames
from dials_postrefine.files.electron.pets import read_pets
from dials_postrefine.files.electron.refined_structure import in_hand, write_structure
from dials_postrefine.files.electron.scaled_images import ImageChoice, ImageFiles
from dials_postrefine.files.reference.atomic_models import AtomicModel, read_atomic_model
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.numerics.frames import FrameData
from dials_postrefine.numerics.images import COLUMNS
from dials_postrefine.programs.dynamical_fit import fit_structure
from dials_postrefine.programs.dynamical_input import check_structure
from dials_postrefine.programs.dynamical_spread import compare_orders, explain_spread
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.dynamical.page import make_page
from dials_postrefine.report.dynamical.summary import Asides, FrameDataset, make_summary
from dials_postrefine.report.dynamical.text import text
from dials_postrefine.settings.dynamical import DynamicalRequest

logger = logging.getLogger("dials.dynamical")


@dataclass
class DynamicalInput:
    """What was read: the model, the observations, and the files that they are of (None of a .cif_pets)."""

    model: AtomicModel
    data: FrameData
    files: ImageFiles | None
    names: Sequence[str]
    not_used: dict[str, int]
    notes: list[str] = field(default_factory=list)


def run(request: DynamicalRequest, launch: Launch | None = None) -> Result:
    """Fit, explain and write; raises Sorry for input that can't be used."""
    request.check()
    output = request.output
    with launched("dials.dynamical", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        optional = ["structure", "observations", "json", "html", "log"]
        if not request.data:
            optional += ["reflections"] + ["experiments"] * bool(output.experiments)
        names = temporary_names(outputs, output, (), optional)
        log.start(launch.verbosity, names["log"], launch.provenance)
        with log.show_progress("step") as progress:
            given = read_input(request, progress)
            try:
                with single_thread():
                    fit, charge = _fit(request, given, progress)
            except (Unusable, ValueError) as error:
                raise Sorry(str(error)) from None
        explained = explain_spread(given.data, fit, request.seed)
        orders: list[Order] = []
        if request.compare == "order":
            orders = compare_orders(given.files, given.data, fit)
        moved, off = (None, 0.0)
        if given.files is not None:
            moved, off = move_orientations(given.files.experiments, given.data.frames, fit.tilt)
        said = [*given.notes, *launch.unused_parameters(request)]
        if off > 0.0 and names.get("experiments"):
            said.append(
                f"The orientations written are between those of frames, {np.degrees(off):.4f} degrees (r.m.s.) off "
                "them."
            )
        summary = make_summary(_dataset(request, given), given.data, fit, explained, Asides(charge, orders), said)
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(text(summary, launch.verbosity > 0))
        _write(given, fit, summary, names, moved)
        write_reports(summary, lambda: make_page(summary), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, output))


def read_input(request: DynamicalRequest, progress=None) -> DynamicalInput:
    """Structure and observations; raises Sorry for what does not belong together."""
    model = read_atomic_model(request.structure)
    group = model.structure.space_group()
    if request.data:
        found = read_pets(request.data)
        data = found.data(group)
        files, names, not_used = None, [request.data], {}
        if found.n_unusable:
            not_used = {"with bad intensity or sigma": found.n_unusable}
        notes = list(found.notes)
    else:
        choice = ImageChoice(
            intensity=request.intensity_choice,
            keep_outliers=request.outliers == "keep",
            d_min=request.d_min,
            d_max=request.d_max,
            image_width=request.image_width,
            beam="none",
        )
        files, data = read_frames(request.experiments, request.reflections, choice, progress)
        for path in request.reflections[:1]:
            refuse_corrected(files.table, path)
        names, not_used, notes = files.identifiers, files.n_excluded, list(files.remarks)
    kept = np.ones(data.n, dtype=bool)
    if request.d_min:
        kept &= data.d_star <= 1.0 / request.d_min
    if request.d_max:
        kept &= data.d_star >= 1.0 / request.d_max
    if not kept.any():
        raise Sorry("No observation is between d_max= and d_min=: widen them.")
    if not kept.all():
        not_used = not_used | {"outside of d_min and d_max": int(np.count_nonzero(~kept))}
        data = data.select(kept)
    check_structure(model, data)
    return DynamicalInput(model, data, files, names, not_used, [*model.notes, *notes])


def _fit(request: DynamicalRequest, given: DynamicalInput, progress) -> tuple[DynamicalFit, Charge | None]:
    """The fit that is asked for, and how neutral atoms compare with ions."""
    fit = fit_structure(given.data, given.model.structure, request, progress)
    if request.ions == "neutral":
        return fit, None
    neutral = fit_structure(given.data, given.model.structure, replace(request, ions="neutral"), progress)
    return fit, compare_charges(given.data, ("neutral atoms", f"ions by {request.ions}"), (neutral, fit))


def _dataset(request: DynamicalRequest, given: DynamicalInput) -> FrameDataset:
    symmetry = given.model.structure.crystal_symmetry()
    column = "_refln_intensity_meas" if request.data else f"{COLUMNS[request.intensity_choice]}.value"
    return FrameDataset(
        names=given.names,
        structure=request.structure,
        space_group=symmetry.space_group_info().type().lookup_symbol(),
        unit_cell=given.data.cell.tolist(),
        column=column,
        variance="of the file"
        if request.data
        else "counting"
        if request.intensity_choice == "scale"
        else "of the column",
        n_input=given.data.n + sum(given.not_used.values()),
        not_used=given.not_used,
    )


def _write(given: DynamicalInput, fit: DynamicalFit, summary: dict, names: dict[str, str | None], moved: Any) -> None:
    """The files of the result, each where it is wanted."""
    data = given.data
    if names.get("reflections"):
        write_corrected(given.files.table, data.row, fit.factor, names["reflections"])
    if names.get("experiments"):
        moved.as_file(names["experiments"])
    if names["structure"]:
        items = {
            "_diffrn_radiation_probe": "electron",
            "_diffrn_radiation_wavelength": f"{data.frames.wavelength:.6f}",
            "_refine_ls_R_factor_gt": f"{fit.r1_dynamical:.4f}",
            "_refine_ls_number_reflns": str(summary["r1"]["n"]),
        }
        write_structure(names["structure"], in_hand(given.model.structure, summary["hand"]), fit.structure, items)
    if names["observations"]:
        d = fit.factor
        write_observations(
            names["observations"],
            {
                **dict(zip("hkl", data.h.T.tolist())),
                "frame": data.frames.number[data.frame].tolist(),
                "intensity": data.intensity.tolist(),
                "sigma": np.sqrt(data.variance).tolist(),
                "dynamical": np.nan_to_num(fit.dynamical).tolist(),
                "kinematical": np.nan_to_num(fit.kinematical).tolist(),
                "dynamical_factor": np.where(np.isfinite(d), d, 0.0).tolist(),
            },
        )
