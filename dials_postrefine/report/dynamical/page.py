"""The page of dials.dynamical: what its JSON summary (summary.py) says, and figures of R1, amplitudes and frames."""

from __future__ import annotations

from collections.abc import Sequence

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.explained import spread_section, table_of, with_signs
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREY, RED, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.dynamical.text import (
    candidate_rows,
    charge_part_rows,
    charge_rows,
    intensity_rows,
    order_rows,
    refined_rows,
    resolution_rows,
)

R1 = "R1 of observed reflections (I > 3 σ), with single scattering and with dynamical scattering"


def make_page(summary: dict) -> Page:
    """The page of a summary."""
    return Page(
        title="dials.dynamical",
        provenance=summary["provenance"],
        lead=[with_signs(sentence) for sentence in summary["findings"]],
        facts=_facts(summary),
        verdict=summary["verdict"],
        sections=[
            _agreement(summary),
            _model(summary),
            *spread_section(summary),
            *_charge(summary),
            *_orders(summary),
            _frames(summary),
            _dataset(summary),
        ],
    )


def _facts(summary: dict) -> list[Fact]:
    r1, thickness, tau, share = (summary[key] for key in ("r1", "thickness", "tau", "explained"))
    other = "" if r1["other_hand"] is None else f"other hand {number(r1['other_hand'], '.3f')}"
    facts = [
        Fact(
            "R1",
            number(r1["dynamical"], ".3f"),
            f"single scattering {number(r1['kinematical'], '.3f')}",
            grade_of(summary, "r1"),
        ),
        Fact(
            "thickness",
            f"{number(thickness['value'], '.0f')} Å",
            f"± {number(thickness['esd'], '.1f')}",
            grade_of(summary, "thickness"),
        ),
        Fact("hand", "as given" if summary["hand"] == 1 else "inverted", other, grade_of(summary, "hand")),
    ]
    if tau["before"] is not None:
        facts.append(Fact("τ", number(tau["after"], ".3f"), f"undivided {number(tau['before'], '.3f')}"))
    if share["value"] is not None:
        facts.append(
            Fact("explained", number(share["value"], ".0%"), f"{share['low']:.0%} to {share['high']:.0%} of the excess")
        )
    return facts


def _agreement(summary: dict) -> Section:
    points, groups = summary["points"], summary["groups"]
    largest = 1.05 * max([1e-9, *points["observed"]])
    limits = {"xlim": (0.0, largest), "ylim": (0.0, largest)}
    figures = [
        Figure(
            plots.lines(
                f"{name}_amplitudes",
                f"Observed and calculated amplitudes, {name}",
                [Curve(name, points[name], points["observed"], colour, ".")],
                f"|F| calculated, {name}",
                "|F| observed",
                guides="diagonal",
                **limits,
            ),
            f"Observed against calculated, {name}.",
        )
        for name, colour in (("dynamical", BLUE), ("kinematical", RED))
    ]
    shells = groups["resolution"]
    figures.append(
        Figure(
            plots.by_resolution(
                "r1_resolution", "R1 by resolution", shells, _pair(shells), "R1", "There are no data.", ylim=(0.0, None)
            ),
            "R1 by resolution.",
        )
    )
    figures.append(
        Figure(
            plots.lines(
                "r1_intensity",
                "R1 by intensity",
                _pair(groups["intensity"], [one["i"] for one in groups["intensity"]]),
                "median I of a tenth of the reflections",
                "R1",
                xscale="log",
                ylim=(0.0, None),
            ),
            "R1 by intensity.",
        )
    )
    tables = [
        table_of(f"{R1}, by resolution.", resolution_rows(summary), n_text=1),
        table_of(f"{R1}, by intensity.", intensity_rows(summary), n_text=0),
    ]
    return Section("Observed against calculated", figures=figures, tables=tables)


def _pair(groups: Sequence[dict], x: Sequence[float] = ()) -> list[Curve]:
    return [
        Curve(name, list(x), [one[key] for one in groups], colour)
        for name, key, colour in (("single scattering", "kinematical", RED), ("dynamical", "dynamical", BLUE))
    ]


