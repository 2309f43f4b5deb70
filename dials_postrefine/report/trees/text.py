"""What the log of dials.intensity_model says, from its summary (summary.py), and the tables that its page has, too."""

from __future__ import annotations

from dials_postrefine.report.common.images import name_column
from dials_postrefine.report.common.tables import absences_line, table
from dials_postrefine.report.trees.summary import FEATURES

NAMES = {
    "equivalents": "mean of symmetry equivalents",
    "f_calc": "|F_calc|",
    "trees": "trees",
    "both": "trees with |F_calc|",
}
# the same where there is little room
SHORT = {NAMES["equivalents"]: "symmetry equivalents", NAMES["both"]: "trees + |F_calc|"}
MOST_EXPERIMENTS = 20
LONGEST_NAME = 20
EXPLANATION = "R1 = sum|F - k F_p|/sum F over the same observations, k fitted by experiment; "


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
    headers, rows = r1_rows(summary)
    if not wide:  # to fit the log
        headers, rows = [SHORT.get(name, name) for name in headers], [[shorten(row[0]), *row[1:]] for row in rows]
    lines += ["", table(rows[: MOST_EXPERIMENTS + 1], headers, optional=("obs.",), wide=wide), explanation(summary)]
    if summary["compare"]:
        headers, rows = compared_rows(summary)
        lines += ["", table(rows, headers if wide else [SHORT.get(name, name) for name in headers])]
    headers, rows = importance_rows(summary)
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


def explanation(summary: dict) -> str:
    """What R1 is, and what the predictions have seen."""
    if summary["dataset"]["scaled_to"] == "all data":
        return (
            f"{EXPLANATION}neither mean nor trees have seen what they predict, |F_calc| was scaled to the mean "
            "intensities of all data."
        )
    return f"{EXPLANATION}no prediction has seen what it predicts."


def r1_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """R1 of all, then by experiment: headers and rows."""
    names = [name for name in NAMES if name in summary["overall"]]
    rows = [["all", *(_r1(summary["overall"][name]) for name in names), str(summary["overall"]["trees"]["n"])]]
    for one in summary["experiments"]:
        rows.append([one["name"], *(_r1(one[name]) for name in names), str(one["trees"]["n"])])
    return ["R1", *(NAMES[name] for name in names), "obs."], rows


def compared_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """R1 by what was learned from: headers, and a row for each of two columns of intensities."""
    names = [name for name in NAMES if name in summary["overall"]]
    other = summary["compare"]
    return ["R1, learned from", *(NAMES[name] for name in names)], [
        [summary["dataset"]["column"], *(_r1(summary["overall"][name]) for name in names)],
        [name_column(other["column"]), *(_r1(other["overall"].get(name)) for name in names)],
    ]


def importance_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """How much R1 grows without each feature, by the trees: headers and rows."""
    found = summary["importances"]
    rows = []
    for name in summary["features"]:
        cells = [found[trees].get(name) for trees in found]
        rows.append([FEATURES[name], *("-" if c is None else f"{c['growth']:+.4f} +- {c['esd']:.4f}" for c in cells)])
    return ["feature", *(NAMES[trees] for trees in found)], rows
