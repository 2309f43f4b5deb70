"""Series of images on disk, as dials.diffuse_map takes them, and the program run on them."""

from __future__ import annotations

import json
from pathlib import Path

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
