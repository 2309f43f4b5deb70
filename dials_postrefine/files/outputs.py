"""
Output files that appear only once everything has succeeded.

    with Outputs() as outputs:
        write(outputs.temporary("postrefined.refl"))

Each file is written under a temporary name in the folder where it will lie; leaving the block renames them all, an
exception inside removes them and earlier files stay as they were.
"""

from __future__ import annotations

import os
import signal

from dials.util import Sorry


class Outputs:
    """The files of one run (module docstring)."""

    def __init__(self):
        self._names: dict[str, str] = {}

    def temporary(self, path: str) -> str:
        """The name to write to in place of path.  Raises Sorry where it can't be written, or is already taken."""
        path = os.path.abspath(path)
        folder, name = os.path.split(path)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise Sorry(f"{path} can't be written: its folder does not exist or is read-only.")
        if os.path.isdir(path):
            raise Sorry(f"{path} can't be written: it is a folder, give the name of a file.")
        if path in self._names:
            raise Sorry(f"Two output files have the name {path}: give each its own.")
        self._names[path] = os.path.join(folder, f".part-{os.getpid()}-{name}")
        return self._names[path]

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        # Ctrl-C comes too late now: all files or none
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for path, temporary in self._names.items():
            if not os.path.exists(temporary):
                continue
            if kind is None:
                os.replace(temporary, path)
            else:
                os.remove(temporary)
        signal.signal(signal.SIGINT, handler)
