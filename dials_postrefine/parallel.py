"""
One map function over processes: results in the order of the input, serial when nproc is 1.

    with ordered_map(nproc) as mapped:
        results = list(mapped(function, items))

What a worker computes depends on its item alone, so that the result is the same whatever nproc is.

Each worker has a pipe of its own, and nothing is shared: the pools of the standard library have locks, which a worker
that is killed (by the system, short of memory; by a batch system, with all processes of a job) keeps for ever, and then
the parent waits for ever.  Here its pipe ends, and the parent says so.  Signals are for the parent; a worker ends with
it, by the pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback

from dials_postrefine.interruption import signals_blocked


@contextlib.contextmanager
def ordered_map(nproc: int = 1) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """
    A map function over nproc forked processes that live as long as the block; functions must be importable by name.

    Items are taken when a worker is free for them.  Raises Sorry where a worker is killed from outside.
    """
    if nproc <= 1:
        yield map
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

        def mapped(function: Callable, items: Iterable) -> Iterator:
            for pipe in list(busy):  # whoever asked for this does not want it any more
                pipe.recv()
                del busy[pipe]
            left, free, done, turn = enumerate(items), list(pipes), {}, 0
            while True:
                while free and (given := next(left, None)) is not None:
                    with _death_is_told():
                        free[-1].send((function, given[1]))
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
                    with _death_is_told():
                        done[busy[pipe]] = pipe.recv()
                    del busy[pipe]
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
            function, item = pipe.recv()
            try:
                answer = None, function(item)
            except Exception as error:
                answer = ExceptionWithTraceback(error, error.__traceback__), None
            pipe.send(answer)


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
def _death_is_told() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        from dials.util import Sorry

        raise Sorry("A worker process was killed (short of memory?): run again, with a smaller nproc.") from None
