"""The page of dials.intensity_model: what its JSON summary (summary.py) says, and a figure of R1."""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREEN, GREY, RED
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.trees.text import (
    MOST_EXPERIMENTS,
    NAMES,
    compared_rows,
    explanation,
    importance_rows,
    r1_rows,
)

COLOURS = {"equivalents": GREY, "f_calc": RED, "trees": GREEN, "both": BLUE}


def make_page(summary: dict) -> Page:
    """The page of a summary."""
    data = summary["dataset"]
    headers, rows = r1_rows(summary)
    tables = [
        Table(
            explanation(summary).replace(" - ", " − "), headers, _with_signs(rows), sortable=True, long=len(rows) > 20
        )
    ]
    if summary["compare"]:
        compared_headers, compared = compared_rows(summary)
        tables.append(
            Table("Learned from one column of intensities and from another.", compared_headers, _with_signs(compared))
        )
    importance_headers, importances = importance_rows(summary)
    facts = [
        Fact(
            NAMES[name],
            number(summary["overall"][name]["value"], ".3f"),
            f"R1 ± {number(summary['overall'][name]['esd'], '.3f')}",
            grade_of(summary, name),
        )
        for name in NAMES
        if name in summary["overall"]
    ]
    settings = [
        ["experiments", ", ".join(data["experiments"][:10]) + (" …" if len(data["experiments"]) > 10 else "")],
        [
            "observations",
            f"{data['n_predicted']} of {data['n_observations']} predicted by {NAMES[data['predicted_by']]}, "
            f"{data['n_unique']} unique indices",
        ],
        ["intensities", data["column"]],
        ["model", data["model"] or "none"],
        ["training and test", data["split"]],
        *(
            [["not used", ", ".join(f"{n} {why}" for why, n in summary["not_used"].items())]]
            if summary["not_used"]
            else []
        ),
    ]
    return Page(
        title="dials.intensity_model",
        provenance=summary["provenance"],
        lead=[_with_sign(sentence) for sentence in summary["findings"]],
        facts=facts,
        verdict=summary["verdict"],
        sections=[
            Section(
                "R1",
                figures=[Figure(_r1_figure(summary), "By data set; bars are one standard deviation.")],
                tables=tables,
            ),
            Section(
                "What the trees use",
                ["How much R1 grows when a feature's values are permuted among the observations that are predicted."],
                tables=[Table("Importances.", importance_headers, _with_signs(importances))],
            ),
            Section("Data set", tables=[Table("What was read.", ("", ""), settings, n_text=2)]),
        ],
    )


def _with_sign(text: str) -> str:
    return text.replace("+-", "±")


def _with_signs(rows: list[list[str]]) -> list[list[str]]:
    return [[_with_sign(cell) for cell in row] for row in rows]


def _r1_figure(summary: dict) -> str:
    names = [name for name in NAMES if summary["overall"].get(name, {}).get("value") is not None]
    sets = [("all", summary["overall"]), *((one["name"], one) for one in summary["experiments"][:MOST_EXPERIMENTS])]
    sets = sets[:1] if len(sets) == 2 else sets

    def paint(axes):
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            values = plots.numbers([found[name]["value"] for _, found in sets])
            esds = plots.numbers([found[name]["esd"] for _, found in sets])
            place = np.arange(len(sets)) + (i - 0.5 * (len(names) - 1)) * width
            axes.bar(
                place, values, 0.9 * width, yerr=esds, color=COLOURS[name], label=NAMES[name], error_kw={"lw": 0.8}
            )
        axes.set_xticks(np.arange(len(sets)), [name[:12] for name, _ in sets], rotation=45 if len(sets) > 4 else 0)
        axes.set(ylabel="R1", ylim=(0.0, None))
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=2, borderaxespad=0.2, handlelength=1.2)

    margins = (0.72, 0.15, 0.75 if len(sets) > 4 else 0.35, 0.55, 0.0)
    return plots.draw("r1", "R1 by data set", paint, (4.4, 3.4), margins=margins)
