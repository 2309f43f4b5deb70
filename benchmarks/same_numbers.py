"""
Whether a change of the code has changed any number: all programs on the same input, here and as they were in a commit.

    python benchmarks/same_numbers.py COMMIT [DATA]

Runs the lines below on simulated input, and on the data sets in DATA (../shared/data) where it is there, once with the
package as it stands here and once as it is in COMMIT, and compares all that they write, bit for bit: columns of tables,
JSON, voxels and statistics of maps, columns of MTZ files, text, each line of the log, and the page.  What differs by
design is left out: provenance and history.  Prints a line a run, and at the end the CPU time of each; exit status 1
where anything differs.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import dials_postrefine  # noqa: F401  (makes cctbx findable)

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT.parent / "shared" / "data"
RUN = "import sys; from dials_postrefine.command_line.{0} import run; run(sys.argv[1:])"

# name -> program and arguments; {in} is the folder of the simulated input, {data} that of the data sets
LINES = {
    "stills": ("postrefine", "{in}/stills.expt {in}/stills.refl output.mtz=merged.mtz output.xfel_merge=xfel"),
    "stills_auto": ("postrefine", "{in}/stills.expt {in}/stills.refl profile=auto radius=auto unit_cell=auto nproc=2"),
    "stills_reference": ("postrefine", "{in}/stills.expt {in}/stills.refl reference={in}/stills_truth.mtz"),
    "stills_free": ("postrefine", "{in}/stills.expt {in}/stills.refl cross_validation=free_reflections engine=lstbx"),
    "map": ("diffuse_map", "{in}/image.expt d_min=2.5 nproc=2"),
    "map_p1": ("diffuse_map", "{in}/image.expt d_min=3 symmetry=p1 background.radial=offset reject.n_sigma=6 nproc=1"),
    "map_cartesian": (
        "diffuse_map",
        "{in}/image.expt d_min=3 grid.frame=cartesian scale.model=smooth half_sets=random",
    ),
    "spread": ("image_spread", "{in}/scaled.expt {in}/scaled.refl compare=profile"),
    "trees": ("intensity_model", "{in}/scaled.expt {in}/scaled.refl trees.max_iter=20"),
    "reference": ("reference_intensities", "{in}/model.pdb reference_model.d_min=2.5"),
    "disks": ("fine_refine", "{in}/pattern.npz {in}/silicon.cif"),
    "snase": ("postrefine", "{data}/snase_stills_48/stills.expt {data}/snase_stills_48/stills.refl"),
    "lysozyme": ("postrefine", "{data}/lyso_xfel_300/stills.expt {data}/lyso_xfel_300/stills.refl n_cycles=3"),
    "snase_model": (
        "postrefine",
        "{data}/snase_stills_48/stills.expt {data}/snase_stills_48/stills.refl reference={data}/models/1stn.pdb",
    ),
    "snase_map": ("diffuse_map", "{data}/snase_images_24/rotation.expt d_min=3"),
    "quartz": ("image_spread", "{data}/ed_quartz_scaled/scaled.expt {data}/ed_quartz_scaled/scaled.refl"),
    "quartz_trees": (
        "intensity_model",
        "{data}/ed_quartz_scaled/scaled.expt {data}/ed_quartz_scaled/scaled.refl trees.max_iter=20 "
        "reference={data}/ed_quartz_scaled/quartz_enantiomer_1.cif",
    ),
    "quartz_reference": (
        "reference_intensities",
        "{data}/ed_quartz_scaled/quartz_enantiomer_1.cif {data}/ed_quartz_scaled/scaled.expt "
        "{data}/ed_quartz_scaled/scaled.refl",
    ),
}
MODEL = """\
CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  N   ALA A   1      11.104   6.134   5.504  1.00 20.00           N
ATOM      2  CA  ALA A   1      11.639   6.071   4.147  1.00 25.00           C
ATOM      3  O   ALA A   1       9.639   8.071   9.147  0.80 30.00           O
ATOM      4  S   CYS A   2       3.639  18.071  21.147  1.00 15.00           S
"""
# of JSON and of the attributes and datasets of NeXus files: what is of each run
OF_THE_RUN = ("provenance", "history", "file_time", "file_name", "version", "date", "parameters", "NX_class_time")


def write_input(folder: Path) -> None:
    """The simulated input."""
    from dials_postrefine.simulate.diffuse import BraggPeaks, SmoothIntensity
    from dials_postrefine.simulate.disks import add_counts, silicon_pattern, true_intensity, write_pattern
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    write_stills(simulate_stills(StillsOptions(n_lattices=60, seed=1, d_min=2.6)), str(folder / "stills"))
    write_sweeps(simulate_sweeps(SweepOptions(tau=0.25, n_images=60, n_crystals=3)), folder / "scaled")
    experiments, images = make_experiments(SeriesOptions(n_images=12, oscillation=0.5)), ImageOptions(n_phi=2)
    smooth = with_mean_counts(intensity_of(SmoothIntensity, experiments[0].crystal), 5.0, experiments[0], images)
    spots = intensity_of(BraggPeaks, experiments[0].crystal, level=100.0 * smooth.level)
    write_series(experiments, lambda h: smooth(h) + spots(h), folder / "image", images)
    (folder / "model.pdb").write_text(MODEL)
    write_pattern(folder, add_counts(silicon_pattern(), true_intensity(), 1))


def run(checkout: Path, program: str, arguments: list[str], folder: Path) -> float:
    """Run a program of a checkout in a new folder; its CPU time (s)."""
    folder.mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", RUN.format(program), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{checkout.name}: dials.{program} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def numbers_of(path: Path) -> dict[str, object]:
    """All that a file says, by names, but for what is of the run."""
    kind = path.suffix
    if kind in (".json", ".expt"):
        return {"json": without_run(json.loads(path.read_text(encoding="utf-8")))}
    if kind == ".refl":
        from dials.array_family import flex

        table = flex.reflection_table.from_file(str(path))
        ids = {f"identifier {k}": v for k, v in dict(table.experiment_identifiers()).items()}
        return ids | {name: column_of(table[name]) for name in table.keys()}
    if kind == ".mtz":
        from iotbx import mtz

        file = mtz.object(str(path))
        return {label: np.array(file.get_column(label).extract_values()) for label in file.column_labels()}
    if kind == ".nxs":
        import h5py

        found = {}

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and name.split("/")[-1] not in OF_THE_RUN:
                found[name] = item[()]
            found.update({f"{name}@{key}": value for key, value in item.attrs.items() if key not in OF_THE_RUN})

        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return found
    if kind == ".log":
        lines = path.read_text(encoding="utf-8").splitlines()
        return {"lines": [line for line in lines if not line.startswith("Run on ")]}  # when, and in which folder
    if kind == ".html":
        return {"page": re.sub(r'<p class="version">.*?</details>', "", path.read_text("utf-8"), flags=re.DOTALL)}
    if kind == ".ccp4":
        content = path.read_bytes()
        return {"header": content[:220], "voxels": content[1024:]}  # not the labels, with the version
    return {"content": path.read_bytes()}


def column_of(column) -> np.ndarray | list:
    """A column of a reflection table as numpy has it, or as a list."""
    from dxtbx import flumpy

    try:
        return flumpy.to_numpy(column)
    except (TypeError, ValueError, RuntimeError):
        return list(column)


def without_run(record):
    """The same without what is of the run."""
    if isinstance(record, dict):
        return {key: without_run(value) for key, value in record.items() if key not in OF_THE_RUN}
    return [without_run(one) for one in record] if isinstance(record, list) else record


def same(one, other) -> bool:
    """Bit for bit; NaN is NaN.  Of an array of objects (texts) the objects are compared, not where they lie."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()
    return bool(one == other)


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between two folders that a program has left."""
    names = [{path.name for path in folder.iterdir()} for folder in (ours, theirs)]
    found = [f"{name}: written by one alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        one, other = (numbers_of(folder / name) for folder in (ours, theirs))
        found += [f"{name}: {key} is in one alone" for key in sorted(one.keys() ^ other.keys())]
        found += [
            f"{name}: {key} differs" for key in sorted(one.keys() & other.keys()) if not same(one[key], other[key])
        ]
    return found


def main() -> int:
    commit = sys.argv[1]
    n_different, seconds = 0, [0.0, 0.0]
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path(name) / "before"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", "--quiet", before, commit], check=True)
        try:
            (folder / "in").mkdir()
            write_input(folder / "in")
            for line, (program, text) in LINES.items():
                if "{data}" in text and not DATA.is_dir():
                    print(f"{line:18s} left out: there is no {DATA}")
                    continue
                arguments = text.format(**{"in": folder / "in", "data": DATA}).split()
                places = [folder / which / line for which in ("ours", "theirs")]
                for k, (checkout, place) in enumerate(zip((ROOT, before), places)):
                    seconds[k] += run(checkout, program, arguments, place)
                found = compare(*places)
                n_different += len(found)
                n = len(list(places[0].iterdir()))
                print(f"{line:18s} {n} files: {'the same' if not found else '; '.join(found[:8])}", flush=True)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", before], check=True)
    print(f"CPU time {seconds[0]:.1f} s here, {seconds[1]:.1f} s at {commit}")
    return int(n_different > 0)


if __name__ == "__main__":
    sys.exit(main())
