"""
CPU time of the programs with n lattices, each with an image set of its own, as dials.stills_process writes them.

    python benchmarks/image_sets.py [lattices ...]

Prints for each n (by default 1000, 2000, 4000 and 10000) what dials.postrefine takes from reading to writing with one
cycle, and what reading alone takes in dials.reference_intensities and, of the same lattices as scaled data, in
dials.image_spread and dials.intensity_model; without the image sets in brackets.  All grow in proportion to n.  There
are no images behind the sets.  Time is CPU time without imports, in seconds.
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

DIFFERENT = 20  # lattices that are simulated; the others are copies under other names
TIMED = """
import contextlib, io, json, sys, time
import dials_postrefine
from dials_postrefine.command_line import postrefine
from dials_postrefine.programs import merged_data
from dials_postrefine.files.electron import scaled_images
import dials_postrefine.programs.stills_input
import dials_postrefine.stills.refinement
import dials_postrefine.report.stills.diagnostics
from dials.algorithms.scaling.model.model import KBScalingModel

options = ["nproc=1", "n_cycles=1", "cross_validation=none", "min_reflections=5", "output.html=None"]
programs = {
    "postrefine": lambda expt, refl: postrefine.run([expt, refl, *options]),
    "reference_intensities": lambda expt, refl: merged_data.read_data([expt], [refl]),
    "image_spread": lambda expt, refl: scaled_images.read_images([expt], [refl]),
}
result = {}
for name, program in programs.items():
    refl = "scaled.refl" if name == "image_spread" else "stills.refl"
    before = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        program("stills.expt", refl)
    result[name] = time.process_time() - before
with open(sys.argv[1], "w") as out:
    json.dump(result, out)
"""


def write(folder: Path, n: int, image_sets: bool) -> None:
    """stills.expt, stills.refl and scaled.refl of n lattices."""
    import numpy as np

    from dials.array_family import flex

    from dials_postrefine.simulate.still_files import make_experiments, make_reflections
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    sim = simulate_stills(StillsOptions(n_lattices=DIFFERENT, seed=1, d_min=4.0))
    experiments = make_experiments(sim)
    table = make_reflections(sim, experiments)
    for i in range(DIFFERENT):
        del table.experiment_identifiers()[i]
    content = experiments.to_dict()
    few = content["experiment"]
    content["experiment"] = [dict(few[i % DIFFERENT], identifier=f"{i:06d}") for i in range(n)]
    if image_sets:
        lookup = dict.fromkeys(("mask", "gain", "pedestal", "dx", "dy"))
        content["imageset"] = [{"__id__": "ImageSet", "images": [f"/shot_{i:06d}.cbf"], **lookup} for i in range(n)]
        for i, experiment in enumerate(content["experiment"]):
            experiment["imageset"] = i
    (folder / "stills.expt").write_text(json.dumps(content))
    ids, whole = np.array(table["id"]), flex.reflection_table()
    for k in range(n // DIFFERENT):
        part = table.copy()
        part["id"] = flex.int((ids + k * DIFFERENT).tolist())
        whole.extend(part)
    for i in range(n):
        whole.experiment_identifiers()[i] = f"{i:06d}"
    whole.as_file(str(folder / "stills.refl"))
    for what in ("value", "variance"):
        whole[f"intensity.scale.{what}"] = whole[f"intensity.sum.{what}"]
    whole["inverse_scale_factor"] = flex.double(len(whole), 1.0)
    whole.as_file(str(folder / "scaled.refl"))


def measure(n: int, image_sets: bool) -> dict[str, float]:
    """CPU seconds by program, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n, image_sets)
        command = [sys.executable, "-c", TIMED, "times.json"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return json.loads((folder / "times.json").read_text())


def main() -> None:
    """Print a line for each number of lattices."""
    import dials_postrefine  # noqa: F401  (makes cctbx findable)

    numbers = [int(arg) for arg in sys.argv[1:]] or [1000, 2000, 4000, 10000]
    print("lattices  postrefine      reference_intensities  image_spread, intensity_model")
    for n in numbers:
        with_sets, without = measure(n, True), measure(n, False)
        cells = [f"{with_sets[name]:6.1f} ({without[name]:.1f})" for name in with_sets]
        print(f"{n:8d}  {cells[0]:14s}  {cells[1]:21s}  {cells[2]}", flush=True)


if __name__ == "__main__":
    main()
