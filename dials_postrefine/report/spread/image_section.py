"""The section of the page of dials.image_spread on its images: tau, factor, direction of the beam, matches of each."""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import pictures, plots
from dials_postrefine.report.common.page import Figure, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, PALE, RED, Curve
from dials_postrefine.report.spread.drawing import SQUARE, interval, tau_figure, top_of_scale
from dials_postrefine.report.spread.figures import SpreadFigures

FEW_IMAGES = 3  # observations of an image, below which its tau is not drawn
BAR_MARGINS = (0.72, 0.95, 0.45, 0.2, 0.0)


def image_section(summary: dict, figures: SpreadFigures) -> Section:
    """The section of a summary and the points of its figures."""
    images = summary["images"]
    enough = [image if image["n"] >= FEW_IMAGES else image | {"tau": None} for image in images]
    by_image = tau_figure("by-image", "Spread by image", enough, list(range(1, len(images) + 1)), "image, in order")
    shown = [
        Figure(by_image, "Each image against the symmetry equivalents on all others; bars are 95 % intervals."),
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
            interval(image),
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
            x[known], y[known], c=tau[known], s=12.0, cmap="viridis", vmin=0.0, vmax=top_of_scale(tau, 95.0), zorder=3
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


def _matrix(figures: SpreadFigures) -> str:
    matrix, edges = figures.matrix, figures.edges
    colours = pictures.Colours("viridis", 0.0, top_of_scale(matrix, 99.5))

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
