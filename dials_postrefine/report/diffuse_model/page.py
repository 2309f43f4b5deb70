"""The page of dials.diffuse_model: its JSON summary, and planes observed, calculated, and their difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREEN, GREY, RED, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.diffuse_model.text import (
    GROUP_HEADERS,
    HEADERS,
    MOST_SHOWN,
    decimals,
    group_rows,
    model_rows,
)

COLOURS = (BLUE, RED, GREEN, "#8a5fa8", "#c8871f", GREY)
NO_CURVE = ("background", "uncorrelated")  # which have no anisotropic part to speak of
PERCENTILE = 98.0  # of the absolute observed values, to which colours reach


def make_page(summary: dict, sections: Sequence[dict], fluctuations=None) -> Page:
    """The page of a summary, planes (ModelInput.sections), and what the model says of atoms (Fluctuations, or None)."""
    chosen, data = summary["models"][summary["chosen"]], summary["dataset"]
    few = len(chosen["parameters"]) <= MOST_SHOWN
    facts = [
        Fact("chosen", summary["chosen"], ", ".join(chosen["variant"].values())),
        *(Fact(name, *_with_esd(one)) for name, one in (chosen["parameters"].items() if few else ())),
        Fact(
            "CC held out",
            number(chosen["cc_held_out"], ".3f"),
            f"of the anisotropic part; all voxels {number(chosen['cc_anisotropic'], '.3f')}",
            grade_of(summary, "cc_held_out"),
        ),
        Fact("χ²", number(chosen["chi2_reduced"], ".3f"), "per degree of freedom", grade_of(summary, "chi2_reduced")),
    ]
    rows = [
        ["map", f"{data['map']}, {data['n_voxels']} voxels, {data['d_max']:.2f} to {data['d_min']:.2f} Å"],
        ["held out", f"{data['n_held_out']} voxels, by {data['held_out_by']}"],
        ["model", f"{data['model']}, {data['n_atoms']} atoms, {data['space_group']}"],
        ["the map's h, k, l are the model's", data["reindex_operation"]],
        ["variances", data["variance"]],
    ]
    return Page(
        title="dials.diffuse_model",
        provenance=summary["provenance"],
        facts=facts,
        verdict=summary["verdict"],
        sections=[
            Section("Models", [summary["decision"]], tables=[_models(summary)], figures=[_by_shell(summary)]),
            Section(
                "Planes",
                [
                    "Anisotropic parts: observed, calculated by the chosen model, and the difference, with the same "
                    "colours; white is zero, red more, blue less, grey was not observed."
                ],
                [_planes(sections)],
            ),
            *([] if fluctuations is None else [_motion(fluctuations)]),
            *_groups(chosen),
            Section("Data", tables=[Table("What was read.", ("", ""), rows, n_text=2)]),
        ],
    )


def _groups(chosen: dict) -> list[Section]:
    """V of the groups of an inferred covariance."""
    rows = group_rows(chosen)
    if not rows:
        return []
    caption = "V of each group, and of each with the next one (Å²), with standard deviations; the JSON has all."
    return [Section("Groups", tables=[Table(caption, GROUP_HEADERS, rows, n_text=1)])]


def _with_esd(one: dict) -> tuple[str, str]:
    """A parameter and its standard deviation."""
    pattern = f".{decimals(one['esd'])}f"
    return number(one["value"], pattern), f"± {number(one['esd'], pattern)} {one['unit']}"


def _models(summary: dict) -> Table:
    caption = (
        "The best variant of each model. χ² of the voxels that were fitted and of those held out; CC of the "
        "anisotropic part, of all voxels and of those held out; BIC: χ² + p ln n of n voxels "
        "and p parameters, above the lowest one; worse by: standard deviations by which held-out voxels "
        "prefer the best model. A question mark: the data do not determine the parameter."
    )
    names = list(summary["models"])
    headers = [one.replace("chi^2", "χ²") for one in HEADERS]
    return Table(caption, headers, model_rows(summary), n_text=3, flagged=frozenset([names.index(summary["chosen"])]))


def _by_shell(summary: dict) -> Figure:
    curves = [
        Curve(name, [], [shell["cc"] for shell in one["shells"]], colour)
        for (name, one), colour in zip(
            ((name, one) for name, one in summary["models"].items() if name not in NO_CURVE), COLOURS
        )
    ]
    shells = summary["models"][summary["chosen"]]["shells"]
    svg = plots.by_resolution(
        "cc",
        "Correlation by resolution",
        shells,
        curves,
        "CC of the anisotropic part",
        "There is none.",
        ylim=(None, 1.03),
    )
    return Figure(svg, "Correlation of the anisotropic part of observed and calculated map by shell, all voxels.")


def _planes(sections: Sequence[dict]) -> Figure:
    """A row of three pictures for each plane."""
    names = ", ".join(section["name"] for section in sections)

    def paint(*rows):
        for axes, section in zip(rows, sections):
            _paint_plane(axes, section)

    svg = plots.draw(
        "planes",
        f"{names}: observed, calculated, difference",
        paint,
        (8.0, 2.9 * len(sections)),
        (1.0,) * len(sections),
        (0.5, 0.1, 0.4, 0.3, 0.65),
    )
    return Figure(svg, f"{names}, from top to bottom: observed, calculated and difference.")


def _paint_plane(axes, section: dict) -> None:
    planes = section["planes"]
    known = np.abs(planes["observed"][np.isfinite(planes["observed"])])
    high = float(np.percentile(known, PERCENTILE) if len(known) else 0.0) or 1.0
    v, u = section["axes"][1], section["axes"][0]
    axes.set_axis_off()
    for k, key in enumerate(("observed", "calculated", "difference")):
        part = axes.inset_axes([k * 0.345, 0.0, 0.31, 1.0])
        part.set_facecolor("#a8a8a8")
        part.imshow(
            planes[key].T,
            origin="lower",
            cmap="RdBu_r",
            vmin=-high,
            vmax=high,
            extent=(u[0], u[-1], v[0], v[-1]),
            aspect="auto",
            interpolation="nearest",
        )
        part.grid(False)
        part.set_title(f"{section['name']} {key}" if len(known) else f"{section['name']}: not observed", fontsize=8)
        part.set_xlabel(section["letters"][0])
        if k == 0:
            part.set_ylabel(section["letters"][1], rotation=0)
        else:
            part.set_yticks(())


def _motion(fluctuations) -> Section:
    """Covariances by residue, and correlations against distance."""
    matrix = fluctuations.v_residue
    high = float(np.abs(matrix).max()) or 1.0

    def paint(axes):
        picture = axes.imshow(matrix, origin="lower", cmap="RdBu_r", vmin=-high, vmax=high, interpolation="nearest")
        axes.grid(False)
        axes.set(xlabel="residue, in order", ylabel="residue, in order")
        bar = axes.inset_axes([1.04, 0.0, 0.05, 1.0])
        axes.figure.colorbar(picture, cax=bar, label="covariance (Å²)")

    margins = (plots.MARGINS[0], 1.0, *plots.MARGINS[2:])
    svg = plots.draw("covariance", "Covariance by residue", paint, (4.6, 3.5), margins=margins)
    found = fluctuations.correlation.tolist()
    curve = Curve("mean correlation", fluctuations.r.tolist(), found, BLUE, "o-")
    low, top = min(0.0, *found, 0.0), max(0.0, *found, 0.0)
    by_distance = plots.lines(
        "by-distance",
        "Correlation by distance",
        [curve],
        "distance (Å)",
        "correlation",
        ylim=(1.1 * low, 1.1 * top or 1.0),
    )
    return Section(
        "What moves together",
        ["Of the chosen model, isotropic: how far two atoms move together is the root of their covariance."],
        [
            Figure(svg, "Mean covariance of the atoms of two residues; the diagonal has what a residue does in all."),
            Figure(
                by_distance,
                "Mean correlation of the displacements of two atoms of a molecule against their distance: their "
                "covariance over the root of the product of what each of them does in all.",
            ),
        ],
    )
