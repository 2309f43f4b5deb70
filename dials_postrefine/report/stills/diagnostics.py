"""
What the report shows of a result: binned and bounded numbers, collected once the algorithms are done.

Let g = G exp(-2 B d*^2), times r_0/r_s with a mosaic radius, and I_ref what an observation is compared with: the
external reference, or the weighted mean of the other observations of its index, <I>', with the weights of the final
merge.

    observed partiality   p = I/(g I_ref); in bins of r_h/r_s the number that makes sum psi(I/g - p I_ref) = 0
    predicted partiality  sum p I_ref / sum I_ref of the same observations
                          both also before: the lattices at their start values (lattice.py), scaled to I_ref
    normalised residual   z = (I/(g p) - <I>') / sqrt(var' + var(<I>'))         (var': errormodel.py)
    width of residuals    1.48 median |z|, one if the errors are what the variances say

psi is the identity, clipped lest wild intensities count (robust.robust_ratio).  A plain ratio of sums it
remains, and not a slope: errors of I_ref, where few observations make the mean, draw a slope towards zero, and a mean
of the quotients everywhere.

Numbers are plain floats, lists of them and NaN where there is none; angles in degrees, lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from dials_postrefine.numerics.grouped import sum_of_others
from dials_postrefine.numerics.robust import robust_ratio, robust_width
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.stills.batch import start_lattices
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.geometry import excitation
from dials_postrefine.stills.merging import MIN_OTHER_WEIGHT
from dials_postrefine.stills.model import CELL_SCALE, THETA_X, THETA_Y, radius, scale_factor
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.partiality import Profile

MOST_BINS = 24
MOST_ROWS = 8
FEWEST_IN_BIN = 40
CURVE_POINTS = 81
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
class PartialityBin:
    """
    n observations about one r_h/r_s: their mean ratio, observed partiality with its esd, and the predicted one; NaN of
    fewer than two.
    """

    ratio: float
    n: int
    observed: float
    observed_esd: float
    predicted: float


@dataclass
class PartialityRow:
    """The observations with r_h/r_s from low to high, NaN where there is no limit, before and after postrefinement."""

    low: float
    high: float
    before: PartialityBin
    after: PartialityBin


@dataclass
class PartialityCurve:
    """
    The bins, and the profile itself as points (ratio, p) over their range; bins_before, those of the same observations
    before postrefinement, and rows, both in the same few intervals of r_h/r_s.
    """

    profile: str
    bins: list[PartialityBin] = field(default_factory=list)
    curve_ratio: list[float] = field(default_factory=list)
    curve_p: list[float] = field(default_factory=list)
    bins_before: list[PartialityBin] = field(default_factory=list)
    rows: list[PartialityRow] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """
    n observations and how they were recorded, (n,) each: ratio = r_h/r_s, full = I/g, i_ref and predicted, the p of the
    model.
    """

    ratio: np.ndarray
    full: np.ndarray
    i_ref: np.ndarray
    predicted: np.ndarray

    def bin_of(self, rows: np.ndarray) -> PartialityBin:
        """The partiality of some of them (module docstring)."""
        if len(rows) < 2:
            return PartialityBin(np.nan, len(rows), np.nan, np.nan, np.nan)
        i_ref = self.i_ref[rows]
        total = float(i_ref.sum())
        model = float(self.predicted[rows] @ i_ref) / total if total > 0.0 else np.nan
        return PartialityBin(float(self.ratio[rows].mean()), len(rows), *robust_ratio(self.full[rows], i_ref), model)


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
    reference: np.ndarray | None,
    d_star_sq: np.ndarray,
    named: Sequence[int] = (),
) -> Diagnostics:
    """
    The diagnostics of a result, as long as it has its arrays.

    reference (n_unique,) external intensities, or None; d_star_sq (n_unique,) in 1/Angstrom^2; named: lattices to be
    drawn besides the best, the median and the worst.
    """
    unique = stills.unique
    present = ~stills.absent[unique]
    ratio = excitation_ratios(stills, result)
    others, others_variance = means_of_others(stills, result, result.kept & ~result.outlier & present)
    i_ref = others if reference is None else reference[unique]

    z = np.full(len(unique), np.nan)
    kept = result.kept & present
    value, variance = result.merging_values(stills, kept)
    z[kept] = (value - others[kept]) / np.sqrt(variance + others_variance[kept])
    residuals = collect_residuals(z[kept], result.mean[unique[kept]], d_star_sq[unique[kept]], result.partiality[kept])

    before = recorded_at_start(stills, result, i_ref)
    known = result.accepted[stills.lattice()] & ~result.outlier & present
    known &= np.isfinite(i_ref) & np.isfinite(ratio) & np.isfinite(before.full) & np.isfinite(before.ratio)
    after = Recorded(ratio, stills.intensity / result.scale, i_ref, result.partiality)
    curve = partiality_curve(*(_select(one, known) for one in (after, before)), result.profile)
    chosen = ranked_lattices(result)
    plots = [*chosen.items(), *((k, "named") for k in dict.fromkeys(named) if k not in chosen)]
    shown = _Shown(ratio, i_ref, d_star_sq[unique], z)
    return Diagnostics(curve, residuals, [_lattice_plot(stills, result, k, rank, shown) for k, rank in plots])


@dataclass(frozen=True)
class _Shown:
    """Of each observation (n,): r_h/r_s, what it is compared with, d*^2 (1/Angstrom^2) and the normalised residual."""

    ratio: np.ndarray
    i_ref: np.ndarray
    d_star_sq: np.ndarray
    z: np.ndarray


def _select(recorded: Recorded, known: np.ndarray) -> Recorded:
    return Recorded(*(getattr(recorded, one.name)[known] for one in fields(Recorded)))


def recorded_at_start(stills: Stills, result: PostrefinedStills, i_ref: np.ndarray) -> Recorded:
    """
    The observations as the lattices record them at their start values, with the scale that these have to i_ref (n,);
    NaN of a lattice without any.
    """
    together = stills.joined(i_ref)
    x = start_lattices(together, FitSettings(profile=result.profile, radius=result.radius))
    ratio = _ratios(stills, x)
    scale = scale_factor(together.parameters(x), stills.q_sq)
    return Recorded(ratio, stills.intensity / scale, i_ref, result.profile(ratio, 1.0)[0])


def excitation_ratios(stills: Stills, result: PostrefinedStills) -> np.ndarray:
    """r_h/r_s of each observation (n,) at the refined parameters, NaN of a lattice without a fit."""
    return _ratios(stills, result.x)


def _ratios(stills: Stills, parameters: np.ndarray) -> np.ndarray:
    """r_h/r_s of each observation (n,) at these parameters (L, 7)."""
    ratio = np.full(len(stills.unique), np.nan)
    for k, x in enumerate(parameters):
        if np.isfinite(x).all():
            rows = stills.rows(k)
            q, q_sq, factor = stills.q[rows], stills.q_sq[rows], 1.0 + x[CELL_SCALE]
            r_h = excitation(factor * q, factor**2 * q_sq, stills.s0[k], rotate(x[THETA_X], x[THETA_Y]))
            ratio[rows] = r_h / radius(x, q_sq)
    return ratio


def means_of_others(stills: Stills, result: PostrefinedStills, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The weighted mean of the other used observations (n,) of each observation's index and its variance, each (n,).

    NaN where there is no other one.
    """
    value, variance = result.merging_values(stills, used)
    weight, weighted = np.zeros(len(used)), np.zeros(len(used))
    weight[used], weighted[used] = 1.0 / variance, value / variance
    total = np.bincount(stills.unique, weight, stills.n_unique)[stills.unique]
    weighted = sum_of_others(weighted, stills.unique, stills.n_unique)
    left = total - weight
    has_others = left > MIN_OTHER_WEIGHT * total
    nothing = np.full(len(used), np.nan)
    mean = np.divide(weighted, left, out=nothing.copy(), where=has_others)
    return mean, np.divide(1.0, left, out=nothing, where=has_others)


