"""
The ranks of MPI do what processes do: this file is a program, too, that mpirun starts with the name of a case.

    mpirun -n 3 python test_mpi.py order
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dials_postrefine.executors import mpi

PROGRAM = str(Path(__file__).resolve())
N_SUMS = 1000

_sums = np.zeros(0, np.int64)


@pytest.fixture
def start(mpirun, tmp_path):
    """A function: number of ranks, case, and what is said after the program's name -> the CompletedProcess."""

    def run(n: int, case: str, *more: str) -> subprocess.CompletedProcess:
        return mpirun(n, sys.executable, PROGRAM, case, *more, cwd=tmp_path)

    return run


@pytest.mark.parametrize("n", [2, 3])
def test_the_ranks_do_what_processes_do(start, n):
    done = start(n, "all")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["order", "processes", "large", "errors", "initializer", "nothing"]


def test_a_rank_that_is_killed_ends_the_run_with_its_reason(start, tmp_path):
    pytest.importorskip("dials.util", reason="Sorry is of DIALS")
    (tmp_path / "result").write_text("earlier")
    start_time = time.monotonic()
    done = start(3, "killed")
    assert done.returncode != 0 and time.monotonic() - start_time < 60.0
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("Sorry")]
    assert "Rank 2 of MPI (process " in said and "was killed (short of memory?): run again." in said
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"result": "earlier"}


def test_tasks_that_were_told_different_things_are_not_taken_for_one_run(start):
    done = start(1, "all", ":", "-n", "1", sys.executable, PROGRAM, "killed")
    assert done.returncode != 0
    assert done.stderr.count("Sorry: The 2 tasks of one run have different arguments") == 1


# What the ranks do


def square(x):
    return x * x, mpi.MpiExecutor.__name__, os.environ["OMPI_COMM_WORLD_RANK"], os.getpid()


def fail_at_seven(x):
    if x == 7:
        raise ValueError("seven")
    return x


def begin(first):
    global _sums
    _sums = np.full(N_SUMS, 10 // first[0], np.int64)


def add(x):
    _sums[x % N_SUMS] += x
    time.sleep(0.001)
    return os.environ["OMPI_COMM_WORLD_RANK"]


def sums():
    return _sums


def mean(a):
    return a.mean(), a


def leave(x):
    sys.exit(0)


def die(x):
    if os.environ["OMPI_COMM_WORLD_RANK"] == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)


def run_all():
    with mpi.MpiExecutor(mpi.world(), 1) as executor:
        results = list(executor.map(square, iter(range(200))))
        assert [value for value, *_ in results] == [x * x for x in range(200)]
        assert len({rank for *_, rank, _ in results}) == mpi.world().size
    print("order")
    with mpi.MpiExecutor(mpi.world(), 2) as executor:
        results = list(executor.map(square, range(100)))
        assert [value for value, *_ in results] == [x * x for x in range(100)]
        assert len({pid for *_, pid in results}) > mpi.world().size
    print("processes")
    with mpi.MpiExecutor(mpi.world(), 1) as executor:
        arrays = [np.full(300_000, float(k)) for k in range(12)]  # more than MPI sends before it is asked for
        assert all(value == k and (a == k).all() for k, (value, a) in enumerate(executor.map(mean, arrays)))
    print("large")
    with mpi.MpiExecutor(mpi.world(), 1) as executor:
        results = executor.map(fail_at_seven, range(100))
        assert [next(results) for _ in range(7)] == list(range(7))
        with pytest.raises(ValueError, match="seven"):
            next(results)
        with pytest.raises(RuntimeError, match="SystemExit: 0"):
            list(executor.map(leave, range(3)))
        assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]  # and not what nobody fetched
    print("errors")
    first = np.ones(1)
    first.setflags(write=False)
    with mpi.MpiExecutor(mpi.world(), 1, begin, (first,)) as executor:
        assert len(set(executor.map(add, range(3 * N_SUMS)))) == mpi.world().size
        executor.add_up(sums)
    expected = 10 * mpi.world().size + 3 * np.arange(N_SUMS) + 3 * N_SUMS
    np.testing.assert_array_equal(_sums, expected)
    print("initializer")
    with pytest.raises(ZeroDivisionError):
        with mpi.MpiExecutor(mpi.world(), 1, begin, ([0],)):
            pass
    with mpi.MpiExecutor(mpi.world(), 1) as executor:
        assert list(executor.map(abs, [])) == []
    print("nothing")


def run_killed():
    from dials_postrefine.command_line import exit_with_sorry
    from dials_postrefine.files.safety.outputs import Outputs

    with exit_with_sorry(), Outputs() as outputs, mpi.MpiExecutor(mpi.world(), 1) as executor:
        Path(outputs.temporary("result")).write_text("new")
        list(executor.map(die, range(1000)))


if __name__ == "__main__":
    with mpi.ranks() as works:
        if works:
            {"all": run_all, "killed": run_killed}[sys.argv[1]]()
