"""Several tables as one."""

from __future__ import annotations

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dials.util import Sorry

from dials_postrefine.files.dials import tables

pytestmark = pytest.mark.dials


def small_table(ids, identifiers: dict[int, str], **columns):
    """A table of len(ids) rows whose l is the row's number."""
    n = len(ids)
    table = flex.reflection_table()
    table["id"] = flex.int(ids)
    table["miller_index"] = flex.miller_index([(len(identifiers), 0, i) for i in range(n)])
    table["flags"] = flex.size_t(n, 0)
    table["s1"] = flex.vec3_double(n, (0.0, 0.0, 1.0))
    for name, value in columns.items():
        table[name] = flex.double(n, value)
    for i, identifier in identifiers.items():
        table.experiment_identifiers()[i] = identifier
    return table


FILES = [["a", "b"], ["c", "d", "e"]]  # the identifiers by .expt file


def test_lattices_are_found_by_identifier_whatever_the_order():
    first = small_table([7, 2, 7, -1], {2: "c", 7: "a"}, qe=0.5, other=1.0)
    second = small_table([0, 1, 2, 0], {0: "e", 1: "b", 2: "d"})
    whole = tables.join_tables(["1.refl", "2.refl"], [first, second], FILES)
    assert list(whole["id"]) == [0, 2, 0, 4, 1, 3, 4]
    assert [h[2] for h in whole["miller_index"]] == [0, 1, 2, 0, 1, 2, 3]
    names = whole.experiment_identifiers()
    assert dict(zip(names.keys(), names.values())) == dict(enumerate("abcde"))
    # a column of one table alone: what its absence means, or nothing
    assert list(whole["qe"]) == [0.5] * 3 + [1.0] * 4
    assert "other" not in whole


def test_tables_without_identifiers_belong_to_the_file_at_their_place():
    tables_of_files = [small_table([1, 0], {}), small_table([2, 0], {})]
    whole = tables.join_tables(["1.refl", "2.refl"], tables_of_files, FILES)
    assert list(whole["id"]) == [1, 0, 4, 2]


@pytest.mark.parametrize(
    "given, words",
    [
        ([small_table([0], {0: "x"})], "1 of the lattices in 1.refl"),
        ([small_table([0, 1], {0: "a"})], "id 1"),
        ([small_table([0, 3], {})], "ids up to 3"),
        ([small_table([0], {0: "a"}), small_table([5], {5: "a"})], "1.refl and 2.refl"),
        ([small_table([0, 1], {0: "a", 1: "a"})], "1.refl alone"),
        ([small_table([0], {}), small_table([0], {0: "a"})], "1.refl and 2.refl"),
    ],
)
def test_tables_that_do_not_belong_together(given, words):
    with pytest.raises(Sorry, match=words):
        tables.join_tables(["1.refl", "2.refl"][: len(given)], given, FILES)
