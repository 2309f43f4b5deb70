"""The pages of dials.image_spread and dials.intensity_model: what they say is in the summary, and browsers show it."""

from __future__ import annotations

import copy
import re
from html import unescape

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")

from dials_postrefine.electron.spread.imagespread import SpreadSettings, analyse, measure_overall
from dials_postrefine.electron.trees.intensitymodel import TreeSettings
from dials_postrefine.files.electron import intensity_model as model_files
from dials_postrefine.files.electron.scaled_images import ImageChoice, read_images
from dials_postrefine.programs.reference_model import ReferenceSettings
from dials_postrefine.report.common.page import render
from dials_postrefine.report.common.provenance import record_run
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.spread import figures as spread_figures
from dials_postrefine.report.spread import page as spread
from dials_postrefine.report.spread import summary as spread_summary
from dials_postrefine.report.spread import text as spread_text
from dials_postrefine.report.trees import report as model_report
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials

PROVENANCE = record_run(["dials.image_spread", "scaled.expt"], ["scaled.expt"], "").as_dict()
SETTINGS = SpreadSettings(match="laue", min_common=4, n_permutations=99)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    sweeps = simulate_sweeps(SweepOptions(tau=0.25, n_images=60, n_crystals=3))
    return write_sweeps(sweeps, tmp_path_factory.mktemp("sweeps") / "scaled")


@pytest.fixture(scope="module")
def analysed(names):
    files = read_images([names[0]], [names[1]])
    found = analyse(files.images, SETTINGS)
    other = "profile", measure_overall(files.of_column("profile")[0], SETTINGS)
    summary = spread_summary.make_summary(files, ImageChoice(), SETTINGS, found, other)
    return files, found, {"provenance": PROVENANCE, **summary}


@pytest.fixture(scope="module")
def html(analysed):
    files, found, summary = analysed
    return render(spread.make_page(summary, spread_figures.collect(files.images, found, "laue")))


