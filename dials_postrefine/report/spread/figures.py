"""
What the page of dials.image_spread draws beyond its summary: the points of the first pairs with the cloud of the same
indices on all other images, the matrix of matches, and the directions of the beam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.spread.imagespread import ImageSpread
from dials_postrefine.electron.spread.orientation import beam_directions, stereographic
from dials_postrefine.electron.spread.pairs import match_matrix
from dials_postrefine.numerics.images import Images

N_PAIRS = 6
MOST_CLOUD = 4000  # points


@dataclass
class PairPoints:
    """
    A pair: images a and b, intensities i1, i2 (m,) with sigmas of its spots, and of the same indices cloud (k, 2), the
    intensity on a and that on any image that is not of the pair.
    """

    a: int
    b: int
    i1: np.ndarray
    i2: np.ndarray
    sigma1: np.ndarray
    sigma2: np.ndarray
    cloud: np.ndarray


@dataclass
class SpreadFigures:
    """Pairs; the mean matches (n, n) of binned images with the edges (n + 1,) of bins; directions (n_images, 2)."""

    pairs: list[PairPoints]
    matrix: np.ndarray
    edges: np.ndarray
    directions: np.ndarray


def collect_figures(images: Images, found: ImageSpread) -> SpreadFigures:
    """The points of the figures."""
    matrix, edges = match_matrix(images, found.pairs.match)
    pairs = [_points(found, k) for k in range(min(N_PAIRS, found.pairs.n_pairs))]
    return SpreadFigures(pairs, matrix, edges, stereographic(beam_directions(images.a_matrix, images.s0)))


def _points(found: ImageSpread, k: int) -> PairPoints:
    pairs, spots = found.pairs, found.pairs.spots
    matched = pairs.pair == k
    first, second = pairs.first[matched], pairs.second[matched]
    a, b = int(pairs.a[k]), int(pairs.b[k])
    others = np.flatnonzero(np.isin(spots.unique, spots.unique[first]) & (spots.image != a) & (spots.image != b))
    others = others[:: max(1, len(others) // MOST_CLOUD)]
    mean = {unique: spots.intensity[row] for unique, row in zip(spots.unique[first], first)}
    on_a = np.array([mean[unique] for unique in spots.unique[others]])
    return PairPoints(
        a,
        b,
        spots.intensity[first],
        spots.intensity[second],
        np.sqrt(spots.variance[first]),
        np.sqrt(spots.variance[second]),
        np.stack([on_a, spots.intensity[others]], axis=1) if len(others) else np.empty((0, 2)),
    )
