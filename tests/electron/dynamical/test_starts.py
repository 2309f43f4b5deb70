"""The minima of R1 over the thickness that refinements start from."""

from __future__ import annotations

import numpy as np

from dials_postrefine.electron.dynamical.starts import minima


def test_that_the_minima_near_the_least_are_found_deepest_first():
    values = np.array([0.20, 0.10, 0.12, 0.095, 0.13, 0.18, 0.16, 0.19, 0.105])
    assert minima(values).tolist() == [3, 1, 8]  # 0.16 is a minimum, too, but not near


def test_that_a_flat_minimum_counts_once():
    assert minima(np.array([0.2, 0.1, 0.1, 0.2])).tolist() == [2]
