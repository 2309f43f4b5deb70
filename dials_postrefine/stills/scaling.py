"""
Scales and means: what the observations of all lattices say of the full intensities, given the lattices' parameters.

The scale of a lattice before any model is that of its amplitudes (linear_scales).  A scaled observation is I/(G e p),
e = exp(-2 B d*^2), and v/(G e p)^2 the variance of its counts (plus the integrator's own variance of 1/p where it gives
one).  Means weigh with the variance of errormodel.py, which the written table has too, over observations with p above
the threshold of accepted lattices that pass the outlier test of merging.py.

Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.indices import find_rows
from dials_postrefine.numerics.loops import medians_of_groups, without_own_group
from dials_postrefine.numerics.robust import slope_through_origin
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.errormodel import ErrorModel, expected_counts, fit_error_model
from dials_postrefine.stills.friedel import CentredPrior, DifferencePrior, prior_variance
from dials_postrefine.stills.merging import MIN_OTHER_WEIGHT, find_outliers, merge


@dataclass
class WeightedMean:
    """
    The mean of the kept observations with the variances of the error model.

    weight and weighted (n,): what each observation adds to the sums of weights and of weight times value; outlier (n,)
    of bool;
    reference (n_unique,) the means, NaN where nothing is known or the index is absent; sum_w, sum_wi (n_unique,);
    error_model: the one that fits the residuals about this mean, or what was assumed;
    differences: the prior of the differences of Friedel pairs, where these are kept apart and one is to tell of the
    other (friedel.py).
    """

    weight: np.ndarray
    weighted: np.ndarray
    outlier: np.ndarray
    sum_w: np.ndarray
    sum_wi: np.ndarray
    reference: np.ndarray
    error_model: ErrorModel
    differences: DifferencePrior | None = None

    @property
    def sigma(self) -> np.ndarray:
        """The standard deviation of the means (n_unique,), NaN where nothing is known."""
        return np.divide(1.0, np.sqrt(self.sum_w), out=np.full(len(self.sum_w), np.nan), where=self.sum_w > 0.0)

    @property
    def centred(self) -> bool:
        """Whether the means of Friedel pairs are known from elsewhere, and only their differences from here."""
        return isinstance(self.differences, CentredPrior)


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
    The scale of each lattice without any other parameter, (sum a a_ref / sum a_ref^2)^2 with the amplitudes
    a = sign(I) sqrt|I|: partial spots make a robust slope of the intensities meaningless, wild ones a plain one.

    Parameters
    ----------
    stills : Stills
        L lattices, n_unique indices; of a Friedel pair either counts as both.
    reference : ndarray, shape (n_unique,), or None
        Full intensities, NaN where unknown.  None: the mean of the scaled observations takes its place, in n_rounds
        rounds from the lattices' mean intensities on, and the median of the scales is one.
    n_rounds : int

    Returns
    -------
    ndarray, shape (L,)
        NaN where no positive slope exists.
    """
    lattice = stills.lattice()
    amplitude = signed_root(stills.intensity)

    def slopes(reference):
        root = signed_root(reference)[stills.unique]
        known = np.isfinite(root)
        a, root, group = amplitude[known], root[known], lattice[known]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.bincount(group, a * root, stills.n_lattices) / np.bincount(group, root**2, stills.n_lattices)
        return np.where(slope > 0.0, slope**2, np.nan)

    if reference is not None:
        return slopes(reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.bincount(lattice, np.abs(stills.intensity), stills.n_lattices) / np.diff(stills.offsets)
    one_of_pair = stills.unique if stills.friedel is None else stills.friedel.one_of_pair()[stills.unique]
    for _ in range(n_rounds):
        scale = np.where(scale > 0.0, scale / _median(scale), np.nan)
        used = np.isfinite(scale)[lattice]
        s = scale[lattice[used]]
        mean = merge(stills.intensity[used] / s, np.ones(len(s)), one_of_pair[used], stills.n_unique).intensity
        if stills.friedel is not None:
            mean = mean[stills.friedel.one_of_pair()]
        mean[stills.absent] = np.nan
        scale = slopes(mean)
    return scale / _median(scale)


def _median(values: np.ndarray) -> float:
    """The median of the finite values, one of none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 1.0


def scaled_values(
    stills: Stills, scaled: Scaled, selection: np.ndarray | slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The selected observations on the scale of full intensities.

    Parameters
    ----------
    stills : Stills
        n observations.
    scaled : Scaled
        Or what has its arrays, as PostrefinedStills.
    selection : ndarray of bool, shape (n,), or slice
        m of them.

    Returns
    -------
    value : ndarray, shape (m,)
        I/(p G e).
    variance : ndarray, shape (m,)
        Of their counts (module docstring).
    slope : ndarray, shape (m,)
        Of the variances on the values.
    """
    full = 1.0 / (scaled.partiality[selection] * scaled.scale[selection])
    value = stills.intensity[selection] * full
    variance = stills.variance[selection] * full**2
    if len(stills.inverse_variance):
        in_1_p = (stills.intensity[selection] / scaled.scale[selection]) ** 2
        variance += in_1_p * stills.inverse_variance[selection]
    return value, variance, scaled.variance_slope * full


def modelled_variance(
    value: np.ndarray,
    variance: np.ndarray,
    slope: np.ndarray,
    relative: np.ndarray,
    mean: np.ndarray,
    model: ErrorModel | None,
) -> np.ndarray:
    """
    The variances of values by the error model, or as they are without (model None).

    Parameters
    ----------
    value, variance, slope : ndarray, shape (n,)
        As scaled_values gives them.
    relative : ndarray, shape (n,)
        Variance t of ln(G e p).
    mean : ndarray, shape (n,)
        The merged intensity of the index of each; where there is none (NaN) the value itself has to do.
    model : ErrorModel or None

    Returns
    -------
    ndarray, shape (n,)
    """
    if model is None:
        return variance
    expected = np.where(np.isfinite(mean), mean, value)
    return model.variance(expected_counts(variance, value, slope, expected), relative, expected)


def merging_values(
    stills: Stills, scaled: Scaled, mean: np.ndarray, model: ErrorModel | None, selection: np.ndarray | slice
) -> tuple[np.ndarray, np.ndarray]:
    """
    The selected observations as they are to be merged.

    Parameters
    ----------
    stills : Stills
        n observations.
    scaled : Scaled
        Or what has its arrays, as PostrefinedStills.
    mean : ndarray, shape (n_unique,)
        Merged intensities, about which the error model holds.
    model : ErrorModel or None
        None: the variances of the counts alone.
    selection : ndarray of bool, shape (n,), or slice
        m of them.

    Returns
    -------
    value, variance : ndarray, shape (m,)
    """
    value, variance, slope = scaled_values(stills, scaled, selection)
    unique, relative = stills.unique[selection], scaled.relative_variance[selection]
    return value, modelled_variance(value, variance, slope, relative, mean[unique], model)


def corrected_values(
    stills: Stills, scaled: Scaled, mean: np.ndarray, model: ErrorModel | None
) -> tuple[np.ndarray, np.ndarray]:
    """
    All observations as they are to be written, corrected for partiality but not yet scaled: I/p, and the variances by
    the error model about the merged intensity as each lattice has it, G e M.

    Parameters
    ----------
    stills, scaled, mean, model
        As merging_values takes them.

    Returns
    -------
    value, variance : ndarray, shape (n,)
        G e and (G e)^2 times those of merging_values, to rounding.
    """
    corrected = replace(scaled, scale=np.ones(len(scaled.scale)))
    value, variance, slope = scaled_values(stills, corrected, slice(None))
    expected = mean[stills.unique] * scaled.scale
    return value, modelled_variance(value, variance, slope, scaled.relative_variance, expected, model)


def mean_of_kept(stills: Stills, scaled: Scaled, model: ErrorModel, outlier_z: float, fits_model: bool) -> WeightedMean:
    """
    The weighted mean of the kept observations.

    Parameters
    ----------
    stills : Stills
    scaled : Scaled
    model : ErrorModel
        Serves for the outlier test, I being the median of each index (of two the lower one, lest a wild value makes
        room for itself), and for the weights, unless fits_model.
    outlier_z : float
        The limit of the outlier test, in standard deviations.
    fits_model : bool
        Whether the weights are those of the error model that fits.

    Returns
    -------
    WeightedMean
    """
    kept = scaled.kept
    value, counts, slope = scaled_values(stills, scaled, kept)
    unique, relative = stills.unique[kept], scaled.relative_variance[kept]
    median = medians_of_groups(value, unique, stills.n_unique, True)
    variance = modelled_variance(value, counts, slope, relative, median[unique], model)
    at_least = model.at_least(value, counts, relative)
    out = find_outliers(value, variance, unique, stills.n_unique, outlier_z, stills.prior, at_least)
    good = ~out
    merged = merge(value[good], variance[good], unique[good], stills.n_unique)
    if fits_model:
        mean = merged.intensity[unique[good]]
        expected = expected_counts(counts[good], value[good], slope[good], mean)
        model = fit_error_model(value[good], expected, relative[good], mean, unique[good], 1.0 / variance[good], model)
    variance = modelled_variance(value, counts, slope, relative, merged.intensity[unique], model)
    merged = merge(value[good], variance[good], unique[good], stills.n_unique)
    outlier = np.zeros(len(kept), dtype=bool)
    outlier[kept] = out
    weight, weighted = np.zeros(len(kept)), np.zeros(len(kept))
    weight[kept] = np.where(out, 0.0, 1.0 / variance)
    weighted[kept] = weight[kept] * value
    intensity = merged.intensity
    intensity[stills.absent] = np.nan
    differences = None
    if stills.friedel is not None:
        variance = prior_variance(stills.friedel, merged.sum_w, intensity, stills.prior.d_star_sq)
        differences = DifferencePrior(variance)
    return WeightedMean(weight, weighted, outlier, merged.sum_w, merged.sum_wi, intensity, model, differences)


def add_prior(mean: WeightedMean, model: np.ndarray, variance: np.ndarray) -> WeightedMean:
    """
    The mean with one observation more of each index, a model's.

    Parameters
    ----------
    mean : WeightedMean
    model : ndarray, shape (n_unique,)
        Its intensities on the scale of the mean, NaN where it says nothing.
    variance : ndarray, shape (n_unique,)
        Their variances, NaN or infinite where it says nothing.

    Returns
    -------
    WeightedMean
    """
    with np.errstate(divide="ignore"):
        weight = 1.0 / variance
    weight = np.where(np.isfinite(weight) & np.isfinite(model), weight, 0.0)
    sum_w, sum_wi = mean.sum_w + weight, mean.sum_wi + weight * np.where(weight > 0.0, model, 0.0)
    reference = np.divide(sum_wi, sum_w, out=np.full(len(sum_w), np.nan), where=sum_w > 0.0)
    reference[np.isnan(mean.reference) & (mean.sum_w > 0.0)] = np.nan  # an absence
    # a model says itself by how much Friedel pairs differ
    return replace(mean, sum_w=sum_w, sum_wi=sum_wi, reference=reference, differences=None)


def mean_of_others(stills: Stills, mean: WeightedMean, first: int = 0, last: int | None = None) -> np.ndarray:
    """
    The mean without each lattice's own observations; of a Friedel pair that is kept apart, with what the other one of
    them says.

    Parameters
    ----------
    stills : Stills
    mean : WeightedMean
        Of all lattices.
    first, last : int
        The lattices from first up to and without last; all by default.

    Returns
    -------
    ndarray
        By observation of these lattices, NaN where nothing else is left.
    """
    last = stills.n_lattices if last is None else last
    if mean.differences is not None:
        return _mean_with_pairs(stills, mean, first, last)
    rows = stills.rows(first, last)
    unique, offsets = stills.unique[rows], stills.offsets[first : last + 1] - stills.offsets[first]
    total = mean.sum_w[unique]
    weight = without_own_group(mean.sum_w, mean.weight[rows], unique, offsets)
    weighted = without_own_group(mean.sum_wi, mean.weighted[rows], unique, offsets)
    left = (weight > MIN_OTHER_WEIGHT * total) & np.isfinite(mean.reference[unique])
    return np.divide(weighted, weight, out=np.full(len(weight), np.nan), where=left)


def _mean_with_pairs(stills: Stills, mean: WeightedMean, first: int, last: int) -> np.ndarray:
    """The same with Friedel pairs apart, the lattice being left out of both hands (friedel.py)."""
    rows = stills.rows(first, last)
    unique, n = stills.unique[rows], np.diff(stills.offsets[first : last + 1])
    key = np.repeat(np.arange(last - first, dtype=np.int64), n) * len(mean.reference) + unique
    keys, group = np.unique(key, return_inverse=True)
    of_lattice = np.bincount(group, mean.weight[rows]), np.bincount(group, mean.weighted[rows])
    left = np.isfinite(mean.reference[unique])
    sums = _without(mean, unique, left, *(values[group] for values in of_lattice))
    other = stills.friedel.other[unique]
    place, found = find_rows(keys, key - unique + other)
    found &= other >= 0
    known = (other >= 0) & np.isfinite(mean.reference[other])
    of_other = _without(mean, other, known, *(np.where(found, values[place], 0.0) for values in of_lattice))
    return mean.differences.intensity(unique, sums, of_other)


def _without(
    mean: WeightedMean, unique: np.ndarray, known: np.ndarray, weight: np.ndarray, weighted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sums (n,) of indices without these parts of them; zero where hardly anything is left, or nothing is known."""
    total = mean.sum_w[unique]
    known = known & (total - weight > MIN_OTHER_WEIGHT * total)
    return np.where(known, total - weight, 0.0), np.where(known, mean.sum_wi[unique] - weighted, 0.0)


def relative_change(old: np.ndarray, new: np.ndarray) -> float:
    """
    sum |new - s old| / sum |new| over what both know, s the robust slope between them.

    Parameters
    ----------
    old, new : ndarray, shape (n_unique,)
        Merged intensities, NaN where there is none.

    Returns
    -------
    float
        NaN of nothing.
    """
    both = np.isfinite(old) & np.isfinite(new)
    total = np.sum(np.abs(new[both]))
    if not total > 0.0:
        return np.nan
    return float(np.sum(np.abs(new[both] - slope_through_origin(new[both], old[both]) * old[both])) / total)
