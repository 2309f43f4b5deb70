"""The programs are called from Python, without PHIL, and do what they do on the command line."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from comparison import content
from requested import request_type

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the files are those of DIALS")

from dials_postrefine.settings import fine_refine, image_spread, intensity_model, postrefine, reference_intensities

pytestmark = pytest.mark.dials

MODEL = """\
CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  N   ALA A   1      11.104   6.134   5.504  1.00 20.00           N
ATOM      2  CA  ALA A   1      11.639   6.071   4.147  1.00 25.00           C
ATOM      3  S   CYS A   2       3.639  18.071  21.147  1.00 15.00           S
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with stills, scaled sweeps, and a model."""
    from dials_postrefine.simulate.disks import add_counts, silicon_pattern, true_intensity, write_pattern
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    folder = tmp_path_factory.mktemp("given")
    write_stills(simulate_stills(StillsOptions(n_lattices=12, seed=1, d_min=4.0)), str(folder / "stills"))
    write_sweeps(simulate_sweeps(SweepOptions(tau=0.25, n_images=20, n_crystals=2)), folder / "scaled")
    (folder / "model.pdb").write_text(MODEL)
    write_pattern(folder, add_counts(silicon_pattern(), true_intensity(), 1))
    return folder


def stills(folder: Path) -> dict:
    return {"experiments": (str(folder / "stills.expt"),), "reflections": (str(folder / "stills.refl"),)}


def scaled(folder: Path) -> dict:
    return {"experiments": (str(folder / "scaled.expt"),), "reflections": (str(folder / "scaled.refl"),)}


CASES = {
    "postrefine": (
        "{0}/stills.expt {0}/stills.refl n_cycles=2 max_misorientation=0.3 filtering.method=deltacchalf nproc=1 "
        "output.xfel_merge=xfel free_fraction=0.2",
        lambda folder: postrefine.PostrefineRequest(
            **stills(folder),
            n_cycles=2,
            max_misorientation=float(np.radians(0.3)),
            filtering=postrefine.Filtering(method="deltacchalf"),
            nproc=1,
            output=postrefine.Output(xfel_merge="xfel"),
            free_fraction=0.2,
        ),
    ),
    "fine_refine": (
        "{0}/pattern.npz {0}/silicon.cif refine=thickness+tilt structure_factors=1,1,1 start=absorption=0.016",
        lambda folder: fine_refine.FineRefineRequest(
            pattern=str(folder / "pattern.npz"),
            structure=str(folder / "silicon.cif"),
            refine=("thickness", "tilt"),
            structure_factors=("1,1,1",),
            start=("absorption=0.016",),
        ),
    ),
    "image_spread": (
        "{0}/scaled.expt {0}/scaled.refl match=laue min_angle=5 compare=sum output.pairs=None",
        lambda folder: image_spread.ImageSpreadRequest(
            **scaled(folder),
            match="laue",
            min_angle=float(np.radians(5)),
            compare="sum",
            output=image_spread.Output(pairs=None),
        ),
    ),
    "intensity_model": (
        "{0}/scaled.expt {0}/scaled.refl trees.max_iter=10 trees.permutations=2 compare=none",
        lambda folder: intensity_model.IntensityModelRequest(
            **scaled(folder), trees=intensity_model.Trees(max_iter=10, permutations=2), compare="none"
        ),
    ),
    "reference_intensities": (
        "{0}/model.pdb reference_model.d_min=3 reference_model.radiation=electron",
        lambda folder: reference_intensities.ReferenceIntensitiesRequest(
            reference=str(folder / "model.pdb"),
            reference_model=reference_intensities.ReferenceModel(d_min=3.0, radiation="electron"),
        ),
    ),
}


def results(folder: Path) -> dict[str, bytes]:
    """What a run has left, by name; the MTZ is compared by its reflections, as it has the date."""
    return {path.name: content(path) for path in folder.iterdir() if path.suffix not in (".log", ".mtz")}


@pytest.mark.parametrize("program", CASES)
def test_a_call_from_python_does_what_the_command_line_does(program, given, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed") if program == "intensity_model" else None
    line, make = CASES[program]
    folders = [tmp_path / "line", tmp_path / "python"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    importlib.import_module(f"dials_postrefine.command_line.{program}").run(line.format(given).split())
    monkeypatch.chdir(folders[1])
    request = make(given)
    result = importlib.import_module(f"dials_postrefine.programs.{program}").run(request)
    assert results(folders[0]) == results(folders[1])
    summary = json.loads(Path(f"dials.{program}.json").read_text())
    assert json.loads(json.dumps(result.summary)) == summary
    assert set(result.files.values()) == {path.name for path in folders[1].iterdir()}
    # the run can be repeated from what it says of itself, and its log is closed
    told = summary["provenance"]["command"]
    prefix = f"programs.{program}.run("
    assert told.startswith(prefix) and told.endswith(")")
    names = vars(importlib.import_module(f"dials_postrefine.settings.{program}"))
    assert eval(told[len(prefix) : -1], dict(names)) == request
    assert all(name.startswith(str(given)) for name in summary["provenance"]["inputs"])
    assert not [each for each in logging.getLogger("dials").handlers if isinstance(each, logging.FileHandler)]


def test_an_image_series_is_mapped_from_python(tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
    from dials_postrefine.command_line import diffuse_map as command
    from dials_postrefine.programs import diffuse_map as program
    from dials_postrefine.settings.diffuse_map import DiffuseMapRequest, Grid, Output
    from dials_postrefine.simulate.diffuse import SmoothIntensity
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts

    experiments, images = make_experiments(SeriesOptions(n_images=4, oscillation=0.5)), ImageOptions(n_phi=2)
    smooth = with_mean_counts(intensity_of(SmoothIntensity, experiments[0].crystal), 5.0, experiments[0], images)
    path = str(write_series(experiments, smooth, tmp_path / "image", images))
    for name in ("line", "python"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "line")
    command.run([path, "d_min=4", "grid.subdivide=2,2,2", "nproc=1", "output.mtz=None", "grid.spacing=0.01"])
    monkeypatch.chdir(tmp_path / "python")
    request = DiffuseMapRequest(
        experiments=(path,), d_min=4.0, grid=Grid(subdivide=(2, 2, 2), spacing=0.01), nproc=1, output=Output(mtz=None)
    )
    result = program.run(request)
    paths = [tmp_path / name / "dials.diffuse_map.json" for name in ("line", "python")]
    ours, theirs = (json.loads(path.read_text()) for path in paths)
    assert ours.pop("provenance") and theirs.pop("provenance") and ours == theirs
    assert "grid.spacing= has no effect, as grid.frame is hkl." in result.summary["remarks"]
    assert {path.name for path in Path().iterdir()} == set(result.files.values())


@pytest.mark.parametrize("program", ["postrefine", "diffuse_map", "reference_intensities"])
def test_a_request_for_nothing_is_refused(program, tmp_path, monkeypatch):
    from dials.util import Sorry

    monkeypatch.chdir(tmp_path)
    with pytest.raises(Sorry, match="needed"):
        importlib.import_module(f"dials_postrefine.programs.{program}").run(request_type(program)())
    assert not list(tmp_path.iterdir())
