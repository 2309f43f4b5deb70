"""The page of dials.intensity_model: what it says is in the summary, and browsers show it."""

from __future__ import annotations

import pytest
from tables_of_pages import rows_of

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")
pytest.importorskip("sklearn", reason="the trees are those of scikit-learn")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")

from dials_postrefine.electron.trees.intensitymodel import TreeSettings
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.programs.algorithm_settings import tree_image_choice
from dials_postrefine.programs.scaled_images import describe_dataset
from dials_postrefine.programs.tree_data import make_prediction, predict_column, read_tree_data
from dials_postrefine.report.common.page import render
from dials_postrefine.report.common.provenance import record_run
from dials_postrefine.report.trees.page import make_page
from dials_postrefine.report.trees.summary import Training, make_summary
from dials_postrefine.report.trees.text import text
from dials_postrefine.settings.intensity_model import IntensityModelRequest

pytestmark = pytest.mark.dials

PROVENANCE = record_run(["dials.intensity_model", "scaled.expt"], ["scaled.expt"], "").as_dict()


@pytest.fixture(scope="module")
def learned(scaled_sweeps):
    experiments, reflections = scaled_sweeps
    request = IntensityModelRequest(experiments, reflections, split="experiment", n_folds=3)
    settings = TreeSettings(max_iter=20, n_permutations=2)
    data = read_tree_data(request)
    with single_thread():
        prediction, other = make_prediction(data, settings), predict_column(data, "profile", settings)
    dataset = describe_dataset(data.files, tree_image_choice(request))
    training = Training(data.split, None, data.features.names, data.notes)
    return {"provenance": PROVENANCE, **make_summary(dataset, training, prediction, ("profile", other))}


def test_the_page_has_the_numbers_of_the_summary(learned):
    html, log = render(make_page(learned)), text(learned)
    rows = rows_of(html, "R1 = sum")
    assert [row[0] for row in rows] == ["all", *learned["dataset"]["experiments"]]
    mates = learned["overall"]["equivalents"]
    assert rows[0][1] == f"{mates['value']:.3f} ± {mates['esd']:.3f}" and f"{mates['value']:.3f} +- " in log
    importances = rows_of(html, "Importances.")
    assert len(importances) == len(learned["features"])
    compared = rows_of(html, "Learned from one column")
    assert compared[1][0] == "intensity.prf.value"
    assert all(sentence in log for sentence in learned["findings"])
    assert any("Trees alone" in sentence for sentence in learned["findings"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_opens_in_a_browser_without_a_network(check_in_browser, learned, width):
    check_in_browser(render(make_page(learned)), width, ("R1", "trees", "obs."), 1)
