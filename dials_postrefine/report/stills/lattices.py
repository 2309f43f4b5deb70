"""
The lattices in the page of dials.postrefine: their parameters, the table of all of them, and single ones (stills.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import NO_NUMBER, Figure, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, RED, Curve
from dials_postrefine.report.stills.choice import profile_of
from dials_postrefine.report.stills.summary import HISTOGRAMS, PARAMETERS, label
from dials_postrefine.stills.observedpartiality import CURVE_POINTS

# A reflection of one lattice is drawn where its observed partiality is known to this.
MAX_P_ESD = 0.25
Z_LIMIT = 8.0
MEANING = {
    "scale": "G, the scale of a lattice (logarithmic axis): how much crystal there was in how many photons.",
    "b_factor": "The conventional B, by which intensities fall off as exp(-B d*²/2). Without an external reference its "
    "median is zero.",
    "theta_x": "The turn about the laboratory x axis from the indexed orientation. Good indexing leaves it about "
    "zero; the width is the error of indexing.",
    "theta_y": "The same about the laboratory y axis. A median far from zero is an error of the beam or the detector "
    "that all lattices share.",
    "radius": "The radius of the reciprocal-lattice points (at d* = 0 with a mosaic radius). Good: one peak; two are "
    "two kinds of crystals, or two settings of the beam.",
    "mosaicity": "By eta the radius grows with resolution, r_s² = r_0² + (eta d*)²: mosaic spread and bandwidth.",
    "cell_scale": "By epsilon the reciprocal cell is larger than indexed; an error of the wavelength looks the same.",
}
ESD_HINT = (
    "Below: the standard deviations. They should be small beside the spread, or the data do not tell this parameter."
)


def with_esd(values: dict, name: str) -> str:
    """A parameter of a lattice and its esd."""
    _, _, factor, pattern = PARAMETERS[name]
    if values[name] is None:
        return NO_NUMBER
    text = number(values[name], pattern, factor)
    return f"{text} ± {number(values[name + '_esd'], pattern, factor)}" if values[name + "_esd"] else text


def show_parameters(summary: dict) -> Section:
    """Histograms of the parameters and of their esds, the angles, and what they are on the whole."""
    figures, rows = [], []
    for name, logarithmic in HISTOGRAMS.items():
        if name not in summary["histograms"]:
            continue
        data, (_, _, factor, pattern) = summary["histograms"][name], PARAMETERS[name]
        title = f"Histogram of {label(name, summary)}"
        svg = plots.parameter_histogram(
            f"histogram-{name.replace('_', '-')}", title, data, label(name, summary), factor, logarithmic
        )
        caption = [MEANING[name], ESD_HINT]
        if data is not None:
            outside = data["below"] + data["above"]
            caption += [f"{outside} lattices lie outside the axis."] * (outside > 0)
            rows.append(
                [
                    label(name, summary),
                    *(number(data[key], pattern, factor) for key in ("median", "spread", "median_esd")),
                ]
            )
        figures.append(Figure(svg, " ".join(caption)))
    figures.append(_angles(summary))
    headers = ("parameter", "median", "spread", "median esd")
    caption = "Of the accepted and refined lattices; the spread is 1.48 times the median absolute deviation."
    n_accepted, data = summary["dataset"]["n_accepted"], summary["histograms"]["scale"]
    n_refined = 0 if data is None else data["n"]
    text = [f"{n_refined} of {n_accepted} accepted lattices were refined and are counted here."]
    if n_refined < n_accepted:
        text[0] += " Of the others, with few reflections in common with the reference, only the scale was fitted."
    return Section("Parameters of the lattices", text, figures, [Table(caption, headers, rows)] if rows else [])


def _angles(summary: dict) -> Figure:
    curves = []
    for accepted, name, colour, style in ((True, "accepted", BLUE, "."), (False, "rejected", RED, "x")):
        chosen = [one for one in summary["lattices"] if one["accepted"] is accepted and one["refined"]]
        if chosen:
            x, y = ([one[key] for one in chosen] for key in ("theta_x", "theta_y"))
            curves.append(Curve(f"{name} ({len(chosen)})", x, y, colour, style))
    svg = plots.lines(
        "angles",
        "theta_y against theta_x of each lattice",
        curves,
        "theta_x (degrees)",
        "theta_y (degrees)",
        "No lattice was refined: they have too few reflections in common with the reference.",
        guides="cross",
    )
    return Figure(
        svg,
        "The turn of each refined lattice from its indexed orientation. Good: a round cloud about zero. A cloud off "
        "the origin is an error that all share; a long one, indexing that knows one direction less well.",
    )


def show_lattices(summary: dict) -> Section:
    """The table of all lattices, and a folded part for each that is drawn."""
    lattices = summary["lattices"]
    free = any(one["n_free"] for one in lattices)
    shown = [name for name in PARAMETERS if name in summary["histograms"]]
    counts = ("n_input", "n_not_used", "n_absent", "n_merged", "n_outliers")
    headers = [
        "lattice",
        "verdict",
        "input",
        "not used",
        "absent",
        "merged",
        "outliers",
        "matched",
        "kept",
        *(label(name, summary) for name in shown),
    ]
    headers += ["CC before", "CC after", "CC model", "partial CC", *["CC_free before", "CC_free after"] * free]
    rows = []
    for one in lattices:
        verdict = "accepted" if one["accepted"] else f"rejected: {one['reason']}"
        if one["reverted"]:
            verdict += ", back to unrefined geometry"
        keys = ["correlation_before", "correlation_after", "model_correlation", "partial_correlation"]
        keys += ["cc_free_before", "cc_free_after"] * free
        rows.append(
            [
                one["identifier"],
                verdict,
                *(str(one[key]) for key in counts),
                str(one["n_matched"]),
                str(one["n_kept"]),
                *(with_esd(one, name) for name in shown),
                *(number(one[key], ".3f") for key in keys),
            ]
        )
    flagged = frozenset(i for i, one in enumerate(lattices) if not one["accepted"])
    table = Table(
        "All lattices; a click on a header sorts.", headers, rows, 2, sortable=True, long=True, flagged=flagged
    )
    text = [
        "Values are given with their esds. matched: reflections with a reference intensity; kept: above the partiality "
        "threshold; CC before and after: their intensities and the reference, as observed and corrected; CC model: "
        "amplitudes observed and calculated; partial CC: what is left of it once scale, partialities and fall-off are "
        "taken off.",
        "Below the table, each to be opened: the accepted lattices that agree best, as the median and worst with the "
        "model (CC model), and those that lattice_plots= names.",
    ]
    by_name = {one["identifier"]: one for one in lattices}
    folded = [
        _one_lattice(i, plot, by_name[plot["identifier"]], summary) for i, plot in enumerate(summary["lattice_plots"])
    ]
    return Section("Lattices", text, [], [table], folded)


def _one_lattice(i: int, plot: dict, lattice: dict, summary: dict) -> Section:
    verdict = "accepted" if lattice["accepted"] else f"rejected: {lattice['reason']}"
    drawn = len(plot["i_obs"])
    parameters = ", ".join(f"{label(name, summary)} {with_esd(lattice, name)}" for name in summary["histograms"])
    shown = f"{plot['n']} reflections" + (f", of which {drawn} are drawn" if drawn < plot["n"] else "")
    text = [f"{verdict}; CC model {number(lattice['model_correlation'], '.3f')}; {shown}; {parameters}."]
    why = "The lattice was not fitted, or none of its reflections has a reference intensity."
    root = [_signed_roots(plot[key]) for key in ("i_calc", "i_obs")]
    known = [k for k, esd in enumerate(plot["p_observed_esd"]) if esd is not None and esd < MAX_P_ESD]
    p_observed, p_ratio, p_esd = ([plot[key][k] for k in known] for key in ("p_observed", "ratio", "p_observed_esd"))
    curve = np.linspace(plot["ratio"][0], plot["ratio"][-1], CURVE_POINTS) if drawn else np.zeros(0)
    figures = [
        Figure(
            plots.lines(
                f"lattice-{i}-intensity",
                "Observed against calculated amplitudes",
                [Curve("reflections", *root, BLUE, ".")],
                "calculated sign(I) √|I|",
                "observed sign(I) √|I|",
                why,
                guides="diagonal",
            ),
            "Signed roots of the observed and the calculated intensities (counts). Good: along the line.",
        ),
        Figure(
            plots.lines(
                f"lattice-{i}-partiality",
                "Observed and predicted partiality of the lattice",
                [
                    Curve("observed", p_ratio, p_observed, BLUE, ".", p_esd),
                    Curve("predicted", curve.tolist(), profile_of(summary)(curve, 1.0)[0].tolist(), RED, "-"),
                ]
                if known
                else [],
                "r_h / r_s",
                "partiality p",
                why if not drawn else f"No reflection tells its partiality to better than {MAX_P_ESD:g}.",
                ylim=(-0.5, 2.0),
            ),
            f"Single reflections that are strong enough (esd from the counts below {MAX_P_ESD:g}): {len(known)} of "
            f"{drawn}. Good: scattered about the curve on both sides. The bars are those of the counts alone.",
        ),
        Figure(
            plots.residuals_by_resolution(
                f"lattice-{i}-residuals",
                "Normalised residuals of the lattice",
                plot["d"],
                plot["z"],
                Z_LIMIT,
                why if not drawn else "None of its reflections was merged with another one.",
            ),
            "Normalised residuals of what was merged, by resolution. Good: within ±3, about zero everywhere. Crosses "
            f"at the edge are beyond ±{Z_LIMIT:g}.",
        ),
    ]
    return Section(f"{plot['rank']}: {plot['identifier']}", text, figures)


def _signed_roots(values: Sequence[float | None]) -> list[float | None]:
    return [None if v is None else (1.0 if v >= 0.0 else -1.0) * abs(v) ** 0.5 for v in values]
