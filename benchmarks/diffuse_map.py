"""
CPU time and memory of dials.diffuse_map on simulated images of a Pilatus 6M, beside dials.rs_mapper on the same images
and beside reading alone.

    python benchmarks/diffuse_map.py [images]

Images (100 unless given) of 2463 x 2527 pixels, two photons a pixel and 0.3 degrees each, are written to a temporary
folder.  The whole programs are run in one process to 1.6 Angstrom: ours with all corrections, the mask of predicted
Bragg peaks, the scale of each image, averaging by the Laue class mmm and all files written, on 385 x 385 x 385 voxels;
rs_mapper, which corrects nothing and needs no crystal, on 384^3.  A first short run compiles what numba keeps.  What an
image takes is that of the loop over images (reading, masking, correcting, adding) in ours, and the whole divided by the
images in rs_mapper; the rest of ours does not depend on the number of images once they have reached all voxels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

ENVIRONMENT = dict(os.environ)  # before our package points libtbx at the cctbx of this Python
GRID = 384
D_MIN = 1.6
CELL = (102.0, 102.0, 102.0, 90.0, 90.0, 90.0)  # of which thirds of an index make 384 voxels out to D_MIN
N_PIXELS = 2463 * 2527

RUN = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as out:
    json.dump({"status": status, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}, out)
"""
LOOP = """
import functools, sys, time
import dials_postrefine
from dials_postrefine.diffuse.map import mapping
from dials_postrefine.programs.diffuse_map import scaling as program

def measured(make, *args):
    start = time.process_time()
    result = make(*args)
    with open(sys.argv[1], "w") as out:
        out.write(str(time.process_time() - start))
    return result

for name in ("map_images", "map_blocks"):
    setattr(program, name, functools.partial(measured, getattr(mapping, name)))
from dials_postrefine.command_line.diffuse_map import run
run(sys.argv[2:])
"""
READ = """
import sys, time
import dials_postrefine
from dxtbx.model.experiment_list import ExperimentListFactory
imageset = ExperimentListFactory.from_json_file(sys.argv[1])[0].imageset
imageset.get_raw_data(0)
start = time.process_time()
for i in range(len(imageset)):
    imageset.get_raw_data(i)
print((time.process_time() - start) / len(imageset))
"""


def write_images(folder: Path, n: int) -> Path:
    """The images, and an .expt with a crystal and a profile model."""
    from dials.algorithms.profile_model.gaussian_rs import Model

    from dials_postrefine.simulate.diffuse import SmoothIntensity
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts

    options = SeriesOptions.pilatus_6m(n_images=n, oscillation=0.3, exposure=0.1, unit_cell=CELL, space_group="P212121")
    images = ImageOptions(step=8)
    experiments = make_experiments(options)
    experiments[0].profile = Model(None, 3, 0.03, 0.07, deg=True)
    intensity = with_mean_counts(intensity_of(SmoothIntensity, experiments[0].crystal), 2.0, experiments[0], images)
    return Path(write_series(experiments, intensity, folder / "image", images))


def measure(folder: Path, *command: str) -> dict:
    """CPU time (s) and peak memory (bytes) of a program."""
    out = folder / "measured.json"
    subprocess.run([sys.executable, "-c", RUN, str(out), *command], cwd=folder, check=True, env=ENVIRONMENT)
    measured = json.loads(out.read_text())
    if measured["status"]:
        sys.exit(f"{command[0]} failed: {' '.join(command)}")
    return measured


def main() -> None:
    import dials_postrefine  # noqa: F401 - makes cctbx findable

    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    mapper = shutil.which("dials.rs_mapper")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_images(folder, n)
        reading = float(
            subprocess.run([sys.executable, "-c", READ, path], check=True, capture_output=True, text=True).stdout
        )
        loop = folder / "loop.txt"
        command = [sys.executable, "-c", LOOP, str(loop), str(path), f"d_min={D_MIN}", "nproc=1"]
        measure(folder, *command, "image_range=1,2", "grid.subdivide=1,1,1")  # compiles
        ours = measure(folder, *command)
        grid = json.loads((folder / "dials.diffuse_map.json").read_text())["grid"]
        image = float(loop.read_text()) / n
        limit = 2**30 + 24 * int(np.prod(grid["shape"]))
        print(f"{n} images of {N_PIXELS / 1e6:.1f} Mpx, {' x '.join(map(str, grid['shape']))} voxels")
        print(f"reading alone      {1e3 * reading:5.0f} ms of CPU an image, {N_PIXELS / reading / 1e6:4.0f} Mpx/s")
        print(f"dials.diffuse_map  {1e3 * image:5.0f} ms of CPU an image, {N_PIXELS / image / 1e6:4.0f} Mpx/s")
        print(f"                   {image / reading:5.1f} times reading alone")
        print(
            f"                   {ours['cpu']:5.1f} s the whole program, {ours['cpu'] - n * image:.1f} s without images"
        )
        print(
            f"                   {ours['peak'] / 2**30:5.2f} GB, {ours['peak'] / limit:.2f} of 1 GB + 24 bytes a voxel"
        )
        if mapper is None:
            sys.exit("dials.rs_mapper is not on PATH")
        options = [f"rs_mapper.grid_size={GRID}", f"rs_mapper.max_resolution={D_MIN}", "nproc=1"]
        theirs = measure(folder, mapper, str(path), *options, "map_file=rs_mapper.mrc")
        print(f"dials.rs_mapper    {1e3 * theirs['cpu'] / n:5.0f} ms of CPU an image, {theirs['peak'] / 2**30:.2f} GB")
        print(f"its image takes {theirs['cpu'] / n / image:.1f} times the CPU of ours,", end=" ")
        print(f"the whole program {theirs['cpu'] / ours['cpu']:.1f} times")


if __name__ == "__main__":
    main()
