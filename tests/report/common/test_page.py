"""The template and the figures by themselves: escaping, size, determinism, and nothing that needs a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, render
from dials_postrefine.report.common.plots import Curve
from dials_postrefine.report.common.provenance import Provenance
from dials_postrefine.report.common.remarks import care, conclude

NASTY = "<script>alert('x')</script>&\"quoted\""


def markers(svg: str) -> np.ndarray:
    """The positions (n, 2) of the markers of an SVG, in drawing order."""
    return np.array(re.findall(r'<use[^>]*href="#[^"]*" x="([^"]*)" y="([^"]*)"[^>]*style="fill', svg), dtype=float)


class Checker(HTMLParser):
    """Collects text and attributes, and sees that tags are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def a_page() -> Page:
    figure = Figure(plots.lines("one", NASTY, [Curve(NASTY, [1, 2, 3], [1.0, None, 3.0])], NASTY, "y"), NASTY)
    table = Table(NASTY, [NASTY, "n"], [[NASTY, "1"], ["b", "2"]], sortable=True, long=True, flagged=frozenset({1}))
    inner = Section(NASTY, [NASTY], [figure], [table])
    provenance = Provenance(NASTY, NASTY, NASTY, NASTY, NASTY, (NASTY,), NASTY).as_dict()
    said = conclude([care(NASTY, NASTY), NASTY])
    facts = [Fact(NASTY, NASTY, NASTY)]
    return Page(
        NASTY,
        provenance,
        [NASTY],
        facts,
        verdict=said["verdict"],
        command=NASTY,
        sections=[Section("a", folded=[inner])],
    )


def test_text_is_escaped_wherever_it_stands():
    html = render(a_page())
    assert "<script>alert" not in html
    checker = Checker(html)
    assert checker.tags.count("script") == 1  # our own
    # title, h1, provenance (6), lead, fact (3), verdict, remark (2), command, paragraph, captions, header, ...
    assert sum(NASTY in text for text in checker.text) >= 21


def test_tags_are_closed_and_identifiers_unique():
    checker = Checker(render(a_page()))
    identifiers = [value for _, name, value in checker.attributes if name == "id"]
    assert len(identifiers) > 5
    assert len(identifiers) == len(set(identifiers))
    # what is referred to is there
    links = [value[1:] for _, name, value in checker.attributes if name.endswith("href") and value.startswith("#")]
    assert links and set(links) <= set(identifiers)


def test_nothing_is_loaded():
    html = render(a_page())
    assert "://" not in html
    for tag, name, value in Checker(html).attributes:
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_same_numbers_give_the_same_bytes():
    assert render(a_page()) == render(a_page())


def test_a_figure_has_a_title_for_those_who_do_not_see_it():
    svg = plots.lines("name", "What is drawn", [Curve("a", [1, 2], [3, 4])], "x", "y")
    assert svg.startswith('<svg role="img" aria-label="What is drawn" viewBox="0 0 ')
    assert "<title>What is drawn</title>" in svg and svg.endswith("</svg>")


def test_points_are_where_the_numbers_are():
    x, y = [0.0, 1.0, 4.0, 5.0], [2.0, None, 10.0, -3.0]
    found = markers(plots.lines("name", "t", [Curve("a", x, y, style="o")], "x", "y"))
    known = np.array([[a, b] for a, b in zip(x, y) if b is not None])
    for column, sign in ((0, 1.0), (1, -1.0)):  # y grows downwards in SVG
        slope, offset = np.polyfit(known[:, column], found[:3, column], 1)
        assert slope * sign > 1.0
        np.testing.assert_allclose(found[:3, column], slope * known[:, column] + offset, atol=1e-3)


def test_resolution_is_even_in_d_star_squared():
    shells = [{"d_max": None, "d_min": 4.0}, {"d_max": 4.0, "d_min": 2.5}, {"d_max": 2.5, "d_min": 2.0}]
    found = markers(plots.by_resolution("n", "t", shells, [Curve("a", [], [1.0, 2.0, 3.0], style="o")], "y", "why"))
    centres = 0.5 * (np.array([0.0, 1 / 16, 1 / 6.25]) + np.array([1 / 16, 1 / 6.25, 1 / 4]))
    slope, offset = np.polyfit(centres, found[:3, 0], 1)
    np.testing.assert_allclose(found[:3, 0], slope * centres + offset, atol=1e-3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda why: plots.lines("n", "t", [], "x", "y", why),
        lambda why: plots.lines("n", "t", [Curve("a", [1.0, None], [None, 1.0])], "x", "y", why),
        lambda why: plots.lines("n", "t", [Curve("a", [], [])], "x", "y", why),
        lambda why: plots.by_resolution("n", "t", [{"d_max": 3, "d_min": 2}], [Curve("a", [], [None])], "y", why),
        lambda why: plots.convergence("n", "t", [{"change": None}], 0.1, why),
        lambda why: plots.residuals_by_resolution("n", "t", [2.0], [None], 8.0, why),
    ],
)
def test_an_empty_figure_says_why(draw):
    assert "Nothing was seen" in draw("Nothing was seen")
    assert len(markers(draw("Nothing was seen"))) == 0


def test_many_points_become_a_picture_of_bounded_size():
    rng = np.random.default_rng(1)

    def svg(n):
        return plots.lines("n", "t", [Curve("a", *rng.normal(size=(2, n)), style=".")], "x", "y", "why", "cross")

    assert "data:image/png;base64," not in svg(plots.MOST_VECTOR_POINTS)
    large = svg(100_000)
    assert "data:image/png;base64," in large and len(large) < 300_000


def test_residuals_beyond_the_limit_are_drawn_at_the_edge():
    z = [8.0, -8.0, 0.0, -900.0, 70.0]
    found = markers(plots.residuals_by_resolution("n", "t", [2.0, 3.0, 4.0, 2.5, 2.2], z, 8.0, "why"))
    top, bottom, middle, *beyond = found[:, 1]
    assert top < middle < bottom
    assert middle == pytest.approx(0.5 * (top + bottom), abs=1e-3)
    assert beyond == pytest.approx([bottom, top], abs=1e-3)
