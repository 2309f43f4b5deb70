# LIBTBX_SET_DISPATCHER_NAME dials.intensity_model
"""
Can the intensities of electron diffraction be predicted from what is known before they are measured?  Gradient boosted
trees learn amplitudes from index, resolution, orientation, excitation error, scale, background and, if a model is
given, |F_calc|; R1 of their predictions stands beside that of the mean of symmetry mates and of |F_calc| alone.

Examples::

  dials.intensity_model scaled.expt scaled.refl split=image_blocks reference=quartz.cif

  dials.intensity_model train=first.expt,first.refl test=second.expt,second.refl

  dials.intensity_model scaled.expt scaled.refl split=unique reference=quartz.cif reference_model.radiation=electron
"""

from __future__ import annotations

import logging
import sys

from dials_postrefine.scopes import load

logger = logging.getLogger("dials.intensity_model")

phil_scope = load("intensity_model")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.intensity_model from the command line."""
    from dials_postrefine.command_line import comma_lists, exit_with_sorry, parse_arguments

    with exit_with_sorry():
        from dials.util import Sorry

        usage = "dials.intensity_model [options] train=a.expt,a.refl test=b.expt,b.refl"
        params, verbosity, provenance = parse_arguments(
            args, phil, usage, __doc__, lambda words: comma_lists(words, ("train", "test"))
        )
        if params is None:
            return
        try:
            import sklearn.ensemble  # noqa: F401
        except ImportError as error:
            raise Sorry(f"scikit-learn is needed ({error}): conda install scikit-learn, or pip install it.") from None
        predict_files(params, verbosity, provenance)


def predict_files(params, verbosity: int, provenance) -> None:
    """Read the files that params name, train, predict, write; raises Sorry for input that can't be used."""
    from dials_postrefine import log
    from dials_postrefine.command_line import temporary_names, unused_parameters
    from dials_postrefine.files import intensity_model as model
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.report import intensity_model as report
    from dials_postrefine.report.remarks import remark_lines
    from dials_postrefine.scopes import model_request

    request = model_request(params)
    with Outputs(provenance.inputs) as outputs:
        wanted = ["reflections", "json", "html", "log"] + ["experiments"] * bool(params.output.reflections)
        names = temporary_names(outputs, params.output, (), wanted)
        log.start(verbosity, names["log"], provenance)
        with log.show_progress("step") as progress:
            data = model.read_model_data(request, progress)
            progress("Training", 0, 2)
            prediction = model.make_prediction(data, request.trees)
            progress("Training", 1, 2)
            column = model.column_to_compare(data.files.table, request.compare, request.choice.intensity)
            other = model.predict_column(data, column, request.trees)
            progress("Training", 2, 2)
        if data.split and request.split == "auto":
            logger.info("The data are split by split=%s (split=auto)", data.split)
        summary = report.make_summary(data, request, prediction, column, other, unused_parameters(params, provenance))
        summary["provenance"] = provenance.as_dict()
        logger.info(report.text(summary, verbosity > 0))
        if names["reflections"]:
            model.write_predictions(data, prediction, names["experiments"], names["reflections"])
        report.write_reports(summary, names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))


if __name__ == "__main__":
    sys.exit(run())
