"""
CPU time a lattice, and memory a reflection, of dials.postrefine on simulated stills of growing number.

    python benchmarks/lattices_per_second.py [lattices ...]

Stills with physics of their own (StillsOptions.unlike_model), some 280 reflections each, all in one process and one
thread, CPU time of the process:

    ms/lattice and cycle    the cycles alone: stills/loop.postrefine against the data's own mean, mosaic radius, cell
                            scale and Pearson VII at its Gaussian end; first mean, fits, rejection, error model, merging
    ms/lattice, all         the whole plain command, without options: reading, choice of the model, half sets, cycles,
                            statistics, page, writing; without the imports at the start

and bytes/reflection, the peak of the plain command above the size of the process right after the reflection table was
loaded.  A small run before compiles what numba keeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

WARM_UP = 40  # lattices

ONE_RUN = """
import json, re, sys, time
import dials_postrefine
from dials_postrefine.command_line.postrefine import run
from dials_postrefine.files.dials import tables
import dials_postrefine.programs.stills_input
import dials_postrefine.files.reference.alignment
import dials_postrefine.stills.statistics
import iotbx.mtz, iotbx.reflection_file_reader
from dials.algorithms.scaling.model.model import KBScalingModel

def resident(what):
    with open("/proc/self/status") as status:
        return int(re.search(what + r":\\s+(\\d+) kB", status.read()).group(1)) * 1024

loaded = {}
join = tables.join_tables
def join_and_measure(*args):
    table = join(*args)
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    loaded.update(size=resident("VmRSS"), n=len(table))
    return table
tables.join_tables = join_and_measure

before = time.process_time()
run(sys.argv[2:])
cpu = time.process_time() - before
with open(sys.argv[1], "w") as out:
    json.dump({"cpu": cpu, "bytes": (resident("VmHWM") - loaded["size"]) / loaded["n"] - 6 * 8, "n": loaded["n"]}, out)
"""


def time_cycles(number: int) -> tuple[float, float]:
    """CPU time of the cycles alone, ms a lattice and cycle, and the number of reflections a lattice."""
    from dials_postrefine.simulate.still_files import as_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
    from dials_postrefine.stills.fits import FitSettings
    from dials_postrefine.stills.loop import DatasetSettings, postrefine
    from dials_postrefine.stills.partiality import Profile

    stills = as_stills(simulate_stills(StillsOptions.unlike_model(number, 0)))
    fit = FitSettings(profile=Profile(exponent=50.0), radius="mosaic", unit_cell="scale")
    before = time.process_time()
    result = postrefine(stills, DatasetSettings(fit=fit))
    spent = time.process_time() - before
    return 1e3 * spent / number / len(result.cycles), len(stills.unique) / number


def run_command(folder: Path, number: int) -> dict:
    """The plain command in a process of its own."""
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    prefix = str(folder / f"stills_{number}")
    write_stills(simulate_stills(StillsOptions.unlike_model(number, 0)), prefix)
    out = folder / "measured.json"
    command = [sys.executable, "-c", ONE_RUN, str(out), f"{prefix}.expt", f"{prefix}.refl", "nproc=1"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def main(numbers: list[int]) -> None:
    """Print a row for each number of lattices."""
    print("lattices  reflections/lattice  ms/lattice and cycle  ms/lattice, all  bytes/reflection")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        time_cycles(WARM_UP), run_command(folder, WARM_UP)
        for number in numbers:
            (cycle, n), command = time_cycles(number), run_command(folder, number)
            print(
                f"{number:8d}  {n:19.0f}  {cycle:20.2f}  {1e3 * command['cpu'] / number:15.2f}"
                f"  {command['bytes']:16.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [100, 400, 1600, 6400])
