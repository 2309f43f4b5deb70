"""
Worker processes with the interface of concurrent.futures: results in the order of the input, serial when nproc is 1.

    with make_run(nproc, progress, seed).executor() as executor:
        results = list(executor.map(function, items))

What a worker computes depends on its item and on what the initializer left alone, so that the result is the same
whatever nproc is.

Why not ProcessPoolExecutor: its workers share pipes and their locks.  One that is killed (by the system, short of
memory; by a batch system, with all processes of a job) while the pipe is full of items leaves the parent waiting for
ever with Python 3.11.2, that of Debian 12, and a parent that is killed leaves its workers behind: tests show both.
Here each worker has a pipe of its own, and nothing is shared: its pipe ends with it, and the parent says so.  Signals
are for the parent; a worker ends with it, by the pipe.

Exceptions come through (answers.py); only what really ends a worker is told as its death.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from dials_postrefine.executors.answers import answer, read_answer, refusal
from dials_postrefine.executors.signals import signals_blocked
from dials_postrefine.numerics.run import Run, SerialExecutor, no_progress

DYING = 5.0  # seconds that the system may take to say how a process has ended


def make_run(nproc: int = 1, progress: Callable[[str, int, int], None] = no_progress, seed: int = 0) -> Run:
    """What a program lends its algorithms, with nproc processes."""
    return Run(SerialExecutor if nproc <= 1 else partial(ProcessExecutor, nproc), progress, seed)


class ProcessExecutor(Executor):
    """
    nproc forked processes that live as long as the block; functions must be importable by name.

    Parameters
    ----------
    nproc : int
        The number of processes.
    initializer, initargs : callable, tuple
        What each process calls first, with its arguments; they are there from the fork, and need not be pickled.

    An item is sent when a worker is free for it.  Raises what the function raises, WorkerFailed for SystemExit and for
    what can't be pickled, and Sorry where a worker is killed from outside.
    """

    def __init__(self, nproc: int, initializer: Callable | None = None, initargs: tuple = ()) -> None:
        fork = multiprocessing.get_context("fork")
        self._workers: dict[Connection, Any] = {}
        self._busy: dict[Connection, Future] = {}
        try:
            with signals_blocked():  # and so they are in the workers
                for _ in range(nproc):
                    ours, theirs = fork.Pipe()
                    others = [*self._workers, ours]
                    worker = fork.Process(target=_work, args=(theirs, others, initializer, initargs), daemon=True)
                    worker.start()  # a signal from before may still be told here: what is known has been started
                    self._workers[ours] = worker
                    theirs.close()
        except BaseException:
            self.shutdown()
            raise

    def submit(self, function: Callable, /, *args, **kwargs) -> Future:
        """Give it to a free worker, after waiting for one; the Future takes answers in when its result is asked for."""
        while len(self._busy) == len(self._workers):
            self._receive()
        pipe = next(pipe for pipe in self._workers if pipe not in self._busy)
        task = pickle.dumps((function, args, kwargs))
        with _death_is_told(self._workers[pipe]):
            pipe.send_bytes(task)
        future = self._busy[pipe] = _Awaited(self._receive)
        return future

    def map(self, function: Callable, *iterables: Iterable, timeout=None, chunksize: int = 1) -> Iterator:
        """The results in the order of the items, which are taken as workers become free; no timeout, no chunks."""
        awaited: deque[Future] = deque()
        for args in zip(*iterables):
            awaited.append(self.submit(function, *args))
            while awaited and awaited[0].done():
                yield awaited.popleft().result()
        while awaited:
            yield awaited.popleft().result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.join()

    def add_up(self, function: Callable) -> None:
        """Nothing: what the processes add to, they share (numerics/run.py)."""

    def _receive(self) -> None:
        """Wait for answers and hand them to their Futures."""
        for pipe in wait(list(self._busy)):
            with _death_is_told(self._workers[pipe]):
                content = pipe.recv_bytes()
            error, result = read_answer(content)
            future = self._busy.pop(pipe)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)


class _Awaited(Future):
    """A Future whose answer is fetched by whoever asks for it, in the same thread."""

    def __init__(self, receive: Callable[[], None]) -> None:
        super().__init__()
        self._receive = receive

    def result(self, timeout=None):
        while not self.done():
            self._receive()
        return super().result(timeout)

    def exception(self, timeout=None):
        while not self.done():
            self._receive()
        return super().exception(timeout)


def _work(pipe: Connection, of_parent: list[Connection], initializer: Callable | None, initargs: tuple) -> None:
    """
    What a worker does: answer each function and its arguments with an error or None, and the result; all of them with
    the error of the initializer where that failed.
    """
    for other in of_parent:  # else the pipes would not end with the parent
        other.close()
    failed = None
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            failed = refusal(error)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv_bytes()
            pipe.send_bytes(failed or answer(lambda: _call(task)))


def _call(task: bytes) -> Any:
    function, args, kwargs = pickle.loads(task)
    return function(*args, **kwargs)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """
    One thread for BLAS, OpenMP and numba inside the block, and in processes forked there: nproc processes take nproc
    cores, and sums that a library shares out among threads do not depend on how many there are.
    """
    from threadpoolctl import threadpool_limits

    numba = sys.modules.get("numba")  # to import it only for this would take a second
    before = numba.get_num_threads() if numba else 1
    if numba:
        numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        if numba:
            numba.set_num_threads(before)


@contextlib.contextmanager
def _death_is_told(worker) -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        from dials.util import Sorry

        raise Sorry(f"A worker process {way_to_end(worker)}: run again, with a smaller nproc.") from None


def way_to_end(process) -> str:
    """How a process (of multiprocessing) that is no more has come to its end, as the rest of a sentence."""
    process.join(DYING)
    status = process.exitcode
    if status is None or status == -signal.SIGKILL:
        return "was killed (short of memory?)"
    if status >= 0:
        return f"ended by itself with exit status {status}"
    known = {number.value for number in signal.Signals}
    return f"crashed (signal {signal.Signals(-status).name if -status in known else -status})"
