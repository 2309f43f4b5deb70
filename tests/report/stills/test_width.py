"""The log fits 100 columns: sentences are broken, tables show their core columns; -v shows all of them."""

from __future__ import annotations

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials", reason="the log is DIALS'")

from dials_postrefine import log
from dials_postrefine.report.common import tables as text

pytestmark = pytest.mark.dials


def test_the_log_of_a_run_fits(run):
    lines = (run.folder / "dials.postrefine.log").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > log.WIDTH and not line.startswith("  ")] == []
    assert any(len(line) > 80 for line in lines)


def test_optional_columns_go_one_by_one_and_stay_if_wide():
    headers = ["name", *"abcd"]
    rows = [["x" * 60, *("1234567890" for _ in "abcd")]]
    widths = [13 * n + 64 for n in (4, 3, 2)]  # with n of the last four columns
    assert [
        max(map(len, text.table(rows, headers, optional=names).splitlines())) for names in ("", "b", "bd")
    ] == widths
    fitting = text.table(rows, headers, optional="bdca")
    assert max(map(len, fitting.splitlines())) == widths[2] <= log.WIDTH
    header = [cell.strip() for cell in fitting.splitlines()[1].strip("|").split("|")]
    assert header == ["name", "a", "c"]
    assert text.table(rows, headers, optional="bdca", wide=True) == text.table(rows, headers)


def test_sentences_are_broken_between_words_and_commands_are_not():
    words = "- " + " ".join(["seven"] * 40)
    lines = log.wrap(words).split("\n")
    assert max(map(len, lines)) <= log.WIDTH and " ".join(line.strip() for line in lines) == words
    assert all(line.startswith("  ") for line in lines[1:])
    for line in ("  dials.merge " + "a" * 200, "| " + "1 " * 100 + "|"):
        assert log.wrap(line) == line
    assert log.wrap("see " + "/a" * 100).count("\n") == 1  # a name is not broken
