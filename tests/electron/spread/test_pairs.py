"""Pairs by the inverted index against a plain search through all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread import orientation, pairs


def keys_of(images, k, match):
    own = images.image == k
    return {int(u) for u in images.unique[own]} if match == "laue" else {tuple(map(int, h)) for h in images.h[own]}


def search(images, match, min_common):
    """(a, b) -> number in common, and what the Jaccard index divides it by."""
    found = {}
    operations = np.concatenate([images.symmetry.laue, -images.symmetry.laue]) if match == "operation" else [np.eye(3)]
    for a, b in combinations(range(images.n_images), 2):
        one, other = keys_of(images, a, match), keys_of(images, b, match)
        mapped = (
            [one] if match == "laue" else [{tuple(map(int, np.rint(np.array(h) @ m))) for h in one} for m in operations]
        )
        n = max(len(other & new) for new in mapped)
        if n >= min_common:
            found[a, b] = n, len(one) + len(other) - n
    return found


@pytest.mark.parametrize("match", pairs.MATCHES[1:])
@pytest.mark.parametrize("block", [4, 256])
def test_pairs_are_those_of_a_plain_search(make_images, monkeypatch, match, block):
    monkeypatch.setattr(pairs, "BLOCK", block)
    images = make_images(n_images=11, n_spots=25)
    expected = search(images, match, 3)
    found = pairs.find_pairs(images, match, 3)
    assert found.n_found == len(expected) > 10
    for k, (a, b) in enumerate(zip(found.a, found.b)):
        n, union = expected[a, b]
        assert found.n_common[k] == n and found.jaccard[k] == pytest.approx(n / union)
    assert np.all(np.diff(found.n_common) <= 0)
    angles = orientation.misorientations(images.a_matrix, found.a, found.b, images.symmetry.lattice)
    np.testing.assert_allclose(found.misorientation, angles)


@pytest.mark.parametrize("match", pairs.MATCHES)
def test_matched_spots_are_of_the_same_reflection(make_images, match):
    images = make_images(n_images=8, n_spots=30)
    found = pairs.find_pairs(images, match, 3)
    spots = found.spots
    np.testing.assert_array_equal(np.bincount(found.pair, minlength=found.n_pairs), found.n_common)
    np.testing.assert_array_equal(spots.image[found.first], found.a[found.pair])
    np.testing.assert_array_equal(spots.image[found.second], found.b[found.pair])
    np.testing.assert_array_equal(spots.unique[found.first], spots.unique[found.second])


def test_observations_of_one_index_on_an_image_are_averaged(make_images):
    images = make_images(n_images=3, n_spots=200, largest=2)
    spots = pairs.find_pairs(images, "exact", 1).spots
    for row in range(0, len(spots.key), 7):
        same = (images.image == spots.image[row]) & (images.unique == spots.unique[row])
        h = {tuple(h) for h in images.h[same]}
        values = [images.intensity[same & np.all(images.h == one, axis=1)].mean() for one in h]
        assert any(spots.intensity[row] == pytest.approx(value) for value in values)


def test_pairs_that_are_too_near_are_left_out(make_images):
    images = make_images(n_images=12)
    every = pairs.find_pairs(images, "laue", 2)
    apart = pairs.find_pairs(images, "laue", 2, min_angle=np.radians(7.0))
    assert apart.n_found == np.count_nonzero(every.misorientation >= np.radians(7.0)) > 0
    assert apart.misorientation.min() == pytest.approx(np.radians(8.0))


def test_of_many_pairs_those_with_most_matches_are_kept_and_all_are_counted(make_images, monkeypatch):
    monkeypatch.setattr(pairs, "BLOCK", 2)
    images = make_images(n_images=20, n_spots=30)
    every, few = pairs.find_pairs(images, "laue", 1), pairs.find_pairs(images, "laue", 1, max_pairs=5)
    assert few.n_found == every.n_found and few.n_pairs == 5
    np.testing.assert_array_equal(few.a, every.a[:5])
    np.testing.assert_array_equal(few.n_common, every.n_common[:5])


def test_nothing_in_common_is_an_error(make_images):
    with pytest.raises(Unusable, match="min_common"):
        pairs.find_pairs(make_images(), "exact", 1000)


def test_the_matrix_of_matches_counts_them(make_images):
    images = make_images(n_images=9, n_spots=25)
    matrix, edges = pairs.match_matrix(images, "laue")
    expected = search(images, "laue", 0)
    for (a, b), (n, _) in expected.items():
        assert matrix[a, b] == matrix[b, a] == n
    assert np.isnan(np.diag(matrix)).all()
    np.testing.assert_array_equal(edges, np.arange(10))


def test_the_matrix_of_many_images_has_means(make_images, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_BINS", 4)
    images = make_images(n_images=10, n_spots=25)
    matrix, edges = pairs.match_matrix(images, "laue")
    expected = search(images, "laue", 0)
    for i, j in ((0, 2), (1, 3)):
        block = [expected[a, b][0] for a in range(*edges[i : i + 2]) for b in range(*edges[j : j + 2])]
        assert matrix[i, j] == pytest.approx(np.mean(block))
    within = [expected[a, b][0] for a, b in combinations(range(edges[1]), 2)]
    assert matrix[0, 0] == pytest.approx(np.mean(within))


def test_auto_is_exact_where_that_pairs_half_of_the_images_else_laue(make_images):
    images = make_images(n_images=12, n_spots=25)
    for min_common in range(1, 20):
        try:
            found = pairs.find_pairs(images, "auto", min_common)
        except Unusable:
            break
        paired = {image for pair in search(images, "exact", min_common) for image in pair}
        assert found.match == ("exact" if len(paired) >= 6 else "laue"), min_common
        named = pairs.find_pairs(images, found.match, min_common)
        np.testing.assert_array_equal(np.stack([found.a, found.b]), np.stack([named.a, named.b]))
    assert min_common > 3 and found.match == "laue"
