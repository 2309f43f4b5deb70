"""
The page in a browser, headless Chromium without a network: no error in the console, the figures drawn, tables sorted.

A probe is put into a copy of the page.  Its first part catches errors, its last one opens what is folded, measures each
figure, clicks on headers of the table of lattices, and leaves what it found as JSON in the document.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from dials_postrefine.report.common.page import render
from dials_postrefine.report.common.remarks import care, conclude
from dials_postrefine.report.stills.page import make_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.dials,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is on PATH"),
]

FIRST = """<script>
var problems = [];
addEventListener("error", function (event) {
  problems.push(event.message || "not loaded: " + event.target.outerHTML);
}, true);
addEventListener("securitypolicyviolation", function (event) { problems.push("refused: " + event.blockedURI); });
</script>"""

LAST = """<script>
addEventListener("load", function () {
  document.querySelectorAll("details").forEach(function (one) { one.open = true; });
  var figures = Array.from(document.querySelectorAll("figure svg")).map(function (svg) {
    var box = svg.getBoundingClientRect();
    var drawn = Array.from(svg.querySelectorAll("path, use, image")).filter(function (mark) {
      var own = mark.getBoundingClientRect();
      var inside = own.right > box.left && own.left < box.right && own.bottom > box.top && own.top < box.bottom;
      return inside && own.width + own.height > 0 && !mark.closest("defs, clipPath");
    });
    return {name: svg.getAttribute("aria-label"), x: box.left + scrollX, y: box.top + scrollY, width: box.width,
            height: box.height, drawn: drawn.length, words: svg.querySelectorAll("text").length};
  });
  var table = document.querySelector("table.sortable"), columns = {};
  ["lattice", "G", "CC model"].forEach(function (name) {
    var headers = Array.from(table.tHead.rows[0].cells);
    var i = headers.findIndex(function (header) { return header.textContent === name; });
    function read() {
      return Array.from(table.tBodies[0].rows).map(function (row) { return row.cells[i].textContent; });
    }
    var before = read(), button = headers[i].querySelector("button");
    if (!button) { problems.push("no button: " + name); return; }
    button.click();
    var up = read(), sort = headers[i].getAttribute("aria-sort");
    button.click();
    columns[name] = {before: before, up: up, down: read(), sort: [sort, headers[i].getAttribute("aria-sort")]};
  });
  var edge = document.body.getBoundingClientRect().right + 1;
  var wide = Array.from(document.querySelectorAll("p, li, dd, dt, h1, h2, summary, pre, caption, figcaption, nav a"))
    .filter(function (one) { return one.getBoundingClientRect().right > edge; })
    .map(function (one) { return one.tagName + ": " + one.textContent.slice(0, 60); });
  var result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify({problems: problems, figures: figures, columns: columns,
    wide: wide, body: document.body.scrollWidth, height: document.documentElement.scrollHeight});
  document.body.appendChild(result);
});
</script>"""


@dataclass
class Visit:
    """What a browser made of a page: the probe's findings and the lines of its console."""

    found: dict
    console: list[str]

    def figure(self, name: str) -> dict:
        (one,) = [figure for figure in self.found["figures"] if figure["name"] == name]
        return one


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Chromium once on the page, with a new profile and no network."""
    options = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    command = [CHROMIUM, "--headless", *(f"--{option}" for option in options.split()), "--disable-sync"]
    command += ["--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", *arguments]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def probed(html: str) -> str:
    """The page with the probe in it."""
    assert html.count("<head>") == html.count("</body>") == 1
    return html.replace("<head>", "<head>" + FIRST).replace("</body>", LAST + "</body>")


def visit(html: str, folder: Path, width: int = 1200) -> Visit:
    """Load a page in a window of a width and read the probe."""
    page = folder / "page.html"
    page.write_text(probed(html), encoding="utf-8")
    done = browse(page, folder / "profile", f"--window-size={width},900", "--dump-dom")
    (text,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    return Visit(json.loads(unescape(text)), [line for line in done.stderr.splitlines() if ":CONSOLE" in line])


@pytest.fixture(scope="module")
def visited(run, tmp_path_factory) -> Visit:
    return visit(run.html, tmp_path_factory.mktemp("browser"))


def test_nothing_goes_wrong(visited):
    assert visited.console == []
    assert visited.found["problems"] == []


def test_every_figure_is_drawn(visited):
    figures = visited.found["figures"]
    assert len(figures) == 5 + 5 + 1 + 2 + 2 + 3 + 2 + 4 * 3
    for figure in figures:
        assert figure["width"] > 250 and 0.4 < figure["height"] / figure["width"] < 1.0, figure
        assert figure["drawn"] >= 10 and figure["words"] >= 5, figure
    assert visited.figure("CC1/2 by resolution")["drawn"] > 3 * 10  # three curves of ten shells
    assert visited.figure("theta_y against theta_x of each lattice")["drawn"] > 36


def test_a_click_on_a_header_sorts(visited):
    def value(text):
        return float(text.split(" ")[0])

    for name in ("G", "CC model"):
        column = visited.found["columns"][name]
        known = [text for text in column["before"] if text != "–"]
        assert len(known) > 30
        assert [value(text) for text in column["up"][: len(known)]] == sorted(map(value, known))
        assert [value(text) for text in column["down"][: len(known)]] == sorted(map(value, known), reverse=True)
        assert column["up"][len(known) :] == column["down"][len(known) :] == ["–"] * (40 - len(known))
        assert column["sort"] == ["ascending", "descending"]
    numbers = [value(text) for text in visited.found["columns"]["G"]["up"] if text != "–"]
    assert max(numbers) >= 2.0 > 1.0 > min(numbers)
    names = visited.found["columns"]["lattice"]
    assert names["up"] == sorted(names["before"]) and names["down"] == names["up"][::-1]


@pytest.mark.parametrize(("width", "columns"), [(360, 1), (800, 2), (1600, 3)])
def test_the_page_fits_a_phone_and_a_desk(run, tmp_path, width, columns):
    """The body has the width of the window; no window of headless Chromium is narrower than 500 pixels."""
    html = run.html.replace("</head>", f"<style>body {{ width: {width}px; margin: 0 }}</style></head>")
    found = visit(html, tmp_path, max(width, 500))
    assert found.console == []
    figures = found.found["figures"]
    assert max(figure["x"] + figure["width"] for figure in figures) <= width
    assert found.found["body"] <= width
    assert len({round(figure["x"]) for figure in figures[:11]}) == columns


@pytest.mark.parametrize("width", [390, 1200])
def test_sentences_captions_and_paths_are_broken(run, tmp_path, width):
    """Names of files without a blank, longer than any window, wherever a page has one."""
    summary = copy.deepcopy(run.summary)
    path = "/".join(["a_long_name_of_a_folder"] * 12) + "/stills.refl"
    summary["dataset"]["reference"] = path
    summary["merge_command"] = f"dials.merge {path}"
    summary["provenance"].update(command=f"dials.postrefine {path}", directory=path, inputs=[path], parameters=path)
    summary |= conclude([care(path, f"Look at {path}.")])
    html = render(make_page(summary)).replace(
        "</head>", f"<style>body {{ width: {width}px; margin: 0 }}</style></head>"
    )
    found = visit(html, tmp_path, max(width, 500)).found
    assert found["problems"] == [] and found["wide"] == []
    assert found["body"] <= width


def test_a_screenshot_shows_the_figures(run, visited, tmp_path):
    from matplotlib.image import imread

    height = int(visited.found["height"]) + 50
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(run.html.replace("<details", "<details open"), encoding="utf-8")
    browse(page, tmp_path / "profile", f"--window-size=1200,{height}", f"--screenshot={picture}")
    image = imread(picture)[:, :, :3]
    assert image.shape[:2] == (height, 1200)
    for figure in visited.found["figures"]:
        x, y, w, h = (round(figure[key]) for key in ("x", "y", "width", "height"))
        part = image[y : y + h, x : x + w]
        dark = np.mean(part.min(axis=2) < 0.7)
        assert 0.005 < dark < 0.5, (figure["name"], dark)
        assert len(np.unique(part.reshape(-1, 3), axis=0)) > 20, figure["name"]


# The tests above can fail


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</main>", '</main><script src="https://example.invalid/plot.js"></script>', "example.invalid"),
        ("</main>", '</main><img src="https://example.invalid/plot.png">', "example.invalid"),
        ('"use strict";', '"use strict"; no_such_function();', "no_such_function"),
    ],
    ids=["remote script", "remote image", "error"],
)
def test_a_broken_page_is_noticed(run, tmp_path, old, new, said):
    assert run.html.count(old) == 1
    found = visit(run.html.replace(old, new), tmp_path)
    assert any(said in problem for problem in found.found["problems"])
    assert any(said in line for line in found.console)


def test_a_figure_without_content_is_noticed(run, tmp_path):
    name = "CC1/2 by resolution"
    html = re.sub(rf'(<svg role="img" aria-label="{name}".*?</title>).*?</svg>', r"\1</svg>", run.html, flags=re.DOTALL)
    assert len(html) < len(run.html) - 5000
    assert visit(html, tmp_path).figure(name)["drawn"] == 0
