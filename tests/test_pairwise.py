"""The table of all pairs has all pairs, and no option is forgotten."""

from __future__ import annotations

import pytest
from pairwise import all_pairs, check, factors, leaves, value_of

PHIL = """
a = *one two three
  .type = choice
b { c = True
    .type = bool
  d = None
    .type = float
  e = 1
    .type = int
}
"""


@pytest.fixture(scope="module")
def scope():
    import dials_postrefine  # noqa: F401  which finds cctbx

    phil = pytest.importorskip("iotbx.phil")
    return phil.parse(PHIL)


def test_the_scope_gives_choices_and_bools(scope):
    assert leaves(scope) == {"a": ("one", "two", "three"), "b.c": ("False", "True"), "b.d": None, "b.e": None}
    found = factors(scope, {"b.d": ("None", "2.5")}, {"b.e": "it is only printed"}, {"a=two": "needs other data"})
    assert found == {"a": ("one", "three"), "b.c": ("False", "True"), "b.d": ("None", "2.5")}


@pytest.mark.parametrize(
    "varied, constant, left_out, message",
    [
        ({"b.d": (1, 2)}, {}, {}, "b.e is neither"),
        ({"b.d": (1, 2)}, {"b.*": "why"}, {}, "both"),
        ({}, {"b.*": " "}, {}, "no reason"),
        ({"z": (1, 2)}, {"b.*": "why"}, {}, "scope has no z"),
        ({}, {"b.*": "why", "z": "why"}, {}, "scope has no z"),
        ({"a": ("one", "two")}, {"b.*": "why"}, {}, "a is never three"),
        ({}, {"b.*": "why"}, {"a=four": "why"}, "no value"),
        ({"b.d": (1,)}, {"b.e": "why"}, {}, "two different values"),
    ],
)
def test_what_is_forgotten_is_told(scope, varied, constant, left_out, message):
    with pytest.raises(AssertionError, match=message):
        factors(scope, varied, constant, left_out)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3, 3, 3), (5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2)])
def test_every_pair_is_there_once_at_least_and_rows_are_few(sizes):
    given = {f"f{k}": tuple(map(str, range(n))) for k, n in enumerate(sizes)}
    rows = all_pairs(given)
    check(rows, given)
    assert all(len(row) == len(sizes) and value_of(row, "f1") in given["f1"] for row in rows)
    largest = sorted(sizes)[-2:]
    assert len(rows) <= 2 * largest[0] * largest[1]
    with pytest.raises(AssertionError, match="missing"):
        check(rows[1:], given)


def test_pairs_that_are_refused_never_stand_together():
    given = dict.fromkeys("abcd", ("0", "1", "2"))
    forbidden = {("a=0", "b=1"): "why", ("d=2", "b=0"): "why", ("c=1", "b=2"): "why"}
    rows = all_pairs(given, forbidden)
    check(rows, given, forbidden)
    with pytest.raises(AssertionError, match="not in the table"):
        all_pairs(given, {("a=0", "b=7"): "why"})
