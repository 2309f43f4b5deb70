"""What the tests share: the real data sets, and a way to run a program as its user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Before the tests import numpy: their arrays are small, and threads only get in one another's way.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# DIALS' own programs may belong to another Python than ours, so every program gets the environment as it was before our
# package, once imported, pointed libtbx at the cctbx of this one.
ENVIRONMENT = dict(os.environ)

ROOT = Path(__file__).resolve().parent.parent
OUR_PROGRAMS = {
    "dials." + path.stem: "dials_postrefine.command_line." + path.stem
    for path in (ROOT / "dials_postrefine" / "command_line").glob("[!_]*.py")
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets, beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def run_program():
    """A function that runs a program, ours or one of DIALS, and returns the CompletedProcess with its text output.

    ``run_program("dials.merge", "scaled.expt", "scaled.refl", cwd=tmp_path)``; ours run from this checkout.
    """

    def run(name: str, *args, cwd, check: bool = False, timeout: float = 600) -> subprocess.CompletedProcess:
        if name in OUR_PROGRAMS:
            command = [sys.executable, "-m", OUR_PROGRAMS[name]]
        else:
            program = shutil.which(name, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
            command = [program or pytest.skip(f"{name} is not on PATH")]
        return subprocess.run(
            [*command, *map(str, args)],
            cwd=cwd,
            env=ENVIRONMENT,
            check=check,
            timeout=timeout,
            capture_output=True,
            encoding="utf-8",
        )

    return run


@pytest.fixture(scope="session")
def mpirun():
    """A function: number of ranks, command, and the folder to run it in -> the CompletedProcess; more than cores."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'dials_postrefine[mpi]'")
    program = shutil.which("mpirun") or pytest.skip("mpirun is not on PATH: apt-get install openmpi-bin")

    def run(n: int, *command: str, cwd, timeout: float = 300) -> subprocess.CompletedProcess:
        # Open MPI wants to be told that it may run as root, and more ranks than there are cores; on a busy machine a
        # rank that is asked to end may need more than the second that it leaves
        options = ["--oversubscribe", "--allow-run-as-root", "--mca", "odls_base_sigkill_timeout", "10"]
        return subprocess.run(
            [program, *options, "-n", str(n), *map(str, command)],
            cwd=cwd,
            env=ENVIRONMENT,
            timeout=timeout,
            capture_output=True,
            encoding="utf-8",
        )

    return run
