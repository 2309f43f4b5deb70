"""dials.intensity_model: scaled data sets -> what trees predict of their intensities, as report and table."""

from __future__ import annotations

import logging

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.files.electron import intensity_model as model
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.programs.algorithm_settings import model_request
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.trees import report
from dials_postrefine.settings.intensity_model import IntensityModelRequest

logger = logging.getLogger("dials.intensity_model")


def run(request: IntensityModelRequest, launch: Launch | None = None) -> Result:
    """Train, predict, write; raises Sorry for input that can't be used."""
    check_sklearn()
    request.check()
    wanted, output = model_request(request), request.output
    with launched("dials.intensity_model", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        optional = ["reflections", "json", "html", "log"] + ["experiments"] * bool(output.reflections)
        names = temporary_names(outputs, output, (), optional)
        log.start(launch.verbosity, names["log"], launch.provenance)
        with log.show_progress("step") as progress:
            data = model.read_model_data(wanted, progress)
            progress("Training", 0, 2)
            prediction = model.make_prediction(data, wanted.trees)
            progress("Training", 1, 2)
            column = model.column_to_compare(data.files.table, wanted.compare, wanted.choice.intensity)
            other = model.predict_column(data, column, wanted.trees)
            progress("Training", 2, 2)
        if data.split and wanted.split == "auto":
            logger.info("The data are split by split=%s (split=auto)", data.split)
        summary = report.make_summary(data, wanted, prediction, column, other, launch.unused_parameters(request))
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(report.text(summary, launch.verbosity > 0))
        if names["reflections"]:
            model.write_predictions(data, prediction, names["experiments"], names["reflections"])
        write_reports(summary, lambda: report.make_page(summary), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, output))


def check_sklearn() -> None:
    """Raises Sorry where there is no scikit-learn."""
    try:
        import sklearn.ensemble  # noqa: F401
    except ImportError as error:
        raise Sorry(f"scikit-learn is needed ({error}): conda install scikit-learn, or pip install it.") from None
