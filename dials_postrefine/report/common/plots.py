"""
Figures as inline SVG: plain numbers in, a string out that goes into an HTML page as it is.

The same numbers give the same bytes: no date, and identifiers hashed with the figure's name, which also keeps those of
two figures of one page apart.  Text stays text (`svg.fonttype: none`), which is small and can be read aloud and
searched for; there is no name space and no link, so that nothing in it looks like an address.  None and NaN are points
that are not there; a figure without any point says why instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

SIZE = (4.4, 3.1)  # inches; the page scales it
# inches: left, right, bottom, top, between rows; found by matplotlib itself they would take twice the time
MARGINS = (0.72, 0.15, 0.45, 0.32, 0.55)
FONT_SIZE = 9.0
GREY, BLUE, RED, GREEN, PALE = "#8a8a8a", "#1f5fa8", "#c8401f", "#2a7f4f", "#c9d6e6"
# From so many points on they are drawn as one small picture inside the SVG.
MOST_VECTOR_POINTS = 2000
RASTER_DPI = 200
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.2  # entries beside one another; height in inches
FEWEST_RESIDUALS = 20  # for a histogram
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.labelsize": FONT_SIZE - 1.0,
    "ytick.labelsize": FONT_SIZE - 1.0,
    "legend.fontsize": FONT_SIZE - 1.0,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.formatter.useoffset": False,
}


@dataclass
class Curve:
    """A line or points of a figure: x and y, their standard deviations, and how they look."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: str = BLUE
    style: str = "o-"
    esd: Sequence[float | None] | None = None
    hollow: bool = False


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """The values as floats, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def draw(
    name: str,
    title: str,
    paint,
    size: tuple[float, float] = SIZE,
    rows: Sequence[float] = (1.0,),
    margins: Sequence[float] = MARGINS,
) -> str:
    """
    The SVG of a figure that paint(axes) draws; of one with several rows, paint(axes, axes, ...).

    name is unique in its page, title what a reader hears who does not see the figure.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        paint(*figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0])
        (width, height), (left, right, bottom, top, between) = size, margins
        axes_height = (height - bottom - top - (len(rows) - 1) * between) / len(rows)
        figure.subplots_adjust(
            left / width, bottom / height, 1.0 - right / width, 1.0 - top / height, hspace=between / axes_height
        )
        return _as_inline_svg(figure, name, title)


def _as_inline_svg(figure, name: str, title: str) -> str:
    from io import StringIO

    stream = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing, dpi=RASTER_DPI)
    text = stream.getvalue()
    view = re.search(r'viewBox="([^"]*)"', text).group(1)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="{view}"><title>{escape(title)}</title>{body}'.rstrip()
    )


def empty(name: str, title: str, why: str) -> str:
    """A figure that can't be drawn, and why."""
    import textwrap

    def paint(axes):
        axes.set(xticks=(), yticks=())
        for spine in axes.spines.values():
            spine.set(visible=True, color="#d0d0d0")
        axes.text(0.5, 0.5, textwrap.fill(why, 44), ha="center", va="center", color="#555555", transform=axes.transAxes)

    return draw(name, title, paint, (SIZE[0], 0.5 * SIZE[1]))


def add_curves(axes, curves: Sequence[Curve]) -> None:
    """Draw curves on the axes."""
    for curve in curves:
        axes.errorbar(
            numbers(curve.x),
            numbers(curve.y),
            None if curve.esd is None else numbers(curve.esd),
            fmt=curve.style,
            color=curve.colour,
            label=curve.label,
            elinewidth=0.8,
            markerfacecolor="white" if curve.hollow else None,
            rasterized=len(curve.x) > MOST_VECTOR_POINTS,
        )


def has_points(curves: Sequence[Curve]) -> bool:
    """Whether anything can be seen of the curves."""
    return any(np.isfinite(numbers(curve.x) * numbers(curve.y)).any() for curve in curves)


def add_legend(axes, n: int) -> None:
    """A legend above the axes, where it hides no point; none of one curve."""
    if n > 1:
        columns = min(n, LEGEND_COLUMNS)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=columns, borderaxespad=0.2, handlelength=1.6)


