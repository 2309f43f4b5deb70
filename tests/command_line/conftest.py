"""
Series of images on disk, as dials.diffuse_map takes them, and the program run on them; the programs for electron
diffraction run, and faults planted in what they read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_images(tmp_path_factory):
    """A function: mean counts a pixel, SeriesOptions by name -> path of an .expt beside its images."""
    pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
    from dials_postrefine.simulate.diffuse import BraggPeaks, SmoothIntensity
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts

    def write(mean: float = 5.0, peaks: bool = False, empty: bool = False, background=None, seed=0, **options) -> Path:
        experiments = make_experiments(SeriesOptions(**{"n_images": 8, "oscillation": 0.5, **options}))
        images = ImageOptions(n_phi=2)
        intensity = None
        if not empty:
            smooth = with_mean_counts(
                intensity_of(SmoothIntensity, experiments[0].crystal), mean, experiments[0], images
            )
            spots = intensity_of(BraggPeaks, experiments[0].crystal, level=100.0 * smooth.level)
            intensity = (lambda h: smooth(h) + spots(h)) if peaks else smooth
        prefix = tmp_path_factory.mktemp("images") / "image"
        return Path(write_series(experiments, intensity, prefix, images, seed=seed, background=background))

    return write


@pytest.fixture(scope="session")
def sweep(write_images) -> Path:
    """Eight images with Bragg peaks, of a crystal that drifts."""
    return write_images(peaks=True, scan_varying=True)


@pytest.fixture()
def mapped(tmp_path, monkeypatch):
    """A function: folder, arguments -> what the JSON says, of a run in this process."""
    from dials_postrefine.command_line.diffuse_map import run

    def make(name: str, *args) -> dict:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        run([*map(str, args)])
        return json.loads((folder / "dials.diffuse_map.json").read_text())

    return make


@pytest.fixture(scope="session")
def run_for_summary(run_program, tmp_path_factory):
    """A function: program, arguments -> the folder of a run that succeeds, and what its JSON says."""

    def run(program: str, *args) -> tuple[Path, dict]:
        folder = tmp_path_factory.mktemp(program.removeprefix("dials."))
        result = run_program(program, *args, cwd=folder)
        assert result.returncode == 0, result.stderr
        return folder, json.loads((folder / f"{program}.json").read_text())

    return run


@pytest.fixture()
def plant_fault(monkeypatch):
    """A function: value, variance, scale -> value, variance, that changes the scaled intensities that are read."""
    from dials_postrefine.files.electron import scaled_images

    right = scaled_images.intensities

    def plant(fault) -> None:
        def wrong(table, kind, variance="counting"):
            return fault(*right(table, kind, variance), np.array(table["inverse_scale_factor"]))

        monkeypatch.setattr(scaled_images, "intensities", wrong)

    return plant
