"""
Scales and means: what the observations of all lattices say of the full intensities, given the lattices' parameters.

The scale of a lattice before any model is that of its amplitudes (linear_scales).  A scaled observation is I/(G e p),
e = exp(-2 B d*^2), and v/(G e p)^2 the variance of its counts (plus the integrator's own variance of 1/p where it gives
one).  Means weigh with the variance of errormodel.py, which the written table has too, over observations with p above
the threshold of accepted lattices that pass the outlier test of merging.py.

Before any fit the error of a partial observation is assumed to be t = (2 m (1 - p))^2 besides the model's b = m,
m = `model_error`.  Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.grouped import grouped_median
from dials_postrefine.numerics.robust import slope_through_origin
from dials_postrefine.stills.dataset import EarlierFit, Stills
from dials_postrefine.stills.errormodel import ErrorModel, expected_counts, fit_error_model
from dials_postrefine.stills.lattice import FitSettings, start_values
from dials_postrefine.stills.merging import MIN_OTHER_WEIGHT, find_outliers, merge
from dials_postrefine.stills.model import LN_SCALE, partiality, partiality_with_variance, scale_factor

N_START_ROUNDS = 3


@dataclass
class WeightedMean:
    """
    The mean of the kept observations with the variances of the error model.

    weight and weighted (n,): what each observation adds to the sums of weights and of weight times value; outlier (n,);
    reference (n_unique,) the means, NaN where nothing is known or the index is absent; sum_w, sum_wi (n_unique,);
    error_model: the one that fits the residuals about this mean, or what was assumed.
    """

    weight: np.ndarray
    weighted: np.ndarray
    outlier: np.ndarray
    sum_w: np.ndarray
    sum_wi: np.ndarray
    reference: np.ndarray
    error_model: ErrorModel

    @property
    def sigma(self) -> np.ndarray:
        """The standard deviation of the means (n_unique,), NaN where nothing is known."""
        return np.divide(1.0, np.sqrt(self.sum_w), out=np.full(len(self.sum_w), np.nan), where=self.sum_w > 0.0)


@dataclass
class Scaled:
    """
    What the lattices' parameters say of each observation (n,): partiality p, scale G e, relative_variance t of
    (G e p), and kept: of an accepted lattice, with p above the threshold; variance_slope of all (errormodel.py).
    """

    partiality: np.ndarray
    scale: np.ndarray
    relative_variance: np.ndarray
    kept: np.ndarray
    variance_slope: float


def linear_scales(stills: Stills, reference: np.ndarray | None, n_rounds: int = 4) -> np.ndarray:
    """
    The scale of each lattice (L,) without any other parameter, (sum a a_ref / sum a_ref^2)^2 with the amplitudes
    a = sign(I) sqrt|I|: partial spots make a robust slope of the intensities meaningless, wild ones a plain one.

    Without a reference the mean of the scaled observations takes its place, in n_rounds rounds from the lattices' mean
    intensities on, and the median of the scales is one.  NaN where no positive slope exists.
    """
    lattice = stills.lattice()
    amplitude = signed_root(stills.intensity)

    def slopes(reference):
        root = signed_root(reference)[stills.unique]
        known = np.isfinite(root)
        a, root, of = amplitude[known], root[known], lattice[known]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.bincount(of, a * root, stills.n_lattices) / np.bincount(of, root**2, stills.n_lattices)
        return np.where(slope > 0.0, slope**2, np.nan)

    if reference is not None:
        return slopes(reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.bincount(lattice, np.abs(stills.intensity), stills.n_lattices) / np.diff(stills.offsets)
    for _ in range(n_rounds):
        scale = np.where(scale > 0.0, scale / _median(scale), np.nan)
        used = np.isfinite(scale)[lattice]
        s = scale[lattice[used]]
        mean = merge(stills.intensity[used] / s, np.ones(len(s)), stills.unique[used], stills.n_unique).intensity
        mean[stills.absent] = np.nan
        scale = slopes(mean)
    return scale / _median(scale)


def _median(values: np.ndarray) -> float:
    """The median of the finite values, one of none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 1.0


def _positive_slope(intensity: np.ndarray, reference: np.ndarray) -> float:
    """The robust slope where the reference is known, NaN unless it is positive."""
    known = np.isfinite(reference)
    slope = slope_through_origin(intensity[known], reference[known])
    return slope if slope > 0.0 else np.nan


