"""
What dials.intensity_model says: its summary as JSON, and the log and the page that are made from it.

R1 are fractions, with their standard deviations; a number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from dials_postrefine.electron.trees.intensitymodel import Prediction
from dials_postrefine.files.electron.intensity_model import ModelData, ModelRequest
from dials_postrefine.files.electron.scaled_images import COLUMNS
from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREEN, GREY, RED
from dials_postrefine.report.common.remarks import (
    Remark,
    absences_remarks,
    care,
    conclude,
    distrust,
    grade_of,
    not_used_remarks,
)
from dials_postrefine.report.common.summary import finite
from dials_postrefine.report.common.tables import absences_line, table
from dials_postrefine.report.spread.summary import describe_populations, population_remarks

NAMES = {
    "mates": "mean of symmetry mates",
    "f_calc": "|F_calc|",
    "trees": "trees",
    "both": "trees with |F_calc|",
}
# the same where there is little room
SHORT = {NAMES["mates"]: "symmetry mates", NAMES["both"]: "trees + |F_calc|"}
COLOURS = {"mates": GREY, "f_calc": RED, "trees": GREEN, "both": BLUE}
FEATURES = {
    "index": "index h, k, l",
    "resolution": "resolution",
    "orientation": "orientation of the beam",
    "excitation": "excitation error",
    "scale": "scale factor",
    "background": "background",
    "f_calc": "|F_calc|",
}
# By how many standard deviations R1 must differ to say so.
CERTAIN = 3.0
MOST_EXPERIMENTS = 20
LONGEST_NAME = 20
EXPLANATION = "R1 = sum|F - k F_p|/sum F over the same observations, k fitted by experiment; "


def make_summary(
    data: ModelData,
    request: ModelRequest,
    prediction: Prediction,
    column: str | None,
    other: Prediction | None,
    said: Sequence[str] = (),
) -> dict:
    """
    The summary (module docstring); other: what was learned from a column of integrated intensities; said: remarks
    beside those on the data.
    """
    files, images = data.files, data.files.images
    how = "train and test data sets" if request.train else f"split={data.split}, {int(data.fold.max()) + 1} parts"
    summary = {
        "dataset": {
            "experiments": files.identifiers,
            "n_input": files.n_input,
            "n_observations": len(images.h),
            "n_predicted": int(np.count_nonzero(np.isfinite(prediction.predicted[prediction.best]))),
            "predicted_by": prediction.best,
            "n_unique": len(np.unique(images.unique)),
            "column": f"{COLUMNS[request.choice.intensity]}.value",
            **describe_populations(files),
            "model": request.model,
            "split": how,
            "scaled_to": None if request.model is None else "the training data" if request.train else "all data",
        },
        "not_used": files.n_excluded,
        "absences": asdict(files.absences()),
        "features": data.features.names,
        "overall": {name: asdict(r1) for name, r1 in prediction.overall.items()},
        "experiments": [
            {"name": files.identifiers[k], **{name: asdict(r1) for name, r1 in found.items()}}
            for k, found in prediction.of_experiments
        ],
        "gain": asdict(prediction.gain),
        "importances": {
            trees: {name: {"growth": mean, "esd": esd} for name, (mean, esd) in found.items()}
            for trees, found in prediction.importances.items()
        },
        "compare": None
        if other is None
        else {"column": column, "overall": {name: asdict(r1) for name, r1 in other.overall.items()}},
    }
    summary = finite(summary)
    summary["findings"] = findings(summary)
    return summary | conclude([*data.notes, *remarks(summary, files.space_group.type().lookup_symbol()), *said])


def remarks(summary: dict, group: str) -> list[Remark]:
    """The remarks on a summary as it is written; group: the symbol of the space group."""
    found = [
        *absences_remarks(summary["absences"], group, electrons=True),
        *population_remarks(summary["dataset"]),
        *not_used_remarks(summary["not_used"], summary["dataset"]["n_input"]),
    ]
    trees, mates = (summary["overall"].get(name, {}).get("value") for name in ("trees", "mates"))
    if trees is None:
        found.append(distrust("nothing was predicted", "No observation could be predicted: give more data.", "trees"))
    elif mates is not None and trees > mates:
        found.append(
            care(
                "the mean of symmetry mates predicts better",
                f"The mean of symmetry mates predicts better than the trees (R1 {mates:.3f} against {trees:.3f}): what "
                "these learned is less than what the symmetry says.",
                "trees",
            )
        )
    return found


def explanation(summary: dict) -> str:
    """What R1 is, and what the predictions have seen."""
    if summary["dataset"]["scaled_to"] == "all data":
        return (
            f"{EXPLANATION}neither mean nor trees have seen what they predict, |F_calc| was scaled to the mean "
            "intensities of all data."
        )
    return f"{EXPLANATION}no prediction has seen what it predicts."


def findings(summary: dict) -> list[str]:
    """What the numbers mean, in sentences."""
    overall, found = summary["overall"], []

    def value(name: str) -> float | None:
        return overall.get(name, {}).get("value")

    if value("mates") is not None:
        loses = value("trees") > value("mates")
        found.append(
            f"Trees alone {'lose to' if loses else 'are better than'} the mean of symmetry mates: R1 "
            f"{value('trees'):.3f} against {value('mates'):.3f}."
        )
    else:
        found.append(
            "The training data have no symmetry mates of what was predicted: there is no mean to compare with."
        )
    gain = summary["gain"]
    if gain["value"] is not None:
        certain = gain["value"] > CERTAIN * gain["esd"]
        found.append(
            f"Trees with |F_calc| {'beat' if certain else 'do not beat'} |F_calc| alone: R1 {value('both'):.3f} "
            f"against {value('f_calc'):.3f}, a gain of {gain['value']:+.3f} +- {gain['esd']:.3f}."
        )
        dependence = {
            name: one
            for name, one in summary["importances"]["both"].items()
            if certain and one["growth"] > max(CERTAIN * one["esd"], 0.01 * value("f_calc"))
        }
        if dependence:
            ranked = sorted(dependence, key=lambda name: -dependence[name]["growth"])
            listed = ", ".join(f"{FEATURES[name]} ({dependence[name]['growth']:.3f})" for name in ranked)
            found.append(f"F/|F_calc| depends on, by how much R1 grows without: {listed}.")
        else:
            found.append("No dependence of F/|F_calc| on any feature was found.")
    other = summary["compare"]
    if other is not None and other["overall"]["trees"]["value"] is not None:
        found.append(
            f"Learned from the integrated values ({COLUMNS[other['column']]}.value) the trees have R1 "
            f"{other['overall']['trees']['value']:.3f} in place of {value('trees'):.3f}."
        )
    return found


def text(summary: dict, wide: bool = False) -> str:
    """The log."""
    data = summary["dataset"]
    lines = [
        f"{data['n_predicted']} of {data['n_observations']} observations of {data['n_unique']} unique indices "
        f"predicted by {NAMES[data['predicted_by']]}, {data['split']}; {data['column']}",
        "Features: " + ", ".join(FEATURES[name] for name in summary["features"]),
    ]
    if summary["not_used"]:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in summary["not_used"].items()))
    if summary["absences"]["n"]:
        lines.append(absences_line(summary["absences"], used=True))
    headers, rows = _r1_rows(summary)
    if not wide:  # to fit the log
        headers, rows = [SHORT.get(name, name) for name in headers], [[shorten(row[0]), *row[1:]] for row in rows]
    lines += ["", table(rows[: MOST_EXPERIMENTS + 1], headers, optional=("obs.",), wide=wide), explanation(summary)]
    if summary["compare"]:
        headers, rows = _compared_rows(summary)
        lines += ["", table(rows, headers if wide else [SHORT.get(name, name) for name in headers])]
    headers, rows = _importance_rows(summary)
    lines += ["", "How much R1 grows when the values of a feature are permuted:", table(rows, headers), ""]
    lines += summary["findings"]
    return "\n".join(lines)


def shorten(name: str) -> str:
    """The beginning of a long identifier."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _r1(found: dict | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    return f"{found['value']:.3f} +- {found['esd']:.3f}"


