"""dials.intensity_model: scaled data sets -> what trees predict of their intensities, as report and table."""

from __future__ import annotations

import logging

import numpy as np

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.electron.trees.intensitymodel import Prediction
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.files.electron.predictions import write_predictions
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.programs.algorithm_settings import tree_image_choice, tree_settings
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.programs.scaled_images import describe_dataset
from dials_postrefine.programs.tree_data import (
    TreeData,
    column_to_compare,
    make_prediction,
    predict_column,
    read_tree_data,
)
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.trees.page import make_page
from dials_postrefine.report.trees.summary import Training, make_summary
from dials_postrefine.report.trees.text import text
from dials_postrefine.settings.intensity_model import IntensityModelRequest

logger = logging.getLogger("dials.intensity_model")


def run(request: IntensityModelRequest, launch: Launch | None = None) -> Result:
    """Train, predict, write; raises Sorry for input that can't be used."""
    check_sklearn()
    request.check()
    output = request.output
    with launched("dials.intensity_model", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        optional = ["reflections", "json", "html", "log"] + ["experiments"] * bool(output.reflections)
        names = temporary_names(outputs, output, (), optional)
        log.start(launch.verbosity, names["log"], launch.provenance)
        with log.show_progress("step") as progress:
            data = read_tree_data(request, progress)
            prediction, other = _learn(request, data, progress)
        if data.split and request.split == "auto":
            logger.info("The data are split by split=%s (split=auto)", data.split)
        dataset = describe_dataset(data.files, tree_image_choice(request))
        training = Training(data.split, request.reference, data.features.names, data.notes)
        summary = make_summary(dataset, training, prediction, other, launch.unused_parameters(request))
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(text(summary, launch.verbosity > 0))
        if names["reflections"]:
            _write(data, prediction, names["experiments"], names["reflections"])
        write_reports(summary, lambda: make_page(summary), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, output))


def _learn(
    request: IntensityModelRequest, data: TreeData, progress
) -> tuple[Prediction, tuple[str, Prediction] | None]:
    """What the trees predict, and the same from a column of integrated intensities by its name."""
    settings = tree_settings(request)
    with single_thread():
        progress("Training", 0, 2)
        prediction = make_prediction(data, settings)
        progress("Training", 1, 2)
        column = column_to_compare(data.files.table, request.compare, request.intensity_choice)
        other = predict_column(data, column, settings)
        progress("Training", 2, 2)
    return prediction, None if other is None else (column, other)


def _write(data: TreeData, prediction: Prediction, experiments: str, reflections: str) -> None:
    images = data.files.images
    tested = np.unique(images.experiment[images.image[data.fold >= 0]])
    intensity = prediction.predicted[prediction.best] ** 2
    write_predictions(data.files, intensity, tested, experiments, reflections)


def check_sklearn() -> None:
    """Raises Sorry where there is no scikit-learn."""
    try:
        import sklearn.ensemble  # noqa: F401 - and loads the library whose threads are limited
    except ImportError as error:
        raise Sorry(f"scikit-learn is needed ({error}): conda install scikit-learn, or pip install it.") from None
