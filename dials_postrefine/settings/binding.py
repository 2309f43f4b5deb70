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
from numbers import Integral, Real
from typing import Any

import numpy as np

TEXTS = ("path", "str", "strings", "qstr")  # PHIL's kinds of texts


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
        text = expression(value) if "part" in field.metadata else repr(value)
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        words += [f"{field.name}={text}"] if value != default else []
    return f"{type(request).__name__}({', '.join(words)})"


def as_phil(request, scope) -> str:
    """
    The PHIL text, for the scope of its program, of the parameters of a request that have not their default.

    Without names of files and other texts: whatever they are, PHIL takes them, and is not to read into them.
    """
    default, lines = values_by_path(type(request)()), []
    kinds = {one.path: one.object.type.phil_type for one in scope.all_definitions()}
    for path, field, value in _bound(request):
        if value != default[path] and kinds[path] not in TEXTS:
            lines.append(f"{path} = {_written(value, field.metadata['convert'], kinds[path])}")
    return "\n".join(lines)


def _leaves(request) -> Iterable[tuple[str, Any]]:
    return ((path, value) for path, _, value in _bound(request))


def _bound(request, prefix: str = "") -> Iterable[tuple[str, dataclasses.Field, Any]]:
    """The bound fields by their paths, and their values."""
    for field in dataclasses.fields(request):
        path, value = prefix + field.metadata["path"], getattr(request, field.name)
        if "part" in field.metadata:
            yield from _bound(value, f"{path}." if path else "")
        else:
            yield path, field, value


# What becomes of PHIL's values


def radians(degrees: float) -> float:
    """An angle in radians."""
    return float(np.radians(degrees))


def texts(values) -> tuple[str, ...]:
    """A tuple of what PHIL has as a list, or None for none; entries that are None are left out; Auto is ``auto``."""
    values = word_for_auto(values)
    return (values,) if isinstance(values, str) else tuple(value for value in values or () if value is not None)


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


# And back


def _written(value, convert: Callable[[Any], Any] | None, kind: str) -> str:
    """What PHIL reads as the value of a field of this kind."""
    if value is None:
        return "Auto" if convert is none_for_auto else "None"
    if convert is radians and isinstance(value, Real):
        return repr(_degrees(value))
    if not isinstance(value, (tuple, list)):
        return _plain(value)
    return ("+" if kind == "choice" else " ").join(map(str if kind == "choice" else _plain, value)) or "None"


def _plain(value) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    from libtbx.phil.tokenizer import word

    return str(word(value=str(value), quote_token='"'))


def _degrees(angle: float) -> float:
    """The degrees that radians() makes the angle of, round ones where they do."""
    degrees = float(np.degrees(angle))
    near = float(f"{degrees:.12g}")
    return near if radians(near) == angle else degrees
