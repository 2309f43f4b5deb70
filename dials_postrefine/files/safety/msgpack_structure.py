"""
Whether the bytes of a .refl file are a reflection table, before the reader of DIALS sees them.

That reader allocates what a column says it holds before it looks whether the bytes are there: one flipped bit, and the
memory of the machine is full, or the program is gone.  Here the containers' headers are walked, payloads are skipped:

    table        [ "dials::af::reflection_table", version, { "identifiers": { id: text, ... },
                                                             "nrows": n, "data": { name: column, ... } } ]
    column       [ type, [ n, n times the type's size in bytes ] ]
    Shoebox<>    [ type, [ n, n boxes in as many bytes as they take ] ]
    box          panel u4, bounds 6 x i4, has_data u1, and where it has data, so many bytes a pixel: 4 of data, 4 of
                 mask (has_data 1) or 1 (has_data 2, version 2), 4 of background

in MessagePack (github.com/msgpack/msgpack/blob/master/spec.md), written by dials/array_family/
reflection_table_msgpack_adapter.h.  DIALS 3.12 writes version 1, the newest version 2, which has other types, too: of a
type that is not known here, only that its bytes are there is checked.  A column of std::string can't be read back by
DIALS and is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

FILE_TYPE = "dials::af::reflection_table"
SIZES = {
    "bool": 1,
    "int": 4,
    "std::size_t": 8,
    "double": 8,
    "vec2<double>": 16,
    "vec3<double>": 24,
    "mat3<double>": 72,
    "int6": 24,
    "cctbx::miller::index<>": 12,
}
STRING, SHOEBOX = "std::string", "Shoebox<>"
BOX = struct.Struct("<I6iB")
BYTES_PER_PIXEL = {0: 0, 1: 12, 2: 9}  # by has_data
# kind: the range of first bytes that hold the length, or value, themselves; and those that say how many bytes do
KINDS = {
    "integer": ((0x00, 0x7F), {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}),
    "map": ((0x80, 0x8F), {0xDE: 2, 0xDF: 4}),
    "array": ((0x90, 0x9F), {0xDC: 2, 0xDD: 4}),
    "text": ((0xA0, 0xBF), {0xD9: 1, 0xDA: 2, 0xDB: 4}),
    "binary": (None, {0xC4: 1, 0xC5: 2, 0xC6: 4}),
}


def check_table(content: bytes) -> None:
    """Raises ValueError unless content is a reflection table, to the last byte (module docstring)."""
    walk = _Walk(content)
    walk.expect("array", 3)
    if walk.text() != FILE_TYPE:
        raise ValueError("not a reflection table")
    walk.head("integer")  # the version, which DIALS knows or not
    parts, n_rows = {}, []
    for name in walk.items():
        if name in parts:
            raise ValueError(f"{name} twice")
        parts[name] = True
        if name == "identifiers":
            for _ in range(walk.head("map")):
                walk.head("integer")
                walk.text()
        elif name == "nrows":
            n_rows.append(walk.head("integer"))
        elif name == "data":
            n_rows.extend(_column(walk) for _ in walk.items())
        else:
            raise ValueError(f"unknown part {name}")
    if not {"nrows", "data"} <= parts.keys() or len(set(n_rows)) > 1:
        raise ValueError("columns of different lengths")
    if walk.place != len(content):
        raise ValueError("bytes after the end")


def _column(walk: _Walk) -> int:
    """Walk over a column; the number of its rows."""
    walk.expect("array", 2)
    kind = walk.text()
    walk.expect("array", 2)
    n = walk.head("integer")
    payload = walk.skip(walk.head("binary"))
    if kind == SHOEBOX:
        _check_shoeboxes(payload, n)
    elif kind == STRING or n > len(payload) or (kind in SIZES and len(payload) != n * SIZES[kind]):
        raise ValueError(f"{n} values of type {kind} in {len(payload)} bytes")
    return n


def _check_shoeboxes(payload: memoryview, n: int) -> None:
    if len(payload) == n * BOX.size and not np.frombuffer(payload, np.uint8)[BOX.size - 1 :: BOX.size].any():
        return
    place = 0
    for _ in range(n):
        if place + BOX.size > len(payload):
            raise ValueError("shoeboxes beyond the end")
        _, x0, x1, y0, y1, z0, z1, has_data = BOX.unpack_from(payload, place)
        if x1 < x0 or y1 < y0 or z1 < z0 or has_data not in BYTES_PER_PIXEL:
            raise ValueError("an impossible shoebox")
        place += BOX.size + BYTES_PER_PIXEL[has_data] * (x1 - x0) * (y1 - y0) * (z1 - z0)
    if place != len(payload):
        raise ValueError("shoeboxes and their bytes differ")


class _Walk:
    """A place in the bytes, which the methods move on; they raise ValueError where something else is found."""

    def __init__(self, content: bytes):
        self.content = memoryview(content)
        self.place = 0

    def skip(self, n: int) -> memoryview:
        """The next n bytes."""
        start, self.place = self.place, self.place + n
        if self.place > len(self.content):
            raise ValueError("it ends too early")
        return self.content[start : self.place]

    def head(self, kind: str) -> int:
        """The value of an integer, the length of the others."""
        first = self.skip(1)[0]
        direct, follow = KINDS[kind]
        if first in follow:
            return int.from_bytes(self.skip(follow[first]), "big")
        if direct is None or not direct[0] <= first <= direct[1]:
            raise ValueError(f"no {kind} where one belongs")
        return first - direct[0]

    def expect(self, kind: str, length: int) -> None:
        if self.head(kind) != length:
            raise ValueError(f"a {kind} of another length")

    def text(self) -> str:
        return str(self.skip(self.head("text")), "utf-8")

    def items(self) -> Iterator[str]:
        """The keys of a map, each of which is followed by its value."""
        for _ in range(self.head("map")):
            yield self.text()
