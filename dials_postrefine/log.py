"""
The log of a program: on the terminal, and from the start in a file under its own name, so that it is there whatever
becomes of the run.

The first lines say which program was run when, how and with what (report/common/provenance.py), the last ones what
ended it.
Sentences are broken at 100 columns; tables, and commands and names of files, which stand on indented lines, are not.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import textwrap
import threading

WIDTH = 100
LOGGERS = ("dials", "dxtbx", "py.warnings")

logger = logging.getLogger("dials.postrefine")


def start(verbosity: int, path: str | None, provenance) -> None:
    """
    Log as DIALS does, to the terminal and to the file path, beginning with the provenance of the run.

    What can't be written to the file, or to a full disk behind stdout, ends the run instead of a traceback for each
    line; a stdout that nobody reads any more (`| head`) does not end it.
    """
    from dials.util import log

    raises, logging.raiseExceptions = logging.raiseExceptions, False  # the first line is logged before we come to it
    try:
        log.config(verbosity, logfile=path)
    finally:
        logging.raiseExceptions = raises

    def fail(record) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, BrokenPipeError):
            raise error
        stop_printing()

    for handler in _handlers():
        handler.handleError = fail
        handler.setFormatter(_Wrapping(handler.formatter or logging.Formatter()))
        if isinstance(handler, logging.FileHandler):
            handler.stream.reconfigure(errors="backslashreplace")
    if provenance is not None:
        logger.info(provenance.text())


class _Wrapping(logging.Formatter):
    """A formatter whose records have lines of 100 columns."""

    def __init__(self, formatter: logging.Formatter):
        super().__init__()
        self.formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        wrapped = copy.copy(record)
        wrapped.msg, wrapped.args = "\n".join(map(wrap, record.getMessage().split("\n"))), None
        return self.formatter.format(wrapped)


def wrap(line: str) -> str:
    """A line of the log as lines of 100 columns; tables and indented lines stay, words are not broken."""
    if len(line) <= WIDTH or line.startswith((" ", "|", "+")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def end() -> None:
    """Close the files; what is logged from now on goes nowhere."""
    for handler in _handlers():
        with contextlib.suppress(OSError):  # a full disk, which was said
            handler.close()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)


def add_to_files(text: str) -> None:
    """Add to the files what the terminal is told by other means; nothing where no log was begun."""
    record = logging.LogRecord(logger.name, logging.INFO, "", 0, text, None, None)
    for handler in _file_handlers():
        with contextlib.suppress(OSError):  # a full disk
            handler.emit(record)


def _handlers() -> list[logging.Handler]:
    return list({id(handler): handler for name in LOGGERS for handler in logging.getLogger(name).handlers}.values())


def _file_handlers() -> list[logging.Handler]:
    return [handler for handler in _handlers() if isinstance(handler, logging.FileHandler)]


def print_any_name() -> None:
    r"""Names of files that are no UTF-8, or that a terminal has no letters for, are printed as \\udce9 and the like."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def stop_printing() -> None:
    """Whatever is printed from now on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def show_progress(unit: str):
    """A function (what, done, total) that draws a bar on a terminal and nothing in a log."""
    from tqdm import tqdm

    from dials.util import progress

    from dials_postrefine.executors.signals import signals_blocked

    # We draw from one process only; tqdm's own lock is a semaphore of the system, which some versions of Python report
    # as leaked.
    tqdm.set_lock(threading.RLock())
    with signals_blocked():  # half a bar complains when it is thrown away
        bar = progress(total=1, unit=unit)
    with bar:

        def show(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        yield show
