"""The data set: whose observations are whose, and where they lie in reciprocal space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.stills.dataset import select_lattices


def vectors(stills) -> np.ndarray:
    """A h of each observation, one by one."""
    return np.einsum("nij,nj->ni", stills.a_matrix[stills.lattice()], stills.h)


def test_q_is_a_h_of_the_lattice_of_each_observation(obedient):
    _, stills = obedient
    for part in (stills, select_lattices(stills, np.arange(80) % 7 == 2)):
        assert part.q.shape == (len(part.unique), 3)
        np.testing.assert_allclose(part.q, vectors(part), rtol=0, atol=1e-14)
        np.testing.assert_allclose(part.q_sq, np.sum(vectors(part) ** 2, axis=1), rtol=1e-13)


def test_the_observations_of_a_lattice_are_its_rows(obedient):
    _, stills = obedient
    rows = stills.lattice() == 5
    reference = np.arange(np.count_nonzero(rows), dtype=float)
    observations = stills.observations(5, reference)
    for name in ("q", "q_sq", "intensity", "variance"):
        assert np.array_equal(getattr(observations, name), getattr(stills, name)[rows]), name
    assert np.array_equal(observations.s0, stills.s0[5]) and np.array_equal(observations.reference, reference)
    assert np.isnan(stills.unmatched(5).reference).all() and len(stills.unmatched(5)) == len(reference)
    assert np.array_equal(np.flatnonzero(np.isin(stills.lattice(), [5, 6, 7])), np.arange(len(rows))[stills.rows(5, 8)])


def test_variances_of_1_p_go_with_their_observations(obedient):
    _, stills = obedient
    given = replace(stills, inverse_variance=np.arange(len(stills.unique), dtype=float))
    selection = np.arange(80) % 2 == 0
    assert np.array_equal(
        select_lattices(given, selection).inverse_variance, np.flatnonzero(selection[stills.lattice()])
    )
    assert select_lattices(stills, selection).inverse_variance.shape == (0,)
