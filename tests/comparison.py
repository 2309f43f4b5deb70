"""
What runs of a program have in common: the content of the files that they leave, but for what differs by design.

The log says what it has to say from the start and is no result; the provenance in JSON and page (date, folder, command
line) is that of each run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def content(path: Path) -> bytes:
    """The content of a file without the provenance of the run, an .expt without its history (of times)."""
    if path.suffix in (".json", ".expt"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record.pop("history" if path.suffix == ".expt" else "provenance", None)
        return json.dumps(record, indent=1).encode()
    if path.suffix == ".html":
        text, n = re.subn(r'<p class="version">.*?</details>', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert n == 1
        return text.encode()
    return path.read_bytes()


def results(folder: Path) -> dict[str, bytes]:
    """The content of every file in and below the folder, but for logs."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def with_value(record: dict, path: str, value) -> dict:
    """The record, in which "one.-1.other" is set to the value."""
    *keys, last = [int(key) if re.fullmatch(r"-?\d+", key) else key for key in path.split(".")]
    inner = record
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return record


def refusal(run: Callable[[list[str]], object], folder: Path, arguments: Sequence) -> str:
    """The one sentence that a program, run in this process, ends with; it leaves the files of the folder alone."""
    before = results(folder)
    with pytest.raises(SystemExit) as ended:
        run([*map(str, arguments)])
    sentence = ended.value.code  # which Python prints to stderr, with exit status 1
    assert isinstance(sentence, str) and sentence.startswith("Sorry: ") and "\n" not in sentence
    assert results(folder) == before
    return sentence
