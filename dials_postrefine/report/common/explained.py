"""
How much of the spread of equivalents dynamical scattering explains: the entries of a summary, what logs say, and a
section of a page, of dials.dynamical and dials.image_spread alike.

The entries are tau, r_meas, explained, correlation, slope and pairs.
"""

from __future__ import annotations

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Figure, Section, Table
from dials_postrefine.report.common.plots import BLUE, Curve
from dials_postrefine.report.common.summary import finite
from dials_postrefine.report.common.tables import number, table

MOST_PAIRS = 10


def describe_explained(found: dict | str) -> dict:
    """The entries of a summary (module docstring), of what Explained.as_dict gives; or why there is none."""
    if not isinstance(found, str):
        return finite({**found, "tau": {**found["tau"], "why": None}})
    nothing = {"value": None, "low": None, "high": None}
    return {
        "tau": {"before": None, "after": None, "why": found},
        "r_meas": {"before": None, "after": None},
        "explained": nothing,
        "correlation": nothing,
        "slope": nothing,
        "pairs": None,
    }


def explained_findings(summary: dict) -> list[str]:
    """What of the spread is explained, in sentences."""
    tau, share, found = summary["tau"], summary["explained"], []
    if tau["before"] is not None:
        found.append(
            f"Symmetry equivalents differ by tau {tau['before']:.3f} [{tau['before_low']:.3f}, "
            f"{tau['before_high']:.3f}] beyond counting, and by {tau['after']:.3f} [{tau['after_low']:.3f}, "
            f"{tau['after_high']:.3f}] once divided by the dynamical factor."
        )
    if share["value"] is not None:
        found.append(
            f"Dynamical scattering explains {share['value']:.0%} [{share['low']:.0%}, {share['high']:.0%}] of the "
            "excess variance between symmetry equivalents."
        )
    return found


def spread_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """The spread before and after the division."""
    tau, pairs = summary["tau"], summary["pairs"]
    rows = []
    for when, name in (("before", "as observed"), ("after", "divided by the factor")):
        interval = f"{number(tau[when], '{:.3f}')} [{tau[f'{when}_low']:.3f}, {tau[f'{when}_high']:.3f}]"
        agreement = pairs[when]
        rows.append(
            [
                name,
                interval,
                number(summary["r_meas"][when], "{:.3f}"),
                number(agreement["log_spread"], "{:.3f}"),
                number(agreement["r"], "{:.3f}"),
            ]
        )
    return ["intensities", "tau [95 %]", "R_meas", "log spread of pairs", "R of pairs"], rows


def pair_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """The pairs of images with most in common."""
    rows = [
        [
            str(one["first"]),
            str(one["second"]),
            str(one["n"]),
            number(one["correlation"], "{:.2f}"),
            number(one["before"], "{:.3f}"),
            number(one["after"], "{:.3f}"),
        ]
        for one in summary["pairs"]["best"][:MOST_PAIRS]
    ]
    return ["frame", "frame", "common", "correlation", "log spread before", "after"], rows


def explained_lines(summary: dict) -> str | None:
    """How much of the spread is explained."""
    if summary["tau"]["before"] is None:
        return None
    r, slope, share, pairs = (summary[name] for name in ("correlation", "slope", "explained", "pairs"))
    headers, rows = spread_rows(summary)
    lines = ["\nHow much is physics:", table(rows, headers)]
    if summary["tau"]["n_left_out"]:
        lines.append(
            f"{summary['tau']['n_left_out']} observations are in neither: single scattering gives them next to nothing."
        )
    lines.append(
        f"Explained: {interval(share, '{:.0%}')}; predicted and observed residuals of {r['n']} symmetry equivalents "
        f"with I > 3 sigma: correlation {interval(r, '{:.2f}')}, slope {interval(slope, '{:.2f}')}."
    )
    if pairs["n"]:
        lines.append(
            f"{pairs['n']} pairs of frames: correlation {number(pairs['correlation'], '{:.2f}')}; {pairs['n_better']} "
            "agree better after the division."
        )
        lines.append(table(*reversed(pair_rows(summary))))
    return "\n".join(lines)


def interval(one: dict, pattern: str) -> str:
    """A number with its interval."""
    if one["value"] is None:
        return "-"
    return f"{number(one['value'], pattern)} [{number(one['low'], pattern)}, {number(one['high'], pattern)}]"


def spread_lines(dynamical: dict | None) -> str | None:
    """What dials.image_spread says of dynamical scattering, where it was asked to."""
    if dynamical is None:
        return None
    r1, thickness = dynamical["r1"], dynamical["thickness"]
    hand = "as given" if dynamical["hand"] == 1 else "inverted against what was given"
    lines = [
        f"\nDynamical scattering by {dynamical['structure']}, {hand}: R1 {number(r1['dynamical'], '{:.3f}')}, without "
        f"{number(r1['kinematical'], '{:.3f}')}; thickness {esd(thickness['value'], thickness['esd'], '{:.0f}')} A"
    ]
    if dynamical["tau"]["why"]:
        return "\n".join([*lines, f"How much of the spread it explains is not known: {dynamical['tau']['why']}"])
    return "\n".join([*lines, explained_lines(dynamical) or "", *explained_findings(dynamical)])


def esd(value: float | None, of_value: float | None, pattern: str) -> str:
    """A number with its esd, or without one that does not exist."""
    if value is None:
        return "-"
    return number(value, pattern) if of_value is None else f"{number(value, pattern)} +- {number(of_value, pattern)}"


def spread_section(summary: dict | None) -> list[Section]:
    """How much of the spread is explained, of the summary of either program; nothing where that is not known."""
    if summary is None or summary["tau"]["before"] is None:
        return []
    r, slope = summary["correlation"], summary["slope"]
    sentences = [
        f"Predicted and observed residuals of {r['n']} symmetry equivalents correlate by {interval(r, '{:.2f}')}; the "
        f"slope is {interval(slope, '{:.2f}')}, 1 where the model's size is right."
    ]
    tables = [table_of("Before and after the division by the dynamical factor.", spread_rows(summary), n_text=1)]
    if summary["pairs"]["n"]:
        tables.append(table_of("Pairs of frames with most reflections in common.", pair_rows(summary), n_text=0))
    return [Section("How much is physics", sentences, figures=_pair_figure(summary), tables=tables)]


def _pair_figure(summary: dict) -> list[Figure]:
    pairs = summary["pairs"]["best"]
    if len(pairs) < 2:
        return []
    before, after = ([one[key] for one in pairs] for key in ("before", "after"))
    curve = Curve("pairs", before, after, BLUE, ".")
    largest = 1.05 * max((x for x in (*before, *after) if x is not None), default=1.0)
    limits = {"xlim": (0.0, largest), "ylim": (0.0, largest)}
    drawn = plots.lines(
        "pairs_divided",
        "Log spread of pairs",
        [curve],
        "log spread as observed",
        "divided by the factor",
        guides="diagonal",
        **limits,
    )
    return [Figure(drawn, "Pairs of frames below the line agree better after the division.")]


def table_of(caption: str, headers_and_rows: tuple[list[str], list[list[str]]], n_text: int) -> Table:
    """A table of the page from what the log has."""
    headers, rows = headers_and_rows
    return Table(
        caption, [with_signs(one) for one in headers], [[with_signs(one) for one in row] for row in rows], n_text=n_text
    )


def with_signs(text: str) -> str:
    """Words of the log with the signs that a page can have."""
    return text.replace("+-", "±").replace("tau", "τ").replace("sigma", "σ").replace(" - ", " to ").replace("(A", "(Å")
