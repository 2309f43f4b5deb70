"""
Miller indices as arrays: one integer for each, and as cctbx has them.

A room of its own, as `files/` and `scattering/` both need it.
"""

from __future__ import annotations

import numpy as np

from cctbx.array_family import flex
from dxtbx import flumpy

# Packing three indices into one integer: |h| stays far below this.
INDEX_BASE = 1 << 20


def pack(h: np.ndarray) -> np.ndarray:
    """One integer for each Miller index (n, 3): equal for equal indices."""
    h = h.astype(np.int64)
    return (h[:, 0] * INDEX_BASE + h[:, 1]) * INDEX_BASE + h[:, 2]


def to_flex_miller(h: np.ndarray):
    """Miller indices (n, 3) as a flex.miller_index."""
    h = np.ascontiguousarray(h.T.astype(np.int32))
    return flex.miller_index(*(flumpy.from_numpy(axis) for axis in h))
