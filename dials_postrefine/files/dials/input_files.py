"""
Names of experiments and reflections, patterns, folders and lists of them -> the names of the files.

Of a folder, each NAME.expt with the NAME.refl beside it; what has no partner (imported.expt, strong.refl) is left out.
Of a list, a text file, each line, which names any of these from where the program runs, or else from where the list
lies; blank lines and what begins with # are left out.  What a pattern matches comes sorted.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from dials.util import Sorry

from dials_postrefine.files.safety.names import printable

EXPERIMENTS, REFLECTIONS = (".expt", ".json"), (".refl", ".pickle")


def find_files(
    experiments: Sequence[str], reflections: Sequence[str], lists: Sequence[str], pairs_only: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    The files of experiments and of reflections that are named (module docstring); Sorry for a name that finds nothing.

    Where the names of both go in pairs they are in one order.  pairs_only: a folder without pairs is refused; else it
    gives its experiments.
    """
    if not lists and not any(_is_group(name) for name in (*experiments, *reflections)):
        return tuple(experiments), tuple(reflections)
    found: tuple[list[str], list[str]] = [], []
    for name in (*experiments, *reflections):
        _take(name, found, pairs_only, f"{printable(name)} is")
    for path in lists:
        for number, line in enumerate(_lines(path), 1):
            name = line.strip()
            if name and not name.startswith("#"):
                beside = os.path.join(os.path.dirname(path), name)
                near = name if any(_matches(name)) or not any(_matches(beside)) else beside
                _take(near, found, pairs_only, f"Line {number} of {printable(path)}, {printable(name)}, is")
    by_name = {os.path.splitext(name)[0]: name for name in found[1]}
    stems = [os.path.splitext(name)[0] for name in found[0]]
    if len(set(stems)) == len(stems) == len(found[1]) and set(stems) == set(by_name):
        return tuple(found[0]), tuple(by_name[stem] for stem in stems)
    return tuple(found[0]), tuple(found[1])


def _is_group(name: str) -> bool:
    return os.path.isdir(name) or (glob.has_magic(name) and not os.path.exists(name))


def _matches(name: str) -> Iterator[str]:
    if glob.has_magic(name) and not os.path.exists(name):
        return iter(sorted(glob.glob(name)))
    return iter([name] if os.path.exists(name) else [])


def _take(name: str, found: tuple[list[str], list[str]], pairs_only: bool, subject: str) -> None:
    """Add the files that a name stands for; subject begins the sentence where it stands for none."""
    names = list(_matches(name)) if _is_group(name) else [name]
    if not names:
        raise Sorry(f"{subject} a pattern that no file matches: check it.")
    for each in names:
        if os.path.isdir(each):
            inside = sorted(os.path.join(each, one) for one in os.listdir(each))
            stems = {os.path.splitext(one)[0] for one in inside if one.endswith(".refl")}
            every = [one for one in inside if one.endswith(".expt")]
            paired = [one for one in every if one[: -len(".expt")] in stems]
            if not paired and (pairs_only or not every):
                raise Sorry(f"{subject} a folder without any .expt and .refl file of one name: name the files.")
            found[0].extend(paired or every)
            found[1].extend(one[: -len(".expt")] + ".refl" for one in paired)
        elif each.endswith(REFLECTIONS):
            found[1].append(each)
        elif each.endswith(EXPERIMENTS):
            found[0].append(each)
        else:
            raise Sorry(
                f"{subject} neither an .expt nor a .refl file, nor a folder or pattern of them: check the name."
            )


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Sorry(f"input.file_list={printable(path)} can't be read ({reason}): check the name.") from error
    if any("\0" in line for line in lines):
        raise Sorry(f"input.file_list={printable(path)} is no text: it names files, one a line.")
    return lines
