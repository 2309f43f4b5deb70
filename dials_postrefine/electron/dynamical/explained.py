"""
How much of the spread between symmetry equivalents is dynamical scattering.

An observation i of the unique index h is J_h d_i and what else there is: d_i is the dynamical factor that a model
predicts, I_dyn/I_kin on one scale for all.  tau (spread/spread.py) of the intensities I_i as they are, and of I_i/d_i
with variances v_i/d_i^2, has the same observations and the same indices, and

    explained = 1 - tau_after^2/tau_before^2

is the share of the excess variance that the model explains: 1 where nothing but counting is left, 0 where nothing is
gained, negative where equivalents agree less after the division.

    x_i = ln I_i - <ln I>_h,   y_i = ln d_i - <ln d>_h,   r = sum xy/sqrt(sum x^2 sum y^2),   slope = sum xy/sum y^2

over the observations with I > strong sigma, of indices that have two or more, correlate what is observed and what is
predicted: the slope is 1 where the model's size is right, and no scale of an index counts.  Of two images a, b the same
is done with ln I_a/I_b and ln d_a/d_b of the spots that both have (spread/agreement.py has the log spread and R of
them).

Intervals are percentiles of resampled data (bootstrap), 95 %: unique indices are drawn, as ln L is a sum over them;
and images, by what the equivalents say of each of their observations.  The wider one is given, as observations on one
image have errors in common.  Intensities in any unit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread.agreement import SpotAgreement, measure_agreement
from dials_postrefine.electron.spread.imagespread import r_meas
from dials_postrefine.electron.spread.spread import (
    GRID,
    TAU_0,
    Equivalents,
    Tau,
    find_equivalents,
    fit_tau,
    ln_densities,
    ln_likelihoods,
    predict_from_equivalents,
)
from dials_postrefine.numerics.correlation import grouped_correlation

N_RESAMPLES = 1000
LIMITS = 2.5, 97.5  # percentiles
LARGEST_FACTOR = 20.0  # times the median, or as much below: beyond it the kinematical intensity is next to none
MOST_NAMED = 100  # pairs of images
MOST_PAIRS = 2_000_000  # of observations


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairsOfImages:
    """
    Pairs of images a < b, most spots in common first, before and after the division.

    Attributes
    ----------
    a, b : ndarray of int, shape (p,)
    correlation : ndarray, shape (p,)
        Of ln I_a/I_b and ln d_a/d_b of the strong ones.
    before, after : SpotAgreement
        Of p groups.
    all_before, all_after : SpotAgreement
        Of the spots of all pairs as one group.
    all_correlation : float
    """

    a: np.ndarray
    b: np.ndarray
    correlation: np.ndarray
    before: SpotAgreement
    after: SpotAgreement
    all_before: SpotAgreement
    all_after: SpotAgreement
    all_correlation: float


@dataclass(frozen=True)
class Explained:
    """
    What was found (module docstring).

    Attributes
    ----------
    before, after : Tau
    r_meas_before, r_meas_after : float
    share : Interval
        NaN where there is no excess spread to be explained.
    correlation, slope : Interval
    n_strong : int
        Observations that these are of.
    n_left_out : int
        Observations without a factor, or with one beyond LARGEST_FACTOR.
    pairs : PairsOfImages
    """

    before: Tau
    after: Tau
    r_meas_before: float
    r_meas_after: float
    share: Interval
    correlation: Interval
    slope: Interval
    n_strong: int
    n_left_out: int
    pairs: PairsOfImages

    def as_dict(self, frames: np.ndarray) -> dict:
        """The numbers by name, of pairs those with most spots in common; frames (f,): the images' own numbers."""
        before, after, pairs = self.before, self.after, self.pairs
        tau: dict[str, float] = {"n": before.n, "n_unique": before.n_unique, "n_left_out": self.n_left_out}
        for when, one in (("before", before), ("after", after)):
            tau |= {when: one.tau, f"{when}_low": one.low, f"{when}_high": one.high}
        best = [
            {
                "first": int(frames[pairs.a[k]]),
                "second": int(frames[pairs.b[k]]),
                "n": int(pairs.before.n[k]),
                "correlation": float(pairs.correlation[k]),
                "before": float(pairs.before.log_spread[k]),
                "after": float(pairs.after.log_spread[k]),
            }
            for k in range(min(len(pairs.a), MOST_NAMED))
        ]
        return {
            "tau": tau,
            "r_meas": {"before": self.r_meas_before, "after": self.r_meas_after},
            "explained": asdict(self.share),
            "correlation": {**asdict(self.correlation), "n": self.n_strong},
            "slope": asdict(self.slope),
            "pairs": {
                "n": len(pairs.a),
                "correlation": pairs.all_correlation,
                "before": pairs.all_before.as_dict(0),
                "after": pairs.all_after.as_dict(0),
                "n_better": int(np.count_nonzero(pairs.after.log_spread < pairs.before.log_spread)),
                "best": best,
            },
        }


