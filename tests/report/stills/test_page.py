"""
What dials.postrefine reports: the page and the JSON say the same, which is what the algorithms found.

The rows of the page's tables and the points of its figures are read back from the HTML.
"""

from __future__ import annotations

import copy
import json
import re
from html import unescape

import numpy as np
import pytest
from comparison import content, results

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the program reads and writes files of DIALS")

from dials_postrefine.report.common.page import render
from dials_postrefine.report.stills.page import make_page

pytestmark = pytest.mark.dials

NAMED = "still-1-00007"
SHELL = ["n_observations", "n_unique", "completeness", "multiplicity", "i_over_sigma", "cc_half", "r_split"]


def rows_of(html: str, caption: str) -> list[list[str]]:
    """The body of the table whose caption begins so."""
    (table,) = re.findall(rf"<caption>{caption}.*?</table>", html, re.DOTALL)
    body = table[table.index("<tbody>") :]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body)]
    return [[unescape(cell) for cell in row] for row in rows]


def headers_of(html: str, caption: str) -> list[str]:
    (table,) = re.findall(rf"<caption>{caption}.*?</thead>", html, re.DOTALL)
    return [unescape(header) for header in re.findall(r"<th [^>]*>(.*?)</th>", table)]


def assert_shown(text: str, value: float | None, factor: float = 1.0) -> None:
    """The text is the number times factor, to half of its last digit."""
    if value is None:
        assert text == "–"
        return
    shown = text.split(" ")[0]
    if shown.endswith("%"):
        shown, factor = shown[:-1], 100.0 * factor
    digits = len(shown.partition(".")[2])
    assert float(shown) == pytest.approx(factor * value, abs=0.5001 * 10.0**-digits), (text, value)


def figure(html: str, title: str) -> str:
    (svg,) = re.findall(rf'<svg role="img" aria-label="{re.escape(title)}".*?</svg>', html, re.DOTALL)
    return svg


def markers(svg: str) -> np.ndarray:
    return np.array(re.findall(r'<use[^>]*href="#[^"]*" x="([^"]*)" y="([^"]*)"[^>]*style="fill', svg), dtype=float)


def assert_drawn(svg: str, *columns: list[float]) -> None:
    """Some run of markers lies where the columns x, y say: both linear in them."""
    found, wanted = markers(svg), np.transpose(columns)
    n = len(wanted)
    for start in range(len(found) - n + 1):
        some = found[start : start + n]
        fits = [np.polyfit(wanted[:, i], some[:, i], 1) for i in range(2)]
        off = [np.abs(np.polyval(fit, wanted[:, i]) - some[:, i]).max() for i, fit in enumerate(fits)]
        if max(off) < 0.01 and fits[0][0] > 0.0 and fits[1][0] < 0.0:
            return
    raise AssertionError("no markers lie there")


# What the algorithms found


def test_convergence_and_verdicts_are_those_of_the_result(run):
    from dials_postrefine.programs.algorithm_settings import dataset_settings
    from dials_postrefine.programs.stills_input import read_stills
    from dials_postrefine.settings.postrefine import PostrefineRequest
    from dials_postrefine.stills.loop import postrefine

    files = read_stills([run.files[0]], [run.files[1]])
    result = postrefine(
        files.stills, dataset_settings(PostrefineRequest(profile="lorentzian", radius="constant", unit_cell="fixed"))
    )
    cycles = run.summary["cycles"]
    assert len(cycles) == len(result.cycles) > 1
    for shown, cycle in zip(cycles, result.cycles):
        assert shown["n_accepted"] == cycle.n_accepted
        assert shown["change"] == pytest.approx(cycle.change)
        assert shown["correlation"] == pytest.approx(cycle.correlation)
    dataset, accepted = run.summary["dataset"], result.accepted
    assert (dataset["n_lattices"], dataset["n_accepted"]) == (40, int(accepted.sum())) and not accepted.all()
    assert dataset["n_merged"] == np.count_nonzero(result.kept & ~result.outlier)
    assert sum(run.summary["rejected"].values()) == np.count_nonzero(~accepted)
    assert dataset["n_observations"] == len(files.stills.unique)
    assert dataset["wavelength"] == pytest.approx(1.3)
    assert run.summary["after"][-1]["n_observations"] == dataset["n_merged"]


