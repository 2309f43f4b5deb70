"""
The page of dials.image_spread: what its JSON summary (summary.py) says, and figures of pairs and images.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.explained import spread_section
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREY, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.spread.drawing import SQUARE, interval, tau_figure
from dials_postrefine.report.spread.figures import PairPoints, SpreadFigures
from dials_postrefine.report.spread.image_section import image_section
from dials_postrefine.report.spread.text import CAUSES, CAUSES_EXPLAINED, ERRORS


def make_page(summary: dict, figures: SpreadFigures) -> Page:
    """The page of a summary and the points of its figures."""
    return Page(
        title="dials.image_spread",
        provenance=summary["provenance"],
        lead=[_verdict(summary)],
        facts=_facts(summary),
        verdict=summary["verdict"],
        sections=[
            _spread(summary),
            _causes(summary),
            *spread_section(summary["dynamical"]),
            _pairs(summary, figures),
            image_section(summary, figures),
            _dataset(summary),
        ],
    )


def _verdict(summary: dict) -> str:
    tau, data = summary["spread"]["overall"], summary["dataset"]
    if tau["tau"] is None:
        return f"{data['n_observations']} observations are too few to tell the spread."
    return (
        f"Symmetry equivalents on {data['n_images']} images differ by {_percent(tau['tau'])} of their intensity "
        f"({_percent(tau['low'])} to {_percent(tau['high'])}) beyond what {ERRORS[data['variance']]} say."
    )


def _percent(value: float) -> str:
    return f"{100.0 * value:.3g} %"


def _facts(summary: dict) -> list[Fact]:
    spread, pairs, test = summary["spread"], summary["pairs"], summary["random_match"]
    parts = {part["name"]: part for part in spread["parts"]}
    whole = pairs["whole"]
    return [
        Fact(
            "excess spread τ",
            number(spread["overall"]["tau"], ".3f"),
            f"95 %: {interval(spread['overall'])}",
            grade_of(summary, "tau"),
        ),
        Fact("weakest half", number(parts["weakest half"]["tau"], ".3f"), "τ of the weaker unique reflections"),
        Fact("strongest tenth", number(parts["strongest tenth"]["tau"], ".3f"), "τ of the strongest"),
        Fact("R_meas", number(spread["r_meas"], ".3f"), "of symmetry equivalents"),
        Fact("pairs of images", str(pairs["n_found"]), f"with {summary['settings']['min_common']} or more in common"),
        Fact(
            "log spread of pairs",
            number(whole["log_spread"], ".3f"),
            f"± {number(whole['log_spread_esd'], '.3f')}; errors allow {number(whole['expected'], '.3f')}",
        ),
        Fact(
            "AUC",
            number(test["auc"], ".3f"),
            f"± {number(test['auc_esd'], '.3f')}; matched against random pairs",
            grade_of(summary, "auc"),
        ),
    ]


def _spread(summary: dict) -> Section:
    spread = summary["spread"]
    tables = [_groups_table(spread), _shells_table(spread["shells"])]
    if len(spread["experiments"]) > 1:
        rows = [[e["name"], interval(e), str(e["n"])] for e in spread["experiments"]]
        tables.append(Table("By experiment.", ("experiment", "τ [95 %]", "observations"), rows, long=len(rows) > 20))
    if summary["compare"]:
        tables.append(_compared(summary["compare"]))
    by_intensity = tau_figure(
        "by-intensity",
        "Spread by intensity",
        spread["tenths"],
        [group["intensity"] for group in spread["tenths"]],
        "median intensity of the tenth",
        logarithmic=True,
    )
    return Section(
        "Spread of symmetry equivalents",
        [
            "Each intensity scatters about that of its unique reflection by its error and, beyond it, "
            "by a part τ of the intensity itself. Where τ is one number for weak and strong reflections it is a "
            "matter of scaling; where weak ones have a larger one, something adds intensity to them, as multiple "
            "scattering does."
        ],
        [
            Figure(by_intensity, "By tenths of the unique reflections, weakest to strongest; bars are 95 % intervals."),
            Figure(
                _shells_figure(spread["shells"]),
                "In shells of equal numbers of unique reflections; bars are one standard deviation.",
            ),
        ],
        tables,
    )


def _shells_figure(shells: list[dict]) -> str:
    curve = Curve(
        "τ",
        [],
        [shell["tau"] for shell in shells],
        BLUE,
        "o",
        [None if s["high"] is None else 0.25 * (s["high"] - s["low"]) for s in shells],
    )
    return plots.by_resolution(
        "by-resolution",
        "Spread by resolution",
        shells,
        [curve],
        "excess relative spread τ",
        "There are too few observations.",
        ylim=(0.0, None),
    )


def _groups_table(spread: dict) -> Table:
    """tau of all, of quartiles and of parts by intensity."""
    groups = [("all", spread["overall"] | {"intensity": None, "relative_error": None})]
    groups += [(f"quartile {k + 1} by intensity", group) for k, group in enumerate(spread["quartiles"])]
    groups += [(part["name"], part) for part in spread["parts"]]
    rows = [
        [
            name,
            interval(group),
            str(group["n"]),
            str(group["n_unique"]),
            number(group["intensity"], ".4g"),
            number(group["relative_error"], ".3f"),
        ]
        for name, group in groups
    ]
    headers = ("", "τ [95 %]", "observations", "unique", "median I", "σ/I")
    return Table("Excess relative spread of symmetry equivalents.", headers, rows)


def _shells_table(shells: list[dict]) -> Table:
    rows = [
        [
            f"{number(shell['d_max'], '.2f')} – {number(shell['d_min'], '.2f')}",
            interval(shell),
            str(shell["n"]),
            str(shell["n_unique"]),
        ]
        for shell in shells
    ]
    return Table("By resolution.", ("d range (Å)", "τ [95 %]", "observations", "unique"), rows)


def _compared(compared: dict) -> Table:
    rows = [
        [
            name,
            interval(column["tau"]),
            number(column["r_meas"], ".3f"),
            number(column["pairs"]["log_spread"], ".3f"),
            number(column["pairs"]["r"], ".3f"),
            number(column["pairs"]["cc"], ".3f"),
        ]
        for name, column in compared["columns"].items()
    ]
    return Table(
        "The same observations, by the column of their intensities.",
        ("intensity", "τ [95 %]", "R_meas", "log spread", "R", "CC"),
        rows,
    )


def _causes(summary: dict) -> Section:
    causes = summary["causes"]
    rows = []
    for cause in causes["ranked"]:
        if cause["tau_at"]:
            (low, high), (x, y) = cause["tau_at"], cause["x_at"]
            effect = f"τ {number(low, '.3f')} at {number(x, '.2f')}, {number(high, '.3f')} at {number(y, '.2f')}"
        else:
            pattern, words = (".3f", "factors vary by") if cause["name"] == "images" else ("+.2f", "slope")
            value, *ends = (number(cause[key], pattern) for key in ("value", "low", "high"))
            effect = f"{words} {value} [{', '.join(ends)}]"
        gain, p = number(cause["gain"], ".1f"), number(cause["p"], ".1e")
        rows.append([CAUSES[cause["name"]], effect, number(cause["share"], ".0%"), gain, p])
    rows += [[CAUSES[name], f"not tested: {why}", "–", "–", "–"] for name, why in causes["untested"].items()]
    headers = ("cause", "effect", "share of τ²", "gain in ln L", "p")
    left = [[f"{out['fraction']:.0%}", interval(out), str(out["n"])] for out in causes["left_out"]]
    return Section(
        "What the spread depends on",
        [
            "Each cause by itself, the one that explains most first. The gain is that of the logarithm of the "
            "likelihood over one τ for all; less than about 2 means nothing. For causes of the size of the spread the "
            f"effect is τ at the 10th and 90th percentile of the cause; {CAUSES_EXPLAINED}.",
        ],
        tables=[
            Table("Causes.", headers, rows),
            Table("τ without the noisiest observations.", ("left out", "τ [95 %]", "observations"), left),
        ],
    )


def _pairs(summary: dict, figures: SpreadFigures) -> Section:
    pairs, test = summary["pairs"], summary["random_match"]
    shown = [_figure_of_pair(k, points, pairs["best"][k]) for k, points in enumerate(figures.pairs)]
    return Section(
        "Pairs of images",
        [
            f"{pairs['n_found']} pairs have {summary['settings']['min_common']} reflections or more in "
            "common. LLR is the logarithm of the likelihood that the matched spots are equivalents over that of their "
            f"being any spots; p is how often a random pair does as well, by {test['n_permutations']} permutations. "
            f"A matched pair has the higher LLR with a probability (AUC) of {number(test['auc'], '.3f')} ± "
            f"{number(test['auc_esd'], '.3f')}."
        ],
        shown,
        [_pairs_table(pairs["best"], pairs["file"])],
    )


def _figure_of_pair(k: int, points: PairPoints, pair: dict) -> Figure:
    return Figure(
        _pair_figure(k, points, pair),
        f"Images {pair['first']} and {pair['second']}, {pair['misorientation']:.1f}° apart: intensities "
        f"of the {pair['n_common']} reflections they have in common (blue), and the same reflections on all "
        "other images (grey). Where the pair is no nearer to the line than the cloud, it is as good as any "
        "other.",
    )


# What the table of pairs has of each, by its header: the number of the summary, and how it is written.
PAIR_COLUMNS = {
    "common": ("n_common", ".0f"),
    "Jaccard": ("jaccard", ".2f"),
    "angle (°)": ("misorientation", ".1f"),
    "log spread": ("log_spread", ".3f"),
    "expected": ("expected", ".3f"),
    "R": ("r", ".3f"),
    "CC": ("cc", ".3f"),
    "CC of ln I": ("cc_log", ".3f"),
    "z": ("z_width", ".2f"),
    "LLR": ("llr", "+.2f"),
    "p": ("p", ".3f"),
}


def _pairs_table(best: list[dict], file: str | None) -> Table:
    """The pairs with most in common; file: what has all of them, None where none was written."""
    rows = [
        [
            f"{pair['first']}, {pair['second']}",
            *(number(pair[key], pattern) for key, pattern in PAIR_COLUMNS.values()),
        ]
        for pair in best
    ]
    caption = f"The {len(rows)} pairs with most in common" + (f"; {file} has all that were analysed." if file else ".")
    return Table(caption, ("images", *PAIR_COLUMNS), rows, sortable=True, long=len(rows) > 20)


def _pair_figure(k: int, points: PairPoints, pair: dict) -> str:
    name, title = f"pair-{k}", f"Intensities of images {pair['first']} and {pair['second']}"
    every = np.concatenate([points.i1, points.i2, points.cloud.ravel()])
    positive = every[every > 0.0]
    if not len(positive):
        return plots.empty(name, title, "No intensity is positive.")
    low, high = 0.6 * positive.min(), 1.7 * positive.max()

    def paint(axes):
        from matplotlib.ticker import NullLocator

        cloud = points.cloud
        axes.plot(
            cloud[:, 0], cloud[:, 1], ".", color=GREY, alpha=0.5, markersize=3.0, rasterized=len(cloud) > 500, zorder=1
        )
        axes.errorbar(points.i1, points.i2, points.sigma2, points.sigma1, fmt="o", color=BLUE, elinewidth=0.8, zorder=3)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.plot([low, high], [low, high], "-", color="black", lw=0.6, zorder=2)
        for axis in (axes.xaxis, axes.yaxis):  # hundreds of minor ticks take most of the time
            axis.set_minor_locator(NullLocator())
        axes.set(xlabel=f"I on image {pair['first']}", ylabel=f"I on image {pair['second']}, or others")

    return plots.draw(name, title, paint, SQUARE)


def _taken_as_one(data: dict) -> str:
    n = data["images_taken_as_one"]
    return "one image" if n == 1 else f"up to {n} images"


def _dataset(summary: dict) -> Section:
    data, settings = summary["dataset"], summary["settings"]
    a, b, c, *angles = data["unit_cell"]
    low, high = data["wavelength_min"], data["wavelength_max"]
    spread = f" ({low:.5f} to {high:.5f})" if f"{low:.5f}" != f"{high:.5f}" else ""
    rows = [
        ["experiments", ", ".join(data["experiments"][:10]) + (" …" if len(data["experiments"]) > 10 else "")],
        ["space group", data["space_group"]],
        ["unit cell", f"{a:.3f}, {b:.3f}, {c:.3f} Å; {', '.join(f'{x:.2f}' for x in angles)}°"],
        ["wavelength", f"{data['wavelength']:.5f} Å{spread}"],
        ["images", f"{data['n_images']}, of {_taken_as_one(data)} of the detector each"],
        ["observations", f"{data['n_observations']} of {data['n_unique']} unique indices"],
        ["resolution", f"{data['d_max']:.2f} to {data['d_min']:.2f} Å"],
        ["intensities", data["column"] + " / inverse_scale_factor" * data["column"].startswith("intensity.scale")],
        ["variances", data["variance"]],
        ["outliers of scaling", data["outliers"]],
        ["beam intensity", data["beam_intensity"]],
        ["match", f"{settings['match']}, {settings['min_common']} in common, {settings['min_angle']:g}° apart or more"],
    ]
    tables = [Table("What was read, and how it was treated.", ("", ""), rows, n_text=2)]
    if summary["not_used"]:
        left_out = [[reason, str(n)] for reason, n in summary["not_used"].items()]
        tables.append(Table("What was not used.", ("observations", "number"), left_out))
    return Section("Data set", tables=tables)
