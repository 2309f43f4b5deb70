"""
What the residuals say (stills/systematics), as the summary has it, as a table of the log and as a section of the page.

Angles in degrees; a number that does not exist is null, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import NO_NUMBER, Figure, Section, Table
from dials_postrefine.report.common.plots import BLUE, GREY, RED, Curve
from dials_postrefine.report.common.remarks import Remark, care, note
from dials_postrefine.report.common.tables import number, table
from dials_postrefine.stills.systematics.systematics import LIMITS, Systematic, Verdict

ANGLES = ("polarization_direction", "beam_direction_x", "beam_direction_y")
# What is shown: title, unit, factor from the JSON's number, format.
TITLES = {
    "polarization_fraction": ("polarisation fraction", "", 1.0, "{:.3f}"),
    "polarization_direction": ("polarisation direction", "degrees", 1.0, "{:.2f}"),
    "panel_gain": ("gain of a panel", "%", 100.0, "{:.2f}"),
    "radial": ("deviation with resolution", "%", 100.0, "{:.2f}"),
    "cell_scale": ("scale of the cells", "%", 100.0, "{:.4f}"),
    "asymmetry": ("asymmetry in r_h", "%", 100.0, "{:.2f}"),
    "beam_direction_x": ("beam direction about x", "degrees", 1.0, "{:.4f}"),
    "beam_direction_y": ("beam direction about y", "degrees", 1.0, "{:.4f}"),
    "drift_scale": ("drift of ln G", "", 1.0, "{:.3f}"),
    "drift_b": ("drift of B", "Å²", 1.0, "{:.2f}"),
    "drift_radius": ("drift of ln r_s", "", 1.0, "{:.3f}"),
    "drift_mosaicity": ("drift of ln eta", "", 1.0, "{:.3f}"),
}
HEADERS = ("residuals", "value", "esd", "expected", "verdict")


def describe_systematics(found: Mapping[str, Systematic]) -> dict:
    """The systematics as the summary has them."""
    described = {}
    for name, one in found.items():
        factor = float(np.degrees(1.0)) if name in ANGLES else 1.0
        described[name] = {
            "value": _finite(factor * one.value),
            "esd": _finite(factor * one.esd),
            "expected": _finite(factor * one.expected),
            "size": _finite(one.size),
            "limit": LIMITS[name],
            "verdict": one.verdict.value,
            "reason": one.reason or None,
        }
        if name == "panel_gain":
            gains = [{"name": gain.name, "value": gain.value, "esd": gain.esd} for gain in one.gains]
            described[name] |= {"where": one.where or None, "gains": gains}
        if name == "polarization_fraction":
            described[name]["azimuths"] = [
                {
                    "azimuth": float(np.degrees(part.azimuth)),
                    "value": part.value,
                    "esd": part.esd,
                    "found": part.found,
                }
                for part in one.azimuths
            ]
    return described


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def systematics_rows(systematics: Mapping[str, dict]) -> list[list[str]]:
    """The rows of the table, in log and page."""
    rows = []
    for name, one in systematics.items():
        title, unit, factor, pattern = TITLES[name]
        if one.get("where"):
            title = f"gain of {one['where']}"
        values = [_text(one[key], pattern, factor) for key in ("value", "esd", "expected")]
        said = f"{one['verdict']}: {one['reason']}" if one["reason"] else one["verdict"]
        rows.append([f"{title} ({unit})" if unit else title, *values, said])
    return rows


def _text(value: float | None, pattern: str, factor: float) -> str:
    text = number(value, pattern, factor)
    return text.lstrip("-") if not text.strip("-0.") and text.strip("-") else text  # no minus nothing


def systematics_table(systematics: Mapping[str, dict]) -> str:
    """The table of the log; why something can't be told stands below."""
    rows, why = systematics_rows(systematics), {}
    for row, one in zip(rows, systematics.values()):
        row[0], row[-1] = row[0].replace("Å²", "A^2"), one["verdict"]
        if one["reason"]:
            why.setdefault(one["reason"], []).append(row[0].partition(" (")[0])
    reasons = [f"Not determined: {', '.join(names)} ({reason})." for reason, names in why.items()]
    return "\n".join(["What the residuals say:", table(rows, HEADERS), *reasons])


def show_systematics(summary: dict) -> Section:
    """The section of the page."""
    found = summary["systematics"]
    known = [name for name, one in found.items() if one["value"] is not None and one["expected"] is not None]
    z = [(found[name]["value"] - found[name]["expected"]) / found[name]["esd"] for name in known]
    places = list(range(1, len(known) + 1))
    figures = [
        Figure(
            plots.horizontal(
                "systematics",
                "Deviations of what the residuals say from what is expected, in standard deviations",
                [TITLES[name][0] for name in known],
                Curve("", z, places, BLUE, "o"),
                "difference to the expected value / esd",
                "None of it is determined.",
            ),
            "Each value less what the models of the experiment say, over its standard deviation. Good: within about "
            "three of zero; what is further out and matters is in the remarks.",
        ),
        Figure(
            plots.lines(
                "gains",
                "Gain of the panels or parts of the detector, less one",
                _gain_curves(found["panel_gain"]["gains"]),
                "panel or part, in the order of the table",
                "gain - 1",
                found["panel_gain"]["reason"] or "There are no gains.",
            ),
            "The gain of each panel, or of each part of a single one (columns and rows of a grid), over the mean, less "
            "one, with one esd. Good: zero.",
        ),
    ]
    figures.insert(1, _azimuths(found["polarization_fraction"]))
    rows = [[NO_NUMBER if cell == "-" else cell for cell in row] for row in systematics_rows(found)]
    caption = "Errors that all lattices share, from the residuals after the last cycle."
    tables = [Table(caption, HEADERS, rows)]
    gains = found["panel_gain"]["gains"]
    folded = []
    if gains:
        pattern = TITLES["panel_gain"][3]
        rows = [[one["name"], _text(one["value"], pattern, 100.0), _text(one["esd"], pattern, 100.0)] for one in gains]
        table_of_gains = Table("Gain over the mean, less one.", ("part", "gain (%)", "esd (%)"), rows, long=True)
        folded.append(Section("Gain by panel", tables=[table_of_gains]))
    text = [
        "What no parameter of a lattice can take up shows in the residuals of all lattices together. Data and models "
        "are left as they are."
    ]
    return Section("What the residuals say", text, figures, tables, folded)


