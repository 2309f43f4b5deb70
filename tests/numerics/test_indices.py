"""Packed indices: equal for equal ones and different for others, linear, and turned back by divmod."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dials_postrefine.numerics.indices import INDEX_BASE, find_rows, pack, to_flex_miller


@pytest.mark.parametrize("base", [INDEX_BASE, 41])
def test_different_indices_have_different_numbers_and_equal_ones_the_same(base):
    h = np.array(list(product(range(-20, 21, 4), repeat=3)))
    packed = pack(h, base)
    assert packed.dtype == np.int64 and len(np.unique(packed)) == len(h)
    assert np.array_equal(pack(h[::-1], base), packed[::-1])
    assert np.array_equal(pack(-h, base), -packed)
    assert np.array_equal(pack(h + (1, -2, 3), base) - packed, np.full(len(h), (base - 2) * base + 3))


def test_known_values():
    assert pack(np.array([[1, 2, 3], [0, 0, -1]]), 100).tolist() == [10203, -1]
    assert pack(np.array([[1, 0, 0]], dtype=np.int32)).tolist() == [1 << 40]


def test_indices_near_the_limit_do_not_overflow():
    most = INDEX_BASE // 2 - 1
    h = np.array(list(product((-most, 0, most), repeat=3)), dtype=np.int32)
    assert len(np.unique(pack(h))) == 27
    exact = [(int(i) * INDEX_BASE + int(j)) * INDEX_BASE + int(k) for i, j, k in h]
    assert pack(h).tolist() == exact


def test_numbers_that_are_integers_to_rounding_are_taken_as_such():
    h = np.array([[1.0, -2.0, 3.0]])
    assert pack(h + 1e-9) == pack(h - 1e-9) == pack(h.astype(int))


def test_rows_are_found_where_they_are_and_missing_ones_are_told():
    rng = np.random.default_rng(1)
    keys, wanted = np.unique(rng.integers(-50, 50, 40)), rng.integers(-70, 70, 300)
    row, found = find_rows(keys, wanted)
    assert np.array_equal(found, np.isin(wanted, keys)) and 0 < found.sum() < 300
    assert np.array_equal(keys[row[found]], wanted[found])
    assert row.min() >= 0 and row.max() < len(keys)
    row, found = find_rows(keys[:0], wanted)
    assert not found.any() and not row.any()


def test_cctbx_gets_the_same_indices():
    h = np.random.default_rng(0).integers(-30, 31, (50, 3))
    assert list(to_flex_miller(h)) == [tuple(row) for row in h.tolist()]
    assert len(to_flex_miller(np.zeros((0, 3), dtype=int))) == 0
