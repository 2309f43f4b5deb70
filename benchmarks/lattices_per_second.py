"""
CPU time a lattice and cycle, and memory a reflection, of dials.postrefine on simulated stills of growing number.

    python benchmarks/lattices_per_second.py [lattices ...]

Each run is the whole program in one process: reading, one cycle (and for comparison three) against an external
reference, writing, but for the page with plots, which takes about as long whatever it shows and is timed by itself: the
last column, in seconds.  Time is CPU time of the process without its start-up (imports); memory is the peak above the
size of the process right after the reflection table was loaded, with the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

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


def measure(folder: Path, prefix: str, n_cycles: int, page: bool = False) -> dict:
    """One run of the program in a process of its own."""
    out = folder / "measured.json"
    files = [f"{prefix}.expt", f"{prefix}.refl", f"reference={prefix}_truth.mtz", f"n_cycles={n_cycles}", "nproc=1"]
    command = [sys.executable, "-c", ONE_RUN, str(out), *files, *([] if page else ["output.html=None"])]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def main(numbers: list[int]) -> None:
    """Print a row for each number of lattices."""
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    print("lattices  reflections/lattice  ms/lattice, 1 cycle  ms/lattice and cycle of 3  bytes/reflection  page, s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in numbers:
            prefix = str(folder / f"stills_{number}")
            write_stills(simulate_stills(StillsOptions(n_lattices=number)), prefix)
            one, three = (measure(folder, prefix, n_cycles) for n_cycles in (1, 3))
            all_of_it = measure(folder, prefix, 3, page=True)
            print(
                f"{number:8d}  {one['n'] / number:19.0f}  {1e3 * one['cpu'] / number:19.2f}"
                f"  {1e3 * three['cpu'] / number / 3:25.2f}  {all_of_it['bytes']:16.0f}"
                f"  {all_of_it['cpu'] - three['cpu']:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [100, 400, 1600, 6400])
