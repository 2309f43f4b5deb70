"""Results come in the order of the input whatever the number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from dials_postrefine.parallel import ordered_map, single_thread


def square(x):
    return x * x, os.getpid()


@pytest.mark.parametrize("nproc", [1, 2, 3])
def test_results_are_in_order(nproc):
    with ordered_map(nproc) as mapped:
        results = list(mapped(square, iter(range(50))))
    assert [value for value, _ in results] == [x * x for x in range(50)]
    processes = {pid for _, pid in results}
    assert (processes == {os.getpid()}) == (nproc == 1)


def fail(x):
    raise ValueError(x)


def test_an_error_in_a_process_comes_through():
    with pytest.raises(ValueError, match="3"):
        with ordered_map(2) as mapped:
            list(mapped(fail, [3]))


def nap(x):
    time.sleep(0.02 * (x % 3))
    return x


def test_results_are_in_order_where_the_first_takes_longest():
    with ordered_map(3) as mapped:
        assert list(mapped(nap, [5, 3, 4, 0, 2, 1])) == [5, 3, 4, 0, 2, 1]


def test_what_nobody_fetched_does_not_come_as_the_next_result():
    with ordered_map(2) as mapped:
        assert next(mapped(nap, [2, 3, 4, 5])) == 2
        assert list(mapped(nap, [7, 8, 9])) == [7, 8, 9]


def end(x):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("size", [1, 10**6])  # more than a pipe holds
def test_a_worker_that_is_killed_does_not_hang_the_program(size):
    sorry = pytest.importorskip("dials.util", reason="Sorry is of DIALS").Sorry
    with pytest.raises(sorry, match="worker process was killed"):
        with ordered_map(2) as mapped:
            list(mapped(end, [b" " * size] * 10))
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="who runs is read from /proc")
def test_workers_end_with_a_parent_that_is_killed():
    def parent():
        with ordered_map(2) as mapped:
            for pid in {pid for _, pid in mapped(square, range(20))}:
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
        with single_thread(), ordered_map(2) as mapped:
            assert set(mapped(count_threads, range(4))) == {(1, 1)}
            assert {library["num_threads"] for library in threadpoolctl.threadpool_info()} == {1}
        after = {library["filepath"]: library["num_threads"] for library in threadpoolctl.threadpool_info()}
    assert after == before and max(before.values(), default=2) == 2