def margins_below_legend(n: int) -> tuple[float, ...]:
    """The margins of a figure whose legend has n entries: there is room above for one row of them."""
    more = LEGEND_ROW * max(0, -(-n // LEGEND_COLUMNS) - 1)
    return (*MARGINS[:3], MARGINS[3] + more, *MARGINS[4:])


def lines(
    name: str,
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    why_empty: str = "There are no data.",
    guides: str = "",
    **limits,
) -> str:
    """
    Curves or points; guides: "cross" for lines through zero and both axes of one scale, "diagonal" for the line y = x;
    limits are what matplotlib's Axes.set takes.
    """
    if not has_points(curves):
        return empty(name, title, why_empty)

    def paint(axes):
        add_curves(axes, curves)
        axes.set(xlabel=x_label, ylabel=y_label, **limits)
        if guides == "cross":
            axes.set_aspect("equal", adjustable="datalim")
            axes.locator_params(nbins=6)
            axes.axhline(0.0, color="black", lw=0.5)
            axes.axvline(0.0, color="black", lw=0.5)
        if guides == "diagonal":
            axes.axline((0.0, 0.0), slope=1.0, color="black", lw=0.6)
        add_legend(axes, len(curves))

    size = (SIZE[0], 3.9) if guides == "cross" else SIZE
    return draw(name, title, paint, size, margins=margins_below_legend(len(curves)))


def horizontal(name: str, title: str, names: Sequence[str], curve: Curve, x_label: str, why_empty: str) -> str:
    """Points by name, from top to bottom: the y of the curve are places from 1 on, a line marks x = 0."""
    if not has_points([curve]):
        return empty(name, title, why_empty)

    def paint(axes):
        add_curves(axes, [curve])
        axes.axvline(0.0, color="black", lw=0.5)
        axes.set_yticks(range(1, len(names) + 1), names)
        reach = max(4.0, 1.1 * np.nanmax(np.abs(numbers(curve.x))))
        axes.set(xlabel=x_label, ylim=(len(names) + 0.5, 0.5), xlim=(-reach, reach))

    return draw(name, title, paint, margins=(1.75, *MARGINS[1:]))


def by_resolution(
    name: str, title: str, shells: Sequence[dict], curves: Sequence[Curve], y_label: str, why_empty: str, **limits
) -> str:
    """
    Curves with a value a shell (the x of the curves is not used) over the resolution, even in d*^2, in Angstrom.

    shells: dictionaries with d_max (None where there is no limit) and d_min.
    """
    low = numbers([0.0 if shell["d_max"] is None else shell["d_max"] ** -2.0 for shell in shells])
    high = numbers([shell["d_min"] ** -2.0 for shell in shells])
    centre = 0.5 * (low + high)
    for curve in curves:
        curve.x = centre.tolist()
        if not has_points([curve]):
            curve.label += " (none)"
    if not has_points(curves):
        return empty(name, title, why_empty)

    def paint(axes):
        add_curves(axes, curves)
        axes.set(ylabel=y_label, **limits)
        _label_resolution(axes, centre[0], high[-1])
        add_legend(axes, len(curves))

    return draw(name, title, paint, margins=margins_below_legend(len(curves)))


def _label_resolution(axes, low: float, high: float) -> None:
    """An axis of d*^2 from low to high (1/Angstrom^2), labelled with d."""
    ticks = np.linspace(low, high, 6)
    axes.set_xticks(ticks, [f"{x**-0.5:.2f}" for x in ticks])
    axes.set_xlabel("d (Å)")


def residuals_by_resolution(
    name: str, title: str, d: Sequence[float], z: Sequence[float | None], limit: float, why_empty: str
) -> str:
    """Normalised residuals over the resolution d (Angstrom); those beyond +-limit are drawn there, as crosses."""
    x, z = numbers(d) ** -2.0, numbers(z)
    beyond = np.abs(z) > limit
    if not np.isfinite(z).any():
        return empty(name, title, why_empty)

    def paint(axes):
        axes.axhline(0.0, color="black", lw=0.5)
        axes.plot(x[~beyond], z[~beyond], ".", color=BLUE)
        axes.plot(x[beyond], np.clip(z[beyond], -limit, limit), "x", color=RED, clip_on=False)
        axes.set(ylabel="normalised residual z", ylim=(-limit, limit))
        _label_resolution(axes, x.min(), x.max())

    return draw(name, title, paint)


def parameter_histogram(name: str, title: str, data: dict | None, label: str, factor: float, logarithmic: bool) -> str:
    """
    The histogram of a parameter, and below it that of its standard deviations.

    data as diagnostics.Histogram; what is drawn is the number times factor, in the units of the label.
    """
    if data is None:
        return empty(
            name, title, "No accepted lattice was refined: they have too few reflections in common with the reference."
        )
    from matplotlib.ticker import MaxNLocator

    edges, esd_edges = factor * numbers(data["edges"]), factor * numbers(data["esd_edges"])

    def paint(above, below):
        above.stairs(data["counts"], edges, fill=True, color=PALE)
        above.stairs(data["counts"], edges, color=BLUE, lw=1.0, label="accepted")
        if any(data["counts_rejected"]):
            above.stairs(data["counts_rejected"], edges, color=RED, lw=1.0, ls="--", label="rejected")
        median = factor * data["median"]
        above.axvline(median, color="black", lw=0.8)
        if data["median_esd"]:
            height = 0.9 * max(data["counts"])
            esd = factor * data["median_esd"]
            above.errorbar([median], [height], xerr=[esd], color="black", capsize=2.5, label="median and median esd")
        if logarithmic:
            above.set_xscale("log")
            _label_logarithmic(above, edges)
        else:
            above.locator_params(axis="x", nbins=5)
        above.set(xlabel=label, ylabel="lattices", xlim=(edges[0], edges[-1]))
        above.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        add_legend(above, 3)
        if any(data["esd_counts"]):
            below.stairs(data["esd_counts"], esd_edges, fill=True, color="#d9d9d9")
            below.set(xlabel=f"esd of {label}", ylabel="lattices", xlim=(0.0, esd_edges[-1]))
            below.locator_params(axis="x", nbins=5)
            below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        else:
            below.set_axis_off()
            below.text(0.5, 0.5, "not refined: no esd", ha="center", va="center", transform=below.transAxes)

    return draw(name, title, paint, (SIZE[0], 3.7), (2.0, 1.0))


def _label_logarithmic(axes, edges: np.ndarray) -> None:
    """Plain numbers at a few even places of a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    ticks = [float(f"{x:.2g}") for x in np.geomspace(edges[0], edges[-1], 6)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def residual_histogram(name: str, title: str, data: dict) -> str:
    """The histogram of the normalised residuals and the normal distribution; data as diagnostics.Residuals."""
    if data["n"] < FEWEST_RESIDUALS:
        return empty(name, title, f"Only {data['n']} observations have another one of their index to compare with.")
    edges, counts = numbers(data["edges"]), numbers(data["counts"])
    step = edges[1] - edges[0]
    x = np.linspace(edges[0], edges[-1], 201)
    normal = data["n"] * step * np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)

    def paint(axes):
        axes.stairs(counts, edges, fill=True, color=PALE)
        axes.stairs(counts, edges, color=BLUE, lw=1.0, label="observed")
        axes.plot(x, normal, "-", color=RED, label="normal, of unit width")
        axes.set(xlabel="normalised residual z", ylabel="observations", xlim=(edges[0], edges[-1]), yscale="log")
        axes.set_ylim(0.5, 3.0 * max(counts.max(), normal.max()))
        add_legend(axes, 2)

    return draw(name, title, paint)


def convergence(name: str, title: str, cycles: Sequence[dict], limit: float | None, why_empty: str) -> str:
    """The change of the merged intensities by cycle, logarithmic, and the limit; cycles as cycles.Cycle."""
    number = list(range(1, len(cycles) + 1))
    change = Curve("change", number, [cycle["change"] for cycle in cycles])
    if not has_points([change]):
        return empty(name, title, why_empty)
    from matplotlib.ticker import MaxNLocator

    def paint(axes):
        add_curves(axes, [change])
        if limit:
            axes.axhline(limit, color=RED, ls="--", lw=1.0, label="limit")
        axes.set(xlabel="cycle", ylabel="change of the merged I", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "25" else "")
        add_legend(axes, 2 if limit else 1)

    return draw(name, title, paint)
