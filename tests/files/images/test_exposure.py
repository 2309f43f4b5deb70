"""Unknown exposure times are refused where their ratio matters, and noted where it does not."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

NAN = np.nan
KNOWN, UNKNOWN, MIXED = [2.0, 2.0], [NAN, NAN], [2.0, NAN]


def settle(times, runs=None, scale="none", background=False):
    from dials_postrefine.files.images.exposure import settle

    times = [np.array(own) for own in times]
    names = [f"s{k}" for k in range(len(times))]
    return settle(times, names, runs or range(len(times)), scale, background)


@pytest.mark.parametrize("told", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_no_time_is_unknown(told):
    from dxtbx.model import Scan

    from dials_postrefine.files.images.exposure import known_times

    scan = Scan((1, 3), (0.0, 0.1))
    scan.set_exposure_times([0.5, told, 0.25])
    np.testing.assert_array_equal(known_times(scan, 3), [0.5, NAN, 0.25])
    assert np.isnan(known_times(None, 3)).all() and np.isnan(known_times(scan, 4)).all()


@pytest.mark.parametrize(
    "times, options",
    [
        ([KNOWN, UNKNOWN], {}),
        ([UNKNOWN, UNKNOWN], {}),
        ([MIXED], {}),
        ([KNOWN, UNKNOWN], {"scale": "from_refl"}),
        ([MIXED], {"scale": "smooth"}),
        ([UNKNOWN], {"background": True}),
        ([MIXED], {"background": True, "scale": "per_image"}),
        ([KNOWN, UNKNOWN], {"runs": ["stills", "stills"]}),
    ],
)
def test_an_unknown_ratio_is_refused(times, options):
    from dials.util import Sorry

    with pytest.raises(Sorry, match="exposure_time="):
        settle(times, **options)


@pytest.mark.parametrize(
    "times, options, said",
    [
        ([UNKNOWN], {}, "if they are all equal"),
        ([UNKNOWN, UNKNOWN], {"runs": ["stills", "stills"]}, "if they are all equal"),
        ([KNOWN, UNKNOWN, MIXED], {"scale": "per_image"}, "does not depend on it"),
        ([KNOWN, UNKNOWN], {"scale": "smooth"}, "does not depend on it"),
    ],
)
def test_where_no_ratio_matters_it_is_noted(times, options, said):
    found, known, remarks = settle(times, **options)
    assert not known and len(remarks) == 1 and said in remarks[0]
    for own, given in zip(found, times):
        np.testing.assert_array_equal(own, np.where(np.isnan(given), 1.0, given))


def test_known_times_stay_and_nothing_is_said():
    found, known, remarks = settle([KNOWN, [0.1]], background=True)
    assert known and not remarks
    np.testing.assert_array_equal(np.concatenate(found), [2.0, 2.0, 0.1])


def test_given_times_are_for_all_or_for_each():
    from dials.util import Sorry

    from dials_postrefine.files.images.exposure import given_times

    times = [np.array(KNOWN), np.array(UNKNOWN)]
    np.testing.assert_array_equal(np.concatenate(given_times(times, (0.3,))), [0.3] * 4)
    np.testing.assert_array_equal(np.concatenate(given_times(times, (0.3, 5.0))), [0.3, 0.3, 5.0, 5.0])
    assert given_times(times, None)[0] is times[0]
    with pytest.raises(Sorry, match="3 values for 2 experiments"):
        given_times(times, (1.0, 2.0, 3.0))


def test_maps_are_added_where_their_times_can_be_compared():
    from dials.util import Sorry

    from dials_postrefine.files.images.exposure import check_addable

    a, b = frozenset("a"), frozenset("b")
    check_addable([True, True], [a, b], "none", "xy")
    check_addable([False, False], [a, a], "none", "xy")  # halves of one sweep
    check_addable([False, True], [a, b], "per_image", "xy")
    for known, series in (([True, False], [a, a]), ([False, False], [a, b])):
        with pytest.raises(Sorry, match="exposure_time="):
            check_addable(known, series, "none", ["x.nxs", "y.nxs"])
