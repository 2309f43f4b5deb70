"""Names of files that are no UTF-8, which Python has as surrogates: most formats and all of cctbx take texts only."""

from __future__ import annotations


def printable(name: str) -> str:
    r"""The name as a text that any format takes: what is no UTF-8 as \udcfc and the like."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
