"""dials.image_spread: scaled data sets -> how reproducible intensities are from image to image, as report and table."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from dials.util import Sorry

from dials_postrefine import log
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread.imagespread import ImageSpread, Overall, SpreadSettings, analyse, measure_overall
from dials_postrefine.files.electron.image_pairs import write_pairs
from dials_postrefine.files.electron.scaled_images import ImageChoice, ImageFiles, read_images
from dials_postrefine.files.safety.outputs import Outputs
from dials_postrefine.numerics.images import Images
from dials_postrefine.programs.algorithm_settings import compared_column, image_choice, spread_settings
from dials_postrefine.programs.launch import Launch, Result, launched, temporary_names, written
from dials_postrefine.programs.scaled_images import describe_dataset
from dials_postrefine.report.common.explained import describe_explained
from dials_postrefine.report.common.page import write_reports
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.common.summary import finite
from dials_postrefine.report.spread.figures import collect_figures
from dials_postrefine.report.spread.page import make_page
from dials_postrefine.report.spread.summary import make_summary
from dials_postrefine.report.spread.text import text
from dials_postrefine.settings.image_spread import ImageSpreadRequest

logger = logging.getLogger("dials.image_spread")


def run(request: ImageSpreadRequest, launch: Launch | None = None) -> Result:
    """Analyse and write; raises Sorry for input that can't be used."""
    request.check()
    choice, settings = image_choice(request), spread_settings(request)
    with launched("dials.image_spread", request, launch) as launch, Outputs(launch.provenance.inputs) as outputs:
        names = temporary_names(outputs, request.output, (), ("json", "pairs", "html", "log"))
        log.start(launch.verbosity, names["log"], launch.provenance)
        with log.show_progress("step") as progress:
            files = read_images(request.experiments, request.reflections, choice, progress)
            found, used, other = _analyse(files, settings, compared_column(request), progress)
        if settings.match == "auto":
            logger.info("Images are compared by match=%s (match=auto)", used.match)
        pairs_file = os.path.basename(request.output.pairs) if names["pairs"] else None
        dataset, unused = describe_dataset(files, choice), launch.unused_parameters(request)
        summary = make_summary(dataset, used, found, other, pairs_file, unused)
        summary["dynamical"] = None if request.dynamical is None else _explain(request, choice)
        summary["provenance"] = launch.provenance.as_dict()
        logger.info(text(summary, launch.verbosity > 0))
        if names["pairs"]:
            write_pairs(names["pairs"], tabulate_pairs(files.identifiers, files.images, found))
        figures = collect_figures(files.images, found)
        write_reports(summary, lambda: make_page(summary, figures), names["json"], names["html"])
        logger.info("\n%s", remark_lines(summary))
    return Result(summary, written(names, request.output))


def _analyse(
    files: ImageFiles, settings: SpreadSettings, column: str | None, progress
) -> tuple[ImageSpread, SpreadSettings, tuple[str, Overall] | None]:
    """The spread, the settings with the match that was chosen, and the spread of another column by its name."""
    try:
        found = analyse(files.images, settings, progress)
        used = replace(settings, match=found.pairs.match)
        others = None if column is None else files.with_column(column)
        return found, used, None if others is None else (column, measure_overall(others[0], used))
    except Unusable as error:
        raise Sorry(str(error)) from None


def _explain(request: ImageSpreadRequest, choice: ImageChoice) -> dict:
    """How much of the spread dynamical scattering by a structure explains, with the defaults of dials.dynamical."""
    from dials_postrefine.programs.dynamical import DynamicalRequest, read_input
    from dials_postrefine.programs.dynamical_fit import fit_structure
    from dials_postrefine.programs.dynamical_spread import explain_spread

    wanted = DynamicalRequest(
        experiments=request.experiments,
        reflections=request.reflections,
        structure=request.dynamical,
        intensity_choice=request.intensity_choice,
        outliers=request.outliers,
        image_width=choice.image_width,
        d_min=request.d_min,
        d_max=request.d_max,
        seed=request.seed,
    )
    given = read_input(wanted)
    try:
        fit = fit_structure(given.data, given.model.structure, wanted)
    except (Unusable, ValueError) as error:
        raise Sorry(str(error)) from None
    explained = explain_spread(given.data, fit, request.seed)
    found = explained if isinstance(explained, str) else explained.as_dict(given.data.frames.number)
    r1 = {"kinematical": fit.r1_kinematical, "dynamical": fit.r1_dynamical, "other_hand": fit.hand.other_r1}
    described = {"structure": request.dynamical, "r1": r1, "thickness": asdict(fit.thickness)}
    return finite(described | {"hand": int(fit.hand.candidates[0].hand)} | describe_explained(found))


def tabulate_pairs(experiments: Sequence[str], images: Images, found: ImageSpread) -> dict[str, Sequence]:
    """The columns of image_pairs.csv, most in common first; an image of several is called by its first one."""
    pairs, agreement, test = found.pairs, found.pair_agreement, found.random_match
    return {
        "experiment_1": [experiments[k] for k in images.experiment[pairs.a]],
        "image_1": images.number[pairs.a],
        "experiment_2": [experiments[k] for k in images.experiment[pairs.b]],
        "image_2": images.number[pairs.b],
        "n_common": pairs.n_common,
        "jaccard": pairs.jaccard,
        "misorientation_degrees": np.degrees(pairs.misorientation),
        "n_strong": agreement.n_strong,
        "log_spread": agreement.log_spread,
        "log_spread_esd": agreement.log_spread_esd,
        "log_spread_expected": agreement.expected,
        "r": agreement.r,
        "r_esd": agreement.r_esd,
        "cc": agreement.cc,
        "cc_esd": agreement.cc_esd,
        "cc_log": agreement.cc_log,
        "z_width": agreement.z_width,
        "llr": test.llr,
        "posterior": test.posterior,
        "p": test.p,
    }
