"""
Output files that appear only once everything has succeeded.

    with Outputs() as outputs:
        write(outputs.temporary("postrefined.refl"))

A file that the run reads is never written over: Outputs(inputs) names those that are known from the start, protect()
those that are found later (the images of an .expt).  The log is no result: live() gives its own name to write to.

Each file is written under a temporary name, .part-HOST-PID-NAME, in the folder where it will lie.  Leaving the block
renames them all; an exception inside removes them and earlier files stay as they were.  An OSError inside becomes a
Sorry that says which file could not be written, and why.

A process that was killed can't remove anything: the next one on the same host that writes the same name does, once the
process PID is gone.  A name that is a symbolic link stays one, the file behind it is replaced; what is no file (a
device, a pipe) is written to as it is.

The content is on the disk (fsync) before the first rename.  Otherwise a power cut may leave the new name with nothing
in it, and a full quota of a network file system is only told when the earlier file is gone.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterable

from dials.util import Sorry

from dials_postrefine.executors.signals import signals_ignored
from dials_postrefine.files.safety.names import printable

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Outputs:
    """The files of one run (module docstring)."""

    def __init__(self, inputs: Iterable[str] = ()):
        self._names: dict[str, str] = {}  # where a file will lie, and the temporary name that it has
        self._live: set[str] = set()
        self._pid = os.getpid()
        self._inputs = frozenset(map(_file_of, inputs))

    def temporary(self, path: str) -> str:
        """
        The name to write to in place of path.

        Raises Sorry where it can't be written, is already taken, or is a file that the run reads.
        """
        path = os.path.abspath(path)
        target = self._target(path)
        if target is None:
            return path
        folder, name = os.path.dirname(target), printable(os.path.basename(path))  # whoever writes it takes the name
        remove_leftovers(folder, name)
        # the ending is that of path, as DIALS tells kinds of files by it
        self._names[target] = os.path.join(folder, f".part-{socket.gethostname()}-{self._pid}-{name}")
        return self._names[target]

    def live(self, path: str) -> str:
        """The name of a file that is written from the start and stays whatever happens; raises Sorry as temporary."""
        path = os.path.abspath(path)
        target = self._target(path)
        if target is None:
            return path
        self._live.add(target)
        return target

    def _target(self, path: str) -> str | None:
        """The file behind an absolute path, None where it is no file (a device, a pipe); raises Sorry as temporary."""
        if os.path.isdir(path):
            raise Sorry(f"{path} can't be written: it is a folder, give the name of a file.")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise Sorry(f"{path} can't be written: it is read-only.")
        if os.path.exists(path) and not os.path.isfile(path):
            return None
        target = os.path.realpath(path)
        folder = os.path.dirname(target)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            raise Sorry(f"{path} can't be written: its folder does not exist or is read-only.")
        if target in self._names or target in self._live:
            raise Sorry(f"Two output files have the name {path}: give each its own.")
        if os.path.exists(path) and _file_of(path) in self._inputs:
            raise Sorry(_would_be_lost(path))
        return target

    def protect(self, inputs: Iterable[str]) -> None:
        """Raises Sorry where an output would be written over one of these files, which the run reads, too."""
        found = frozenset(map(_file_of, inputs))
        for path in (*self._names, *self._live):
            if os.path.exists(path) and _file_of(path) in found:
                raise Sorry(_would_be_lost(path))

    def forget(self, path: str) -> None:
        """Let the file be: whatever comes next writes it."""
        self._names.pop(os.path.realpath(path), None)

    def __enter__(self) -> Outputs:
        atexit.register(self._remove)  # for a signal that arrives when __exit__ is called, but has not begun
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with signals_ignored():  # a signal comes too late now: all files or none
            try:
                if kind is None:
                    self._rename()
            except OSError as failure:
                error = failure
            finally:
                self._remove()
        atexit.unregister(self._remove)
        if isinstance(error, OSError):
            raise Sorry(self._sentence(error)) from error

    def _rename(self) -> None:
        for path, temporary in self._names.items():
            if os.path.isdir(path):  # made during the run
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            if os.path.exists(path):  # as if it had been written over
                shutil.copymode(path, temporary)
        for path, temporary in self._names.items():
            os.replace(temporary, path)

    def _remove(self) -> None:
        if os.getpid() != self._pid:  # a forked process has nothing to say here
            return
        for temporary in self._names.values():
            try:
                os.remove(temporary)
            except OSError:  # renamed, never written, or its folder is gone
                pass

    def _sentence(self, error: OSError) -> str:
        if error.errno is None and isinstance(error.__context__, OSError):  # said again by libtbx.smart_open
            error = error.__context__
        reason = "no space left" if error.errno in NO_SPACE else (error.strerror or str(error)).lower()
        paths = {temporary: path for path, temporary in self._names.items()}
        name = str(error.filename or "")
        if error.errno in NO_SPACE or name in paths or name in self._names or name in self._live:
            what = paths.get(name, name) or "The output"
            return f"{what} could not be written ({reason}): no output file was changed."
        return f"The run ended because the system reported '{reason}'{name and f' for {name}'}."


def _file_of(path: str) -> tuple[int, int] | str:
    """What tells whether two names are of one file."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _would_be_lost(path: str) -> str:
    return f"{path} is read by this run and would be written over: give the output another name."


def remove_leftovers(folder: str, name: str) -> None:
    """Remove what killed processes of this host have left of the file."""
    pattern = re.compile(rf"\.part-{re.escape(socket.gethostname())}-(\d+)-{re.escape(name)}")
    for found in os.listdir(folder):
        match = pattern.fullmatch(found)
        if match and not _is_alive(int(match.group(1))):
            try:
                os.remove(os.path.join(folder, found))
            except OSError:  # another process was faster, or it is not ours
                pass


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True
