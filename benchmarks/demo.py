"""
Simulate stills, postrefine them, merge them, and compare with the truth: `make demo`.

    python benchmarks/demo.py FOLDER

Everything is left in FOLDER: the simulated stills, what dials.postrefine and dials.merge wrote, and demo.png.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.files.reference.alignment import align, read_reference
from dials_postrefine.numerics.shells import equal_volume_edges
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.scaling import linear_scales

N_LATTICES = 200


def run(command: list[str], folder: Path) -> None:
    """Run a program in the folder, saying so."""
    print("\n$ " + shlex.join(command), flush=True)
    quiet = command[0].endswith("dials.merge")
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL if quiet else None)


def angles_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The angle (n,), in degrees, of the rotation about x and y that takes setting matrices a (n, 3, 3) to b."""
    turn = b @ np.linalg.inv(a)
    return np.degrees(np.hypot(turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0]) / 2.0)


def draw(path: Path, truth, before, after, d_star_sq) -> None:
    """Amplitudes against the truth, and R by resolution, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    edges = equal_volume_edges(d_star_sq, 10)
    centres = 0.5 * (edges[1:] + edges[:-1])
    root = np.sqrt(truth)
    for (intensity, name), colour in zip((before, after), ("0.6", "tab:red")):
        r, f = r_to_truth(intensity, truth, d_star_sq)
        known = np.isfinite(f)
        left.plot(root[known], f[known], ".", ms=1.5, color=colour)
        inside = [known & (d_star_sq >= low) & (d_star_sq < high) for low, high in zip(edges[:-1], edges[1:])]
        shells = [np.abs(f - root)[some].sum() / root[some].sum() for some in inside]
        right.plot(centres, shells, "o-", color=colour, label=f"{name}, R = {r:.3f}")
    limit = np.percentile(root, 99.9)
    left.plot([0, limit], [0, limit], "k-", lw=0.5)
    left.set(xlim=(0, limit), ylim=(0, 1.2 * limit), xlabel="true amplitude", ylabel="merged amplitude")
    right.set(xlabel="d (Å)", ylabel="R against the truth", ylim=(0, None))
    right.set_xticks(centres[::2], [f"{x**-0.5:.2f}" for x in centres[::2]])
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    """Simulate, postrefine, merge, compare."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Simulating {N_LATTICES} stills of a random structure: mosaic spread, bandwidth, misorientation, noise,")
    print("wild intensities, useless lattices; see dials_postrefine/simulate.py.")
    sim = simulate_stills(StillsOptions.unlike_model(N_LATTICES))
    write_stills(sim, str(folder / "stills"))
    program = [sys.executable, "-m", "dials_postrefine.command_line.postrefine"]
    run([*program, "stills.expt", "stills.refl"], folder)
    summary = json.loads((folder / "dials.postrefine.json").read_text())
    merge_program, *arguments = shlex.split(summary["merge_command"])
    run([shutil.which(merge_program) or merge_program, *arguments], folder)

    files = read_stills([str(folder / "stills.expt")], [str(folder / "stills.refl")])
    stills, d_star_sq = files.stills, files.d_star_sq
    truth, after = (
        align(files.h_unique, *read_reference(str(folder / name), files.space_group, files.cell))
        for name in ("stills_truth.mtz", "merged.mtz")
    )
    scale = linear_scales(stills, None)[stills.lattice()]
    before = merge(stills.intensity / scale, np.ones(len(scale)), stills.unique, stills.n_unique).intensity
    both = np.isfinite(before) & np.isfinite(after)
    before, after = np.where(both, before, np.nan), np.where(both, after, np.nan)
    draw(folder / "demo.png", truth, (before, "linear scaling, plain mean"), (after, "dials.postrefine"), d_star_sq)

    good = {lattice["identifier"] for lattice in summary["lattices"] if lattice["accepted"]}
    accepted = np.array([identifier in good for identifier in sim.identifiers])
    from dials_postrefine.files.dials.models import geometry_arrays, read_experiments

    refined = geometry_arrays(read_experiments(str(folder / "postrefined.expt")))[0]
    kept = ~sim.useless[accepted]
    indexed, true = sim.a_indexed[accepted][kept], sim.a_true[accepted][kept]
    print("\nAgainst the truth:")
    print(f"  useless lattices rejected       {np.count_nonzero(~accepted & sim.useless)} of {sim.useless.sum()}")
    print(f"  good lattices rejected          {np.count_nonzero(~accepted & ~sim.useless)} of {(~sim.useless).sum()}")
    print(
        f"  median misorientation           {np.median(angles_between(indexed, true)):.4f} degrees as indexed, "
        f"{np.median(angles_between(refined[kept], true)):.4f} refined"
    )
    r_before, r_after = (r_to_truth(intensity, truth, d_star_sq)[0] for intensity in (before, after))
    print(f"  R of the merged amplitudes      {r_before:.3f} linear scaling and plain mean, {r_after:.3f} postrefined")
    print(f"\nLook at {folder / 'demo.png'} and at the files beside it.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