def test_histograms_count_the_accepted_lattices(run):
    good = [one for one in run.summary["lattices"] if one["accepted"] and one["refined"]]
    assert len(good) > 30
    for name in ("scale", "b_factor", "theta_x", "theta_y", "radius"):
        data = run.summary["histograms"][name]
        assert sum(data["counts"]) + data["below"] + data["above"] == data["n"] == len(good)
        assert data["median"] == pytest.approx(np.median([one[name] for one in good]))
        assert data["median_esd"] == pytest.approx(np.median([one[name + "_esd"] for one in good]))
    assert set(run.summary["histograms"]) == {"scale", "b_factor", "theta_x", "theta_y", "radius"}


def test_the_lattices_that_are_drawn_are_named(run):
    plots = run.summary["lattice_plots"]
    by_name = {one["identifier"]: one for one in run.summary["lattices"]}
    assert [plot["rank"] for plot in plots] == ["best", "median", "worst", "named"]
    assert plots[-1]["identifier"] == NAMED
    values = {one["model_correlation"] for one in by_name.values() if one["accepted"] and one["refined"]}
    assert by_name[plots[0]["identifier"]]["model_correlation"] == max(values)
    assert by_name[plots[2]["identifier"]]["model_correlation"] == min(values)
    assert all(f"{plot['rank']}: {plot['identifier']}" in run.html for plot in plots)


# The page says what the JSON says


def test_the_page_is_made_of_the_json_alone(run):
    version, _, date = unescape(re.search(r'<p class="version">(.*?)</p>', run.html).group(1)).partition(" · ")
    assert version.endswith(f"dials_postrefine {dials_postrefine.__version__}")
    assert date == run.summary["provenance"]["date"]
    assert render(make_page(run.summary)) == run.html


def test_every_lattice_is_in_the_table(run):
    rows, headers = rows_of(run.html, "All lattices"), headers_of(run.html, "All lattices")
    lattices = run.summary["lattices"]
    assert len(rows) == len(lattices) == 40
    keys = {
        "input": ("n_input", 1.0),
        "not used": ("n_not_used", 1.0),
        "absent": ("n_absent", 1.0),
        "merged": ("n_merged", 1.0),
        "outliers": ("n_outliers", 1.0),
        "matched": ("n_matched", 1.0),
        "kept": ("n_kept", 1.0),
        "G": ("scale", 1.0),
        "B (Å²)": ("b_factor", 1.0),
        "theta_x (degrees)": ("theta_x", 1.0),
        "theta_y (degrees)": ("theta_y", 1.0),
        "r_s (10⁻³ Å⁻¹)": ("radius", 1000.0),
        "CC before": ("correlation_before", 1.0),
        "CC after": ("correlation_after", 1.0),
        "CC model": ("model_correlation", 1.0),
        "partial CC": ("partial_correlation", 1.0),
    }
    assert headers == ["lattice", "verdict", *keys]
    for row, one in zip(rows, lattices):
        assert row[0] == one["identifier"]
        assert row[1] == ("accepted" if one["accepted"] else f"rejected: {one['reason']}")
        for cell, (key, factor) in zip(row[2:], keys.values()):
            assert_shown(cell, one[key], factor)
            if "±" in cell:
                assert_shown(cell.split(" ± ")[1], one[key + "_esd"], factor)
    assert sum("±" in cell for row in rows for cell in row) >= 5 * 36


@pytest.mark.parametrize(("caption", "when"), [("Scaled only", "before"), ("Postrefined", "after")])
def test_every_shell_is_in_its_table(run, caption, when):
    rows = rows_of(run.html, caption)
    honest = ["cc_half_honest", "r_split_honest"] * (when == "after")
    assert len(rows) == len(run.summary[when]) == 11
    for row, shell in zip(rows, run.summary[when]):
        assert len(row) == 1 + len(SHELL) + len(honest)
        for cell, key in zip(row[1:], SHELL + honest):
            assert_shown(cell, shell[key])
    assert all(shell["cc_half_honest"] is not None for shell in run.summary["after"])


def test_what_comes_first_are_the_overall_numbers(run):
    facts = dict(re.findall(r'<dt>(.*?)</dt><dd class="value">(.*?)</dd>', run.html))
    after = run.summary["after"][-1]
    for name, key in {
        "CC1/2, honest": "cc_half_honest",
        "CC1/2, conventional": "cc_half",
        "R_split, honest": "r_split_honest",
        "R_split, conventional": "r_split",
        "completeness": "completeness",
        "multiplicity": "multiplicity",
        "mean I/sigma": "i_over_sigma",
    }.items():
        assert_shown(facts[name], after[key])
    assert facts["lattices accepted"] == str(run.summary["dataset"]["n_accepted"])
    assert unescape(re.search(r'<pre class="command">(.*?)</pre>', run.html).group(1)) == run.summary["merge_command"]
    for remark in run.summary["remarks"]:
        assert remark in unescape(run.html)


