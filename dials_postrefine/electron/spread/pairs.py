"""
Pairs of images that have indices in common, by an inverted index.

    n_ab = |S_a & S_b|,    Jaccard = n_ab/|S_a | S_b|

S_a is the set of keys on image a; what is the same key is said by `match`:

    exact      the index h itself
    laue       the unique index of the Laue class
    operation  the index itself on a, and what one operation of the Laue class makes of it on b: for each pair the one
               (of all rotations, with and without inversion) that matches most; for orientations that are all but the
               same up to that operation
    auto       exact, if by it half of the images or more are in a pair, else laue: the images of one sweep hardly share
               indices, those of several sweeps of a crystal do

The images of each index (a sparse matrix of images by keys) are the inverted index: its product with its transpose
counts the matches and nothing else, so that the cost follows these and not the square of the images; it is done for a
block of images at a time, which bounds the memory.  Of more pairs than are wanted those with most matches are kept,
and all are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread.orientation import misorientations
from dials_postrefine.electron.spread.spots import Spots, make_spots, number_indices
from dials_postrefine.numerics.images import Images
from dials_postrefine.numerics.indices import find_rows, pack

BLOCK = 256  # images whose pairs are counted at a time
MOST_BINS = 160  # of images, in the matrix of matches
MATCHES = ("auto", "exact", "laue", "operation")
ENOUGH_IN_PAIRS = 0.5  # of the images, for match="auto" to be exact


@dataclass
class Pairs:
    """
    Pairs of images a < b, most matches first, and the spots that they have in common.

    Attributes
    ----------
    match : str
        By what, of MATCHES but ``auto``.
    a, b : ndarray of int, shape (n_pairs,)
    n_common : ndarray of int, shape (n_pairs,)
    jaccard : ndarray, shape (n_pairs,)
    misorientation : ndarray, shape (n_pairs,)
        Radians.
    operation : ndarray of int, shape (n_pairs,)
        Which of the operations takes indices on a to those on b.
    operations : ndarray, shape (k, 3, 3)
    n_found : int
        How many pairs there are, of which these were kept.
    spots : Spots
    pair : ndarray of int, shape (m,)
        The pair of each matched spot.
    first, second : ndarray of int, shape (m,)
        Its rows in the spots, on a and on b.
    """

    match: str
    a: np.ndarray
    b: np.ndarray
    n_common: np.ndarray
    jaccard: np.ndarray
    misorientation: np.ndarray
    operation: np.ndarray
    operations: np.ndarray
    n_found: int
    spots: Spots
    pair: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def n_pairs(self) -> int:
        """How many pairs were kept."""
        return len(self.a)


def find_pairs(images: Images, match: str, min_common: int, min_angle: float = 0.0, max_pairs: int = 5_000) -> Pairs:
    """
    The pairs of images that have indices in common (module docstring).

    Parameters
    ----------
    images : Images
    match : str
        One of MATCHES.
    min_common : int
        The fewest keys in common.
    min_angle : float
        The least misorientation (radians).
    max_pairs : int
        How many are kept, those with most in common.

    Returns
    -------
    Pairs

    Raises
    ------
    Unusable
        Where there is none.
    """
    if match == "auto":
        match = "exact" if _part_in_pairs(images, "exact", min_common, min_angle) >= ENOUGH_IN_PAIRS else "laue"
    spots, operations, translation = _keys(images, match)
    keys = _incidence(spots.image, spots.key, images.n_images, translation.shape[1])
    best: list[np.ndarray] = []
    n_found = 0
    for block in _blocks(images, spots, keys, translation, min_common, min_angle):
        n_found += block.shape[1]
        best.append(block)
        if sum(block.shape[1] for block in best) > 4 * max_pairs:
            best = [_most_matches(np.concatenate(best, axis=1), max_pairs)]
    if not n_found:
        apart = f" that are {np.degrees(min_angle):g} degrees apart" if min_angle else ""
        raise Unusable(
            f"No two images{apart} have {min_common} indices in common (match={match}): "
            f"{'set match=laue, ' * (match != 'laue')}lower min_common, or make images wider with image_width."
        )
    found = _most_matches(np.concatenate(best, axis=1), max_pairs)
    a, b, n, operation = found[:4].astype(np.int64)
    size = np.diff(spots.offsets)
    first, second, counts = _match_spots(spots, a, b, translation, operation)
    return Pairs(
        match,
        a,
        b,
        n,
        n / (size[a] + size[b] - n),
        found[4],
        operation,
        operations,
        n_found,
        spots,
        np.repeat(np.arange(len(a)), counts),
        first,
        second,
    )


def _blocks(images: Images, spots: Spots, keys: csr_matrix, translation: np.ndarray, min_common: int, min_angle: float):
    """a, b, matches, operation and misorientation of all pairs, (5, n) for each block of images."""
    for start in range(0, images.n_images, BLOCK):
        a, b, n, operation = _count_block(keys, spots, translation, start, min_common)
        angle = misorientations(images.a_matrix, a, b, images.symmetry.lattice)
        yield np.stack([a, b, n, operation, angle])[:, angle >= min_angle]


def _part_in_pairs(images: Images, match: str, min_common: int, min_angle: float) -> float:
    """The part of the images with spots that are in a pair."""
    spots, _, translation = _keys(images, match)
    keys = _incidence(spots.image, spots.key, images.n_images, translation.shape[1])
    paired = np.zeros(images.n_images, bool)
    for block in _blocks(images, spots, keys, translation, min_common, min_angle):
        paired[block[:2].astype(np.int64)] = True
    return np.count_nonzero(paired) / max(1, len(np.unique(images.image)))


def _keys(images: Images, match: str) -> tuple[Spots, np.ndarray, np.ndarray]:
    """The spots by key; the operations (k, 3, 3), and what each makes of a key, (k, n_keys), -1 of none."""
    identity = np.eye(3)[None]
    if match == "laue":
        spots = make_spots(images, images.unique)
        return spots, identity, np.arange(int(images.unique.max()) + 1)[None]
    numbers, packed, base = number_indices(images.h)
    spots = make_spots(images, numbers)
    if match == "exact":
        return spots, identity, np.arange(len(packed))[None]
    h = np.empty((len(packed), 3))
    h[numbers] = images.h
    operations = np.concatenate([images.symmetry.laue, -images.symmetry.laue])
    translation = np.empty((len(operations), len(packed)), dtype=np.int64)
    for row, operation in zip(translation, operations):
        place, found = find_rows(packed, pack(h @ operation, base))
        row[:] = np.where(found, place, -1)
    return spots, operations, translation


def _incidence(image: np.ndarray, key: np.ndarray, n_images: int, n_keys: int) -> csr_matrix:
    return csr_matrix((np.ones(len(key), dtype=np.int32), (image, key)), shape=(n_images, n_keys))


def _count_block(keys: csr_matrix, spots: Spots, translation: np.ndarray, start: int, min_common: int):
    """a, b, matches and operation of the pairs of a block of images a >= start with all b > a."""
    stop = min(start + BLOCK, keys.shape[0])
    rows = slice(spots.offsets[start], spots.offsets[stop])
    image, key = spots.image[rows] - start, spots.key[rows]
    found = []
    for k, mapped in enumerate(translation):
        new = mapped[key]
        block = _incidence(image[new >= 0], new[new >= 0], stop - start, keys.shape[1])
        counts = (block @ keys.T).tocoo()
        a, b = counts.row.astype(np.int64) + start, counts.col.astype(np.int64)
        wanted = (counts.data >= min_common) & (b > a)
        found.append(np.stack([a[wanted], b[wanted], counts.data[wanted], np.full(np.count_nonzero(wanted), k)]))
    a, b, n, operation = np.concatenate(found, axis=1)
    if len(translation) > 1:  # of each pair the operation with most matches, the first of equal ones
        order = np.lexsort((operation, -n, b, a))
        a, b, n, operation = a[order], b[order], n[order], operation[order]
        first = np.ones(len(a), dtype=bool)
        first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        a, b, n, operation = a[first], b[first], n[first], operation[first]
    return a, b, n, operation


def _most_matches(found: np.ndarray, most: int) -> np.ndarray:
    """The columns a, b, n, ... of the pairs with most matches."""
    return found[:, np.lexsort((found[1], found[0], -found[2]))[:most]]


def _match_spots(spots: Spots, a: np.ndarray, b: np.ndarray, translation: np.ndarray, operation: np.ndarray):
    """Rows of the spots that match, on a and on b, pair by pair, and their number (n_pairs,)."""
    first, second, counts = [], [], []
    for one, other, k in zip(a, b, operation):
        new = translation[k, spots.keys_of(one)]
        rows = np.flatnonzero(new >= 0)
        place, same = find_rows(spots.keys_of(other), new[rows])
        first.append(spots.offsets[one] + rows[same])
        second.append(spots.offsets[other] + place[same])
        counts.append(np.count_nonzero(same))
    return np.concatenate(first), np.concatenate(second), np.array(counts)


def match_matrix(images: Images, match: str) -> tuple[np.ndarray, np.ndarray]:
    """
    The mean number of matches of two images, the images being binned where there are many.

    Parameters
    ----------
    images : Images
    match : str
        One of MATCHES but ``auto``.

    Returns
    -------
    matrix : ndarray, shape (n_bins, n_bins)
        An image with itself does not count: NaN where nothing else is.
    edges : ndarray of int, shape (n_bins + 1,)
        The first image of each bin, and n_images.
    """
    spots, _, translation = _keys(images, match)
    n_bins = min(images.n_images, MOST_BINS)
    edges = np.arange(n_bins + 1) * images.n_images // n_bins
    bins = np.repeat(np.arange(n_bins), np.diff(edges))
    n_keys = translation.shape[1]
    plain = _incidence(bins[spots.image], spots.key, n_bins, n_keys)
    total = np.zeros((n_bins, n_bins))
    for mapped in translation:
        new = mapped[spots.key]
        there = new >= 0
        total = np.maximum(
            total, (_incidence(bins[spots.image[there]], new[there], n_bins, n_keys) @ plain.T).toarray()
        )
    size = np.diff(edges)
    n_pairs = np.outer(size, size).astype(float)
    itself = np.bincount(bins[spots.image], minlength=n_bins)
    total[np.diag_indices(n_bins)] -= itself
    n_pairs[np.diag_indices(n_bins)] -= size
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n_pairs > 0.0, np.maximum(total, 0.0) / n_pairs, np.nan), edges
