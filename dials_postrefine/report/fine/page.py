"""The page of dials.fine_refine: what its JSON summary says, and the disks."""

from __future__ import annotations

from typing import Any

from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.fine import drawing
from dials_postrefine.report.fine.text import (
    DISK_HEADERS,
    FACTOR_HEADERS,
    PARAMETER_HEADERS,
    disk_rows,
    factor_rows,
    parameter_rows,
)

MOST_PROFILES = 5  # disks


def make_page(summary: dict, pattern: Any, outcome: Any) -> Page:
    """The page of a summary and of the pixels."""
    beams = summary["beams"]
    caption = f"More beams: what {beams['n_longer']} in place of {beams['n']} would add."
    tables = [Table(caption, PARAMETER_HEADERS, parameter_rows(summary))]
    if summary["factors"]:
        caption = "Structure factors; F_x by Mott and Bethe, f_x per atom."
        tables.append(Table(caption, FACTOR_HEADERS, _signs(factor_rows(summary))))
    return Page(
        title="dials.fine_refine",
        provenance=summary["provenance"],
        facts=_facts(summary),
        verdict=summary["verdict"],
        sections=[
            Section("Parameters", tables=tables),
            Section("Disks", figures=_images(pattern, outcome), tables=[Table("", DISK_HEADERS, disk_rows(summary))]),
            Section("Profiles", figures=_profiles(pattern, outcome)),
            Section(
                "The fit",
                figures=[
                    Figure(drawing.residuals_figure(outcome), "Residuals over their standard deviations."),
                    Figure(drawing.course_figure(summary), "χ² at each evaluation of the model in the last fit."),
                ],
                tables=[_correlations(summary)],
            ),
        ],
    )


def _facts(summary: dict) -> list[Fact]:
    note = f"{summary['n']} pixels, {summary['n_parameters']} parameters"
    found = [Fact("reduced χ²", number(summary["chi2_reduced"], ".3f"), note, grade_of(summary, "chi2_reduced"))]
    found.append(Fact("correlation", number(summary["correlation"], ".4f"), "mean of the disks"))
    for name in [one for one in summary["parameters"] if one[0] == "U" and one[1].isdigit()][:2] + ["thickness"]:
        one = summary["parameters"][name]
        found.append(Fact(name, number(one["value"], ".5g"), f"± {number(one['esd'], '.2g')} {one['unit']}"))
    return found


def _images(pattern: Any, outcome: Any) -> list[Figure]:
    """The disks, where their pixels make images."""
    if not pattern.is_grid:
        return []
    firsts = range(0, min(len(pattern.hkl), 2 * drawing.MOST_DISKS), drawing.MOST_DISKS)
    caption = "Measured and simulated on the same greys; residuals from −4 (blue) to 4 (red) standard deviations."
    return [Figure(drawing.disks_figure(pattern, outcome, first), caption) for first in firsts]


def _profiles(pattern: Any, outcome: Any) -> list[Figure]:
    """Profiles through some disks, or their pixels in order."""
    some = range(min(len(pattern.hkl), MOST_PROFILES))
    if not pattern.is_grid:
        return [Figure(drawing.points_figure(pattern, outcome, d), f"Disk {pattern.names[d]}.") for d in some]
    return [
        Figure(drawing.profile_figure(pattern, outcome, d), f"Disk {pattern.names[d]}, the middle row.") for d in some
    ]


def _correlations(summary: dict) -> Table:
    names, matrix = summary["correlations"]["names"], summary["correlations"]["matrix"]
    rows = [[name, *(number(r, "+.2f") for r in row)] for name, row in zip(names, matrix)]
    flagged = {i for i, row in enumerate(matrix) if any(r is not None and 0.97 < abs(r) < 0.9999999 for r in row)}
    return Table("Correlations of the parameters.", ["", *names], rows, flagged=frozenset(flagged))


def _signs(rows: list[list[str]]) -> list[list[str]]:
    return [[cell.replace("+-", "±") for cell in row] for row in rows]
