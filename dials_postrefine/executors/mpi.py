"""
The ranks of MPI with the interface of concurrent.futures: mpirun -n 8 dials.PROGRAM ..., or srun.

    with ranks() as works:               # in the program that all of them run
        if works:                        # rank 0 alone; the others have served it until here
            ...
            with MpiExecutor(world(), nproc, initializer, initargs) as executor:
                results = list(executor.map(function, items))

Rank 0 runs the program, and does items itself while it waits for those of others; the others call what they are sent,
each in nproc processes (processes.py) of its own, or itself.  A rank has what comes next at hand (AHEAD), so that it
need not wait for rank 0.  Results come in the order of the items; an item is taken, and sent, when a rank is free for
it.  What a rank computes depends on its item and on what the initializer left alone, so that the result is the same for
any number of ranks.

The initializer and its arguments go to all ranks as pickle has them, arrays apart and in pieces, as a message of MPI
has less than 2^31 bytes.  What ranks have added up, add_up brings together by MPI_Reduce of integers (numerics/run.py).

Whoever waits looks and sleeps (PATIENCE): a rank that waits within MPI would take a core.

Faults.  Errors come through as those of processes do (answers.py).  A rank that is killed is told by mpirun, which asks
the others to end: rank 0 does, and says which one is gone (lost).  Signals are for rank 0; the others ignore them and
end with it.  If they do not, within DYING seconds, MPI ends them all.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import Any

from dials_postrefine.executors.answers import answer, read_answer, refusal
from dials_postrefine.executors.processes import DYING, ProcessExecutor, single_thread
from dials_postrefine.executors.signals import signals_ignored
from dials_postrefine.numerics.run import SerialExecutor

# What the launchers tell of the number of tasks, and of which one this is: Open MPI; MPICH, Intel MPI; srun.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
NUMBERS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
AHEAD = 2  # bundles of items that a rank has at hand
PIECE = 1 << 26  # numbers or bytes of one message
PATIENCE = 0.002  # seconds between two looks at most
START, ITEMS, ADD, STOP, END = range(5)  # what rank 0 says

_world: World | None = None


def n_tasks() -> int:
    """As how many tasks the launcher of MPI has started this program; 0 where there is none."""
    return _first_of(SIZES)


def world() -> World | None:
    """The ranks that serve this program, None where there are none."""
    return _world


@contextlib.contextmanager
def ranks() -> Iterator[bool]:
    """Whether this process is to run the program: all but rank 0 serve that until it ends, and then are told False."""
    global _world
    comm = _connect() if n_tasks() > 1 else None
    if comm is not None and comm.rank:
        _serve(comm)
        yield False
        return
    _world = None if comm is None else World(comm)
    try:
        yield True
    finally:
        ended, _world = _world, None
        if ended is not None:
            ended.end()


def lost() -> str | None:
    """A sentence on ranks of this host that are gone; None where there are none."""
    return None if _world is None else _world.lost()


def _first_of(names: Iterable[str]) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def _connect():
    """All ranks, and a message of each who it is; ends the program where there is no MPI, or it knows of one task."""
    n, first = n_tasks(), _first_of(NUMBERS) == 0
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        sys.exit(
            f"Sorry: {n} tasks were started, which need mpi4py ({error}): pip install mpi4py, or start one."
            if first
            else 1
        )
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        sys.exit(
            f"Sorry: {n} tasks were started, of which mpi4py sees one: start them by the mpirun of the MPI that mpi4py "
            "was built with, or by srun --mpi=pmix."
            if first
            else 1
        )
    return comm


class World:
    """Rank 0's view of all ranks; the others must be in _serve.  Ends the program where their arguments differ."""

    def __init__(self, comm) -> None:
        self.comm = comm
        self.size = comm.size
        self._known = comm.gather(_about_me(), root=0)
        self.in_step = True  # as long as each rank is known to wait for what comes next
        if len({about[2] for about in self._known}) > 1:
            self.end()
            sys.exit(
                f"Sorry: The {self.size} tasks of one run have different arguments: start them one by one "
                "(srun -n 1), or all with the same."
            )

    @property
    def n_here(self) -> int:
        """How many ranks there are on the host of rank 0."""
        return sum(about[0] == self._known[0][0] for about in self._known)

    def lost(self) -> str | None:
        """As the function of that name."""
        for rank, (host, pid, _) in enumerate(self._known):
            if host == self._known[0][0] and not os.path.exists(f"/proc/{pid}") and os.path.isdir("/proc"):
                return f"Rank {rank} of MPI (process {pid} on {host}) was killed (short of memory?): run again."
        return None

    def end(self) -> None:
        """Let the other ranks go; if one does not answer, MPI ends all of them, and this one."""
        with signals_ignored():
            if self.in_step and self.lost() is None:
                self.tell(END)
                return
            error = sys.exc_info()[1]
            code = error.code if isinstance(error, SystemExit) else 1
            if isinstance(code, str):
                print(code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            self.comm.Abort(code if isinstance(code, int) else 1)

    def tell(self, what: int, content: Any = None) -> None:
        """Send all the other ranks a short message."""
        for rank in range(1, self.size):
            self.comm.send((what, content), rank)


def _about_me() -> tuple[str, int, str]:
    return socket.gethostname(), os.getpid(), repr((sys.argv[1:], os.getcwd()))


class MpiExecutor(Executor):
    """
    All ranks, as long as the block (module docstring).

    Parameters
    ----------
    world : World
    nproc : int
        The number of processes of each rank.
    initializer, initargs : callable, tuple
        What each rank calls first, with its arguments.
    """

    def __init__(self, world: World, nproc: int, initializer: Callable | None = None, initargs: tuple = ()) -> None:
        self._world, self._comm = world, world.comm
        self._n_answers = [0] * world.size  # that each rank owes
        self._sent: list[Any] = []  # requests of MPI
        self._futures: dict[int, list[Future]] = {}  # by the number of the bundle
        self._next = 0
        # what a free rank gets; with processes, that one slow item does not keep all of them waiting
        self._bundle = 1 if nproc == 1 else 4 * nproc
        self._here = SerialExecutor()
        world.in_step = False
        world.tell(START, nproc)
        _spread(self._comm, (initializer, initargs))
        try:
            self._here = _executor_of_rank(nproc, initializer, initargs)
        except BaseException:
            self.shutdown()
            raise

    def submit(self, function: Callable, /, *args, **kwargs) -> Future:
        """Done here; it is map that the ranks share."""
        return self._here.submit(function, *args, **kwargs)

    def map(self, function: Callable, *iterables: Iterable, timeout=None, chunksize: int = 1) -> Iterator:
        """The results in the order of the items, which are taken as ranks become free; no timeout, no chunks."""
        items, awaited = iter(zip(*iterables)), deque()
        patience = _Patience()
        while True:
            progressed = self._receive()
            for rank in range(1, self._world.size):
                while self._n_answers[rank] < AHEAD and (bundle := list(islice(items, self._bundle))):
                    awaited.extend(self._send(rank, function, bundle))
            one = next(items, None)
            if one is not None:
                awaited.append(self._here.submit(function, *one))
                progressed = True
            while awaited and awaited[0].done():
                yield awaited.popleft().result()
                progressed = True
            if one is None and not awaited:
                return
            if one is None and not any(self._n_answers):  # what is left is done here
                yield awaited.popleft().result()
            elif not progressed:
                patience.wait()
                continue
            patience = _Patience()

    def add_up(self, function: Callable) -> None:
        """Add the arrays function() of the other ranks to that of this one (numerics/run.py)."""
        self._world.tell(ADD, function)
        _reduce(self._comm, function())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the work of the ranks, when each has done what it has at hand."""
        self._here.shutdown()
        failed = sys.exc_info()[0] is not None
        if failed and self._world.lost():
            return  # mpirun, who has asked for it, leaves a second
        self._world.tell(STOP)
        limit = time.monotonic() + (DYING if failed else float("inf"))
        patience = _Patience()
        while any(self._n_answers):
            if not self._receive():
                if time.monotonic() > limit:
                    return  # out of step
                patience.wait()
        self._wait_for_sent()
        self._world.in_step = True

    def _send(self, rank: int, function: Callable, bundle: list[tuple]) -> list[Future]:
        self._futures[self._next] = futures = [Future() for _ in bundle]
        content = self._next, len(bundle), pickle.dumps((function, bundle))
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend((ITEMS, content), rank))
        self._n_answers[rank] += 1
        self._next += 1
        return futures

    def _receive(self) -> bool:
        """Take in the answers that are there; whether there were any."""
        found = False
        while any(self._n_answers) and self._comm.Iprobe():
            status = self._status()
            number, answers = self._comm.recv(status=status)
            self._n_answers[status.Get_source()] -= 1
            for future, content in zip(self._futures.pop(number), answers):
                error, result = read_answer(content)
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            found = True
        return found

    def _wait_for_sent(self) -> None:
        for request in self._sent:
            request.wait()

    @staticmethod
    def _status():
        from mpi4py import MPI

        return MPI.Status()


class _Patience:
    """Sleeps, ever longer up to PATIENCE."""

    def __init__(self) -> None:
        self._seconds = 2e-5

    def wait(self) -> None:
        time.sleep(self._seconds)
        self._seconds = min(PATIENCE, 1.5 * self._seconds)


def _executor_of_rank(nproc: int, initializer: Callable | None, initargs: tuple) -> Executor:
    """What does the items of a rank: forked processes have what the initializer leaves here."""
    if initializer is not None:
        initializer(*initargs)
    return ProcessExecutor(nproc) if nproc > 1 else SerialExecutor()


# What the other ranks do


def _serve(comm) -> None:
    """Do what rank 0 says until the end."""
    for name in THREADS:  # for libraries that are loaded from now on
        os.environ[name] = "1"
    with signals_ignored():
        comm.gather(_about_me(), root=0)
        while True:
            what, content = _hear(comm)
            if what == END:
                return
            if what == START:
                _work(comm, content)


def _hear(comm) -> tuple[int, Any]:
    """The next message of rank 0."""
    patience = _Patience()
    while not comm.Iprobe(source=0):
        patience.wait()
    return comm.recv(source=0)


def _work(comm, nproc: int) -> None:
    """The items of one MpiExecutor."""
    failed, executor, sent = None, SerialExecutor(), []
    with contextlib.ExitStack() as stack:
        try:
            initializer, initargs = _take(comm)
            stack.enter_context(single_thread())
            executor = stack.enter_context(_executor_of_rank(nproc, initializer, initargs))
        except BaseException as error:  # told in place of each result
            failed = refusal(error)
        while True:
            what, content = _hear(comm)
            if what == STOP:
                break
            if what == ADD:
                _reduce(comm, content())
                continue
            number, n, bundle = content
            answers = [failed] * n if failed else _answers(executor, bundle, n)
            sent = [request for request in sent if not request.Test()]
            sent.append(comm.isend((number, answers), 0))
    for request in sent:
        request.wait()


def _answers(executor: Executor, content: bytes, n: int) -> list[bytes]:
    """The answers to a bundle of n items."""
    try:
        function, bundle = pickle.loads(content)
    except BaseException as error:
        return [refusal(error)] * n
    if isinstance(executor, SerialExecutor):
        return [answer(partial(function, *args)) for args in bundle]
    return [answer(future.result) for future in [executor.submit(function, *args) for args in bundle]]


# Large messages


def _spread(comm, content: Any) -> None:
    """Send all ranks what they _take."""
    buffers: list[pickle.PickleBuffer] = []
    first = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    views = [memoryview(first), *(buffer.raw() for buffer in buffers)]
    views = [memoryview(bytearray(view)) if view.readonly else view for view in views]  # MPI takes no others
    comm.bcast([view.nbytes for view in views], root=0)
    for view in views:
        for start in range(0, view.nbytes, PIECE):
            comm.Bcast(view[start : start + PIECE], root=0)


def _take(comm) -> Any:
    views = [memoryview(bytearray(n)) for n in comm.bcast(None, root=0)]
    for view in views:
        for start in range(0, view.nbytes, PIECE):
            comm.Bcast(view[start : start + PIECE], root=0)
    return pickle.loads(views[0], buffers=views[1:])


def _reduce(comm, values) -> None:
    """Add the integers (n, ...) of all ranks to those of rank 0, in place; the others begin again from zero."""
    from mpi4py import MPI

    flat = values.reshape(-1)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        comm.Reduce(MPI.IN_PLACE if comm.rank == 0 else piece, piece if comm.rank == 0 else None, op=MPI.SUM, root=0)
    if comm.rank:
        flat[:] = 0
