"""The part of the page of dials.diffuse_map on how images were scaled against each other by symmetry equivalents."""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import pictures, plots
from dials_postrefine.report.common.page import Figure, Section, Table
from dials_postrefine.report.common.plots import BLUE, RED, Curve

# Of the residuals by bins: key, title, label of x.
BINNED = (
    ("by_image", "by image", "image, in order"),
    ("by_azimuth", "by azimuth", "azimuth on the detector (°)"),
    ("by_resolution", "by resolution", "1/d (1/Å)"),
)
MEANINGS = {
    "image": "scale by image",
    "gradient": "gradient over the detector",
    "panel": "factor of each panel",
    "detector": "flat field of the detector",
    "absorption": "absorption, by direction and image",
    "background": "background, by resolution and image",
    "azimuth": "background, by resolution and azimuth",
}


def scaling_section(scaling: dict) -> Section:
    """What the terms are, and residuals of equivalents before and after; scaling: the summary's."""
    before, after = scaling["misfit_before"], scaling["misfit_after"]
    figures = [_binned(scaling[key], key, title, label) for key, title, label in BINNED]
    figures += [
        _over_detector(
            scaling,
            "place_before",
            "Residual of equivalents over the detector, before",
            "Before scaling: where records are above (red) or below what their equivalents elsewhere lead to expect, "
            "as part of the intensity. What is the same at all places of a voxel does not show.",
        ),
        _over_detector(
            scaling,
            "place_after",
            "Residual of equivalents over the detector, after",
            "After scaling, in the colours of the picture before: what is left.",
            "place_before",
        ),
        _over_detector(
            scaling,
            "factor",
            "What the terms divide by, over the detector",
            "The product of all factors that were kept, as mean over images, less 1.",
            less=1.0,
        ),
    ]
    caption = (
        f"Terms that scale {scaling['n_records']} sums, of a voxel in a block of images each, against their symmetry "
        f"equivalents ({scaling['n_fitted']} were fitted to). A term is kept where it makes equivalents that were held "
        "out agree better by more than three times the error of that. Of its coefficients only those modes are fitted "
        "of which equivalents see something. Size: root mean square, as part of the intensity, with its esd. The mean "
        f"squared residual, with noise as it is in the end, is {before:.2f} before and {after:.2f} after."
    )
    rows = [
        [
            one["name"],
            MEANINGS.get(one["name"], ""),
            "yes" if one["kept"] else "no",
            f"{one['gain']:+.2%}",
            f"{one['significance']:+.1f}",
            f"{one['n_seen']} of {one['n_coefficients']}",
            f"{one['size']:.2%} ± {one['esd']:.2%}" if one["kept"] else "–",
        ]
        for one in scaling["terms"]
    ]
    headers = ("term", "what it is", "kept", "held-out misfit less by", "errors of that", "modes seen", "size")
    return Section("Scaling", figures=figures, tables=[Table(caption, headers, rows, n_text=3)])


def _binned(bins: dict, key: str, title: str, label: str) -> Figure:
    curves = [
        Curve("before", bins["x"], _percent(bins["before"]), RED, "o-"),
        Curve("after", bins["x"], _percent(bins["after"]), BLUE, "s-"),
    ]
    name = "scaling-" + key.replace("_", "-")
    svg = plots.lines(name, f"Residual of equivalents {title}", curves, label, "residual (%)")
    return Figure(
        svg,
        f"Mean difference of records from their symmetry equivalents, {title}, as part of the intensity: zero where "
        "nothing but noise differs.",
    )


def _percent(values: list) -> list:
    return [None if value is None else 100.0 * value for value in values]


def _over_detector(
    scaling: dict, key: str, title: str, caption: str, limits_of: str | None = None, less: float = 0.0
) -> Figure:
    """A picture of values over the detector, in colours whose limits are those of limits_of."""
    name = "scaling-" + key.replace("_", "-")
    values = np.array([plots.numbers(row) for row in scaling[key]]) - less
    reference = values if limits_of is None else np.array([plots.numbers(row) for row in scaling[limits_of]])
    if not np.isfinite(values).any():
        return Figure(plots.empty(name, title, "There are no data."), caption)
    colours, reach = pictures.diverging(reference), scaling["reach"]

    def paint(axes):
        axes.grid(False)
        edges = np.linspace(-reach, reach, len(values) + 1)
        axes.pcolormesh(
            edges,
            edges,
            np.ma.masked_invalid(values),
            cmap=colours.name,
            vmin=colours.low,
            vmax=colours.high,
            rasterized=True,
        )
        axes.set(aspect="equal", xlabel="u", ylabel="v")
        pictures.add_colour_bar(axes, pictures.ColourBar(colours, "part of the intensity"))

    place = " u, v: tangents of the angle to the beam, along the polarisation and across it."
    return Figure(plots.draw(name, title, paint, plots.SIZE, margins=pictures.MARGINS), caption + place)
