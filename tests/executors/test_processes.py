"""Results come in the order of the input whatever the number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback

import numpy as np
import pytest

from dials_postrefine.executors.processes import make_run, single_thread
from dials_postrefine.numerics.run import WorkerFailed


def square(x):
    return x * x, os.getpid()


@pytest.mark.parametrize("nproc", [1, 2, 3])
def test_results_are_in_order(nproc):
    with make_run(nproc).executor() as executor:
        results = list(executor.map(square, iter(range(50))))
    assert [value for value, _ in results] == [x * x for x in range(50)]
    processes = {pid for _, pid in results}
    assert (processes == {os.getpid()}) == (nproc == 1)


@pytest.mark.parametrize("nproc", [1, 2])
def test_what_is_submitted_is_done_whatever_is_asked_for_first(nproc):
    with make_run(nproc).executor() as executor:
        futures = [executor.submit(divmod, x, 3) for x in range(5)]
        assert futures[4].result() == (1, 1) and futures[0].result() == (0, 0)
        failed = executor.submit(divmod, 1, 0)
        assert isinstance(failed.exception(), ZeroDivisionError)
        assert executor.submit(int, "11", base=2).result() == 3


_number = 0


def set_number(value):
    global _number
    _number = 10 // value


def add_number(x, y):
    return x + y + _number


@pytest.mark.parametrize("nproc", [1, 3])
def test_workers_have_what_the_initializer_left(nproc):
    with make_run(nproc).executor(set_number, (2,)) as executor:
        assert list(executor.map(add_number, range(6), [100] * 6)) == [105, 106, 107, 108, 109, 110]


@pytest.mark.parametrize("nproc", [1, 2])
def test_an_initializer_that_fails_is_told_with_its_own_words(nproc):
    with pytest.raises(ZeroDivisionError):
        with make_run(nproc).executor(set_number, (0,)) as executor:
            list(executor.map(add_number, range(6), range(6)))


def fail(x):
    raise ValueError(x)


def test_an_error_in_a_process_comes_through():
    with pytest.raises(ValueError, match="3"):
        with make_run(2).executor() as executor:
            list(executor.map(fail, [3]))


class NeedsTwo(Exception):
    """Pickled without a word, but not put together again: its message alone does not do."""

    def __init__(self, lattice, reason):
        super().__init__(f"{lattice}: {reason}")


class NeedsTwoValues(NeedsTwo, ValueError):
    pass


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Result:
    """Pickled, but not put together again."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return end_of_file, (self.value,)


def end_of_file(value):
    raise EOFError(f"while reading {value}")


def ways_to_fail(way):
    if way == "arguments":
        raise NeedsTwo("lattice 3", "no beam")
    if way == "arguments of a kind that is known":
        raise NeedsTwoValues("lattice 3", "no beam")
    if way == "lambda":
        error = ValueError("it holds a function")
        error.of = lambda: way
        raise error
    if way == "lambda argument":
        raise ValueError("it holds a function", lambda: way)
    if way == "local class":

        class Local(KeyError):
            pass

        raise Local("of no module")
    if way == "huge":
        raise ValueError("x" * 10**7)
    if way == "end of file":
        raise EOFError("as if the pipe had ended")
    if way == "broken pipe":
        raise BrokenPipeError("as if the pipe had broken")
    if way == "exit":
        sys.exit("a library wants to end it all")
    if way == "exit as if all were well":
        sys.exit(0)
    if way == "interrupt":
        raise KeyboardInterrupt("by its own hand")
    if way == "no message":
        raise Speechless()
    if way == "boost":
        from cctbx import sgtbx

        sgtbx.rt_mx(object())
    if way == "result that can't be pickled":
        return lambda: way
    if way == "result that can't be unpickled":
        return Result(7)
    raise AssertionError(way)


@pytest.mark.parametrize(
    "way, kind, message",
    [
        ("arguments", WorkerFailed, "NeedsTwo: lattice 3: no beam"),
        ("arguments of a kind that is known", ValueError, "lattice 3: no beam"),
        ("lambda", WorkerFailed, "ValueError: it holds a function"),
        ("lambda argument", WorkerFailed, "ValueError: .*it holds a function"),
        ("local class", KeyError, "of no module"),
        ("huge", ValueError, "x{1000}"),
        ("end of file", EOFError, "as if the pipe had ended"),
        ("broken pipe", BrokenPipeError, "as if the pipe had broken"),
        ("exit", WorkerFailed, "SystemExit: a library wants to end it all"),
        ("exit as if all were well", WorkerFailed, "SystemExit: 0"),
        ("interrupt", WorkerFailed, "KeyboardInterrupt: by its own hand"),
        ("no message", Speechless, None),
        ("boost", TypeError, "rt_mx"),
    ],
)
def test_any_error_of_a_worker_comes_through_with_its_traceback(way, kind, message):
    if way == "boost":
        pytest.importorskip("cctbx", reason="cctbx raises what pickle does not know")
    with pytest.raises(kind, match=message) as caught:
        with make_run(2).executor() as executor:
            list(executor.map(ways_to_fail, [way, way]))
    if way != "no message":
        told = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
        assert "in ways_to_fail" in told and __file__ in told


