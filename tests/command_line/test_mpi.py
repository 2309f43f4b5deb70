"""The programs started by mpirun write what they write otherwise, bit for bit, and say what is wrong once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from comparison import content, refusal

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials_postrefine.command_line import diffuse_map, postrefine
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

N_LATTICES = 70  # three chunks
# half sets, two cycles that restrain the lattices to their population; outliers to be found on images
STILLS = ["n_cycles=2", "profile=lorentzian", "radius=constant", "unit_cell=fixed", "output.html=None"]
IMAGES = ["d_min=4", "reject.n_sigma=8", "output.html=None", "output.mtz=None"]
WRITTEN = (
    "postrefined.refl",
    "postrefined.expt",
    "dials.postrefine.json",
    "diffuse.ccp4",
    "diffuse_anisotropic.ccp4",
    "radial.csv",
    "dials.diffuse_map.json",
)
# One start of the ranks for both programs.
BOTH = """
import sys
from dials_postrefine.command_line import diffuse_map, postrefine
postrefine.run(sys.argv[1].split())
diffuse_map.run(sys.argv[2].split())
"""


@pytest.fixture(scope="module")
def files(sweep, tmp_path_factory) -> list[str]:
    prefix = str(tmp_path_factory.mktemp("stills") / "stills")
    options = StillsOptions(n_lattices=N_LATTICES, d_min=4.0, seed=1, wild_fraction=0.01, useless_fraction=0.1)
    write_stills(simulate_stills(options), prefix)
    return [f"{prefix}.expt", f"{prefix}.refl", str(sweep)]


def written(folder: Path) -> dict[str, bytes]:
    return {name: content(folder / name) for name in WRITTEN}


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory) -> dict[str, bytes]:
    """What one process writes, as two do."""
    found = []
    for number in ("nproc=1", "mp.nproc=2"):
        folder = tmp_path_factory.mktemp("alone")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            postrefine.run([*files[:2], *STILLS, number])
            diffuse_map.run([files[2], *IMAGES, number])
        found.append(written(folder))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "more"), [(1, []), (2, []), (3, ["mp.method=mpi", "mp.nproc=2"])])
def test_the_number_of_ranks_changes_no_bit(files, alone, mpirun, tmp_path, n, more):
    commands = [" ".join([*files[:2], *STILLS, *more]), " ".join([files[2], *IMAGES, *more])]
    done = mpirun(n, sys.executable, "-c", BOTH, *commands, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{N_LATTICES} lattices, ") == 1
    assert done.stdout.count(f"MPI: {n} ranks") == (2 if n > 1 else 0)
    assert written(tmp_path) == alone


@pytest.mark.slow
def test_what_is_wrong_is_said_once(mpirun, tmp_path):
    program = ["-m", "dials_postrefine.command_line.postrefine"]
    done = mpirun(2, sys.executable, *program, "nothing.expt", "nothing.refl", "output.log=None", cwd=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "Sorry" in line or "Traceback" in line]
    assert said == ["Sorry: The file nothing.expt does not exist: check the name."]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("program", [postrefine, diffuse_map])
def test_mpi_without_mpirun_is_refused(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(program.run, tmp_path, ["a.expt", "a.refl", "mp.method=mpi"])
    assert said == "Sorry: mp.method=mpi has to be started by MPI: mpirun -n 8 dials.PROGRAM ..., or srun."


def test_the_old_name_of_nproc_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.phil").write_text("nproc = 2\n")
    said = refusal(postrefine.run, tmp_path, ["old.phil", "a.expt", "a.refl"])
    assert said == "Sorry: nproc= in old.phil is mp.nproc= since version 0.2: write mp.nproc= instead."