def rows_of(html, caption):
    """The cells of the table with a caption."""
    (table,) = [one for one in re.findall(r"<table.*?</table>", html, re.DOTALL) if caption in unescape(one)]
    body = table[table.index("<tbody") :]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [
        [unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_the_summary_is_what_was_found(analysed):
    files, found, summary = analysed
    tau = found.mates.tau
    assert summary["spread"]["overall"] == {
        "tau": tau.tau, "low": tau.low, "high": tau.high, "n": tau.n, "n_unique": tau.n_unique,
    }  # fmt: skip
    assert summary["pairs"]["n_found"] == found.pairs.n_found
    assert len(summary["images"]) == files.images.n_images
    assert summary["images"][3]["zone_angle"] == pytest.approx(np.degrees(found.zone_angle[3]))
    assert summary["settings"]["min_angle"] == 0.0 and summary["settings"]["match"] == "laue"
    best = summary["pairs"]["best"][0]
    assert best["misorientation"] == pytest.approx(np.degrees(found.pairs.misorientation[0]))
    assert best["first"].startswith(("0: ", "1: ", "2: "))  # experiments are counted from 0


def test_log_and_page_have_the_numbers_of_the_summary(analysed, html):
    _, _, summary = analysed
    log = spread_text.text(summary)
    tau = summary["spread"]["overall"]
    said = f"{tau['tau']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]"
    assert said in log and rows_of(html, "Excess relative spread of symmetry mates.")[0][1] == said
    shells = rows_of(html, "By resolution.")
    assert len(shells) == len(summary["spread"]["shells"])
    assert shells[0][2] == str(summary["spread"]["shells"][0]["n"])
    pairs = rows_of(html, "pairs with most in common")
    assert len(pairs) == len(summary["pairs"]["best"])
    assert [row[1] for row in pairs] == [str(pair["n_common"]) for pair in summary["pairs"]["best"]]
    assert len(rows_of(html, "All images")) == len(summary["images"])
    experiments = rows_of(html, "By experiment.")
    assert [row[0] for row in experiments] == summary["dataset"]["experiments"]
    for name, column in summary["compare"]["columns"].items():
        (row,) = [row for row in rows_of(html, "by the column of their") if row[0] == name]
        assert row[2] == f"{column['r_meas']:.3f}"


def test_the_cloud_is_of_the_same_reflections_on_other_images(analysed):
    files, found, _ = analysed
    points = spread_figures.collect(files.images, found, "laue").pairs[0]
    spots = found.pairs.spots
    assert len(points.i1) == found.pairs.n_common[0]
    for on_a, elsewhere in points.cloud:
        row_a = np.flatnonzero((spots.image == points.a) & (spots.intensity == on_a))
        row = np.flatnonzero(spots.intensity == elsewhere)
        assert len(row_a) == len(row) == 1
        assert spots.unique[row_a[0]] == spots.unique[row[0]] and spots.image[row[0]] not in (points.a, points.b)
    others = np.isin(spots.unique, spots.unique[found.pairs.first[found.pairs.pair == 0]])
    others &= (spots.image != points.a) & (spots.image != points.b)
    assert len(points.cloud) == others.sum() > 0


def test_a_summary_without_spread_says_so(tmp_path):
    names = write_sweeps(simulate_sweeps(SweepOptions(n_images=60, n_crystals=2)), tmp_path / "scaled")
    files = read_images([names[0]], [names[1]])
    found = analyse(files.images, SETTINGS)
    summary = {"provenance": PROVENANCE, **spread_summary.make_summary(files, ImageChoice(), SETTINGS, found)}
    assert summary["spread"]["overall"]["low"] == 0.0
    assert any("no excess spread" in remark for remark in summary["remarks"])
    page = render(spread.make_page(summary, spread_figures.collect(files.images, found, "laue")))
    assert "no excess spread" in page and "no excess spread" in remark_lines(summary)


@pytest.fixture(scope="module")
def learned(names):
    request = model_files.ModelRequest(
        train=(),
        test=(),
        experiments=[names[0]],
        reflections=[names[1]],
        choice=ImageChoice(image_width=0.0),
        model=None,
        reference=ReferenceSettings(),
        split="experiment",
        n_folds=3,
        trees=TreeSettings(max_iter=20, n_permutations=2),
        compare="profile",
    )
    data = model_files.read_model_data(request)
    prediction = model_files.make_prediction(data, request.trees)
    other = model_files.predict_column(data, "profile", request.trees)
    return {"provenance": PROVENANCE, **model_report.make_summary(data, request, prediction, "profile", other)}


def test_the_page_of_the_model_has_the_numbers_of_its_summary(learned):
    html, log = render(model_report.make_page(learned)), model_report.text(learned)
    rows = rows_of(html, "R1 = sum")
    assert [row[0] for row in rows] == ["all", *learned["dataset"]["experiments"]]
    mates = learned["overall"]["mates"]
    assert rows[0][1] == f"{mates['value']:.3f} ± {mates['esd']:.3f}" and f"{mates['value']:.3f} +- " in log
    importances = rows_of(html, "Importances.")
    assert len(importances) == len(learned["features"])
    compared = rows_of(html, "Learned from one column")
    assert compared[1][0] == "intensity.prf.value"
    assert all(sentence in log for sentence in learned["findings"])
    assert any("Trees alone" in sentence for sentence in learned["findings"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_the_pages_open_in_a_browser_without_a_network(load_browser, analysed, html, learned, tmp_path, width):
    _, _, summary = analysed
    model_html = render(model_report.make_page(learned))
    n_pairs = min(spread_figures.N_PAIRS, summary["pairs"]["n_analysed"])
    for page, columns, n_figures in (
        (html, ("images", "common", "CC"), 2 + n_pairs + 4),
        (model_html, ("R1", "trees", "obs."), 1),
    ):
        browser = load_browser(*columns)
        sized = page.replace("</head>", f"<style>body {{ width: {width}px; margin: 0 }}</style></head>")
        folder = tmp_path / columns[0]
        folder.mkdir()
        visit = browser.visit(sized, folder, max(width, 500))
        assert visit.console == [] and visit.found["problems"] == []
        figures = visit.found["figures"]
        assert len(figures) == n_figures
        for one in figures:
            assert one["width"] > 240 and 0.4 < one["height"] / one["width"] < 1.0, one
            assert one["drawn"] >= 10 and one["words"] >= 4, one
        assert max(one["x"] + one["width"] for one in figures) <= width and visit.found["body"] <= width
    assert visit.found["columns"]["obs."]["sort"] == ["ascending", "descending"]


def test_a_strongest_tenth_without_any_spread_is_remarked(analysed):
    *_, summary = analysed
    changed = copy.deepcopy(summary)
    parts = {part["name"]: part for part in changed["spread"]["parts"]}
    parts["weakest half"].update(tau=0.3, low=0.25, high=0.35)
    for tau, expected in ((0.0, True), (0.05, True), (0.25, False), (None, False)):
        parts["strongest tenth"].update(tau=tau)
        assert any("not one number" in remark.text for remark in spread_summary.remarks(changed)) is expected
    parts["weakest half"].update(low=0.0)
    parts["strongest tenth"].update(tau=0.0)
    assert not any("not one number" in remark.text for remark in spread_summary.remarks(changed))


def test_a_cause_without_numbers_is_shown_by_dashes(analysed):
    files, found, summary = analysed
    changed = copy.deepcopy(summary)
    assert {cause["name"] for cause in changed["causes"]["ranked"]} >= {"images", "beam"}
    for cause in changed["causes"]["ranked"]:
        cause.update(dict.fromkeys(("value", "low", "high", "gain", "p", "share")))
    assert "slope - [-, -]" in spread_text.causes_table(changed)
    figures = spread_figures.collect(files.images, found, "laue")
    assert "slope – [–, –]" in render(spread.make_page(changed, figures))
