"""
The page of dials.image_spread: what its JSON summary (summary.py) says, and figures of pairs and images.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import pictures, plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREY, PALE, RED, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.spread.figures import PairPoints, SpreadFigures
from dials_postrefine.report.spread.text import CAUSES, CAUSES_EXPLAINED, ERRORS

MANY_BARS = 150  # that hide what they belong to
FEW_IMAGES = 3  # observations of an image, below which its tau is not drawn
SQUARE = (4.4, 3.9)
BAR_MARGINS = (0.72, 0.95, 0.45, 0.2, 0.0)


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
            _pairs(summary, figures),
            _images(summary, figures),
            _dataset(summary),
        ],
    )


def _verdict(summary: dict) -> str:
    tau, data = summary["spread"]["overall"], summary["dataset"]
    if tau["tau"] is None:
        return f"{data['n_observations']} observations are too few to tell the spread."
    return (
        f"Symmetry mates on {data['n_images']} images differ by {_percent(tau['tau'])} of their intensity "
        f"({_percent(tau['low'])} to {_percent(tau['high'])}) beyond what {ERRORS[data['variance']]} say."
    )


def _percent(value: float) -> str:
    return f"{100.0 * value:.3g} %"


def _interval(tau: dict) -> str:
    if tau["tau"] is None:
        return number(None, ".3f")
    return f"{tau['tau']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]"


def _facts(summary: dict) -> list[Fact]:
    spread, pairs, test = summary["spread"], summary["pairs"], summary["random_match"]
    parts = {part["name"]: part for part in spread["parts"]}
    whole = pairs["whole"]
    return [
        Fact(
            "excess spread τ",
            number(spread["overall"]["tau"], ".3f"),
            f"95 %: {_interval(spread['overall'])}",
            grade_of(summary, "tau"),
        ),
        Fact("weakest half", number(parts["weakest half"]["tau"], ".3f"), "τ of the weaker unique reflections"),
        Fact("strongest tenth", number(parts["strongest tenth"]["tau"], ".3f"), "τ of the strongest"),
        Fact("R_meas", number(spread["r_meas"], ".3f"), "of symmetry mates"),
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


def _tau_figure(name: str, title: str, groups: list[dict], x: list, x_label: str, logarithmic: bool = False) -> str:
    """tau with its intervals over x."""
    known = [k for k, group in enumerate(groups) if group["tau"] is not None and x[k] is not None]
    if not known:
        return plots.empty(name, title, "There are too few observations.")
    tau = plots.numbers([groups[k]["tau"] for k in known])
    low, high = (plots.numbers([groups[k][end] for k in known]) for end in ("low", "high"))
    places = plots.numbers([x[k] for k in known])

    def paint(axes):
        bars = [np.maximum(tau - low, 0.0), np.maximum(high - tau, 0.0)]
        many = len(places) > MANY_BARS
        axes.errorbar(places, tau, bars, fmt="none", ecolor=PALE if many else BLUE, elinewidth=0.8, rasterized=many)
        axes.plot(places, tau, "o", color=BLUE, markersize=2.0 if many else 3.5, rasterized=many)
        axes.set(xlabel=x_label, ylabel="excess relative spread τ")
        axes.set_ylim(0.0, 1.15 * _top(high, 95.0))
        if logarithmic and (places > 0.0).all():
            axes.set_xscale("log")

    return plots.draw(name, title, paint)


def _spread(summary: dict) -> Section:
    spread = summary["spread"]
    tables = [_groups_table(spread), _shells_table(spread["shells"])]
    if len(spread["experiments"]) > 1:
        rows = [[e["name"], _interval(e), str(e["n"])] for e in spread["experiments"]]
        tables.append(Table("By experiment.", ("experiment", "τ [95 %]", "observations"), rows, long=len(rows) > 20))
    if summary["compare"]:
        tables.append(_compared(summary["compare"]))
    by_intensity = _tau_figure(
        "by-intensity",
        "Spread by intensity",
        spread["tenths"],
        [group["intensity"] for group in spread["tenths"]],
        "median intensity of the tenth",
        logarithmic=True,
    )
    return Section(
        "Spread of symmetry mates",
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
            _interval(group),
            str(group["n"]),
            str(group["n_unique"]),
            number(group["intensity"], ".4g"),
            number(group["relative_error"], ".3f"),
        ]
        for name, group in groups
    ]
    headers = ("", "τ [95 %]", "observations", "unique", "median I", "σ/I")
    return Table("Excess relative spread of symmetry mates.", headers, rows)


def _shells_table(shells: list[dict]) -> Table:
    rows = [
        [
            f"{number(shell['d_max'], '.2f')} – {number(shell['d_min'], '.2f')}",
            _interval(shell),
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
            _interval(column["tau"]),
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
    left = [[f"{out['fraction']:.0%}", _interval(out), str(out["n"])] for out in causes["left_out"]]
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
            "common. LLR is the logarithm of the likelihood that the matched spots are mates over that of their "
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


def _images(summary: dict, figures: SpreadFigures) -> Section:
    images = summary["images"]
    enough = [image if image["n"] >= FEW_IMAGES else image | {"tau": None} for image in images]
    by_image = _tau_figure("by-image", "Spread by image", enough, list(range(1, len(images) + 1)), "image, in order")
    shown = [
        Figure(by_image, "Each image against the symmetry mates on all others; bars are 95 % intervals."),
        Figure(
            _beam_figure(images),
            "The factor that brings an image to the scale of the others (blue), and how bright the beam was, over "
            "its mean (red). What scaling has left shows in the first; a factor that follows the beam is a matter "
            "of scaling.",
        ),
        Figure(_orientation_map(images, figures), _orientation_caption()),
        Figure(_matrix(figures), _matrix_caption(summary, figures)),
    ]
    headers = ("image", "τ [95 %]", "observations", "log spread", "R", "factor", "beam", "zone axis", "angle (°)")
    rows = [
        [
            image["image"],
            _interval(image),
            str(image["n"]),
            number(image["pairs"]["log_spread"], ".3f"),
            number(image["pairs"]["r"], ".3f"),
            number(image["factor"], ".3f"),
            number(image["beam_intensity"], ".3g"),
            image["zone_axis"],
            number(image["zone_angle"], ".1f"),
        ]
        for image in images
    ]
    table = Table("All images; a click on a header sorts.", headers, rows, sortable=True, long=True)
    return Section("Images", figures=shown, tables=[table])


def _beam_figure(images: list[dict]) -> str:
    place = list(range(1, len(images) + 1))
    beam = plots.numbers([image["beam_intensity"] for image in images])
    mean = float(np.nanmean(beam)) if np.isfinite(beam).any() else np.nan
    curves = [
        Curve(
            "factor of the image",
            place,
            [image["factor"] for image in images],
            BLUE,
            "o",
            [image["factor_esd"] for image in images],
        ),
        Curve("beam intensity / mean", place, list(beam / mean), RED, "-"),
    ]
    curves = [curve for curve in curves if plots.has_points([curve])]
    ticks = pictures.integer_ticks(1, len(images))
    return plots.lines(
        "factors", "Factors of the images", curves, "image, in order", "relative to the mean", xticks=ticks,
        ylim=(0.0, None),
    )  # fmt: skip


def _orientation_map(images: list[dict], figures: SpreadFigures) -> str:
    tau = plots.numbers([image["tau"] if image["n"] >= FEW_IMAGES else None for image in images])
    x, y = figures.directions.T

    def paint(axes):
        from matplotlib.patches import Circle

        axes.add_patch(Circle((0.0, 0.0), 1.0, fill=False, lw=0.6, color="black"))
        known = np.isfinite(tau)
        axes.plot(x[~known], y[~known], "o", color=PALE, markersize=2.5)
        drawn = axes.scatter(
            x[known], y[known], c=tau[known], s=12.0, cmap="viridis", vmin=0.0, vmax=_top(tau, 95.0), zorder=3
        )
        axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=(), yticks=())
        axes.set(xlabel="a*", ylabel="normal to a* and c")
        bar = axes.inset_axes([1.05, 0.0, 0.05, 1.0])
        axes.figure.colorbar(drawn, cax=bar, label="τ of the image")
        bar.grid(False)

    return plots.draw("orientations", "Directions of the beam in the crystal", paint, SQUARE, margins=BAR_MARGINS)


def _orientation_caption() -> str:
    return (
        "Where the beam went through the crystal, in stereographic projection along c; colours are τ of the image. "
        "Images near a zone axis, where many beams are excited at once, should stand out if the scattering is "
        "dynamical."
    )


def _top(values: np.ndarray, percent: float) -> float:
    """Where a scale that begins at zero ends: the percentile of what is a number, 1 where it is not above zero."""
    known = values[np.isfinite(values)]
    top = float(np.percentile(known, percent)) if len(known) else 0.0
    return top if top > 0.0 else 1.0


def _matrix(figures: SpreadFigures) -> str:
    matrix, edges = figures.matrix, figures.edges
    colours = pictures.Colours("viridis", 0.0, _top(matrix, 99.5))

    def paint(axes):
        extent = (edges[0] + 0.5, edges[-1] + 0.5, edges[0] + 0.5, edges[-1] + 0.5)
        axes.imshow(colours.rgba(matrix), extent=extent, origin="lower", interpolation="none")
        axes.grid(False)
        axes.set(xlabel="image, in order", ylabel="image, in order")
        pictures.add_colour_bar(axes, pictures.ColourBar(colours, "reflections in common"))

    return plots.draw("matches", "Matrix of matches", paint, SQUARE, margins=BAR_MARGINS)


def _matrix_caption(summary: dict, figures: SpreadFigures) -> str:
    size = int(np.diff(figures.edges).max())
    binned = f" A pixel is {size} × {size} images, of which the mean is shown." if size > 1 else ""
    return (
        f"How many reflections two images have in common (match={summary['settings']['match']}).{binned} An image with "
        "itself is left out (grey)."
    )


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
