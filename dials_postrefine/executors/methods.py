"""How the work of a program is spread, by its parameters mp.method and mp.nproc: a Run, and words for the log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dials_postrefine.executors import mpi
from dials_postrefine.executors.processes import make_run
from dials_postrefine.numerics.run import Run


def check_method(method: str) -> None:
    """Raises Sorry where mp.method=mpi has not been started as that."""
    if method == "mpi" and not mpi.n_tasks():
        from dials.util import Sorry

        raise Sorry("mp.method=mpi has to be started by MPI: mpirun -n 8 dials.PROGRAM ..., or srun.")


def copies_here(method: str) -> int:
    """How many copies of what workers add to there are in the memory of this host: one, or one a rank of MPI."""
    world = mpi.world()
    return 1 if world is None or method not in ("auto", "mpi") else world.n_here


def spread_work(
    method: str,
    nproc: int | None,
    cores: int,
    progress: Callable[[str, int, int], None],
    seed: int = 0,
    most: int | None = None,
) -> tuple[Run, str]:
    """
    What a program lends its algorithms, and how it is called in the log.

    method: auto, processes, serial or mpi; nproc: the processes, of each rank where there are several, None for as many
    as there are cores, or one a rank; most: the number of items, which more processes would not share.
    """
    world = mpi.world()
    if method in ("auto", "mpi") and world is not None:
        nproc = 1 if nproc is None else nproc
        words = f"MPI: {world.size} ranks, processes of each: {nproc} of one thread each"
        return Run(partial(mpi.MpiExecutor, world, nproc), progress, seed), words
    nproc = 1 if method == "serial" else cores if nproc is None else nproc
    nproc = nproc if most is None else min(nproc, most)
    return make_run(nproc, progress, seed), f"Processes: {nproc} of one thread each, on {cores} cores"