@dataclass(frozen=True)
class Factored:
    """
    Observations on one scale, with the factors that a model predicts.

    Attributes
    ----------
    unique, image : ndarray of int, shape (n,)
        Numbers of the unique index and of the image.
    intensity, variance, factor : ndarray, shape (n,)
        I, v and d, the latter NaN where there is none.
    """

    unique: np.ndarray
    image: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    factor: np.ndarray

    def usable(self) -> np.ndarray:
        """Which (n,) have a factor that is neither far too small nor far too large."""
        good = np.isfinite(self.factor) & (self.factor > 0.0)
        if not good.any():
            return good
        ratio = self.factor[good] / np.median(self.factor[good])
        good[good] = (ratio < LARGEST_FACTOR) & (ratio > 1.0 / LARGEST_FACTOR)
        return good


def explain(
    observed: Factored, strong: float = 3.0, min_common: int = 5, max_pairs: int = 5_000, seed: int = 0
) -> Explained:
    """
    How much of the spread the factors explain (module docstring).

    Parameters
    ----------
    observed : Factored
    strong : float
        I/sigma from which on logarithms are taken.
    min_common : int
        Strong spots that two images must have in common.
    max_pairs : int
        Of more pairs of images, those with most spots.
    seed : int

    Returns
    -------
    Explained

    Raises
    ------
    Unusable
        Where no observation has a factor, or too few have equivalents.
    """
    good = observed.usable()
    if not good.any():
        raise Unusable("No observation has a dynamical factor: the model predicts none of them.")
    used = Factored(*(column[good] for column in vars(observed).values()))
    sets = [find_equivalents(used.unique, used.intensity / d, used.variance / d**2) for d in (np.ones(1), used.factor)]
    rng = np.random.default_rng(seed)
    ln_l = [ln_likelihoods(one) for one in sets]
    taus = [fit_tau(one, two) for one, two in zip(sets, ln_l)]
    share = _share(sets, ln_l, taus, used.image[sets[0].row], rng)
    correlation, slope, n_strong = _correlate(used, strong, rng)
    return Explained(
        before=taus[0],
        after=taus[1],
        r_meas_before=r_meas(sets[0]),
        r_meas_after=r_meas(sets[1]),
        share=share,
        correlation=correlation,
        slope=slope,
        n_strong=n_strong,
        n_left_out=int(np.count_nonzero(~good)),
        pairs=compare_images(used, strong, min_common, max_pairs),
    )


def _share(
    sets: list[Equivalents], ln_l: list[np.ndarray], taus: list[Tau], image: np.ndarray, rng: np.random.Generator
) -> Interval:
    """1 - tau_after^2/tau_before^2, by two kinds of resampling."""
    before, after = taus
    if not before.low > 0.0:
        return Interval(np.nan, np.nan, np.nan)
    value = 1.0 - (after.tau / before.tau) ** 2
    _, number = np.unique(image, return_inverse=True)
    by_image = []
    for one, tau in zip(sets, taus):
        ln_p = ln_densities(predict_from_equivalents(one, tau.tau))
        by_image.append(np.array([np.bincount(number.ravel(), row) for row in ln_p]))
    limits = [_resampled_share(terms, value, rng) for terms in (ln_l, by_image)]
    return Interval(value, float(min(low for low, _ in limits)), float(max(high for _, high in limits)))


