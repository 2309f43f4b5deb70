"""
Fields of dataclasses that are bound to parameters of PHIL, and the way between both.

    @dataclass(frozen=True)
    class Grid:
        spacing: float | None = phil("spacing", None)

    @dataclass(frozen=True)
    class Request:
        max_misorientation: float = phil("max_misorientation", radians(0.5), convert=radians)
        grid: Grid = part("grid", Grid)

    request = from_scope(Request, params)

A field says where its value stands, under the path of the dataclass that it is part of; what the field is without any
PHIL, in its own units; and how PHIL's value becomes that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def phil(path: str, default: Any, convert: Callable[[Any], Any] | None = None):
    """A field with the value of the parameter at path, as it is or converted; default is the field's, converted."""
    return dataclasses.field(default=default, metadata={"path": path, "convert": convert})


def part(path: str, kind: type):
    """A field with a dataclass of bound fields, whose paths begin at path ("" for the same scope)."""
    return dataclasses.field(default_factory=kind, metadata={"path": path, "part": kind})


def choice(path: str, default: str):
    """A field with one of the words of a choice."""
    return phil(path, default, convert=_word)


def from_scope(kind: type, scope):
    """The dataclass of a kind, with bound fields, of an extracted PHIL scope."""
    values = {}
    for field in dataclasses.fields(kind):
        value = scope
        for name in filter(None, field.metadata["path"].split(".")):
            value = getattr(value, name)
        if "part" in field.metadata:
            value = from_scope(field.metadata["part"], value)
        elif field.metadata["convert"] is not None:
            value = field.metadata["convert"](value)
        values[field.name] = value
    return kind(**values)


def bound_paths(kind: type) -> list[str]:
    """The paths of the parameters that a dataclass of a kind takes, in the order of its fields."""
    return [path for path, _ in _leaves(kind())]


def values_by_path(request) -> dict[str, Any]:
    """The values of the fields, by the paths of their parameters."""
    return dict(_leaves(request))


def changed_paths(request) -> list[str]:
    """The paths of the parameters that have not their default."""
    default = values_by_path(type(request)())
    return [path for path, value in _leaves(request) if value != default[path]]


def expression(request) -> str:
    """The Python expression that makes the request, without what has its default."""
    words = []
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        own = expression(value) if "part" in field.metadata else repr(value)
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        words += [f"{field.name}={own}"] if value != default else []
    return f"{type(request).__name__}({', '.join(words)})"


def _leaves(request, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for field in dataclasses.fields(request):
        path, value = prefix + field.metadata["path"], getattr(request, field.name)
        if "part" in field.metadata:
            yield from _leaves(value, f"{path}." if path else "")
        else:
            yield path, value


# What becomes of PHIL's values


def radians(degrees: float) -> float:
    """An angle in radians."""
    return float(np.radians(degrees))


def texts(values) -> tuple[str, ...]:
    """A tuple of what PHIL has as a list, or None for none; entries that are None are left out."""
    return tuple(value for value in values or () if value is not None)


def numbers(values) -> tuple | None:
    """A tuple of the numbers that PHIL has as a list; None where there is no list."""
    return tuple(values) if values else None


def symbol(space_group) -> str | None:
    """The symbol of a space group of PHIL; None for none."""
    return str(space_group) if space_group else None


def cell_parameters(unit_cell) -> tuple[float, ...]:
    """The six parameters of PHIL's unit cell (Angstrom, degrees)."""
    return tuple(unit_cell.parameters())


def none_for_auto(value):
    """The value, None for PHIL's Auto."""
    from libtbx import Auto

    return None if value is Auto else value


def word_for_auto(value):
    """The value, "auto" for PHIL's Auto."""
    from libtbx import Auto

    return "auto" if value is Auto else value


def _word(value) -> str:
    """A choice as it was written: PHIL turns `auto` and `none` on the command line into objects of its own."""
    return "none" if value is None else word_for_auto(value)
