"""
Miller indices (or any three integers) as arrays: one integer for each, and as cctbx has them.

    packed = (h B + k) B + l

which is linear in h, k and l, and different for different indices while |h|, |k| and |l| stay below B/2.
"""

from __future__ import annotations

import numpy as np

# |h| stays far below half of this, and the packed integer below 2^62.
INDEX_BASE = 1 << 20


def pack(h: np.ndarray, base: int = INDEX_BASE) -> np.ndarray:
    """
    One integer for each index: equal for equal indices.

    Parameters
    ----------
    h : ndarray, shape (n, 3)
        Integers, or floating-point numbers that are integers to rounding.
    base : int
        B, above twice the largest |h|.  A small one where packed integers go into products.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    h = (np.rint(h) if h.dtype.kind == "f" else h).astype(np.int64)
    return (h[:, 0] * base + h[:, 1]) * base + h[:, 2]


def find_rows(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Where numbers stand in a sorted list of others.

    Parameters
    ----------
    keys : ndarray of int, shape (m,)
        Ascending, as numpy.unique makes them.
    wanted : ndarray of int, shape (n,)

    Returns
    -------
    row : ndarray of int, shape (n,)
        The row of keys that is the wanted one; of what is not there any row, 0 where there is none.
    found : ndarray of bool, shape (n,)
        Whether it is there.
    """
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return row, keys[row] == wanted


def to_flex_miller(h: np.ndarray):
    """
    Miller indices as a flex.miller_index.

    Parameters
    ----------
    h : ndarray, shape (n, 3)
        Integers.

    Returns
    -------
    cctbx.array_family.flex.miller_index
        Of length n.
    """
    # here, so that the algorithms that pack indices do not need cctbx
    from cctbx.array_family import flex
    from dxtbx import flumpy

    h = np.ascontiguousarray(h.T.astype(np.int32))
    return flex.miller_index(*(flumpy.from_numpy(axis) for axis in h))
