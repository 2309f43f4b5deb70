"""
Time and memory of dials.image_spread on many images of many reflections.

    python benchmarks/image_spread.py [images [reflections]]

1000 images of 1000 reflections each (unless given), of an orthorhombic crystal at random orientations, with tau 0.2:
a scaled .expt and .refl are written to a temporary folder, and the whole program is run on them with match=laue, its
files and its page included.  Every two images have reflections in common: half a million pairs are counted, and those
with most in common analysed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CELL = (30.0, 40.0, 50.0, 90.0, 90.0, 90.0)
SPACE_GROUP = "P212121"
LARGEST = (12, 16, 20)  # indices
TAU, ERROR = 0.2, 0.03
RUN = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as out:
    json.dump({"status": status, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}, out)
"""


def write_images(folder: Path, n_images: int, n_spots: int) -> tuple[str, str]:
    """The data set, one still an image."""
    import dials_postrefine  # noqa: F401, I001 - makes cctbx findable

    from dials.array_family import flex
    from dxtbx import flumpy

    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.numerics.indices import to_flex_miller

    rng = np.random.default_rng(0)
    experiments = make_experiments(
        SeriesOptions(goniometer="none", n_images=n_images, unit_cell=CELL, space_group=SPACE_GROUP, wavelength=0.0251)
    )
    n = n_images * n_spots
    h = np.stack([rng.integers(-m, m + 1, n) for m in LARGEST], axis=1)
    h[~h.any(axis=1)] = 1
    true = rng.exponential(size=[m + 1 for m in LARGEST])[tuple(np.abs(h).T)]
    variance = (ERROR * true) ** 2 + 0.02**2
    intensity = true * (1.0 + TAU * rng.normal(size=n)) + np.sqrt(variance) * rng.normal(size=n)
    table = flex.reflection_table()
    table["id"] = flumpy.from_numpy(np.repeat(np.arange(n_images, dtype=np.int32), n_spots))
    table["miller_index"] = to_flex_miller(h)
    table["flags"] = flex.size_t(n, int(table.flags.integrated_sum | table.flags.scaled))
    table["s1"] = flex.vec3_double(n, (0.0, 0.0, -1.0))
    table["xyzcal.px"] = flex.vec3_double(n, (1.0, 1.0, 0.5))
    for name in ("intensity.sum", "intensity.scale"):
        table[f"{name}.value"] = flumpy.from_numpy(intensity.copy())
        table[f"{name}.variance"] = flumpy.from_numpy(variance.copy())
    table["inverse_scale_factor"] = flex.double(n, 1.0)
    for k, experiment in enumerate(experiments):
        table.experiment_identifiers()[k] = experiment.identifier
    names = str(folder / "scaled.expt"), str(folder / "scaled.refl")
    experiments.as_file(names[0])
    table.as_file(names[1])
    return names


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    n_images, n_spots = given + [1000, 1000][len(given) :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write_images(folder, n_images, n_spots)
        out = folder / "measured.json"
        program = [sys.executable, "-m", "dials_postrefine.command_line.image_spread"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", RUN, str(out), *program, *names, "match=laue"],
            cwd=folder,
            check=True,
        )
        seconds = time.perf_counter() - start
        measured = json.loads(out.read_text())
        if measured["status"]:
            sys.exit("dials.image_spread failed")
        summary = json.loads((folder / "dials.image_spread.json").read_text())
        tau = summary["spread"]["overall"]
        print(f"{n_images} images of {n_spots} reflections, {summary['pairs']['n_found']} pairs")
        print(f"{seconds:.1f} s, {measured['cpu']:.1f} s of CPU, {measured['peak'] / 2**30:.2f} GB")
        print(f"tau {tau['tau']:.4f} [{tau['low']:.4f}, {tau['high']:.4f}], {TAU} put in")


if __name__ == "__main__":
    main()
