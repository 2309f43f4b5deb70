"""Figures of dials.fine_refine: the disks, profiles through them, the residuals, and how the fit went."""

from __future__ import annotations

from typing import Any

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.plots import BLUE, GREY, Curve

MOST_DISKS = 6  # that are drawn
ROWS = ("measured", "simulated", "residual/σ")


def images_of(pattern: Any, outcome: Any) -> np.ndarray:
    """Measured, simulated and weighted residuals of each disk (3, d, y, x), NaN where a pixel is not used."""
    fit, comparison, pixels = outcome.fit, outcome.problem.comparison, outcome.pixels
    linear = fit.linear
    simulated = linear.scale[:, None] * fit.simulated + linear.background[:, None]
    stack = np.array([comparison.data, simulated, linear.residuals])
    stack[:, comparison.weight <= 0.0] = np.nan
    whole = np.full((*stack.shape[:2], len(pixels)), np.nan)
    whole[:, :, pixels] = stack
    return whole.reshape(*whole.shape[:2], *pattern.shape)


def disks_figure(pattern: Any, outcome: Any, first: int) -> str:
    """Some disks: measured and simulated on the same greys, and the residuals from -4 to 4 sigma."""
    images = images_of(pattern, outcome)[:, first : first + MOST_DISKS]
    names = pattern.names[first : first + MOST_DISKS]
    spread = np.nanstd(images[2]) if not outcome.problem.known_variance else 1.0

    def paint(*rows):
        for row, axes in enumerate(rows):
            axes.set(xticks=(), yticks=(), ylabel=ROWS[row])
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            for d in range(len(names)):
                low, high = np.nanpercentile(images[0, d], [1.0, 99.0]) if row < 2 else (-4.0 * spread, 4.0 * spread)
                colours = "gray" if row < 2 else "RdBu_r"
                shape = images.shape[2:]
                axes.imshow(
                    images[row, d],
                    extent=(1.08 * d * shape[1], (1.08 * d + 1.0) * shape[1], shape[0], 0.0),
                    vmin=low,
                    vmax=high,
                    cmap=colours,
                    interpolation="nearest",
                    aspect="equal",
                )
                if row == 0:
                    axes.text((1.08 * d + 0.5) * shape[1], -0.05 * shape[0], names[d], ha="center", fontsize=8)
            axes.set(xlim=(0.0, 1.08 * len(names) * images.shape[3]), ylim=(images.shape[2], -0.2 * images.shape[2]))

    name = f"disks-{first}"
    size = (8.8, 3.0 * (7.9 / len(names) * 1.1 + 0.15))
    size = (8.8, min(size[1], 7.4))
    return plots.draw(
        name, "The disks: measured, simulated, residual", paint, size, (1, 1, 1), (0.3, 0.1, 0.1, 0.1, 0.05)
    )


def points_figure(pattern: Any, outcome: Any, disk: int) -> str:
    """Pixels that make no image: measured and simulated in their order."""
    images = images_of(pattern, outcome)[:, disk].reshape(3, -1)
    used = np.flatnonzero(np.isfinite(images[0]))
    curves = [
        Curve("measured", used.tolist(), images[0][used].tolist(), GREY, "."),
        Curve("simulated", used.tolist(), images[1][used].tolist(), BLUE, "-"),
    ]
    return plots.lines(f"points-{disk}", f"Disk {pattern.names[disk]}", curves, "pixel", "counts")


def profile_figure(pattern: Any, outcome: Any, disk: int) -> str:
    """The middle row of a disk: measured and simulated."""
    images = images_of(pattern, outcome)[:, disk]
    row = images.shape[1] // 2
    x = np.arange(images.shape[2]).tolist()
    curves = [
        Curve("measured", x, _known(images[0, row]), GREY, "."),
        Curve("simulated", x, _known(images[1, row]), BLUE, "-"),
    ]
    return plots.lines(f"profile-{disk}", f"Disk {pattern.names[disk]}, row {row}", curves, "column (pixels)", "counts")


def residuals_figure(outcome: Any) -> str:
    """The histogram of the normalised residuals, and the normal distribution."""
    found = outcome.fit.linear.residuals[outcome.problem.comparison.weight > 0.0]
    if not outcome.problem.known_variance:
        found = found / max(np.std(found), 1e-300)
    edges = np.linspace(-5.0, 5.0, 51)
    height = np.histogram(np.clip(found, -5.0, 5.0), edges, density=True)[0]
    middle = 0.5 * (edges[1:] + edges[:-1])

    def paint(axes):
        axes.bar(middle, height, 0.18, color=GREY, label="residuals")
        axes.plot(middle, np.exp(-0.5 * middle**2) / np.sqrt(2.0 * np.pi), color=BLUE, label="normal")
        axes.set(xlabel="residual/σ", ylabel="density", xlim=(-5.0, 5.0))
        plots.add_legend(axes, 2)

    return plots.draw("residuals", "Normalised residuals", paint)


def course_figure(summary: dict) -> str:
    """chi^2 by evaluation of the model."""
    course = summary["course"]

    def paint(axes):
        axes.plot(np.arange(1, len(course) + 1), course, "o-", color=BLUE)
        axes.set(xlabel="evaluation", ylabel="χ²", yscale="log")

    return plots.draw("course", "Convergence", paint)


def _known(values: np.ndarray) -> list[float | None]:
    return [float(one) if np.isfinite(one) else None for one in values]