@pytest.mark.parametrize(
    ("title", "key", "when"),
    [
        ("CC1/2 by resolution", "cc_half", "before"),
        ("CC1/2 by resolution", "cc_half", "after"),
        ("CC1/2 by resolution", "cc_half_honest", "after"),
        ("R_split by resolution", "r_split_honest", "after"),
        ("Completeness by resolution", "completeness", "after"),
        ("Multiplicity by resolution", "multiplicity", "before"),
        ("Mean I/sigma by resolution", "i_over_sigma", "after"),
    ],
)
def test_curves_by_resolution_are_drawn_from_the_json(run, title, key, when):
    shells = run.summary[when][:-1]
    x = [0.5 * (shell["d_max"] ** -2 + shell["d_min"] ** -2) for shell in shells]
    assert_drawn(figure(run.html, title), x, [shell[key] for shell in shells])


def test_partiality_is_drawn_from_the_json(run):
    for name, when in (("bins_before", "before"), ("bins", "after")):
        bins = run.summary["partiality"][name]
        svg = figure(
            run.html, f"Observed and predicted partiality by distance from the Ewald sphere, {when} postrefinement"
        )
        assert len(bins) == 24
        for key in ("observed", "predicted"):
            assert_drawn(svg, [one["ratio"] for one in bins], [one[key] for one in bins])


def test_widths_and_convergence_are_drawn_from_the_json(run):
    svg = figure(run.html, "Width of the normalised residuals by tenths of intensity, resolution and partiality")
    for key in ("by_intensity", "by_resolution", "by_partiality"):
        assert_drawn(svg, list(range(1, 11)), [one["width"] for one in run.summary["residuals"][key]])
    cycles = run.summary["cycles"]
    change = np.log([one["change"] for one in cycles])
    assert_drawn(figure(run.html, "Change of the merged intensities by cycle"), range(1, len(cycles) + 1), change)
    rows = rows_of(run.html, "The cycles")
    for row, one in zip(rows, cycles):
        for cell, key in zip(row[1:], ("n_accepted", "correlation", "change", "change_esd", "agreement")):
            assert_shown(cell, one[key])


def test_angles_are_drawn_from_the_json(run):
    some = [one for one in run.summary["lattices"] if one["accepted"] and one["refined"]]
    svg = figure(run.html, "theta_y against theta_x of each lattice")
    assert_drawn(svg, [one["theta_x"] for one in some], [one["theta_y"] for one in some])


def test_a_drawn_number_that_is_changed_is_noticed(run):
    """The check by which figures are compared can fail."""
    bins = run.summary["partiality"]["bins"]
    observed = [one["observed"] for one in bins]
    observed[3] += 0.02
    svg = figure(run.html, "Observed and predicted partiality by distance from the Ewald sphere, after postrefinement")
    with pytest.raises(AssertionError):
        assert_drawn(svg, [one["ratio"] for one in bins], observed)


# The file


