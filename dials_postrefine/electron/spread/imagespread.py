"""
How reproducible intensities are between images: the whole of dials.image_spread, from arrays to numbers.

In: Images on one scale, with the variances of the counts.  Out: the pairs of images that have indices in common
(pairs.py), how well these agree (agreement.py) and whether they are better than chance (randommatch.py), the excess
relative spread tau of all symmetry equivalents, as a whole and by intensity, resolution, image and experiment
(spread.py), and what it depends on (causes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread.agreement import SpotAgreement, measure_agreement
from dials_postrefine.electron.spread.causes import Causes, find_causes
from dials_postrefine.electron.spread.orientation import nearest_zone_axes, zone_axes
from dials_postrefine.electron.spread.pairs import Pairs, find_pairs
from dials_postrefine.electron.spread.randommatch import RandomMatch, compare_with_random
from dials_postrefine.electron.spread.spread import (
    Equivalents,
    Tau,
    find_equivalents,
    fit_by_observation,
    fit_by_unique,
    fit_tau,
    ln_densities,
    ln_likelihoods,
    predict_from_equivalents,
)
from dials_postrefine.numerics.grouped import even_groups, grouped_median
from dials_postrefine.numerics.images import Images

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
class SpreadOfEquivalents:
    """
    tau of all, of tenths and quartiles by intensity, of PARTS by name, of shells from low resolution on; r_meas, a
    fraction; n_alone: observations without a symmetry equivalent.
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
    Everything that was found.

    Attributes
    ----------
    pairs : Pairs
    pair_agreement, image_agreement, experiment_agreement : SpotAgreement
        Of the pairs, of each image with all others, of pairs of experiments.
    experiment_pairs : ndarray of int, shape (n_experiment_pairs, 2)
        The two experiments of each of these.
    overall : Overall
    random_match : RandomMatch
    spread : SpreadOfEquivalents
    by_image, by_experiment : list of Tau
    causes : Causes
    zone_angle : ndarray, shape (n_images,)
        From the beam to the nearest zone axis (radians).
    zone_axis : ndarray of int, shape (n_images,)
        Which of the axes that is.
    axes : ndarray of int, shape (n_axes, 3)
    """

    pairs: Pairs
    pair_agreement: SpotAgreement
    image_agreement: SpotAgreement
    experiment_agreement: SpotAgreement
    experiment_pairs: np.ndarray
    overall: Overall
    random_match: RandomMatch
    spread: SpreadOfEquivalents
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
    The whole analysis.

    Parameters
    ----------
    images : Images
        On one scale, with the variances of the counts.
    settings : SpreadSettings
    progress : callable, optional
        Is told of each part: what, done, total.

    Returns
    -------
    ImageSpread

    Raises
    ------
    Unusable
        For one image, where no two images have enough indices in common, or too few symmetry equivalents were observed.
    """
    parts = ("Pairs", "Agreement", "Spread", "Images", "Random pairs", "Causes", "Done")

    def begin(part: str) -> None:
        if progress:
            progress(part, parts.index(part), len(parts) - 1)

    if len(np.unique(images.image)) < 2:
        raise Unusable("The data hold one image: the spread between images needs at least two.")
    begin("Pairs")
    equivalents = find_equivalents(images.unique, images.intensity, images.variance)
    pairs = find_pairs(images, settings.match, settings.min_common, settings.min_angle, settings.max_pairs)
    begin("Agreement")
    experiment_pairs, experiment_pair = _pairs_of_experiments(images, pairs)
    pair_agreement = _agreement(pairs, settings.strong, pairs.pair, pairs.n_pairs)
    image_agreement = _agreement_of_images(pairs, settings.strong, images.n_images)
    experiment_agreement = _agreement(pairs, settings.strong, experiment_pair, len(experiment_pairs))
    begin("Spread")
    spread = measure_spread(images, equivalents, n_shells=settings.n_shells)
    tau = spread.tau.tau
    begin("Images")
    predicted = predict_from_equivalents(equivalents, tau)
    ln_p = ln_densities(predicted)
    image = images.image[equivalents.row]
    by_image = fit_by_observation(equivalents, ln_p, image, images.n_images)
    by_experiment = fit_by_observation(equivalents, ln_p, images.experiment[image], images.n_experiments)
    begin("Random pairs")
    random_match = compare_with_random(
        pairs, prior=settings.prior, n_permutations=settings.n_permutations, seed=settings.seed
    )
    begin("Causes")
    axes = zone_axes(settings.zone_axis_index)
    zone_angle, zone_axis = nearest_zone_axes(images.a_matrix, images.s0, axes)
    causes = find_causes(equivalents, predicted, ln_p, tau, image, images.beam_intensity, zone_angle)
    begin("Done")
    return ImageSpread(
        pairs=pairs,
        pair_agreement=pair_agreement,
        image_agreement=image_agreement,
        experiment_agreement=experiment_agreement,
        experiment_pairs=experiment_pairs,
        overall=Overall(spread.tau, spread.r_meas, _agreement_of_all(pairs, settings.strong)),
        random_match=random_match,
        spread=spread,
        by_image=by_image,
        by_experiment=by_experiment,
        causes=causes,
        zone_angle=zone_angle,
        zone_axis=zone_axis,
        axes=axes,
    )


