"""
Scales and means: what the observations of all lattices say of the full intensities, given the lattices' parameters.

The scale of a lattice before any model is that of its amplitudes (linear_scales).  The mean of a cycle weighs with the
model's variance

    var = v/(G e p)^2 + (m I_ref)^2 (1 + 4 (1 - p)^2),    e = exp(-2 B d*^2),

m = `model_error`, over observations with p above the threshold of accepted lattices that pass the outlier test of
merging.py.  The final merge weighs with v/(G e p)^2 (plus the integrator's own variance of 1/p where it gives one),
which is what the written table says and dials.merge does.  Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.lattice import signed_root, slope_through_origin, start_values
from dials_postrefine.stills.merging import find_outliers, merge
from dials_postrefine.stills.model import LN_SCALE, partiality, scale_factor

N_START_ROUNDS = 3
# A merged intensity must not be made of a vanishing remainder once a lattice's own weight is taken off.
MIN_OTHER_WEIGHT = 1e-6


@dataclass
class WeightedMean:
    """
    The mean of the kept observations with the model's variance (module docstring).

    weight and weighted (n,): what each observation adds to the sums of weights and of weight times value; outlier (n,);
    reference (n_unique,) the means, NaN where nothing is known or the index is absent; sum_w, sum_wi (n_unique,).
    """

    weight: np.ndarray
    weighted: np.ndarray
    outlier: np.ndarray
    sum_w: np.ndarray
    sum_wi: np.ndarray
    reference: np.ndarray


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


def scaled_values(stills: Stills, p, scale, selection) -> tuple[np.ndarray, np.ndarray]:
    """
    The merging values I/(p G e) of the selected observations and their variances.

    The variance is v/(p G e)^2, plus (I/(G e))^2 var(1/p) where the integrator gave a variance of 1/p
    (dials-facts.md, contract of the scaled table).
    """
    full = 1.0 / (p[selection] * scale[selection])
    value = stills.intensity[selection] * full
    variance = stills.variance[selection] * full**2
    if stills.inverse_variance is not None:
        variance += (stills.intensity[selection] / scale[selection]) ** 2 * stills.inverse_variance[selection]
    return value, variance


def mean_of_kept(stills, settings, p, scale, kept, reference) -> WeightedMean:
    """The weighted mean of the kept observations; reference (n_unique,) are the intensities expected so far."""
    value, variance = scaled_values(stills, p, scale, kept)
    unique = stills.unique[kept]
    expected = reference[unique]
    expected = np.where(np.isfinite(expected), expected, value)
    variance += (settings.fit.model_error * expected) ** 2 * (1.0 + 4.0 * (1.0 - p[kept]) ** 2)
    out = find_outliers(value, variance, unique, stills.n_unique, settings.outlier_z)
    merged = merge(value[~out], variance[~out], unique[~out], stills.n_unique)
    outlier = np.zeros(len(p), dtype=bool)
    outlier[kept] = out
    weight, weighted = np.zeros(len(p)), np.zeros(len(p))
    weight[kept] = np.where(out, 0.0, 1.0 / variance)
    weighted[kept] = weight[kept] * value
    intensity = merged.intensity
    intensity[stills.absent] = np.nan
    return WeightedMean(weight, weighted, outlier, merged.sum_w, merged.sum_wi, intensity)


def mean_of_others(part: Stills, rows: slice, mean: WeightedMean) -> np.ndarray:
    """The mean without each lattice's own observations, per row of the chunk, NaN where nothing else is left."""
    key = part.lattice().astype(np.int64) * len(mean.reference) + part.unique
    _, group = np.unique(key, return_inverse=True)
    total = mean.sum_w[part.unique]
    weight = total - np.bincount(group, mean.weight[rows])[group]
    weighted = mean.sum_wi[part.unique] - np.bincount(group, mean.weighted[rows])[group]
    left = (weight > MIN_OTHER_WEIGHT * total) & np.isfinite(mean.reference[part.unique])
    return np.divide(weighted, weight, out=np.full(len(weight), np.nan), where=left)


def first_mean(stills, settings, linear_scale) -> WeightedMean:
    """The scaled mean of the data at the lattices' start values."""
    p, shape = np.zeros(len(stills.unique)), np.ones(len(stills.unique))
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        observations = stills.observations(k, np.full(rows.stop - rows.start, np.nan))
        x = start_values(observations, settings.fit)
        x[LN_SCALE] = 0.0
        if np.isfinite(x).all() and k not in stills.rejected:
            p[rows] = partiality(x, observations, settings.fit.profile)
            shape[rows] = scale_factor(x, observations.q_sq)
    scale = linear_scale[stills.lattice()] * shape
    reference = np.full(stills.n_unique, np.nan)
    for _ in range(N_START_ROUNDS):
        kept = (p >= settings.fit.partiality_threshold) & np.isfinite(scale)
        mean = mean_of_kept(stills, settings, p, scale, kept, reference)
        reference = mean.reference
        for k in range(stills.n_lattices):
            rows = stills.rows(k)
            recorded = reference[stills.unique[rows]] * p[rows] * shape[rows]
            scale[rows] = _positive_slope(stills.intensity[rows], recorded) * shape[rows]
    return mean


def relative_change(old: np.ndarray, new: np.ndarray) -> float:
    """sum |new - s old| / sum |new| over what both know, s the robust slope between them; NaN of nothing."""
    both = np.isfinite(old) & np.isfinite(new)
    total = np.sum(np.abs(new[both]))
    if not total > 0.0:
        return np.nan
    return float(np.sum(np.abs(new[both] - slope_through_origin(new[both], old[both]) * old[both])) / total)