def test_two_runs_write_the_same_bytes(run, run_program, tmp_path):
    args = (f"lattice_plots={NAMED}", "nproc=1", "profile=lorentzian", "radius=constant", "unit_cell=fixed")
    done = run_program("dials.postrefine", *run.files, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("dials.postrefine.html", "dials.postrefine.json"):
        assert content(tmp_path / name) == content(run.folder / name), name


def test_the_page_needs_no_network(run):
    assert "://" not in run.html
    references = re.findall(r'\b(?:src|href)="([^"]*)"', run.html)
    assert len(references) > 100
    assert all(reference.startswith(("#", "data:")) for reference in references)


def test_a_nasty_identifier_is_text(run):
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    summary = copy.deepcopy(run.summary)
    summary["lattices"][7]["identifier"] = summary["lattice_plots"][-1]["identifier"] = nasty
    summary["dataset"]["reference"] = summary["merge_command"] = nasty
    summary["provenance"] = dict.fromkeys(summary["provenance"], nasty)
    html = render(make_page(summary))
    assert "<img" not in html and "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5
    assert html.count("<script") == 1


def test_ten_thousand_lattices_make_a_page_of_a_few_megabytes(run):
    summary = copy.deepcopy(run.summary)
    some = summary["lattices"]
    summary["lattices"] = [
        {**some[k % 40], "identifier": f"0123456789abcdef-{k:012d}", "theta_x": 1e-5 * (k % 9973)}
        for k in range(10_000)
    ]
    for i, plot in enumerate(summary["lattice_plots"]):
        plot["identifier"] = summary["lattices"][i]["identifier"]
    html = render(make_page(summary))
    assert html.count("<tr") > 10_000
    assert len(html) < 8e6
    assert len(figure(html, "theta_y against theta_x of each lattice")) < 300_000


def test_outputs_that_are_not_wanted_are_not_written(run, run_program, tmp_path):
    small = ["n_cycles=1", "cross_validation=none", "output.json=None", "output.html=None"]
    done = run_program("dials.postrefine", *run.files, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "postrefined.expt",
        "postrefined.refl",
        "dials.postrefine.log",
    }


def test_a_lattice_that_does_not_exist_ends_the_run_before_any_work(run, run_program, tmp_path):
    done = run_program("dials.postrefine", *run.files, "lattice_plots=nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("Sorry: lattice_plots=nowhere: no lattice has this identifier")
    assert "Traceback" not in done.stderr and "cycle" not in done.stdout
    assert results(tmp_path) == {}


def test_an_external_reference_has_its_correlation_and_no_honest_halves(run, run_program, tmp_path):
    reference = run.files[0].replace(".expt", "_truth.mtz")
    done = run_program(
        "dials.postrefine", *run.files, f"reference={reference}", "radius=mosaic", "unit_cell=scale", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "dials.postrefine.html").read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "dials.postrefine.json").read_text())
    assert "There are no honest CC1/2 and R_split" in html
    assert "The reference is external" in figure(html, "Change of the merged intensities by cycle")
    shells = summary["after"][:-1]
    x = [0.5 * (shell["d_max"] ** -2 + shell["d_min"] ** -2) for shell in shells]
    drawn = figure(html, "Correlation with the reference by resolution")
    assert_drawn(drawn, x, [shell["cc_reference"] for shell in shells])
    assert {"mosaicity", "cell_scale"} < set(summary["histograms"])
    assert figure(html, "Histogram of eta (degrees)") and figure(html, "Histogram of epsilon (%)")
    assert "r_0 (10⁻³ Å⁻¹)" in headers_of(html, "All lattices")


def test_two_lattices_make_a_page_that_says_what_it_can_not_show(run_program, tmp_path):
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    files = write_stills(simulate_stills(StillsOptions(n_lattices=2, d_min=3.0, seed=1)), tmp_path / "two")[:2]
    done = run_program("dials.postrefine", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "dials.postrefine.html").read_text(encoding="utf-8")
    assert len(rows_of(html, "All lattices")) == 2
    partiality = "Observed and predicted partiality by distance from the Ewald sphere"
    for title in ("CC1/2 by resolution", *(f"{partiality}, {when} postrefinement" for when in ("before", "after"))):
        svg = figure(html, title)
        assert len(markers(svg)) == 0 and re.search(r"<text[^>]*>\w[^<]{10,}</text>", svg)


@pytest.mark.parametrize(
    ("below", "observed", "completeness", "multiplicity", "words"),
    [
        (100, 0.5, 0.99, 20.0, None),
        (101, 0.5, 0.99, 20.0, "The profile fits, so these are spots that were predicted too far from the sphere"),
        (
            400,
            0.5,
            0.80,
            20.0,
            "(40%) are below partiality_threshold= and were not merged; what was merged is only 80%",
        ),
        (400, 0.5, 0.80, 3.0, "only 80% complete and 3.0 times observed: a lower partiality_threshold="),
        (400, 0.9, 0.80, 3.0, "some perhaps wrongly, as the observed partiality is not the predicted one"),
    ],
)
def test_partial_observations_that_are_left_out_are_remarked_with_what_to_do(
    below, observed, completeness, multiplicity, words
):
    from dials_postrefine.report.stills.remarks import partiality_remarks

    summary = {
        "dataset": {"n_observations": 1200, "n_of_rejected": 200, "n_below_threshold": below},
        "after": [{"completeness": completeness, "multiplicity": multiplicity}],
        "partiality": {"bins": [{"observed": observed, "predicted": 0.52, "observed_esd": 0.01}] * 8},
    }
    found = partiality_remarks(summary)
    assert found == [] if words is None else [words in one.text for one in found] == [True]