def _r1_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """R1 of all, then by experiment."""
    names = [name for name in NAMES if name in summary["overall"]]
    rows = [["all", *(_r1(summary["overall"][name]) for name in names), str(summary["overall"]["trees"]["n"])]]
    for one in summary["experiments"]:
        rows.append([one["name"], *(_r1(one[name]) for name in names), str(one["trees"]["n"])])
    return ["R1", *(NAMES[name] for name in names), "obs."], rows


def _compared_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    names = [name for name in NAMES if name in summary["overall"]]
    other = summary["compare"]
    return ["R1, learned from", *(NAMES[name] for name in names)], [
        [summary["dataset"]["column"], *(_r1(summary["overall"][name]) for name in names)],
        [f"{COLUMNS[other['column']]}.value", *(_r1(other["overall"].get(name)) for name in names)],
    ]


def _importance_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    found = summary["importances"]
    rows = []
    for name in summary["features"]:
        cells = [found[trees].get(name) for trees in found]
        rows.append([FEATURES[name], *("-" if c is None else f"{c['growth']:+.4f} +- {c['esd']:.4f}" for c in cells)])
    return ["feature", *(NAMES[trees] for trees in found)], rows


def make_page(summary: dict) -> Page:
    """The page of a summary."""
    data = summary["dataset"]
    headers, rows = _r1_rows(summary)
    tables = [
        Table(
            explanation(summary).replace(" - ", " − "), headers, _with_signs(rows), sortable=True, long=len(rows) > 20
        )
    ]
    if summary["compare"]:
        compared_headers, compared = _compared_rows(summary)
        tables.append(
            Table("Learned from one column of intensities and from another.", compared_headers, _with_signs(compared))
        )
    importance_headers, importances = _importance_rows(summary)
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
