"""
The partiality that is observed, beside the one that the model predicts, after postrefinement and before.

Let g = G exp(-2 B d*^2), times r_0/r_s with a mosaic radius, and I_ref what an observation is compared with: the
external reference, or the weighted mean of the other observations of its index, <I>', with the weights of the final
merge.

    observed partiality   p = I/(g I_ref); in bins of r_h/r_s the number that makes sum psi(I/g - p I_ref) = 0
    predicted partiality  sum p I_ref / sum I_ref of the same observations

Before, both are those of the same observations with the lattices at their start values (lattice.py), scaled to I_ref.
psi is the identity, clipped lest wild intensities count (robust.robust_ratio).  A plain ratio of sums it remains, and
not a slope: errors of I_ref, where few observations make the mean, draw a slope towards zero, and a mean of the
quotients everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from dials_postrefine.numerics.grouped import sum_of_others
from dials_postrefine.numerics.robust import robust_ratio
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.stills.batch import start_lattices
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.geometry import excitation
from dials_postrefine.stills.merging import MIN_OTHER_WEIGHT
from dials_postrefine.stills.model import CELL_SCALE, THETA_X, THETA_Y, radius, scale_factor
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.reference import FitReference

MOST_BINS = 24
MOST_ROWS = 8
FEWEST_IN_BIN = 40
CURVE_POINTS = 81


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


@dataclass(frozen=True)
class ObservedPartiality:
    """
    The curve, and of each observation (n,) what it comes from: r_h/r_s, NaN of a lattice without a fit; <I>' and its
    variance, NaN where there is no other observation; I_ref.
    """

    curve: PartialityCurve
    ratio: np.ndarray
    others: np.ndarray
    others_variance: np.ndarray
    i_ref: np.ndarray


def observe_partiality(stills: Stills, result: PostrefinedStills, reference: FitReference) -> ObservedPartiality:
    """
    What a result says of the partialities (module docstring).

    Parameters
    ----------
    stills : Stills
    result : PostrefinedStills
        Of the stills.
    reference : FitReference
        Its external intensities are what observations are compared with, if it has any.

    Returns
    -------
    ObservedPartiality
    """
    present = ~stills.absent[stills.unique]
    ratio = _ratios(stills, result.x)
    others, variance = _means_of_others(stills, result, result.kept & ~result.outlier & present)
    i_ref = reference.intensity[stills.unique] if reference.external else others
    before = _recorded_at_start(stills, result, i_ref)
    known = result.accepted[stills.lattice()] & ~result.outlier & present
    known &= np.isfinite(i_ref) & np.isfinite(ratio) & np.isfinite(before.full) & np.isfinite(before.ratio)
    after = Recorded(ratio, stills.intensity / result.scale, i_ref, result.partiality)
    curve = partiality_curve(*(_select(one, known) for one in (after, before)), result.profile)
    return ObservedPartiality(curve, ratio, others, variance, i_ref)


def _select(recorded: Recorded, known: np.ndarray) -> Recorded:
    return Recorded(*(getattr(recorded, one.name)[known] for one in fields(Recorded)))


def _recorded_at_start(stills: Stills, result: PostrefinedStills, i_ref: np.ndarray) -> Recorded:
    """
    The observations as the lattices record them at their start values, with the scale that these have to i_ref (n,);
    NaN of a lattice without any.
    """
    together = stills.joined(i_ref)
    x = start_lattices(together, FitSettings(profile=result.profile, radius=result.radius))
    ratio = _ratios(stills, x)
    scale = scale_factor(together.parameters(x), stills.q_sq)
    return Recorded(ratio, stills.intensity / scale, i_ref, result.profile(ratio, 1.0)[0])


def _ratios(stills: Stills, parameters: np.ndarray) -> np.ndarray:
    """r_h/r_s of each observation (n,) at these parameters (L, 7), NaN of a lattice without any."""
    ratio = np.full(len(stills.unique), np.nan)
    for k, x in enumerate(parameters):
        if np.isfinite(x).all():
            rows = stills.rows(k)
            q, q_sq, factor = stills.q[rows], stills.q_sq[rows], 1.0 + x[CELL_SCALE]
            r_h = excitation(factor * q, factor**2 * q_sq, stills.s0[k], rotate(x[THETA_X], x[THETA_Y]))
            ratio[rows] = r_h / radius(x, q_sq)
    return ratio


def _means_of_others(stills: Stills, result: PostrefinedStills, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    and, of both, by the same intervals, of equal numbers after.

    Parameters
    ----------
    after, before : Recorded
    profile : Profile

    Returns
    -------
    PartialityCurve
        No bins of fewer than FEWEST_IN_BIN.
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
