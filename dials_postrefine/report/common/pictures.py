"""
Pictures of two-dimensional data on axes that need not be at right angles, as inline SVG (plots.py).

A voxel is one pixel of a PNG inside of the SVG, which carries the affine transformation to the axes: the browser shears
it, nothing is resampled.  What was not observed is grey, what can't be is transparent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.report.common.plots import draw, empty

UNOBSERVED = (168, 168, 168)
# Percentiles of the observed voxels: colours reach from the first to the second, and of absolute values to the third.
TOTAL_PERCENTILES = (1.0, 98.0)
ANISOTROPIC_PERCENTILE = 97.0
# No more pixels than this along an axis: voxels are averaged by twos, threes, ...
MOST_PIXELS = 640
SIZE = (4.4, 3.72)
MARGINS = (0.5, 0.95, 0.45, 0.12, 0.0)
BAR_PIXELS = 128
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NICE_STEPS = (1.0, 2.0, 5.0)
NICE_RESOLUTIONS = (
    20,
    15,
    10,
    8,
    6,
    5,
    4,
    3.5,
    3,
    2.5,
    2.2,
    2,
    1.8,
    1.6,
    1.5,
    1.4,
    1.3,
    1.2,
    1.1,
    1,
    0.9,
    0.8,
    0.7,
    0.6,
)


@dataclass(frozen=True)
class Colours:
    """A colour map of matplotlib from low to high; below and beyond are the colours of these."""

    name: str
    low: float
    high: float

    def rgba(self, values: np.ndarray) -> np.ndarray:
        """RGBA (..., 4) uint8 of finite values; that of UNOBSERVED of others."""
        from matplotlib import colormaps

        span = self.high - self.low
        known = np.isfinite(values)
        place = np.where(known, (np.where(known, values, self.low) - self.low) / (span if span > 0.0 else 1.0), 0.0)
        colours = colormaps[self.name](np.clip(place, 0.0, 1.0), bytes=True)
        colours[~known] = (*UNOBSERVED, 255)
        return colours


@dataclass(frozen=True)
class PlaneAxes:
    """
    Where a picture lies: coordinates u (n,) and v (m,) in even steps, and p = matrix (u, v) + origin, matrix (2, 2) of
    rows (m_00, m_01) and (0, m_11); the radius that is shown about p = 0; height: s^2 = |p|^2 + height^2 of circles.
    labels of u and v; circles, dashed, and limits are resolutions d (Angstrom).
    """

    u: np.ndarray
    v: np.ndarray
    matrix: np.ndarray
    origin: np.ndarray
    radius: float
    height: float = 0.0
    labels: tuple[str, str] = ("", "")
    circles: Sequence[float] = ()
    limits: Sequence[float] = ()


@dataclass(frozen=True)
class ColourBar:
    """What colours mean: a quantity and its unit."""

    colours: Colours
    quantity: str
    unit: str = ""


def sequential(values: np.ndarray) -> Colours:
    """Colours for values of which few are far from the others, NaN aside."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, TOTAL_PERCENTILES) if len(known) else (0.0, 1.0)
    return Colours("viridis", float(low), float(high))


def diverging(values: np.ndarray) -> Colours:
    """Colours with limits that are the same to both sides of zero."""
    known = np.abs(values[np.isfinite(values)])
    high = float(np.percentile(known, ANISOTROPIC_PERCENTILE)) if len(known) else 1.0
    return Colours("RdBu_r", -high, high)


