"""
What the report shows of a result: binned and bounded numbers, collected once the algorithms are done.

With g, <I>' and the partialities, observed and predicted, of stills/observedpartiality.py:

    normalised residual   z = (I/(g p) - <I>') / sqrt(var' + var(<I>'))         (var': errormodel.py)
    width of residuals    1.48 median |z|, one if the errors are what the variances say

Numbers are plain floats, lists of them and NaN where there is none; angles in degrees, lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.robust import robust_width
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.observedpartiality import ObservedPartiality, PartialityCurve
from dials_postrefine.stills.outcome import PostrefinedStills

RESIDUAL_EDGES = np.linspace(-6.0, 6.0, 49)
N_TENTHS = 10
FEWEST_IN_TENTH = 20
# the standard deviation of 1.48 times a median absolute deviation of n normal deviates, times sqrt(n)
ESD_OF_WIDTH = 1.17
HISTOGRAM_BINS = (5, 31)  # at least and at most, an odd number, about twice the root of the lattices'
HISTOGRAM_OUTSIDE = 0.01  # of the lattices at either end: a few stray ones must not hide the others
MOST_POINTS = 1000  # of one lattice
PLOT_DIGITS = 5


@dataclass
class Width:
    """The width of the residuals of n observations whose intensity, d* squared or p is from low to high."""

    low: float
    high: float
    n: int
    width: float
    width_esd: float


@dataclass
class Residuals:
    """
    The normalised residuals of what was merged, outliers included: histogram (counts between edges, and what is below
    and above), width, and the widths of tenths by merged intensity, by resolution (d*^2, 1/Angstrom^2) and by
    partiality; n_alone have no other observation to compare with.
    """

    n: int
    n_alone: int
    edges: list[float]
    counts: list[int]
    below: int
    above: int
    width: float
    by_intensity: list[Width]
    by_resolution: list[Width]
    by_partiality: list[Width]


@dataclass
class LatticePlot:
    """
    The n observations of one lattice that have a reference, at most MOST_POINTS of them evenly taken, in order of
    r_h/r_s; i_calc = g p I_ref, z NaN where not merged.  rank says what lattice it is: best, median, worst or named.
    """

    number: int
    rank: str
    n: int
    i_obs: list[float]
    i_calc: list[float]
    d: list[float]
    ratio: list[float]
    p_observed: list[float]
    p_observed_esd: list[float]
    p_predicted: list[float]
    z: list[float]


@dataclass
class Diagnostics:
    """All of it."""

    partiality: PartialityCurve
    residuals: Residuals
    lattice_plots: list[LatticePlot]


@dataclass
class Histogram:
    """
    The n accepted and refined lattices' values of one parameter: counts between edges, those below and above, and the
    rejected lattices' counts in the same bins; median, spread (1.48 times the median absolute deviation) and the
    median esd; esd_counts between esd_edges, and the esds above these.
    """

    n: int
    edges: list[float]
    counts: list[int]
    counts_rejected: list[int]
    below: int
    above: int
    median: float
    spread: float
    median_esd: float
    esd_edges: list[float]
    esd_counts: list[int]
    esd_above: int


def collect_diagnostics(
    stills: Stills,
    result: PostrefinedStills,
    observed: ObservedPartiality,
    d_star_sq: np.ndarray,
    named: Sequence[int] = (),
) -> Diagnostics:
    """
    The diagnostics of a result, as long as it has its arrays.

    observed: of the result; d_star_sq (n_unique,) in 1/Angstrom^2; named: lattices to be drawn besides the best, the
    median and the worst.
    """
    unique = stills.unique
    z = np.full(len(unique), np.nan)
    kept = result.kept & ~stills.absent[unique]
    value, variance = result.merging_values(stills, kept)
    z[kept] = (value - observed.others[kept]) / np.sqrt(variance + observed.others_variance[kept])
    residuals = collect_residuals(z[kept], result.mean[unique[kept]], d_star_sq[unique[kept]], result.partiality[kept])

    chosen = ranked_lattices(result)
    plots = [*chosen.items(), *((k, "named") for k in dict.fromkeys(named) if k not in chosen)]
    shown = _Shown(observed.ratio, observed.i_ref, d_star_sq[unique], z)
    return Diagnostics(observed.curve, residuals, [_lattice_plot(stills, result, k, rank, shown) for k, rank in plots])


@dataclass(frozen=True)
class _Shown:
    """Of each observation (n,): r_h/r_s, what it is compared with, d*^2 (1/Angstrom^2) and the normalised residual."""

    ratio: np.ndarray
    i_ref: np.ndarray
    d_star_sq: np.ndarray
    z: np.ndarray


def collect_residuals(z: np.ndarray, intensity: np.ndarray, d_star_sq: np.ndarray, partiality: np.ndarray) -> Residuals:
    """The residuals z (n,), NaN of what is alone, by merged intensity, d*^2 and partiality, each (n,)."""
    known = np.isfinite(z)
    alone, z = int(np.count_nonzero(~known)), z[known]
    return Residuals(
        n=len(z),
        n_alone=alone,
        edges=RESIDUAL_EDGES.tolist(),
        counts=np.histogram(z, RESIDUAL_EDGES)[0].tolist(),
        below=int(np.count_nonzero(z < RESIDUAL_EDGES[0])),
        above=int(np.count_nonzero(z > RESIDUAL_EDGES[-1])),
        width=float(robust_width(z)),
        by_intensity=_widths(z, intensity[known]),
        by_resolution=_widths(z, d_star_sq[known]),
        by_partiality=_widths(z, partiality[known]),
    )


def _widths(z: np.ndarray, key: np.ndarray) -> list[Width]:
    """The widths of z (n,) in tenths of equal numbers by key (n,); fewer where they would hold less than a few."""
    n_parts = min(N_TENTHS, len(z) // FEWEST_IN_TENTH)
    if not n_parts:
        return []
    widths = []
    for rows in np.array_split(np.argsort(key, kind="stable"), n_parts):
        width = float(robust_width(z[rows]))
        esd = ESD_OF_WIDTH * width / np.sqrt(len(rows))
        widths.append(Width(float(key[rows[0]]), float(key[rows[-1]]), len(rows), width, float(esd)))
    return widths


def ranked_lattices(result: PostrefinedStills) -> dict[int, str]:
    """
    The accepted lattices with the highest, the median and the lowest correlation with the model, by number.

    Of the refined ones if there are any.  One lattice has one rank: of two there is no median.
    """
    fits = result.fits
    known = [k for k in np.flatnonzero(result.accepted).tolist() if np.isfinite(fits[k].model_correlation)]
    refined = [k for k in known if fits[k].refined]
    order = sorted(refined or known, key=lambda k: (-fits[k].model_correlation, k))
    if not order:
        return {}
    ranked = {order[0]: "best"}
    ranked.setdefault(order[-1], "worst")
    ranked.setdefault(order[(len(order) - 1) // 2], "median")
    return dict(sorted(ranked.items(), key=lambda item: order.index(item[0])))


def _lattice_plot(stills: Stills, result: PostrefinedStills, k: int, rank: str, shown: _Shown) -> LatticePlot:
    ratio, i_ref = shown.ratio, shown.i_ref
    rows = np.arange(stills.offsets[k], stills.offsets[k + 1])
    full = result.scale[rows] * i_ref[rows]
    rows = rows[np.isfinite(full) & np.isfinite(ratio[rows])]
    n = len(rows)
    rows = rows[np.argsort(ratio[rows], kind="stable")][:: max(1, -(-n // MOST_POINTS))]
    full, p = result.scale[rows] * i_ref[rows], result.partiality[rows]
    positive = np.where(full > 0.0, full, np.nan)
    return LatticePlot(
        number=int(k),
        rank=rank,
        n=n,
        i_obs=_rounded(stills.intensity[rows]),
        i_calc=_rounded(full * p),
        d=_rounded(shown.d_star_sq[rows] ** -0.5),
        ratio=_rounded(ratio[rows]),
        p_observed=_rounded(stills.intensity[rows] / positive),
        p_observed_esd=_rounded(np.sqrt(stills.variance[rows]) / positive),
        p_predicted=_rounded(p),
        z=_rounded(shown.z[rows]),
    )


def _rounded(values: np.ndarray) -> list[float]:
    """The values (n,) with as many digits as a plot can show: there are many of them."""
    return [float(f"{value:.{PLOT_DIGITS}g}") for value in values]


def histogram(
    values: np.ndarray, esds: np.ndarray, accepted: np.ndarray, logarithmic: bool = False
) -> Histogram | None:
    """
    The histogram of a parameter's values (L,) with their esds (L,), of the accepted lattices (L,) and of the others;
    None where none is accepted.  NaN is left out.

    logarithmic: the bins are of equal widths in the logarithm.
    """
    known = np.isfinite(values) & (values > 0.0 if logarithmic else True)
    shown, others, esd = values[known & accepted], values[known & ~accepted], esds[known & accepted]
    if not len(shown):
        return None
    forth, back = (np.log, np.exp) if logarithmic else (np.array, np.array)
    x = np.sort(forth(shown))
    outside = int(HISTOGRAM_OUTSIDE * len(x))
    low, high = x[outside], x[-1 - outside]
    if not high > low:
        room = 0.5 * (abs(low) or 1.0)
        low, high = low - room, high + room
    n_bins = int(np.clip(2 * int(np.sqrt(len(shown))) + 1, *HISTOGRAM_BINS))
    edges = back(np.linspace(low, high, n_bins + 1))
    if not outside:  # lest the logarithm and back lose the smallest or the largest one
        edges[[0, -1]] = min(edges[0], shown.min()), max(edges[-1], shown.max())
    median, esd = float(np.median(shown)), esd[np.isfinite(esd)]
    middle_esd = float(np.median(esd)) if len(esd) else np.nan
    esd_edges = np.linspace(0.0, 4.0 * middle_esd if middle_esd > 0.0 else 1.0, n_bins + 1)
    return Histogram(
        n=len(shown),
        edges=edges.tolist(),
        counts=np.histogram(shown, edges)[0].tolist(),
        counts_rejected=np.histogram(others, edges)[0].tolist(),
        below=int(np.count_nonzero(shown < edges[0])),
        above=int(np.count_nonzero(shown > edges[-1])),
        median=median,
        spread=float(robust_width(shown - median)),
        median_esd=middle_esd,
        esd_edges=esd_edges.tolist(),
        esd_counts=np.histogram(esd, esd_edges)[0].tolist(),
        esd_above=int(np.count_nonzero(esd > esd_edges[-1])),
    )