def scaled_values(stills: Stills, scaled: Scaled, selection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The scaled values I/(p G e) of the selected observations, the variances of their counts (docstring), and the slope
    of these on the values.
    """
    full = 1.0 / (scaled.partiality[selection] * scaled.scale[selection])
    value = stills.intensity[selection] * full
    variance = stills.variance[selection] * full**2
    if stills.inverse_variance is not None:
        in_1_p = (stills.intensity[selection] / scaled.scale[selection]) ** 2
        variance += in_1_p * stills.inverse_variance[selection]
    return value, variance, scaled.variance_slope * full


def modelled_variance(
    value: np.ndarray,
    variance: np.ndarray,
    slope: np.ndarray,
    relative: np.ndarray,
    unique: np.ndarray,
    mean: np.ndarray,
    model: ErrorModel | None,
) -> np.ndarray:
    """
    The variances (n,) of scaled values (n,), as scaled_values gives them, by the error model, or as they are without.

    mean (n_unique,) are the merged intensities; where there is none the value itself has to do.
    """
    if model is None:
        return variance
    expected = np.where(np.isfinite(mean[unique]), mean[unique], value)
    return model.variance(expected_counts(variance, value, slope, expected), relative, expected)


def merging_values(
    stills: Stills, scaled: Scaled, mean: np.ndarray, model: ErrorModel | None, selection: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The scaled values of the selected observations and their variances by the error model about mean (n_unique,)."""
    value, variance, slope = scaled_values(stills, scaled, selection)
    unique, relative = stills.unique[selection], scaled.relative_variance[selection]
    return value, modelled_variance(value, variance, slope, relative, unique, mean, model)


def mean_of_kept(stills: Stills, scaled: Scaled, model: ErrorModel, outlier_z: float, fits_model: bool) -> WeightedMean:
    """
    The weighted mean of the kept observations.

    The error model serves for the outlier test, I being the median of each index (of two the lower one, lest a wild
    value makes room for itself), and for the weights, unless fits_model: then they are of the model that fits.
    """
    kept = scaled.kept
    value, counts, slope = scaled_values(stills, scaled, kept)
    unique, relative = stills.unique[kept], scaled.relative_variance[kept]
    median = grouped_median(value, unique, stills.n_unique, lower=True)
    variance = modelled_variance(value, counts, slope, relative, unique, median, model)
    at_least = model.at_least(value, counts, relative)
    out = find_outliers(value, variance, unique, stills.n_unique, outlier_z, stills.prior, at_least)
    good = ~out
    merged = merge(value[good], variance[good], unique[good], stills.n_unique)
    if fits_model:
        mean = merged.intensity[unique[good]]
        expected = expected_counts(counts[good], value[good], slope[good], mean)
        model = fit_error_model(value[good], expected, relative[good], mean, unique[good], 1.0 / variance[good], model)
    variance = modelled_variance(value, counts, slope, relative, unique, merged.intensity, model)
    merged = merge(value[good], variance[good], unique[good], stills.n_unique)
    outlier = np.zeros(len(kept), dtype=bool)
    outlier[kept] = out
    weight, weighted = np.zeros(len(kept)), np.zeros(len(kept))
    weight[kept] = np.where(out, 0.0, 1.0 / variance)
    weighted[kept] = weight[kept] * value
    intensity = merged.intensity
    intensity[stills.absent] = np.nan
    return WeightedMean(weight, weighted, outlier, merged.sum_w, merged.sum_wi, intensity, model)


def add_prior(mean: WeightedMean, model: np.ndarray, variance: np.ndarray) -> WeightedMean:
    """
    The mean with one observation more of each index: a model's intensity (n_unique,) and its variance (n_unique,), NaN
    or infinite where the model says nothing.
    """
    with np.errstate(divide="ignore"):
        weight = 1.0 / variance
    weight = np.where(np.isfinite(weight) & np.isfinite(model), weight, 0.0)
    sum_w, sum_wi = mean.sum_w + weight, mean.sum_wi + weight * np.where(weight > 0.0, model, 0.0)
    reference = np.divide(sum_wi, sum_w, out=np.full(len(sum_w), np.nan), where=sum_w > 0.0)
    reference[np.isnan(mean.reference) & (mean.sum_w > 0.0)] = np.nan  # an absence
    return replace(mean, sum_w=sum_w, sum_wi=sum_wi, reference=reference)


def mean_of_others(part: Stills, rows: slice, mean: WeightedMean) -> np.ndarray:
    """The mean without each lattice's own observations, per row of the chunk, NaN where nothing else is left."""
    key = part.lattice().astype(np.int64) * len(mean.reference) + part.unique
    _, group = np.unique(key, return_inverse=True)
    total = mean.sum_w[part.unique]
    weight = total - np.bincount(group, mean.weight[rows])[group]
    weighted = mean.sum_wi[part.unique] - np.bincount(group, mean.weighted[rows])[group]
    left = (weight > MIN_OTHER_WEIGHT * total) & np.isfinite(mean.reference[part.unique])
    return np.divide(weighted, weight, out=np.full(len(weight), np.nan), where=left)


def scaled_by_fits(
    stills: Stills, fits: Mapping[int, EarlierFit], profile: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """p, G e and the relative variance of (G e p) by the fits of some lattices, and whose these are; all (n,)."""
    n = len(stills.unique)
    p, scale, relative, known = np.zeros(n), np.ones(n), np.zeros(n), np.zeros(n, dtype=bool)
    for k, fit in fits.items():
        rows = stills.rows(k)
        own = stills.observations(k, np.full(rows.stop - rows.start, np.nan))
        p[rows], relative[rows] = partiality_with_variance(fit.x, fit.covariance, own, profile)
        scale[rows] = scale_factor(fit.x, own.q_sq)
        known[rows] = True
    return p, scale, relative, known


def start_partialities(stills: Stills, fit: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    """p, and G e at G = 1, of each observation (n,) at its lattice's start values; p is 0 where there are none."""
    p, shape = np.zeros(len(stills.unique)), np.ones(len(stills.unique))
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        observations = stills.observations(k, np.full(rows.stop - rows.start, np.nan))
        x = start_values(observations, fit)
        x[LN_SCALE] = 0.0
        if np.isfinite(x).all() and k not in stills.rejected:
            p[rows] = partiality(x, observations, fit.profile)
            shape[rows] = scale_factor(x, observations.q_sq)
    return p, shape


def first_mean(
    stills: Stills,
    fit: FitSettings,
    outlier_z: float,
    linear_scale: np.ndarray,
    earlier: Mapping[int, EarlierFit],
    variance_slope: float,
    fits_model: bool = False,
) -> WeightedMean:
    """
    The scaled mean of the data with the lattices as earlier fits left them, the others at their start values.

    linear_scale (L,); variance_slope as in Scaled. Where all have an earlier fit this is the mean that its run ended
    with, and fits_model tells whether the error model is fitted to it, as it was there.
    """
    p, shape = start_partialities(stills, fit)
    found_p, found_scale, found_relative, known = scaled_by_fits(stills, earlier, fit.profile)
    scale = np.where(known, found_scale, linear_scale[stills.lattice()] * shape)
    relative = np.where(known, found_relative, (2.0 * fit.model_error * (1.0 - p)) ** 2)
    p = np.where(known, found_p, p)
    model = ErrorModel(b=fit.model_error)
    for _ in range(N_START_ROUNDS):
        kept = (p >= fit.partiality_threshold) & np.isfinite(scale)
        scaled = Scaled(p, scale, relative, kept, variance_slope)
        mean = mean_of_kept(stills, scaled, model, outlier_z, fits_model and bool(known.all()))
        model = mean.error_model
        for k in range(stills.n_lattices):
            if k not in earlier:
                rows = stills.rows(k)
                recorded = mean.reference[stills.unique[rows]] * p[rows] * shape[rows]
                scale[rows] = _positive_slope(stills.intensity[rows], recorded) * shape[rows]
    return mean


def relative_change(old: np.ndarray, new: np.ndarray) -> float:
    """sum |new - s old| / sum |new| over what both know, s the robust slope between them; NaN of nothing."""
    both = np.isfinite(old) & np.isfinite(new)
    total = np.sum(np.abs(new[both]))
    if not total > 0.0:
        return np.nan
    return float(np.sum(np.abs(new[both] - slope_through_origin(new[both], old[both]) * old[both])) / total)
