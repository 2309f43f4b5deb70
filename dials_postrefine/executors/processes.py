"""
One map function over processes: results in the order of the input, serial when nproc is 1.

    with ordered_map(nproc) as mapped:
        results = list(mapped(function, items))

What a worker computes depends on its item alone, so that the result is the same whatever nproc is.

Each worker has a pipe of its own, and nothing is shared: the pools of the standard library have locks, which a worker
that is killed (by the system, short of memory; by a batch system, with all processes of a job) keeps for ever, and then
the parent waits for ever.  Here its pipe ends, and the parent says so.  Signals are for the parent; a worker ends with
it, by the pipe.

An exception comes through with the worker's traceback as its cause.  One that pickle can't take apart and put together
again comes as its nearest base class that it can, or as WorkerFailed; so does a result of that kind, and SystemExit,
which is no reason for the program to end as if all were well.  Only what really ends a worker is told as its death.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback
from typing import Any

from dials_postrefine.executors.signals import signals_blocked

DYING = 5.0  # seconds that the system may take to say how a process has ended


class WorkerFailed(RuntimeError):
    """What a function raised, or returned, could not be brought to the parent as it was: its name and message."""


@contextlib.contextmanager
def ordered_map(nproc: int = 1) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """
    A map function over nproc forked processes that live as long as the block; functions must be importable by name.

    Items are taken when a worker is free for them.  Raises what the function raises, WorkerFailed for SystemExit and
    for what can't be pickled, and Sorry where a worker is killed from outside.
    """
    if nproc <= 1:
        yield _serial_map
        return
    fork = multiprocessing.get_context("fork")
    workers, pipes = [], []
    try:
        with signals_blocked():  # and so they are in the workers
            for _ in range(nproc):
                ours, theirs = fork.Pipe()
                pipes.append(ours)
                worker = fork.Process(target=_work, args=(theirs, list(pipes)), daemon=True)
                worker.start()  # a signal from before may still be told here: what is in the list has been started
                workers.append(worker)
                theirs.close()
        busy: dict[Connection, int] = {}
        worker_of = dict(zip(pipes, workers))

        def mapped(function: Callable, items: Iterable) -> Iterator:
            for pipe in list(busy):  # whoever asked for this does not want it any more
                with _death_is_told(worker_of[pipe]):
                    pipe.recv_bytes()
                del busy[pipe]
            left, free, done, turn = enumerate(items), list(pipes), {}, 0
            while True:
                while free and (given := next(left, None)) is not None:
                    task = pickle.dumps((function, given[1]))
                    with _death_is_told(worker_of[free[-1]]):
                        free[-1].send_bytes(task)
                    busy[free.pop()] = given[0]
                while turn in done:
                    error, result = done.pop(turn)
                    if error is not None:
                        raise error
                    yield result
                    turn += 1
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    with _death_is_told(worker_of[pipe]):
                        answer = pipe.recv_bytes()
                    done[busy.pop(pipe)] = _read_answer(answer)
                    free.append(pipe)

        yield mapped
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def _work(pipe: Connection, of_parent: list[Connection]) -> None:
    """What a worker does: answer each function and item with an error or None, and the result."""
    for other in of_parent:  # else the pipes would not end with the parent
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv_bytes()
            try:
                function, item = pickle.loads(task)
                answer = pickle.dumps((None, function(item)))
            except BaseException as error:  # signals are blocked, so that also KeyboardInterrupt is the function's own
                answer = pickle.dumps((_portable(error), None))
            pipe.send_bytes(answer)


def _serial_map(function: Callable, items: Iterable) -> Iterator:
    for item in items:
        try:
            result = function(item)
        except SystemExit as error:
            raise WorkerFailed(_words(error)) from error
        yield result


def _portable(error: BaseException) -> ExceptionWithTraceback:
    """The error, or what stands for it (module docstring), with its traceback, so that it can be pickled."""
    kinds = [kind for kind in type(error).__mro__[1:] if kind not in (Exception, BaseException, object)]
    if not isinstance(error, Exception):
        kinds = []
    for make in [lambda: error, *(lambda kind=kind: kind(str(error)) for kind in kinds)]:
        try:
            packed = ExceptionWithTraceback(make(), error.__traceback__)
            if isinstance(pickle.loads(pickle.dumps(packed)), Exception):
                return packed
        except Exception:  # whatever a class may do there
            continue
    return ExceptionWithTraceback(WorkerFailed(_words(error)), error.__traceback__)


def _words(error: BaseException) -> str:
    """The name of an error and its message."""
    try:
        message = str(error)
    except Exception:
        message = "without a message that can be printed"
    return f"{type(error).__qualname__}: {message}"


def _read_answer(answer: bytes) -> tuple[Exception | None, Any]:
    try:
        return pickle.loads(answer)
    except Exception as error:
        failed = WorkerFailed(f"the result of a worker process can't be read, {_words(error)}")
        failed.__cause__ = error
        return failed, None


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
