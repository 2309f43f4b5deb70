"""
What a file is, by its content and not by its name: kinds of files, and compressed ones.

In: a path; out: the kind (`Kind`), with the words that tell it to a person, and the content without compression.  The
PDB names structure factors r1abcsf.ent and gives everything away as .gz; programs that cut or add endings do the rest.
gzip, bzip2 and xz are unpacked where a file is read whole (atomic models, reflections).  Experiments, reflection tables
and maps are for DIALS' own loaders and HDF5, which unpack nothing: there, compressed() is for a sentence that says so.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from enum import Enum

from dials.util import Sorry

from dials_postrefine.files.safety.names import printable

START = 1 << 16  # bytes that are looked at
LARGEST = 4 << 30  # bytes of a file that is unpacked: more is none of ours, or made to fill a disk
CHUNK = 1 << 20


class Kind(Enum):
    """The kinds of files that are told apart, and what a person calls them."""

    MTZ = "an MTZ file"
    CIF = "a CIF"
    PDB = "an atomic model (PDB)"
    EXPERIMENTS = "an experiment list (.expt)"
    TABLE = "a reflection table (.refl)"
    PICKLE = "a pickle (an old reflection table, or a mask)"
    MAP = "a CCP4 map"
    HDF5 = "an HDF5 file (a NeXus map, or images)"
    IMAGE = "a diffraction image"
    XDS_ASCII = "an XDS_ASCII file"
    JSON = "a JSON file"
    SHELX = "a SHELX instruction file"
    PAGE = "an HTML page"
    ARCHIVE = "an archive (zip, tar or the like)"
    PICTURE = "a picture or a PDF"
    EMPTY = "an empty file"
    TEXT = "a text file of another kind"
    UNKNOWN = "a file of an unknown kind"


COMPRESSED = {b"\x1f\x8b": ("gzip", gzip.open), b"BZh": ("bzip2", bz2.open), b"\xfd7zXZ\x00": ("xz", lzma.open)}
REFLECTIONS = (Kind.MTZ, Kind.CIF, Kind.TABLE, Kind.XDS_ASCII, Kind.TEXT, Kind.UNKNOWN, Kind.PICKLE)
MODELS = (Kind.PDB, Kind.CIF)
BEGINNINGS = (
    (b"MTZ ", Kind.MTZ),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"###CBF", Kind.IMAGE),
    (b"{\nHEADER_BYTES", Kind.IMAGE),
    (b"II*\x00", Kind.IMAGE),
    (b"MM\x00*", Kind.IMAGE),
    (b"\x89PNG", Kind.PICTURE),
    (b"%PDF", Kind.PICTURE),
    (b"\xff\xd8\xff", Kind.PICTURE),
    (b"PK\x03\x04", Kind.ARCHIVE),
    (b"\x1f\x9d", Kind.ARCHIVE),
    (b"\x28\xb5\x2f\xfd", Kind.ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", Kind.ARCHIVE),
    (b"\x80", Kind.PICKLE),
)
# of text, the first that is found: what may begin a line
LINES = (
    (re.compile(rb"^!FORMAT=XDS_ASCII", re.M), Kind.XDS_ASCII),
    (re.compile(rb"\A(\s|#[^\n]*\n)*(data_|global_|loop_)", re.I), Kind.CIF),
    (re.compile(rb"^(CRYST1|ATOM  |HETATM)", re.M), Kind.PDB),
    (re.compile(rb"\A\s*(<!doctype html|<html)", re.I), Kind.PAGE),
    (re.compile(rb"\A\s*[{\[]"), Kind.JSON),
    (re.compile(rb"\ATITL\b.*\n(REM.*\n)*CELL ", re.I), Kind.SHELX),
)


def compression(path: str) -> str | None:
    """How a file is compressed, None where it is not, or is not there."""
    try:
        packing = _packing(path)
    except OSError:
        return None
    return packing[0] if packing else None


def open_plain(path: str):
    """The file, opened for reading bytes as they were before compression."""
    packing = _packing(path)
    return (packing[1] if packing else open)(path, "rb")


def _packing(path: str) -> tuple[str, Callable] | None:
    """How a file is compressed, and what opens it; None where it is not."""
    with open(path, "rb") as file:
        start = file.read(8)
    return next((packing for magic, packing in COMPRESSED.items() if start.startswith(magic)), None)


def kind_of(path: str) -> Kind:
    """The kind of a file.  Raises Sorry where it is not there, can't be read or unpacked."""
    with _readable(path):
        with open_plain(path) as file:
            start = file.read(START)
    return kind_of_content(start)


