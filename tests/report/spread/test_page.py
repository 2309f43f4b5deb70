"""The page of dials.image_spread: what it says is in the summary, and browsers show it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tables_of_pages import rows_of

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")

from dials_postrefine.electron.spread.imagespread import SpreadSettings, analyse, measure_overall
from dials_postrefine.files.electron.scaled_images import ImageChoice, read_images
from dials_postrefine.programs.scaled_images import describe_dataset
from dials_postrefine.report.common.page import render
from dials_postrefine.report.common.provenance import record_run
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.spread.figures import N_PAIRS, collect_figures
from dials_postrefine.report.spread.page import make_page
from dials_postrefine.report.spread.summary import make_summary, remarks
from dials_postrefine.report.spread.text import causes_table, text
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials

PROVENANCE = record_run(["dials.image_spread", "scaled.expt"], ["scaled.expt"], "").as_dict()
SETTINGS = SpreadSettings(match="laue", min_common=4, n_permutations=99)


@pytest.fixture(scope="module")
def analysed(scaled_sweeps):
    files = read_images(*scaled_sweeps)
    found = analyse(files.images, SETTINGS)
    other = "profile", measure_overall(files.with_column("profile")[0], SETTINGS)
    dataset = describe_dataset(files, ImageChoice())
    return dataset, found, {"provenance": PROVENANCE, **make_summary(dataset, SETTINGS, found, other)}


@pytest.fixture(scope="module")
def html(analysed):
    dataset, found, summary = analysed
    return render(make_page(summary, collect_figures(dataset.images, found)))


def test_the_summary_is_what_was_found(analysed):
    dataset, found, summary = analysed
    tau = found.spread.tau
    assert summary["spread"]["overall"] == {
        "tau": tau.tau, "low": tau.low, "high": tau.high, "n": tau.n, "n_unique": tau.n_unique,
    }  # fmt: skip
    assert summary["pairs"]["n_found"] == found.pairs.n_found
    assert len(summary["images"]) == dataset.images.n_images
    assert summary["images"][3]["zone_angle"] == pytest.approx(np.degrees(found.zone_angle[3]))
    assert summary["settings"]["min_angle"] == 0.0 and summary["settings"]["match"] == "laue"
    best = summary["pairs"]["best"][0]
    assert best["misorientation"] == pytest.approx(np.degrees(found.pairs.misorientation[0]))
    assert best["first"].startswith(("0: ", "1: ", "2: "))  # experiments are counted from 0


def test_log_and_page_have_the_numbers_of_the_summary(analysed, html):
    _, _, summary = analysed
    log = text(summary)
    tau = summary["spread"]["overall"]
    said = f"{tau['tau']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]"
    assert said in log and rows_of(html, "Excess relative spread of symmetry equivalents.")[0][1] == said
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
    dataset, found, _ = analysed
    points = collect_figures(dataset.images, found).pairs[0]
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
    dataset = describe_dataset(read_images([names[0]], [names[1]]), ImageChoice())
    found = analyse(dataset.images, SETTINGS)
    summary = {"provenance": PROVENANCE, **make_summary(dataset, SETTINGS, found)}
    assert summary["spread"]["overall"]["low"] == 0.0
    assert any("no excess spread" in remark for remark in summary["remarks"])
    page = render(make_page(summary, collect_figures(dataset.images, found)))
    assert "no excess spread" in page and "no excess spread" in remark_lines(summary)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_opens_in_a_browser_without_a_network(check_in_browser, analysed, html, width):
    n_pairs = min(N_PAIRS, analysed[2]["pairs"]["n_analysed"])
    check_in_browser(html, width, ("images", "common", "CC"), 2 + n_pairs + 4)


def test_a_strongest_tenth_without_any_spread_is_remarked(analysed):
    *_, summary = analysed
    changed = copy.deepcopy(summary)
    parts = {part["name"]: part for part in changed["spread"]["parts"]}
    parts["weakest half"].update(tau=0.3, low=0.25, high=0.35)
    for tau, expected in ((0.0, True), (0.05, True), (0.25, False), (None, False)):
        parts["strongest tenth"].update(tau=tau)
        assert any("not one number" in remark.text for remark in remarks(changed)) is expected
    parts["weakest half"].update(low=0.0)
    parts["strongest tenth"].update(tau=0.0)
    assert not any("not one number" in remark.text for remark in remarks(changed))


def test_a_cause_without_numbers_is_shown_by_dashes(analysed):
    dataset, found, summary = analysed
    changed = copy.deepcopy(summary)
    assert {cause["name"] for cause in changed["causes"]["ranked"]} >= {"images", "beam"}
    for cause in changed["causes"]["ranked"]:
        cause.update(dict.fromkeys(("value", "low", "high", "gain", "p", "share")))
    assert "slope - [-, -]" in causes_table(changed)
    figures = collect_figures(dataset.images, found)
    assert "slope – [–, –]" in render(make_page(changed, figures))
