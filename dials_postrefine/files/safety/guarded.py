"""
Call a function in a forked process: what crashes, hangs or eats the memory there ends as an exception here.

For readers in C that a damaged file can bring down, such as libccp4.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import resource
import traceback
from collections.abc import Callable
from multiprocessing.pool import RemoteTraceback
from typing import Any

from dials.util import Sorry

from dials_postrefine.executors.processes import way_to_end
from dials_postrefine.executors.signals import signals_blocked

FREE_MEMORY = 2 << 30  # bytes; beyond what the process has already
FREE_SECONDS = 20.0  # of computing
BYTES_PER_BYTE = 100  # of a file that is read: generous, as arrays come and go
SECONDS_PER_BYTE = 1e-6
PATIENCE = 10.0  # so many times longer by the clock: machine and disk may be busy


class ChildFailed(Exception):
    """
    The function raised an exception that is no Sorry, returned what can't be pickled, or its process died or took too
    long.  The message says which; the traceback, where there is one, is the cause.
    """


def call_in_child(function: Callable, path: str) -> Any:
    """
    function(path), which reads the file; its result must be fit for pickle.

    Memory and time are limited by the size of the file.  A Sorry comes through, anything else is ChildFailed with its
    traceback.  What the function prints is lost.
    """
    size = os.path.getsize(path)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=_answer, args=(theirs, function, path, size), daemon=True)
    with signals_blocked():
        child.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE * _seconds(size)):
            raise ChildFailed("no answer in time")
        answer = ours.recv_bytes()
    except (EOFError, ConnectionResetError):
        raise ChildFailed(f"its process {way_to_end(child)}") from None
    finally:
        child.kill()
        child.join()
        ours.close()
    try:
        sorry, failure, result = pickle.loads(answer)
    except Exception as error:  # what was read can be written, but not read again
        raise ChildFailed(f"its result can't be read ({type(error).__name__}: {error})") from error
    if sorry is not None:
        raise Sorry(sorry)
    if failure is not None:
        message, text = failure
        raise ChildFailed(message) from RemoteTraceback(text)
    return result


def _seconds(size: int) -> float:
    return FREE_SECONDS + SECONDS_PER_BYTE * size


def _answer(pipe, function: Callable, path: str, size: int) -> None:
    faulthandler.disable()  # a crash is told in one sentence
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(_seconds(size)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + FREE_MEMORY + BYTES_PER_BYTE * size
        resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))
    try:
        answer = pickle.dumps((None, None, function(path)))
    except Sorry as sorry:
        answer = pickle.dumps((str(sorry), None, None))
    except BaseException as error:  # SystemExit, too, is no result
        message = f"{type(error).__name__}: {error}"  # without the notes that newer versions of Python add
        answer = pickle.dumps((None, (message, traceback.format_exc()), None))
    pipe.send_bytes(answer)
