"""
How reproducible intensities are between images: the whole of dials.image_spread, from arrays to numbers.

In: Images on one scale, with the variances of the counts.  Out: the pairs of images that have indices in common
(pairs.py), how well these agree (agreement.py) and whether they are better than chance (randommatch.py), the excess
relative spread tau of all symmetry mates, as a whole and by intensity, resolution, image and experiment (spread.py),
and what it depends on (causes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.spread import spread
from dials_postrefine.electron.spread.agreement import SpotAgreement, measure_agreement
from dials_postrefine.electron.spread.causes import Causes, find_causes
from dials_postrefine.electron.spread.images import Images, Unusable
from dials_postrefine.electron.spread.orientation import nearest_zone_axes, zone_axes
from dials_postrefine.electron.spread.pairs import Pairs, find_pairs
from dials_postrefine.electron.spread.randommatch import RandomMatch, compare_with_random
from dials_postrefine.electron.spread.spread import Mates, Tau
from dials_postrefine.numerics.grouped import even_groups, grouped_median

TENTHS = 10
# Parts of the unique indices by intensity, as fractions from the weakest on.
PARTS = {"weakest half": (0.0, 0.5), "strongest tenth": (0.9, 1.0)}
FEWEST_IN_SHELL = 10  # unique indices


@dataclass(frozen=True)
class SpreadSettings:
    """What the modules named above take: angles in radians."""

    match: str = "auto"
    min_common: int = 5
    min_angle: float = 0.0
    max_pairs: int = 5_000
    strong: float = 3.0
    n_shells: int = 10
    prior: float = 0.5
    n_permutations: int | None = None
    zone_axis_index: int = 2
    seed: int = 0


@dataclass
class Group:
    """
    tau of a group of unique indices: the median of their mean intensities and the median relative error of the counts,
    and the range of d*^2 (1/Angstrom^2).
    """

    tau: Tau
    intensity: float
    relative_error: float
    d_star_sq: tuple[float, float]


@dataclass
class SpreadOfMates:
    """
    tau of all, of tenths and quartiles by intensity, of PARTS by name, of shells from low resolution on; r_meas, a
    fraction; n_alone: observations without a mate.
    """

    tau: Tau
    tenths: list[Group]
    quartiles: list[Group]
    parts: dict[str, Group]
    shells: list[Group]
    r_meas: float
    n_alone: int


@dataclass
class Overall:
    """tau, r_meas (a fraction) and the agreement of all matched spots, one group."""

    tau: Tau
    r_meas: float
    agreement: SpotAgreement


@dataclass
class ImageSpread:
    """
    Everything (module docstring): the agreement of the pairs, of images (n_images), of pairs of experiments, with the
    two experiments of each; what concerns all; tau by image and by experiment; for each image the angle to the nearest
    zone axis (radians), and which of the axes.
    """

    pairs: Pairs
    of_pairs: SpotAgreement
    of_images: SpotAgreement
    of_experiments: SpotAgreement
    experiment_pairs: np.ndarray
    overall: Overall
    random_match: RandomMatch
    mates: SpreadOfMates
    by_image: list[Tau]
    by_experiment: list[Tau]
    causes: Causes
    zone_angle: np.ndarray
    zone_axis: np.ndarray
    axes: np.ndarray


def analyse(
    images: Images,
    settings: SpreadSettings = SpreadSettings(),
    progress: Callable[[str, int, int], None] | None = None,
) -> ImageSpread:
    """
    The whole analysis; progress(what, done, total) is told of each part.

    Raises Unusable for one image, where no two images have enough indices in common, or too few mates were observed.
    """
    parts = ("Pairs", "Agreement", "Spread", "Images", "Random pairs", "Causes", "Done")

    def begin(k: int) -> None:
        if progress:
            progress(parts[k], k, len(parts) - 1)

    if len(np.unique(images.image)) < 2:
        raise Unusable("The data hold one image: the spread between images needs at least two.")
    begin(0)
    mates = spread.find_mates(images.unique, images.intensity, images.variance)
    pairs = find_pairs(images, settings.match, settings.min_common, settings.min_angle, settings.max_pairs)
    begin(1)
    of_pairs, of_images, of_experiments, experiment_pairs = _agreements(images, pairs, settings.strong)
    begin(2)
    of_mates = measure_spread(images, mates, n_shells=settings.n_shells)
    tau = of_mates.tau.tau
    begin(3)
    predicted = spread.predict_from_mates(mates, tau)
    ln_p = spread.ln_densities(predicted)
    image = images.image[mates.row]
    by_image = spread.fit_by_observation(mates, ln_p, image, images.n_images)
    by_experiment = spread.fit_by_observation(mates, ln_p, images.experiment[image], images.n_experiments)
    begin(4)
    random_match = compare_with_random(
        pairs, prior=settings.prior, n_permutations=settings.n_permutations, seed=settings.seed
    )
    begin(5)
    axes = zone_axes(settings.zone_axis_index)
    zone_angle, zone_axis = nearest_zone_axes(images.a_matrix, images.s0, axes)
    causes = find_causes(mates, predicted, ln_p, tau, image, images.beam_intensity, zone_angle)
    begin(6)
    return ImageSpread(
        pairs,
        of_pairs,
        of_images,
        of_experiments,
        experiment_pairs,
        Overall(of_mates.tau, of_mates.r_meas, _agreement_of_all(pairs, settings.strong)),
        random_match,
        of_mates,
        by_image,
        by_experiment,
        causes,
        zone_angle,
        zone_axis,
        axes,
    )


def measure_overall(images: Images, settings: SpreadSettings) -> Overall:
    """What concerns all, alone.  Raises Unusable as analyse does."""
    mates = spread.find_mates(images.unique, images.intensity, images.variance)
    pairs = find_pairs(images, settings.match, settings.min_common, settings.min_angle, settings.max_pairs)
    return Overall(spread.fit_tau(mates), r_meas(mates), _agreement_of_all(pairs, settings.strong))


def measure_spread(images: Images, mates: Mates, n_shells: int = 10) -> SpreadOfMates:
    """tau as a whole, by intensity and by resolution."""
    ln_l = spread.ln_likelihoods(mates)
    mean, d_star_sq = mates.mean, images.d_star_sq[mates.row[mates.offsets[:-1]]]
    relative = np.sqrt(mates.sum(mates.variance) / mates.counts) / np.maximum(np.abs(mean), 1e-300)

    def groups(group: np.ndarray, n_groups: int) -> list[Group]:
        found = spread.fit_by_unique(mates, ln_l, group, n_groups)
        own = group >= 0
        medians = [grouped_median(values[own], group[own], n_groups) for values in (mean, relative)]
        ranges = [_range(d_star_sq[group == k]) for k in range(n_groups)]
        return [Group(tau, float(i), float(e), limits) for tau, i, e, limits in zip(found, *medians, ranges)]

    place = (even_groups(mean, mates.n_unique) + 0.5) / mates.n_unique
    n_shells = max(1, min(n_shells, mates.n_unique // FEWEST_IN_SHELL))
    return SpreadOfMates(
        spread.fit_tau(mates, ln_l),
        groups(even_groups(mean, TENTHS), TENTHS),
        groups(even_groups(mean, 4), 4),
        {name: groups(np.where((place > low) & (place < high), 0, -1), 1)[0] for name, (low, high) in PARTS.items()},
        groups(even_groups(d_star_sq, n_shells), n_shells),
        r_meas(mates),
        int(len(images.unique) - np.count_nonzero((np.bincount(images.unique) > 1)[images.unique])),
    )


def r_meas(mates: Mates) -> float:
    """sum_h sqrt(n/(n - 1)) sum_i |I_i - <I_h>| / sum I (Diederichs and Karplus 1997, Nat. Struct. Biol. 4, 269)."""
    counts, deviation, total = mates.counts, np.abs(mates.intensity - mates.at(mates.mean)), mates.intensity.sum()
    return float(np.sum(np.sqrt(counts / (counts - 1.0)) * mates.sum(deviation)) / total) if total > 0.0 else np.nan


def _range(values: np.ndarray) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if len(values) else (np.nan, np.nan)


def _agreement_of_all(pairs: Pairs, strong: float) -> SpotAgreement:
    return _agreement(pairs, strong, np.zeros(len(pairs.pair), dtype=int), 1)


def _agreement(pairs: Pairs, strong: float, group: np.ndarray, n_groups: int, rows=slice(None)) -> SpotAgreement:
    spots = pairs.spots
    matched = [values[own] for own in (pairs.first, pairs.second) for values in (spots.intensity, spots.variance)]
    return measure_agreement(*(one[rows] for one in matched), group, n_groups, strong)


def _agreements(images: Images, pairs: Pairs, strong: float):
    """The agreement of pairs, images, pairs of experiments with these."""
    every = np.arange(len(pairs.pair))
    on_images = np.concatenate([pairs.a[pairs.pair], pairs.b[pairs.pair]])
    both = np.stack([images.experiment[pairs.a], images.experiment[pairs.b]])
    experiment_pairs, which = np.unique(np.sort(both, axis=0), axis=1, return_inverse=True)
    return (
        _agreement(pairs, strong, pairs.pair, pairs.n_pairs),
        _agreement(pairs, strong, on_images, images.n_images, np.concatenate([every, every])),
        _agreement(pairs, strong, which.ravel()[pairs.pair], experiment_pairs.shape[1]),
        experiment_pairs.T,
    )
