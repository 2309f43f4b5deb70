"""dials.reference_intensities: an atomic model, or reflections, and data -> reference intensities on their scale."""

from __future__ import annotations

import logging
import os

from dials_postrefine import log
from dials_postrefine.files.dials.tables import write_table
from dials_postrefine.files.reference.reference_outputs import make_experiments, make_table, write_mtz
from dials_postrefine.files.safety.names import printable
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.programs.algorithm_settings import reference_settings
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.programs.merged_data import Data, DataChoice, compute_for_data, read_data
from dials_postrefine.programs.reference_model import Beam, Reference, ReferenceSettings
from dials_postrefine.report.common.remarks import conclude, remark_lines
from dials_postrefine.report.common.summary import write_summary
from dials_postrefine.report.reference.summary import remarks, summarise, text
from dials_postrefine.settings.reference_intensities import ReferenceIntensitiesRequest

logger = logging.getLogger("dials.reference_intensities")


def run(request: ReferenceIntensitiesRequest, launch: Launch | None = None) -> Result:
    """Calculate and write; raises Sorry for input that can't be used."""
    request.check()
    settings, output = reference_settings(request.reference_model), request.output
    with (
        launched("dials.reference_intensities", request, launch) as launch,
        Outputs(launch.provenance.inputs) as outputs,
    ):
        wanted = ["mtz", "reflections", "json", "log"] + ["experiments"] * bool(output.reflections)
        names = temporary_names(outputs, output, (), wanted)
        log.start(launch.verbosity, names["log"], launch.provenance)
        data = _read(request, settings)
        reference = compute_for_data(request.reference, settings, data, not request.merge_friedel_mates)
        summary = summarise(request.reference, reference)
        said = conclude([*remarks(summary), *launch.unused_parameters(request)])
        summary |= {"provenance": launch.provenance.as_dict(), **said}
        logger.info(text(summary))
        _write(request, data, reference, summary, names)
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, output))


def _read(request: ReferenceIntensitiesRequest, settings: ReferenceSettings) -> Data:
    """The data that the reference is brought to the scale of, with no intensities where none are given."""
    choice = DataChoice(
        path=request.data,
        labels=request.data_labels,
        space_group=request.space_group,
        anomalous=not request.merge_friedel_mates,
        d_min=settings.d_min,
        intensity=request.intensity_choice,
        radiation=settings.radiation,
    )
    data = read_data(request.experiments, request.reflections, choice)
    data = data or Data(None, Beam())
    if request.wavelength:
        data.beam.wavelength = request.wavelength
    return data


def _write(
    request: ReferenceIntensitiesRequest, data: Data, reference: Reference, summary: dict, names: dict[str, str | None]
) -> None:
    if names["json"]:
        write_summary(summary, names["json"])
    if names["mtz"]:
        write_mtz(reference, names["mtz"], printable(os.path.basename(request.reference)))
    if names["reflections"]:
        write_table(make_table(reference), names["reflections"])
        make_experiments(reference, data.detector).as_file(names["experiments"])
