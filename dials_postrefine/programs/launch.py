"""What all programs share: how one was started, the names of its files, and what it returns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dials_postrefine import log
from dials_postrefine.report.common.provenance import Provenance, files_among, record_run
from dials_postrefine.settings.binding import expression, values_by_path
from dials_postrefine.settings.effects import without_effect


@dataclass(frozen=True)
class Launch:
    """
    How a program was started: where its outputs come from, how much its log is to say, and the parameters that were
    changed, by name (None: those that have not their default).
    """

    provenance: Provenance
    verbosity: int = 0
    changed: tuple[str, ...] | None = None

    def unused_parameters(self, request, chosen: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """Sentences on changed parameters that have no effect (settings/effects.py)."""
        return without_effect(self.provenance.program, request, chosen, self.changed)


@dataclass(frozen=True)
class Result:
    """What a program returns: its summary, as the JSON has it, and the paths of the files that it wrote, by output."""

    summary: dict
    files: dict[str, str]


@contextlib.contextmanager
def launched(program: str, request, launch: Launch | None) -> Iterator[Launch]:
    """
    The launch, or where it is None that of a call from Python, whose log ends with the block.

    Who gives a launch ends the log (log.end), after what is to stand last in it.
    """
    if launch is not None:
        yield launch
        return
    provenance = record_run([program], files_among(_words(request)), "")
    try:
        yield Launch(
            replace(provenance, command=f"programs.{program.removeprefix('dials.')}.run({expression(request)})")
        )
    finally:
        log.end()


def find_inputs(request, launch: Launch, pairs_only: bool) -> tuple[Any, Launch]:
    """Request and launch with the names of the files that lists, patterns and folders stand for (input_files.py)."""
    from dials_postrefine.files.dials.input_files import find_files

    experiments, reflections = find_files(request.experiments, request.reflections, request.file_list, pairs_only)
    inputs = tuple(dict.fromkeys((*launch.provenance.inputs, *files_among((*experiments, *reflections)))))
    provenance = replace(launch.provenance, inputs=inputs)
    return replace(request, experiments=experiments, reflections=reflections), replace(launch, provenance=provenance)


def _words(request) -> Iterator[str]:
    """The texts of a request, but for its outputs."""
    for path, value in values_by_path(request).items():
        words = value if isinstance(value, (tuple, list)) else (value,)
        if not path.startswith("output."):
            yield from (os.fspath(word) for word in words if isinstance(word, (str, os.PathLike)))


def temporary_names(outputs, output, needed: Sequence[str], optional: Sequence[str]) -> dict[str, str | None]:
    """
    Where to write each file that a request's output names, None where an optional one is not wanted.

    Raises Sorry, before any work is done, where one of them can't be written.
    """
    from dials.util import Sorry

    names: dict[str, str | None] = {}
    for key in (*needed, *optional):
        path = getattr(output, key)
        if not path and key in needed:
            raise Sorry(f"output.{key} has no file name: give one.")
        if key == "experiments" and not path.endswith((".expt", ".json")):
            raise Sorry(f"output.experiments={path} must end in .expt: DIALS knows experiments by it.")
        names[key] = (outputs.live if key == "log" else outputs.temporary)(path) if path else None
    return names


def written(names: Mapping[str, str | None], output) -> dict[str, str]:
    """The paths, by output, of the files that have temporary names."""
    return {field.name: getattr(output, field.name) for field in fields(output) if names.get(field.name)}
