"""What several sections of the page of dials.image_spread draw and write alike: tau with its interval."""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import number
from dials_postrefine.report.common.plots import BLUE, PALE

MANY_BARS = 150  # that hide what they belong to
SQUARE = (4.4, 3.9)


def interval(tau: dict) -> str:
    """tau with its interval."""
    if tau["tau"] is None:
        return number(None, ".3f")
    return f"{tau['tau']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]"


def tau_figure(name: str, title: str, groups: list[dict], x: list, x_label: str, logarithmic: bool = False) -> str:
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
        axes.set_ylim(0.0, 1.15 * top_of_scale(high, 95.0))
        if logarithmic and (places > 0.0).all():
            axes.set_xscale("log")

    return plots.draw(name, title, paint)


def top_of_scale(values: np.ndarray, percent: float) -> float:
    """Where a scale that begins at zero ends: the percentile of what is a number, 1 where it is not above zero."""
    known = values[np.isfinite(values)]
    top = float(np.percentile(known, percent)) if len(known) else 0.0
    return top if top > 0.0 else 1.0