def picture(
    name: str,
    title: str,
    values: np.ndarray,
    inside: np.ndarray,
    plane: PlaneAxes,
    bar: ColourBar,
    why_empty: str = "Nothing of it was observed.",
) -> str:
    """values (n, m) at u, v of the plane, NaN where there is none; inside (n, m): where there could be one."""
    if not np.isfinite(values).any():
        return empty(name, title, why_empty)
    from matplotlib.patches import Circle

    pixels, extent = raster(values, inside, plane, bar.colours)
    radius = 1.03 * plane.radius

    def paint(axes):
        axes.grid(False)
        axes.add_artist(_raster_artist(axes, pixels, extent, plane))
        axes.set(xlim=(-radius, radius), ylim=(-radius, radius), aspect="equal", xlabel=plane.labels[0])
        axes.set_ylabel(plane.labels[1], rotation=0, labelpad=8.0, va="center")
        for d, style in [*((d, (0, (4, 3))) for d in plane.circles), *((d, "-") for d in plane.limits)]:
            size_sq = d**-2.0 - plane.height**2
            if size_sq <= 0.0:
                continue
            size = size_sq**0.5
            axes.add_patch(Circle((0.0, 0.0), size, fill=False, lw=0.6, ls=style, color="black"))
            place = (0.5**0.5 * size, 0.5**0.5 * size)
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            axes.annotate(f"{d:.3g} Å", place, ha="center", va="center", fontsize=6.0, bbox=box)
        _lattice_axes(axes, plane, radius)
        add_colour_bar(axes, bar)

    return draw(name, title, paint, SIZE, margins=MARGINS)


