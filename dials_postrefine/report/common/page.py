"""
The one report template: sections of prose, figures and tables -> one HTML file that needs no network.

What is shown is the caller's; here is how it is shown.  All text is escaped; a figure is SVG as plots.py makes it and
goes in as it is.  The page forbids itself to load anything (Content-Security-Policy), can be read without scripts, on a
narrow screen and on paper; the script sorts tables and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dials_postrefine.report.common import tables
from dials_postrefine.report.common.summary import write_summary

NO_NUMBER = "–"


@dataclass
class Figure:
    """An SVG, and the sentences that say how to read it."""

    svg: str
    caption: str


@dataclass
class Table:
    """
    Rows of text under headers.

    The first `n_text` columns are words and aligned left, the others numbers; flagged rows (by number) are set off.
    long: in a box that scrolls; sortable: by a click on a header.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_text: int = 1
    sortable: bool = False
    long: bool = False
    flagged: frozenset[int] = frozenset()


@dataclass
class Section:
    """A heading with paragraphs, figures and tables below it, and parts that are folded until they are opened."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Section] = ()


@dataclass
class Fact:
    """A number that comes first: its name, itself, a line that puts it into place, and the grade of a remark on it."""

    name: str
    value: str
    note: str = ""
    grade: str = ""


@dataclass
class Page:
    """
    A report: title, where it comes from (provenance.Provenance.as_dict), the verdict with the remarks
    (remarks.conclude), what comes first, a command to go on with, and the sections.
    """

    title: str
    provenance: dict
    lead: Sequence[str] = ()
    facts: Sequence[Fact] = ()
    verdict: dict | None = None
    command: str = ""
    sections: Sequence[Section] = field(default_factory=list)


def number(value: float | None, pattern: str, factor: float = 1.0) -> str:
    """A number as the page has it: tables.number by the format alone, with another dash and no minus nothing."""
    return tables.positive_zero(tables.number(value, f"{{:{pattern}}}", factor, NO_NUMBER))


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(page=page)


def write_page(page: Page, path: str) -> None:
    """Write the page."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(render(page))


def write_reports(summary: dict, make_page: Callable[[], Page], json_path: str | None, html_path: str | None) -> None:
    """Write the JSON of a summary and its page, each where it is wanted; a page that is not is not drawn."""
    if json_path:
        write_summary(summary, json_path)
    if html_path:
        write_page(make_page(), html_path)