def _resampled_share(terms: list[np.ndarray], value: float, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of the share when terms (n_grid, m) of ln L, before and after, are drawn together."""
    weights = _draws(terms[0].shape[1], rng)
    taus = [_maxima(one @ weights.T) for one in terms]
    whole = [_maxima(one.sum(axis=1, keepdims=True))[0] for one in terms]
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = 1.0 - (taus[1] / taus[0]) ** 2
        shift = value - (1.0 - (whole[1] / whole[0]) ** 2)  # ln p of observations is not ln L of indices
    return tuple(np.nanpercentile(drawn + (shift if np.isfinite(shift) else 0.0), LIMITS))


def _draws(n: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n is drawn, (N_RESAMPLES, n)."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=N_RESAMPLES).astype(float)


def _maxima(ln_l: np.ndarray) -> np.ndarray:
    """The tau (m,) at which columns (n_grid, m) of ln L on GRID are largest, by a parabola."""
    u = np.log1p(GRID / TAU_0)
    k = np.clip(np.argmax(ln_l, axis=0), 1, len(u) - 2)
    column = np.arange(ln_l.shape[1])
    below, here, above = (ln_l[k + i, column] for i in (-1, 0, 1))
    curvature = below - 2.0 * here + above
    shift = np.where(curvature < 0.0, 0.5 * (below - above) / np.where(curvature < 0.0, curvature, 1.0), 0.0)
    at_end = np.argmax(ln_l, axis=0) == 0
    return np.where(at_end, 0.0, TAU_0 * np.expm1(u[k] + np.clip(shift, -1.0, 1.0) * (u[1] - u[0])))


def _correlate(used: Factored, strong: float, rng: np.random.Generator) -> tuple[Interval, Interval, int]:
    """r, the slope, and of how many observations."""
    kept = np.flatnonzero(used.intensity > strong * np.sqrt(used.variance))
    _, unique, counts = np.unique(used.unique[kept], return_inverse=True, return_counts=True)
    several = counts[unique.ravel()] > 1
    kept, unique = kept[several], np.unique(unique.ravel()[several], return_inverse=True)[1].ravel()
    if not len(kept):
        nothing = Interval(np.nan, np.nan, np.nan)
        return nothing, nothing, 0
    counts = np.bincount(unique)
    x, y = np.log(used.intensity[kept]), np.log(used.factor[kept])
    x, y = (one - (np.bincount(unique, one) / counts)[unique] for one in (x, y))
    sums = np.array([np.bincount(unique, one) for one in (x * x, x * y, y * y)])
    drawn = sums @ _draws(len(counts), rng).T
    total = sums.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = [xy / np.sqrt(xx * yy) for xx, xy, yy in (total, drawn)]
        slope = [xy / yy for _, xy, yy in (total, drawn)]
    return (*(Interval(float(one), *map(float, np.nanpercentile(many, LIMITS))) for one, many in (r, slope)), len(kept))


def compare_images(used: Factored, strong: float, min_common: int, max_pairs: int) -> PairsOfImages:
    """
    Pairs of images by the unique indices that both have, before and after the division.

    Parameters
    ----------
    used : Factored
        With factors everywhere.
    strong : float
        I/sigma that both spots must have.
    min_common : int
    max_pairs : int

    Returns
    -------
    PairsOfImages
        Of no pair where no two images have so many.
    """
    kept = np.flatnonzero(used.intensity > strong * np.sqrt(used.variance))
    first, second = _pairs_of_observations(used, kept)
    n_images = int(used.image.max()) + 1
    code = used.image[first].astype(np.int64) * n_images + used.image[second]
    found, group, counts = np.unique(code, return_inverse=True, return_counts=True)
    order = np.lexsort((found, -counts))
    order = order[counts[order] >= min_common][:max_pairs]
    place = np.full(len(found), -1)
    place[order] = np.arange(len(order))
    group = place[group.ravel()]
    first, second, group = first[group >= 0], second[group >= 0], group[group >= 0]
    matched = [[used.intensity[k], used.variance[k]] for k in (first, second)]
    divided = [[used.intensity[k] / used.factor[k], used.variance[k] / used.factor[k] ** 2] for k in (first, second)]
    one_group = np.zeros_like(group)
    before, after = (measure_agreement(*a, *b, group, len(order), strong) for a, b in (matched, divided))
    all_before, all_after = (measure_agreement(*a, *b, one_group, 1, strong) for a, b in (matched, divided))
    observed = np.log(used.intensity[first] / used.intensity[second])
    predicted = np.log(used.factor[first] / used.factor[second])
    return PairsOfImages(
        a=found[order] // n_images,
        b=found[order] % n_images,
        correlation=grouped_correlation(observed, predicted, group, len(order)),
        before=before,
        after=after,
        all_before=all_before,
        all_after=all_after,
        all_correlation=float(grouped_correlation(observed, predicted, one_group, 1)[0]),
    )


def _pairs_of_observations(used: Factored, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of equivalents on two images, the lower image first, (m,) each: numbers of observations."""
    kept = kept[np.lexsort((used.image[kept], used.unique[kept]))]
    unique = used.unique[kept]
    first, second, n = [], [], 0
    for step in range(1, len(kept)):
        same = np.flatnonzero(unique[step:] == unique[:-step])
        n += len(same)
        if not len(same) or n > MOST_PAIRS:
            break
        first.append(kept[same])
        second.append(kept[same + step])
    if not first:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    first, second = np.concatenate(first), np.concatenate(second)
    apart = used.image[first] != used.image[second]
    return first[apart], second[apart]