def partiality_curve(after: Recorded, before: Recorded, profile: Profile) -> PartialityCurve:
    """
    Observed and predicted partiality of the same observations after and before, by bins of r_h/r_s of equal numbers
    and, of both, by the same intervals, of equal numbers after.  No bins of fewer than FEWEST_IN_BIN.
    """
    curve = PartialityCurve(str(profile))
    n = len(after.ratio)
    n_bins = min(MOST_BINS, n // FEWEST_IN_BIN)
    if not n_bins:
        return curve
    for recorded, bins in ((after, curve.bins), (before, curve.bins_before)):
        parts = np.array_split(np.argsort(recorded.ratio, kind="stable"), n_bins)
        bins.extend(recorded.bin_of(rows) for rows in parts)
    limits = np.quantile(after.ratio, np.linspace(0.0, 1.0, min(MOST_ROWS, n_bins) + 1))
    limits[[0, -1]] = -np.inf, np.inf
    for low, high in zip(limits[:-1], limits[1:]):
        parts = (one.bin_of(np.flatnonzero((one.ratio >= low) & (one.ratio < high))) for one in (before, after))
        curve.rows.append(PartialityRow(*(float(x) if np.isfinite(x) else np.nan for x in (low, high)), *parts))
    reach = 1.1 * max(abs(one.ratio) for one in [*curve.bins, *curve.bins_before])
    points = np.linspace(-reach, reach, CURVE_POINTS)
    curve.curve_ratio, curve.curve_p = points.tolist(), profile(points, 1.0)[0].tolist()
    return curve


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
