"""The Requests of the programs, as PHIL makes them."""

from __future__ import annotations

import importlib
from pathlib import Path

COMMAND_LINE = Path(__file__).resolve().parent.parent / "dials_postrefine" / "command_line"
PROGRAMS = sorted(path.stem for path in COMMAND_LINE.glob("[!_]*.py"))


def request_type(program: str) -> type:
    """The class of a program's Request."""
    name = "".join(word.capitalize() for word in program.split("_")) + "Request"
    return getattr(importlib.import_module(f"dials_postrefine.settings.{program}"), name)


def request_of(program: str, *arguments: str):
    """The Request of the command-line arguments name=value."""
    from dials_postrefine.settings.binding import from_scope
    from dials_postrefine.settings.scope import load

    scope = load(program)
    words = scope.command_line_argument_interpreter().process_args(list(arguments))
    return from_scope(request_type(program), scope.fetch(sources=words).extract())
