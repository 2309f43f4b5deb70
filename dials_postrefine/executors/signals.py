"""
The signals that ask a program to end: Ctrl-C (SIGINT), SIGTERM as batch systems send it, SIGHUP of a lost terminal.

All become a KeyboardInterrupt, so that one way of cleaning up does for them; while files are renamed, a pool of
processes is made, or C++ calls Python, they wait or come too late.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

MOMENT = 0.01  # seconds
WORDS = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated.", signal.SIGHUP: "Hung up."}


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """
    The signals raise KeyboardInterrupt(number) in the block, once: after the first the others are ignored.

    A forked process that gets one just ends.  Signals that are ignored from the start (nohup) stay so.  In a function
    that numba's compiled code calls, which prints what is raised there and goes on, they come again a moment later.
    """
    pid = os.getpid()

    def interrupt(number, frame) -> None:
        if os.getpid() != pid:
            os._exit(128 + number)
        if _is_called_by_compiled_code(frame):
            threading.Timer(MOMENT, os.kill, (pid, number)).start()
            return
        for known in WORDS:
            signal.signal(known, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    with _handlers(interrupt):
        yield


def _is_called_by_compiled_code(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name != "_numba_unpickle":  # it unpickles the constants of the code
        frame = frame.f_back
    return frame is not None


def signals_ignored() -> contextlib.AbstractContextManager[None]:
    """The signals are ignored in the block."""
    return _handlers(signal.SIG_IGN)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """The signals wait until the block is left; processes forked in it have them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(WORDS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_postponed() -> Iterator[None]:
    """
    The signals take effect when the block is left.

    For C++ that calls Python: what is raised there is lost, or ends the process in a destructor.  Blocking them would
    not do: where a library has threads, one of them takes the signal, and its handler runs in the main thread.
    """
    arrived: list[int] = []
    try:
        with _handlers(lambda number, frame: arrived.append(number)):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextlib.contextmanager
def _handlers(handler) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other thread may set them
        before = {number: signal.getsignal(number) for number in WORDS}
        before = {number: known for number, known in before.items() if known != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