def raster(
    values: np.ndarray, inside: np.ndarray, plane: PlaneAxes, colours: Colours
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """
    The pixels (m, n, 4) RGBA of values (n, m), the first row that of the first v, and the u and v of their edges.

    Of more than MOST_PIXELS each pixel is the mean of a few that were observed.
    """
    factor = -(-max(values.shape) // MOST_PIXELS)
    if factor > 1:
        n, m = (-(-length // factor) for length in values.shape)
        margin = [(0, count * factor - length) for count, length in zip((n, m), values.shape)]
        padded = np.pad(values.astype(float), margin, constant_values=np.nan).reshape(n, factor, m, factor)
        known = np.isfinite(padded)
        count = known.sum(axis=(1, 3))
        values = np.where(count > 0, np.where(known, padded, 0.0).sum(axis=(1, 3)) / np.maximum(count, 1), np.nan)
        inside = np.pad(inside, margin).reshape(n, factor, m, factor).any(axis=(1, 3))
    pixels = colours.rgba(values)
    pixels[~inside & ~np.isfinite(values), 3] = 0
    steps = [factor * (axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in (plane.u, plane.v)]
    edges = []
    for axis, step, length in zip((plane.u, plane.v), steps, values.shape):
        first = axis[0] - 0.5 * step / factor
        edges += [first, first + length * step]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2)), tuple(edges)


def _raster_artist(axes, pixels: np.ndarray, extent: Sequence[float], plane: PlaneAxes):
    """An artist that draws pixels where they belong: imshow would round their size to whole points, and shift them."""
    from matplotlib.artist import Artist
    from matplotlib.transforms import Affine2D

    u_0, u_1, v_0, v_1 = extent
    to_page = np.eye(3)
    to_page[:2, :2], to_page[:2, 2] = plane.matrix, plane.origin
    from_square = Affine2D().scale(u_1 - u_0, v_1 - v_0).translate(u_0, v_0) + Affine2D(to_page) + axes.transData

    class Raster(Artist):
        def draw(self, renderer):
            context = renderer.new_gc()
            context.set_clip_rectangle(axes.bbox)
            renderer.draw_image(context, 0.0, 0.0, pixels, from_square.frozen())
            context.restore()

    artist = Raster()
    artist.set_zorder(0.5)
    return artist


def round_resolutions(high: float, low: float = 0.0, most: int = 3) -> list[float]:
    """Round numbers d (Angstrom) whose 1/d lie evenly between low and high (1/Angstrom), away from both."""
    wanted = low + (high - low) * np.arange(1, most + 1) / (most + 1.0)
    room = 0.4 * (high - low) / (most + 1.0)
    found = []
    for s in wanted:
        d = min(NICE_RESOLUTIONS, key=lambda d: abs(1.0 / d - s))
        if abs(1.0 / d - s) < room and d not in found:
            found.append(float(d))
    return found


def _lattice_axes(axes, plane: PlaneAxes, radius: float) -> None:
    """Label u along the lower edge and v along the left one; where they are oblique, draw the lines that have them."""
    (along, shear), (_, across) = plane.matrix
    x_0, y_0 = plane.origin
    slope = shear / across  # of lines of one u, in x over y
    for axis, step, place in (
        (axes.xaxis, _nice(2.0 * radius / along), lambda u: along * u + x_0 + slope * (-radius - y_0)),
        (axes.yaxis, _nice(2.0 * radius / across), lambda v: across * v + y_0),
    ):
        scale = place(1.0) - place(0.0)
        first, last = (np.array([-radius, radius]) - place(0.0)) / scale
        values = step * np.arange(np.ceil(first / step), np.floor(last / step) + 1.0)
        axis.set_ticks(place(values), [f"{value + 0.0:.6g}".replace("-", "−") for value in np.round(values, 6)])
    if abs(slope) > 1e-3:
        step = _nice(2.0 * radius / along)
        reach = (radius + abs(x_0) + abs(slope) * (radius + abs(y_0))) / along
        for u in step * np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1.0):
            bottom, top = (along * u + x_0 + slope * (y - y_0) for y in (-radius, radius))
            axes.plot([bottom, top], [-radius, radius], "-", color="black", lw=0.4, alpha=0.35, clip_on=True)
        for y in axes.get_yticks():
            axes.plot([-radius, radius], [y, y], "-", color="black", lw=0.4, alpha=0.35)


def power_of(largest: float) -> tuple[float, str]:
    """What to multiply numbers by that reach to the largest, to make them short, and the power of ten as text."""
    power = 3 * int(np.floor(np.log10(largest) / 3.0)) if largest > 0.0 else 0
    return 10.0**-power, f"10{str(power).translate(SUPERSCRIPT)} " if power else ""


def integer_ticks(first: int, last: int) -> list[int]:
    """A few round integers from first to last."""
    step = max(1, round(_nice(max(1, last - first))))
    return list(range(-(-first // step) * step, last + 1, step))


def _nice(span: float, most: int = 7) -> float:
    """A round step of which there are at most so many in the span."""
    least = span / most
    power = 10.0 ** np.floor(np.log10(least))
    return next(step * power for step in (*NICE_STEPS, 10.0) if step * power >= least * (1.0 - 1e-9))


def add_colour_bar(axes, bar: ColourBar) -> None:
    """A colour bar beside the axes, and below it what is not observed."""
    colours = bar.colours
    high = colours.high if colours.high > colours.low else colours.low + 1.0  # of values that are all the same
    factor, power = power_of(max(abs(colours.low), abs(high)))
    scale = axes.inset_axes([1.05, 0.13, 0.05, 0.87])
    steps = np.linspace(colours.low, high, BAR_PIXELS)
    extent = (0.0, 1.0, factor * colours.low, factor * high)
    scale.imshow(colours.rgba(steps)[:, None], extent=extent, origin="lower", interpolation="none", aspect="auto")
    unit = (power + bar.unit).strip()
    scale.set_ylabel(f"{bar.quantity} ({unit})" if power or bar.unit else bar.quantity)
    none = axes.inset_axes([1.05, 0.0, 0.05, 0.06])
    none.set(facecolor=[value / 255.0 for value in UNOBSERVED], yticks=[0.5], yticklabels=["no data"], ylim=(0.0, 1.0))
    for one in (scale, none):
        one.grid(False)
        one.set_xticks(())
        one.yaxis.tick_right()
        one.yaxis.set_label_position("right")
        one.tick_params(length=2.0)
        for spine in one.spines.values():
            spine.set(visible=True, linewidth=0.5)
