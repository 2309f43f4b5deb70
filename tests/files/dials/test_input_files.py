"""Lists, patterns and folders are the files that they stand for."""

from __future__ import annotations

import os

import pytest
from comparison import refusal

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.util", reason="Sorry is of DIALS")

from dials.util import Sorry

from dials_postrefine.files.dials.input_files import find_files

pytestmark = pytest.mark.dials

NAMES = (
    "one/a_integrated.expt",
    "one/a_integrated.refl",
    "one/b_integrated.expt",
    "one/b_integrated.refl",
    "one/b_indexed.refl",
    "one/imported.expt",
    "two/a_integrated.expt",
    "two/a_integrated.refl",
    "empty/strong.refl",
    "images/imported.expt",
    "run[1].expt",
    "run[1].refl",
    "notes.txt",
)
ONE = ("one/a_integrated", "one/b_integrated")
BOTH = (*ONE, "two/a_integrated")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(*stems):
    return tuple(f"{stem}.expt" for stem in stems), tuple(f"{stem}.refl" for stem in stems)


@pytest.mark.parametrize(
    ("experiments", "reflections", "expected"),
    [
        (["one"], [], pairs(*ONE)),
        (["two", "one"], [], pairs("two/a_integrated", *ONE)),
        (["*/*_integrated.expt"], ["*/*_integrated.refl"], pairs(*BOTH)),
        (["t*"], ["one/b_integrated.refl", "one/b_integrated.expt"], pairs("two/a_integrated", "one/b_integrated")),
        (["run[1].expt"], ["run[1].refl"], pairs("run[1]")),  # the name of a file is no pattern
        (["no.expt"], ["no.refl"], pairs("no")),  # whoever reads it says so
        (["one/b*.expt"], ["one/*indexed.refl"], (pairs("one/b_integrated")[0], pairs("one/b_indexed")[1])),
    ],
)
def test_folders_and_patterns(folder, experiments, reflections, expected):
    assert find_files(experiments, reflections, [], pairs_only=True) == expected


def test_a_list_names_files_folders_and_patterns_from_here_or_from_where_it_lies(folder):
    (folder / "list.txt").write_text("# a comment\n\none\n  two/*.refl\ntwo/*.expt\n")
    assert find_files([], [], ["list.txt"], True) == pairs(*BOTH)
    (folder / "deep").mkdir()
    os.chdir(folder / "deep")
    found = find_files([], [], ["../list.txt"], True)
    assert [[os.path.normpath(name) for name in names] for names in found] == [
        [f"../{name}" for name in names] for names in pairs(*BOTH)
    ]
    (folder / "deep" / "one").mkdir()
    (folder / "deep" / "one" / "c.expt").touch()
    (folder / "deep" / "one" / "c.refl").touch()
    assert find_files([], [], ["../list.txt"], True)[0][0] == "one/c.expt"


def test_a_folder_of_experiments_alone_is_for_who_needs_no_pairs(folder):
    assert find_files(["images"], [], [], pairs_only=False) == (("images/imported.expt",), ())
    with pytest.raises(Sorry, match=r"images is a folder without any \.expt and \.refl file of one name"):
        find_files(["images"], [], [], pairs_only=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("one\nnotes.txt\n", r"Line 2 of list\.txt, notes\.txt, is neither an \.expt nor a \.refl file"),
        ("three_*/*.expt\n", r"Line 1 of list\.txt, three_\*/\*\.expt, is a pattern that no file matches"),
        ("empty\n", r"Line 1 of list\.txt, empty, is a folder without any"),
        ("\0\1\2", r"input\.file_list=list\.txt is no text"),
    ],
)
def test_what_finds_nothing_is_said(folder, content, words):
    (folder / "list.txt").write_text(content)
    with pytest.raises(Sorry, match=words):
        find_files([], [], ["list.txt"], True)


def test_the_programs_take_them(folder):
    from dials_postrefine.command_line import diffuse_map, postrefine

    said = refusal(postrefine.run, folder, ["input.file_list=none.txt", "output.log=None"])
    assert said == "Sorry: input.file_list=none.txt can't be read (no such file or directory): check the name."
    assert "empty is a folder without" in refusal(postrefine.run, folder, ["empty"])
    said = refusal(postrefine.run, folder, ["one", "output.log=None"])
    assert "one/a_integrated.expt" in said  # which is found, and is empty
    said = refusal(diffuse_map.run, folder, ["images", "output.log=None"])
    assert "images/imported.expt" in said
