"""Simulated series of known intensity, and the way from their images to a map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

# Smooth enough for voxels of half an index.
WAVES = ((0.10, 0.05, 0.03), (0.04, 0.12, 0.06))


@dataclass
class Simulated:
    """Experiments with images in memory, and the intensity that these have."""

    experiments: object
    intensity: object

    def truth(self, grid, x: np.ndarray) -> np.ndarray:
        """The intensity averaged over voxels x (n, 3): Gauss's three points along each axis."""
        offsets = np.array([-np.sqrt(0.6), 0.0, np.sqrt(0.6)]) / 2.0
        weights = np.array([5.0, 8.0, 5.0]) / 18.0
        to_h = np.linalg.inv(grid.to_voxel)
        total = np.zeros(len(x))
        for i, u in enumerate(offsets):
            for j, v in enumerate(offsets):
                for k, w in enumerate(offsets):
                    part = weights[i] * weights[j] * weights[k]
                    total += part * self.intensity((x + [u, v, w]) @ to_h.T)
        return total


@pytest.fixture(scope="session")
def simulate():
    """A function: mean counts a pixel, then SeriesOptions by name -> Simulated."""
    from dials_postrefine.simulate.diffuse import SmoothIntensity
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, simulate_in_memory, with_mean_counts

    def make(mean: float, images: dict | None = None, seed: int = 0, scales=None, background=None, **options):
        experiments = make_experiments(SeriesOptions(**options))
        image_options = ImageOptions(**(images or {}))
        intensity = intensity_of(SmoothIntensity, experiments[0].crystal, waves=WAVES)
        intensity = with_mean_counts(intensity, mean, experiments[0], image_options)
        given = {} if background is None else {"background": background}
        filled = simulate_in_memory(experiments, intensity, image_options, seed=seed, scales=scales, **given)
        return Simulated(filled, intensity)

    return make


@pytest.fixture(scope="session")
def make_map():
    """A function: experiments -> namespace of map, images, grid, series files, sums before they are folded."""
    from dials_postrefine.diffuse.map import mapping, merging, symmetry
    from dials_postrefine.diffuse.map.grid import make_grid
    from dials_postrefine.diffuse.map.records import MappingSettings
    from dials_postrefine.executors.processes import make_run
    from dials_postrefine.files.images.crystals import point_group_rotations
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    def make(
        experiments, d_min=2.2, subdivide=(2, 2, 2), symmetry_name="laue", nproc=1, reading=None, mu_air=0.0, **settings
    ):
        files = make_series(experiments, ImageSettings(**{"bragg": "none", **(reading or {})}), d_min)
        files.series = [replace(one, beam=replace(one.beam, mu_air=mu_air)) for one in files.series]
        grid = make_grid(files.reciprocal, d_min, subdivide=subdivide)
        chosen = MappingSettings(**{"scale": "none", **settings})
        sums, images, _ = mapping.map_images(files.series, grid, chosen, make_run(nproc))
        before = sums.copy()
        laue = symmetry.operations(grid, point_group_rotations(files.space_group), "laue")
        operations = symmetry.operations(grid, point_group_rotations(files.space_group), symmetry_name)
        found = merging.merge(sums, images, grid, chosen, operations, laue)
        return SimpleNamespace(map=found, images=images, grid=grid, files=files, sums=before, settings=chosen)

    return make


@pytest.fixture(scope="session")
def unique_voxels():
    """A function: map -> coordinates, intensity, sigma, counts, pixels of its observed representatives."""

    def collect(found):
        columns = []
        for i in range(found.grid.shape[0]):
            plane = found.plane(i)
            j, k = np.nonzero(np.isfinite(plane["intensity"]))
            x = np.stack([np.full(len(j), i), j, k], axis=1) + found.grid.low
            columns.append(np.column_stack([x, *(plane[n][j, k] for n in ("intensity", "sigma", "counts", "pixels"))]))
        everything = np.concatenate(columns)
        x = everything[:, :3].astype(int)
        mates = np.sort([(x @ op.T) @ [1_000_000, 1000, 1] for op in found.operations], axis=0)[-1]
        _, first = np.unique(mates, return_index=True)
        return x[first], *everything[first, 3:].T

    return collect
