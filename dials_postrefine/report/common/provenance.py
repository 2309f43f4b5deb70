"""
Where a run's outputs come from: the one header of log, page and JSON.

    date        when the run began, ISO 8601 with the offset to UTC
    program     its name
    version     of DIALS and of this package
    directory   where it was run
    command     the command line, as it can be pasted into a shell
    inputs      the files that it names, as named there
    parameters  what was changed, as PHIL
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import dials_postrefine

MOST_NAMES = 10  # that the log lists


@dataclass(frozen=True)
class Provenance:
    """Where a run's outputs come from (module docstring)."""

    date: str
    program: str
    version: str
    directory: str
    command: str
    inputs: tuple[str, ...]
    parameters: str

    def as_dict(self) -> dict:
        """The same as plain Python objects, for JSON."""
        return {**asdict(self), "inputs": list(self.inputs)}

    def text(self) -> str:
        """The header of a log."""
        names = " ".join(shlex.quote(name) for name in self.inputs[:MOST_NAMES])
        more = f" and {len(self.inputs) - MOST_NAMES} more" if len(self.inputs) > MOST_NAMES else ""
        lines = [
            self.version,
            f"Run on {self.date} in {shlex.quote(self.directory)}:",
            f"  {self.command}",
            *([f"Input files:\n  {names}{more}"] if names else []),
            *([f"The following parameters have been modified:\n\n{self.parameters}"] if self.parameters else []),
        ]
        return "\n".join(lines)


def files_among(words: Iterable[str]) -> list[str]:
    """Those of the words that name files, each once."""
    return list(dict.fromkeys(word for word in words if os.path.isfile(word)))


def record_run(command: Sequence[str], inputs: Sequence[str], parameters: str) -> Provenance:
    """The provenance of a run that begins now: command by words, names of the input files, changed parameters."""
    from dials.util.version import dials_version

    return Provenance(
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        program=command[0],
        version=f"{dials_version()}, dials_postrefine {dials_postrefine.__version__}",
        directory=os.getcwd(),
        command=shlex.join(command),
        inputs=tuple(inputs),
        parameters=parameters,
    )