def _model(summary: dict) -> Section:
    tables = [
        table_of("What is one for all frames.", refined_rows(summary), n_text=1),
        table_of("Hands and settings that were tried, the best one first.", candidate_rows(summary), n_text=1),
    ]
    scan = summary["thickness_scan"]
    figures = []
    if scan:
        x = [one["thickness"] for one in scan]
        r1 = [summary["r1"]["kinematical"]] * len(scan)
        curves = [
            Curve("single scattering", x, r1, RED, "-"),
            Curve("dynamical", x, [one["dynamical"] for one in scan], BLUE),
        ]
        figures.append(
            Figure(
                plots.lines("r1_thickness", "R1 by thickness", curves, "thickness (Å)", "R1", ylim=(0.0, None)),
                "R1 by thickness, all else as it was before the refinement.",
            )
        )
    return Section("Model", figures=figures, tables=tables)


def _charge(summary: dict) -> list[Section]:
    charge = summary["charge"]
    if charge is None:
        return []
    first, second = (one["name"] for one in charge["models"])
    deviation = "" if charge["deviation"] is None else f" ± {number(charge['deviation'], '.1f')}"
    tables = [table_of("The same refinement with each.", charge_rows(charge), n_text=1)]
    for by in ("resolution", "intensity"):
        tables.append(table_of(f"Where the ratio comes from, by {by}.", charge_part_rows(charge, by), n_text=1))
    sentence = (
        f"ln of the likelihood ratio is {number(charge['log_ratio'], '.1f')}{deviation}, positive for {second} and "
        f"negative for {first}."
    )
    return [Section("Charge", [sentence], tables=tables)]


def _orders(summary: dict) -> list[Section]:
    if not summary["orders"]:
        return []
    caption = "R1 of corrected amplitudes against |F| of single scattering."
    return [Section("Where the correction enters", tables=[table_of(caption, order_rows(summary), n_text=1)])]


def _frames(summary: dict) -> Section:
    frames = summary["frames"]
    x = [one["number"] for one in frames]
    moved = Curve("moved", x, [one["moved"] for one in frames], BLUE, ".", _known([one["moved_esd"] for one in frames]))
    thickness = Curve(
        "thickness",
        x,
        [one["thickness"] for one in frames],
        GREY,
        ".",
        _known([one["thickness_esd"] for one in frames]),
    )
    figures = [
        Figure(
            plots.lines("r1_frames", "R1 by frame", _pair(frames, x), "frame", "R1", ylim=(0.0, None)), "R1 by frame."
        ),
        Figure(
            plots.lines("moved", "Orientation moves", [moved], "frame", "moved by (degrees)", ylim=(0.0, None)),
            "How far the orientation of each frame was moved.",
        ),
        Figure(
            plots.lines("thickness", "Thickness by frame", [thickness], "frame", "thickness (Å)", ylim=(0.0, None)),
            "Thickness by frame.",
        ),
    ]
    headers = ["frame", "angle (°)", "R1 kinematical", "R1 dynamical", "obs.", "thickness (Å)", "moved (°)", "scale"]
    rows = [
        [
            str(one["number"]),
            number(one["angle"], ".1f"),
            number(one["kinematical"], ".3f"),
            number(one["dynamical"], ".3f"),
            str(one["n"]),
            number(one["thickness"], ".0f"),
            number(one["moved"], ".3f"),
            number(one["scale"], ".4g"),
        ]
        for one in frames
    ]
    return Section(
        "Frames",
        figures=figures,
        tables=[Table("By frame.", headers, rows, n_text=0, sortable=True, long=len(rows) > 20)],
    )


def _known(values: list[float | None]) -> list[float | None] | None:
    """The values, None where there is none."""
    return None if all(one is None for one in values) else values


def _dataset(summary: dict) -> Section:
    data = summary["dataset"]
    rows = [
        ["data", ", ".join(data["names"][:10]) + " …" * (len(data["names"]) > 10)],
        ["structure", f"{data['structure']}, {data['space_group']}"],
        ["unit cell", " ".join(f"{one:.5g}" for one in data["unit_cell"])],
        ["wavelength", f"{data['wavelength']:.5f} Å"],
        ["frames", f"{data['n_frames']}, of a {data['motion']}"],
        [
            "observations",
            f"{data['n_observations']} of {data['n_unique']} unique indices, {data['n_observed']} with I > 3 σ",
        ],
        ["resolution", f"{data['d_max']:.2f} to {data['d_min']:.2f} Å"],
        ["intensities", f"{data['column']}, variances {data['variance']}"],
    ]
    if summary["not_used"]:
        rows.append(["not used", ", ".join(f"{n} {why}" for why, n in summary["not_used"].items())])
    return Section("Data", tables=[Table("What was read.", ("", ""), rows, n_text=2)])