def _azimuths(one: dict) -> Figure:
    azimuths = one["azimuths"]
    x = [part["azimuth"] for part in azimuths]
    curves = [
        Curve("as found", x, [part["found"] for part in azimuths], RED, "-"),
        Curve("observed", x, [part["value"] for part in azimuths], BLUE, "o", [part["esd"] for part in azimuths]),
    ]
    svg = plots.lines(
        "azimuths",
        "What shows of a wrong polarisation in the residuals, by azimuth",
        curves if azimuths else [],
        "azimuth from the plane of polarisation (degrees)",
        "deviation / sin² 2θ",
        one["reason"] or "There are too few observations.",
        xlim=(0.0, 180.0),
    )
    return Figure(
        svg,
        "Intensities as they were corrected for polarisation, over what they should be, less one, per sin² 2θ. Good: "
        "zero. A wave of two periods a turn, the line, is a polarisation other than that of the models.",
    )


def _gain_curves(gains: Sequence[dict]) -> list[Curve]:
    places = list(range(1, len(gains) + 1))
    return [Curve("gain", places, [one["value"] for one in gains], GREY, "o", [one["esd"] for one in gains])]


def systematics_remarks(systematics: Mapping[str, dict]) -> Iterator[Remark]:
    """What to do where something differs and matters."""
    for name, one in systematics.items():
        if one["verdict"] == Verdict.DIFFERS.value:
            yield _REMARKS.get(name, _drift)(name, one)


def _with_esd(one: dict, name: str) -> str:
    _, unit, factor, pattern = TITLES[name]
    value, esd = (_text(one[key], pattern, factor) for key in ("value", "esd"))
    return f"{value} +- {esd}{' ' + unit if unit else ''}"


def _polarization_fraction(name: str, one: dict) -> Remark:
    return care(
        f"the polarisation fraction is {one['value']:.2f}, not {one['expected']:g}",
        f"The polarisation fraction in the models, {one['expected']:g}, is not that of the data, "
        f"{_with_esd(one, name)}: run again with polarization_fraction={one['value']:.2f}.",
    )


def _polarization_direction(name: str, one: dict) -> Remark:
    return care(
        "the direction of polarisation is off",
        f"The plane of polarisation is turned about the beam by {_with_esd(one, name)} from that of the models: "
        "correct polarization_normal of the beam models, and integrate or postrefine again.",
    )


def _panel_gain(name: str, one: dict) -> Remark:
    return care(
        f"the gain of {one['where']} is off by {one['value']:+.1%}",
        f"Intensities on {one['where']} are too strong by {_with_esd(one, name)}, beside those of the same indices "
        "elsewhere: look at gain, flat field, shadows and absorption there.",
    )


def _radial(name: str, one: dict) -> Remark:
    return note(
        f"Intensities depart from the reference by {_with_esd(one, name)} at both ends of the resolution range, as no "
        "scale and B can have it: detector efficiency, absorption, or the reference itself (its bulk solvent)."
    )


def _cell_scale(name: str, one: dict) -> Remark:
    return care(
        "cells and wavelength do not go together",
        f"The reciprocal cells of all lattices are off by {_with_esd(one, name)} at the wavelength of the models: "
        "wavelength, distance of the detector or unit cell are wrong; refine the geometry (dials.refine) and integrate "
        "again, or set unit_cell=scale.",
    )


def _asymmetry(name: str, one: dict) -> Remark:
    return care(
        "intensities differ on both sides of the Ewald sphere",
        f"Outside of the Ewald sphere intensities are too strong, and inside too weak, by {_with_esd(one, name)}: the "
        "spectrum is lopsided, or the wavelength is not its mean.",
    )


def _beam_direction(name: str, one: dict) -> Remark:
    return care(
        f"all lattices are turned about {name[-1]}",
        f"The beam would have to be turned by {_with_esd(one, name)} about the laboratory {name[-1]} axis, as all "
        "lattices ask for: refine the geometry (dials.refine) and integrate again.",
    )


def _drift(name: str, one: dict) -> Remark:
    what = TITLES[name][0].removeprefix("drift of ")
    return note(
        f"From the first image to the last one {what} changes by {_with_esd(one, name)}: beam, exposure or crystals "
        "changed along the run."
    )


_REMARKS = {
    "polarization_fraction": _polarization_fraction,
    "polarization_direction": _polarization_direction,
    "panel_gain": _panel_gain,
    "radial": _radial,
    "cell_scale": _cell_scale,
    "asymmetry": _asymmetry,
    "beam_direction_x": _beam_direction,
    "beam_direction_y": _beam_direction,
}
