"""What lattices are fitted to, and what is hidden from them."""

from __future__ import annotations

import numpy as np

from dials_postrefine.stills.reference import FitReference, make_reference


def test_without_intensities_the_reference_is_the_data_s_own_mean():
    for reference in (FitReference(), make_reference(), make_reference(None, None)):
        assert not reference.external and not reference.has_free and reference.working.shape == (0,)
    free = np.array([True, False, False])
    reference = make_reference(None, free)
    assert not reference.external and reference.has_free and reference.working.shape == (0,)


def test_working_intensities_are_those_of_indices_that_are_not_free():
    intensity, free = np.array([1.0, 2.0, np.nan, 4.0]), np.array([True, False, False, True])
    reference = make_reference(intensity, free)
    assert reference.external and reference.has_free
    np.testing.assert_array_equal(reference.working, [np.nan, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(reference.intensity, intensity)
    np.testing.assert_array_equal(make_reference(intensity).working, intensity)


def test_hidden_observations_have_no_intensity_and_give_no_mean(obedient):
    _, stills = obedient
    free = np.random.default_rng(0).random(stills.n_unique) < 0.3
    visible = FitReference(free=free).hide(stills)
    hidden = free[stills.unique]
    assert np.all(visible.intensity[hidden] == 0.0) and np.all(visible.absent[free])
    assert np.array_equal(visible.intensity[~hidden], stills.intensity[~hidden])
    assert not visible.absent[~free].any()
    assert FitReference().hide(stills) is stills
