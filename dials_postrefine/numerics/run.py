"""
What a program lends its algorithms, so that these start no process, know no terminal and draw no seed of their own.

    with run.executor(initializer, initargs) as executor:
        for result in executor.map(function, items):
            ...

An executor has the interface of concurrent.futures, as those of mpi4py.futures and loky have: map gives the results in
the order of the items, and initializer(*initargs) is called once in each worker, where it leaves what all items need.
The one that needs no other process is here; the others are in executors/.

What items add to arrays of integers, and do not give back, is brought together by executor.add_up(function) after them:
function() is the array that the items of a process added to, and the one here then has the sums of all, the others
zeros.  Forked processes share that array (memory that is mapped, mmap.mmap(-1, n)); ranks of MPI, which share nothing,
get what the initializer is given as copies, and their arrays are added, exactly as integers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass


class WorkerFailed(RuntimeError):
    """What a function raised, or returned, could not be brought to the parent as it was: its name and message."""


class SerialExecutor(Executor):
    """
    Does everything here and at once; map takes an item only when its result is asked for.

    Parameters
    ----------
    initializer, initargs : callable, tuple
        What is called before the first item, with its arguments.
    """

    def __init__(self, initializer: Callable | None = None, initargs: tuple = ()) -> None:
        if initializer is not None:
            initializer(*initargs)

    def submit(self, function: Callable, /, *args, **kwargs) -> Future:
        """The finished Future of function(*args, **kwargs); WorkerFailed stands for SystemExit, as with processes."""
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except SystemExit as error:
            failed = WorkerFailed(describe_error(error))
            failed.__cause__ = error
            future.set_exception(failed)
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable, *iterables: Iterable, timeout=None, chunksize: int = 1) -> Iterator:
        """The results of function over the items, one by one; timeout and chunksize mean nothing here."""
        for args in zip(*iterables):
            yield self.submit(function, *args).result()

    def add_up(self, function: Callable) -> None:
        """Nothing: all is here (module docstring)."""


def describe_error(error: BaseException) -> str:
    """
    The name of an error and its message.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    str
    """
    try:
        message = str(error)
    except Exception:
        message = "without a message that can be printed"
    return f"{type(error).__qualname__}: {message}"


def no_progress(what: str, done: int, total: int) -> None:
    """
    Whom to tell how far the work is when nobody wants to know.

    Parameters
    ----------
    what : str
    done, total : int
    """


@dataclass(frozen=True)
class Run:
    """
    What a program lends an algorithm.

    Parameters
    ----------
    executor : callable
        executor(initializer=None, initargs=()) starts workers: a context manager that gives an Executor.
    progress : callable
        progress(what, done, total) is told how far the work is.
    seed : int
        Of all that is drawn at random.
    """

    executor: Callable[..., Executor] = SerialExecutor
    progress: Callable[[str, int, int], None] = no_progress
    seed: int = 0