def kind_of_content(start: bytes) -> Kind:
    """The kind of a file that begins with these bytes."""
    if not start.strip():
        return Kind.EMPTY
    for magic, kind in BEGINNINGS:
        if start.startswith(magic):
            return kind
    if start[208:212] == b"MAP ":
        return Kind.MAP
    if start[257:262] == b"ustar":
        return Kind.ARCHIVE
    if b"dials::af::reflection_table" in start[:64]:
        return Kind.TABLE
    start = start.removeprefix(b"\xef\xbb\xbf")  # the byte-order mark that some editors leave
    if b"\0" in start:
        return Kind.UNKNOWN
    for pattern, kind in LINES:
        if pattern.search(start):
            if kind is Kind.JSON and b'"ExperimentList"' in start:
                return Kind.EXPERIMENTS
            return kind
    return Kind.TEXT


def what_else(path: str, *meant: Kind) -> str:
    """Why a file can't be read as the kinds that are meant: it is of another, or seems to be one of them."""
    try:
        kind = kind_of(path)
    except Sorry:
        kind = Kind.UNKNOWN
    if kind in (*meant, Kind.UNKNOWN):
        return "truncated, or another kind of file?"
    return f"it is {kind.value}"


def refuse_compressed(path: str) -> None:
    """Raises Sorry for a compressed file, where whoever reads it unpacks nothing."""
    packed = compression(path)
    if packed:
        tool = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz"}[packed]
        raise Sorry(f"{path} is compressed by {packed}, which DIALS does not read for files of this kind: {tool} it.")


def read_text(path: str) -> str:
    """The text of a file, unpacked.  Raises Sorry where it can't be read or unpacked."""
    with _readable(path):
        with open_plain(path) as file:
            content = _limited(path, file.read(LARGEST + 1))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # any bytes are some text


@contextlib.contextmanager
def plain_file(path: str) -> Iterator[str]:
    """
    The name, in UTF-8, of a file with the content unpacked, for readers that want a name: path itself, or a temporary
    one.
    """
    packed = compression(path) is not None
    if not packed and printable(path) == path:
        yield path
        return
    name = printable(os.path.basename(os.path.splitext(path)[0] if packed else path)) or "file"
    with tempfile.TemporaryDirectory() as folder:
        plain, size = os.path.join(folder, name), 0
        with _readable(path):
            with open_plain(path) as file, open(plain, "wb") as unpacked:
                while part := file.read(CHUNK):
                    size += len(part)
                    _limited(path, part, size)
                    unpacked.write(part)
        yield plain


def _limited(path: str, content: bytes, size: int | None = None) -> bytes:
    if (len(content) if size is None else size) > LARGEST:
        raise Sorry(f"{path} is larger than {LARGEST >> 30} GB when unpacked: give a smaller file.")
    return content


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    if not os.path.isfile(path):
        raise Sorry(f"The file {path} does not exist: check the name.")
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise Sorry(f"{path} is a damaged {compression(path)} file (truncated?): get it again.") from error
    except OSError as error:
        if error.errno is None:  # what bz2 says of damage
            raise Sorry(f"{path} is a damaged {compression(path)} file (truncated?): get it again.") from error
        raise Sorry(f"{path} can't be read ({error.strerror}): check the file.") from error
