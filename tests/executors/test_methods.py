"""Who does the work follows from the parameters and from what has started the program."""

from __future__ import annotations

import pytest

from dials_postrefine.executors import mpi
from dials_postrefine.executors.methods import spread_work


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch):
    for name in (*mpi.SIZES, *mpi.NUMBERS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("method", "nproc", "most", "words"),
    [
        ("auto", None, None, "Processes: 16 of one thread each, on 16 cores"),
        ("auto", 3, None, "Processes: 3 of"),
        ("processes", None, 5, "Processes: 5 of"),
        ("serial", 4, None, "Processes: 1 of"),
    ],
)
@pytest.mark.parametrize("tasks", [None, "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_one_task_has_all_cores(method, nproc, most, words, tasks, monkeypatch):
    """Also where srun or mpirun has started it: srun -n 1 -c 16."""
    if tasks:
        monkeypatch.setenv(tasks, "1")
    with mpi.ranks() as works:
        assert works and mpi.world() is None
        assert spread_work(method, nproc, 16, print, most=most)[1].startswith(words)


def test_the_launcher_s_number_of_tasks_is_read(monkeypatch):
    assert mpi.n_tasks() == 0
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")  # one a node, that mpirun has for itself
    assert mpi.n_tasks() == 2
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "32")
    assert mpi.n_tasks() == 32