def measure_overall(images: Images, settings: SpreadSettings) -> Overall:
    """
    What concerns all observations, alone.

    Parameters
    ----------
    images : Images
    settings : SpreadSettings

    Returns
    -------
    Overall

    Raises
    ------
    Unusable
        As analyse does.
    """
    equivalents = find_equivalents(images.unique, images.intensity, images.variance)
    pairs = find_pairs(images, settings.match, settings.min_common, settings.min_angle, settings.max_pairs)
    return Overall(fit_tau(equivalents), r_meas(equivalents), _agreement_of_all(pairs, settings.strong))


def measure_spread(images: Images, equivalents: Equivalents, n_shells: int = 10) -> SpreadOfEquivalents:
    """
    tau as a whole, by intensity and by resolution.

    Parameters
    ----------
    images : Images
    equivalents : Equivalents
        The observations of these images that have a symmetry equivalent.
    n_shells : int
        Of equal numbers of unique indices; fewer where they would hold less than FEWEST_IN_SHELL.

    Returns
    -------
    SpreadOfEquivalents
    """
    ln_l = ln_likelihoods(equivalents)
    mean, d_star_sq = equivalents.mean, images.d_star_sq[equivalents.row[equivalents.offsets[:-1]]]
    relative = np.sqrt(equivalents.sum(equivalents.variance) / equivalents.counts) / np.maximum(np.abs(mean), 1e-300)

    def groups(group: np.ndarray, n_groups: int) -> list[Group]:
        found = fit_by_unique(equivalents, ln_l, group, n_groups)
        grouped = group >= 0
        medians = [grouped_median(values[grouped], group[grouped], n_groups) for values in (mean, relative)]
        ranges = [_range(d_star_sq[group == k]) for k in range(n_groups)]
        return [Group(tau, float(i), float(e), limits) for tau, i, e, limits in zip(found, *medians, ranges)]

    place = (even_groups(mean, equivalents.n_unique) + 0.5) / equivalents.n_unique
    n_shells = max(1, min(n_shells, equivalents.n_unique // FEWEST_IN_SHELL))
    return SpreadOfEquivalents(
        tau=fit_tau(equivalents, ln_l),
        tenths=groups(even_groups(mean, TENTHS), TENTHS),
        quartiles=groups(even_groups(mean, 4), 4),
        parts={
            name: groups(np.where((place > low) & (place < high), 0, -1), 1)[0] for name, (low, high) in PARTS.items()
        },
        shells=groups(even_groups(d_star_sq, n_shells), n_shells),
        r_meas=r_meas(equivalents),
        n_alone=int(len(images.unique) - np.count_nonzero((np.bincount(images.unique) > 1)[images.unique])),
    )


def r_meas(equivalents: Equivalents) -> float:
    """
    R_meas = sum_h sqrt(n/(n - 1)) sum_i |I_i - <I_h>| / sum I (Diederichs and Karplus 1997, Nat. Struct. Biol. 4, 269).

    Parameters
    ----------
    equivalents : Equivalents

    Returns
    -------
    float
        A fraction, NaN where the sum of the intensities is not above zero.
    """
    counts, total = equivalents.counts, equivalents.intensity.sum()
    deviation = np.abs(equivalents.intensity - equivalents.at(equivalents.mean))
    weighted = np.sum(np.sqrt(counts / (counts - 1.0)) * equivalents.sum(deviation))
    return float(weighted / total) if total > 0.0 else np.nan


def _range(values: np.ndarray) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if len(values) else (np.nan, np.nan)


def _agreement_of_all(pairs: Pairs, strong: float) -> SpotAgreement:
    return _agreement(pairs, strong, np.zeros(len(pairs.pair), dtype=int), 1)


def _agreement_of_images(pairs: Pairs, strong: float, n_images: int) -> SpotAgreement:
    """The agreement of each image with all others: each matched spot counts for both of its images."""
    every = np.arange(len(pairs.pair))
    on_images = np.concatenate([pairs.a[pairs.pair], pairs.b[pairs.pair]])
    return _agreement(pairs, strong, on_images, n_images, np.concatenate([every, every]))


def _pairs_of_experiments(images: Images, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of experiments (k, 2), and which of them each matched spot (m,) is of."""
    both = np.stack([images.experiment[pairs.a], images.experiment[pairs.b]])
    found, which = np.unique(np.sort(both, axis=0), axis=1, return_inverse=True)
    return found.T, which.ravel()[pairs.pair]


def _agreement(pairs: Pairs, strong: float, group: np.ndarray, n_groups: int, rows=slice(None)) -> SpotAgreement:
    spots = pairs.spots
    matched = [values[spot] for spot in (pairs.first, pairs.second) for values in (spots.intensity, spots.variance)]
    return measure_agreement(*(values[rows] for values in matched), group, n_groups, strong)