@pytest.mark.parametrize(
    "way, message", [("result that can't be pickled", "lambda"), ("result that can't be unpickled", "while reading 7")]
)
def test_a_result_that_pickle_does_not_take_is_said_to_be_one(way, message):
    with pytest.raises(Exception, match=message) as caught:
        with make_run(2).executor() as executor:
            list(executor.map(ways_to_fail, [way]))
    assert "killed" not in str(caught.value) and not isinstance(caught.value, EOFError)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_function_that_exits_does_not_end_the_program_as_if_all_were_well(nproc):
    with pytest.raises(WorkerFailed, match="SystemExit: 0"):
        with make_run(nproc).executor() as executor:
            list(executor.map(ways_to_fail, ["exit as if all were well"]))


def nap(x):
    time.sleep(0.02 * (x % 3))
    return x


def test_results_are_in_order_where_the_first_takes_longest():
    with make_run(3).executor() as executor:
        assert list(executor.map(nap, [5, 3, 4, 0, 2, 1])) == [5, 3, 4, 0, 2, 1]


def test_what_nobody_fetched_does_not_come_as_the_next_result():
    with make_run(2).executor() as executor:
        assert next(executor.map(nap, [2, 3, 4, 5])) == 2
        assert list(executor.map(nap, [7, 8, 9])) == [7, 8, 9]


def end(x):
    os.kill(os.getpid(), signal.SIGKILL)


def die(how):
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), how)


@pytest.mark.parametrize(
    "how, words",
    [
        (signal.SIGKILL, r"was killed \(short of memory\?\): run again"),
        (signal.SIGSEGV, r"crashed \(signal SIGSEGV\): run again"),
        ("exit", "ended by itself with exit status 3: run again"),
    ],
)
def test_the_way_a_worker_died_is_told(how, words, monkeypatch):
    sorry = pytest.importorskip("dials.util", reason="Sorry is of DIALS").Sorry
    with pytest.raises(sorry, match=words):
        with make_run(2).executor() as executor:
            list(executor.map(die, [how] * 3))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("size", [1, 10**6])  # more than a pipe holds
def test_a_worker_that_is_killed_does_not_hang_the_program(size):
    sorry = pytest.importorskip("dials.util", reason="Sorry is of DIALS").Sorry
    with pytest.raises(sorry, match="worker process was killed"):
        with make_run(2).executor() as executor:
            list(executor.map(end, [b" " * size] * 10))
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="who runs is read from /proc")
def test_workers_end_with_a_parent_that_is_killed():
    def parent():
        with make_run(2).executor() as executor:
            for pid in {pid for _, pid in executor.map(square, range(20))}:
                os.write(write, b"%d " % pid)
            os.kill(os.getpid(), signal.SIGKILL)

    read, write = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    process.join(20)
    workers = [int(pid) for pid in os.read(read, 1000).split()]
    assert workers
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether it is there and no zombie, which only waits to be noticed."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_threads(_):
    """What the libraries of this process would use for a product of matrices, and how many threads it then has."""
    from threadpoolctl import threadpool_info

    a = np.ones((1000, 1000))
    assert (a @ a)[0, 0] == 1000.0
    with open("/proc/self/status") as status:
        (n,) = [int(line.split()[1]) for line in status if line.startswith("Threads:")]
    return max([library["num_threads"] for library in threadpool_info()], default=1), n


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="threads are counted in /proc")
def test_each_process_uses_one_thread_and_the_program_as_many_as_before_afterwards():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="it comes with DIALS")

    with threadpoolctl.threadpool_limits(2):
        before = {library["filepath"]: library["num_threads"] for library in threadpoolctl.threadpool_info()}
        with single_thread(), make_run(2).executor() as executor:
            assert set(executor.map(count_threads, range(4))) == {(1, 1)}
            assert {library["num_threads"] for library in threadpoolctl.threadpool_info()} == {1}
        after = {library["filepath"]: library["num_threads"] for library in threadpoolctl.threadpool_info()}
    assert after == before and max(before.values(), default=2) == 2
