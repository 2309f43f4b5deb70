"""The Requests of the programs, as PHIL makes them."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

COMMAND_LINE = Path(__file__).resolve().parent.parent / "dials_postrefine" / "command_line"
PROGRAMS = sorted(path.stem for path in COMMAND_LINE.glob("[!_]*.py"))


def request_type(program: str) -> type:
    """The class of a program's Request."""
    name = "".join(word.capitalize() for word in program.split("_")) + "Request"
    return getattr(importlib.import_module(f"dials_postrefine.settings.{program}"), name)


def bound_paths(kind: type, prefix: str = "") -> list[str]:
    """The paths of the parameters that a dataclass of a kind takes, in the order of its fields."""
    paths = []
    for field in dataclasses.fields(kind):
        path = prefix + field.metadata["path"]
        part = field.metadata.get("part")
        paths += [path] if part is None else bound_paths(part, f"{path}." if path else "")
    return paths


def request_of(program: str, *arguments: str):
    """The Request of the command-line arguments name=value."""
    from dials_postrefine.settings.binding import from_scope
    from dials_postrefine.settings.scope import load

    scope = load(program)
    words = scope.command_line_argument_interpreter().process_args(list(arguments))
    return from_scope(request_type(program), scope.fetch(sources=words).extract())


def request_with(program: str, path: str, value):
    """The Request with its defaults, but for the value of the parameter at path."""
    return _with_value(request_type(program)(), path, value)


def _with_value(part, path: str, value):
    for field in dataclasses.fields(part):
        name = field.metadata["path"]
        if "part" in field.metadata:
            rest = path if not name else path.removeprefix(f"{name}.")
            changed = _with_value(getattr(part, field.name), rest, value) if not name or rest != path else None
            if changed is not None:
                return dataclasses.replace(part, **{field.name: changed})
        elif name == path:
            return dataclasses.replace(part, **{field.name: value})
    return None
