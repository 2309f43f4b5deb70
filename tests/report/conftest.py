"""
For the tests of what is reported: a run of dials.postrefine on simulated stills, and a map of diffuse scattering.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

NAMED = "still-1-00007"


@dataclass
class Run:
    """The folder of a run, the names of its input files and the report."""

    folder: Path
    files: list[str]

    @cached_property
    def summary(self) -> dict:
        return json.loads((self.folder / "dials.postrefine.json").read_text(encoding="utf-8"))

    @cached_property
    def html(self) -> str:
        return self.page.read_text(encoding="utf-8")

    @property
    def page(self) -> Path:
        return self.folder / "dials.postrefine.html"


@pytest.fixture(scope="session")
def run(run_program, tmp_path_factory) -> Run:
    """40 lattices, four of them useless and some intensities wild, against themselves; one lattice is named."""
    import dials_postrefine  # noqa: F401  (makes cctbx findable)

    pytest.importorskip("dials.array_family.flex", reason="the input files are those of DIALS")
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    folder = tmp_path_factory.mktemp("report")
    options = StillsOptions(
        n_lattices=40, d_min=2.5, seed=1, useless_fraction=0.1, wild_fraction=0.01, background=400.0
    )
    files = write_stills(simulate_stills(options), folder / "stills")[:2]
    model = ("profile=lorentzian", "radius=constant", "unit_cell=fixed")  # that made the data
    done = run_program("dials.postrefine", *files, f"lattice_plots={NAMED}", "nproc=2", *model, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Run(folder, files)


@dataclass
class Synthetic:
    """
    A map with the images it came from, and what was put in: intensity(h) in its units.

    The crystal turns about the vertical, 1 degree an image; each voxel that the Ewald sphere sweeps is seen by four
    pixels, and those with integer indices are masked where there are others.
    """

    cell: str = "tetragonal"
    subdivide: int = 1
    d_min: float = 2.4
    n_images: int = 12
    frame: str = "hkl"
    symmetry: str = "laue"
    seed: int = 1
    level: float = 1.0e6  # photons / (s sr)
    exposure: float = 1.0e-5  # s sr, of a pixel
    error: str = "it can't be read: the file ends too early"

    @cached_property
    def reciprocal(self) -> np.ndarray:
        a, c = 48.4, 63.3
        b_star = {
            "tetragonal": [[1.0 / a, 0.0, 0.0], [0.0, 1.0 / a, 0.0], [0.0, 0.0, 1.0 / c]],
            "hexagonal": [[2.0 / a / 3.0**0.5, 1.0 / a / 3.0**0.5, 0.0], [0.0, 1.0 / a, 0.0], [0.0, 0.0, 1.0 / c]],
        }
        return np.array(b_star[self.cell])

    @cached_property
    def rotations(self) -> np.ndarray:
        """Of 422 or 622, on indices."""
        turn = {"tetragonal": [[0, -1, 0], [1, 0, 0], [0, 0, 1]], "hexagonal": [[0, -1, 0], [1, 1, 0], [0, 0, 1]]}
        found = {tuple(np.eye(3, dtype=int).ravel())}
        generators = [np.array(turn[self.cell]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])]
        while True:
            products = {tuple((np.reshape(m, (3, 3)) @ g).ravel()) for m in found for g in generators} | found
            if products == found:
                return np.array(sorted(found)).reshape(-1, 3, 3)
            found = products

    def intensity(self, h: np.ndarray) -> np.ndarray:
        s = np.linalg.norm(h @ self.reciprocal.T, axis=1)
        wave = np.zeros(len(h))
        for matrix in self.rotations:
            for u in ((0.29, 0.11, 0.05), (0.06, 0.23, 0.16)):
                wave += np.cos(2.0 * np.pi * (h @ matrix.T) @ u)
        wave /= 2 * len(self.rotations)
        ring = np.exp(-0.5 * ((s - 0.3) / 0.05) ** 2)
        return self.level * (np.exp(-5.0 * s * s) + 0.5 * ring) * (1.0 + 0.8 * wave)

    @cached_property
    def images(self) -> list:
        self._fill()
        return self._images

    @cached_property
    def map(self):
        from dials_postrefine.diffuse.map.merging import merge
        from dials_postrefine.diffuse.map.symmetry import operations

        self._fill()
        laue = operations(self.grid, self.rotations, "laue") if self.frame == "hkl" else np.empty((0, 3, 3), np.int64)
        chosen = operations(self.grid, self.rotations, self.symmetry)
        return merge(self.sums.copy(), self._images, self.grid, self.settings, chosen, laue)

    def _fill(self) -> None:
        from dials_postrefine.diffuse.map import columns
        from dials_postrefine.diffuse.map.columns import make_sums
        from dials_postrefine.diffuse.map.grid import make_grid, voxels
        from dials_postrefine.diffuse.map.records import N_SHELLS, ImageResult, MappingSettings, shell_edges

        if "sums" in vars(self):
            return
        rng = np.random.default_rng(self.seed)
        spacing = 0.007 if self.frame == "cartesian" else None
        self.grid = grid = make_grid(self.reciprocal, self.d_min, subdivide=(self.subdivide,) * 3, spacing=spacing)
        self.settings = MappingSettings()
        self.sums = sums = make_sums(grid)
        self._images = []
        x = voxels(grid)
        h = x @ np.linalg.inv(grid.to_voxel).T
        s_crystal = h @ self.reciprocal.T
        length = np.linalg.norm(s_crystal, axis=1)
        expected, edges = self.intensity(h), shell_edges(grid)
        shell = np.searchsorted(edges, length) - 1
        usable = (shell >= 0) & (shell < N_SHELLS) & (length > 0.02)
        bragg = np.abs(h - np.rint(h)).max(axis=1) < 0.25
        bragg &= self.subdivide > 1
        s0, width = 1.0, 0.004
        for number in range(1, self.n_images + 1):
            image = ImageResult(0, number, time=1.0)
            self._images.append(image)
            if number == 5:
                image.error = self.error
                continue
            # 1 degree about the vertical y, from a setting that shows no symmetry
            angle, tilt = np.radians(number + 17.0), np.radians(24.0)
            turn = np.array(
                [[np.cos(angle), 0.0, np.sin(angle)], [0.0, 1.0, 0.0], [-np.sin(angle), 0.0, np.cos(angle)]]
            )
            mount = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(tilt), -np.sin(tilt)], [0.0, np.sin(tilt), np.cos(tilt)]])
            s = s_crystal @ (turn @ mount).T
            excitation = np.linalg.norm(s + [0.0, 0.0, s0], axis=1) - s0
            swept = width + 0.0175 * np.abs(s[:, 0])
            seen = np.flatnonzero(usable & (np.abs(excitation) < 0.5 * swept))
            k = 1.0 + 0.02 * number + (0.4 if number > 8 else 0.0)  # a jump that somebody should see
            image.n_inside, image.n_bragg = 4 * len(seen), 4 * int(bragg[seen].sum())
            image.n_pixels = image.n_inside
            np.add.at(image.profile[:, 9], shell[seen], 4.0)
            np.add.at(image.profile[:, 10], shell[seen], 4.0 * bragg[seen])
            seen = seen[~bragg[seen]]
            counts = rng.poisson(expected[seen] * k * self.exposure, (4, len(seen)))
            azimuth = np.arctan2(s[seen, 1], s[seen, 0])
            c, d = np.cos(2.0 * azimuth), np.sin(2.0 * azimuth)
            e, n = 4.0 * self.exposure, counts.sum(axis=0)
            profile = (n, e, e * c, e * d, e * c * c, e * c * d, e * d * d, n * c, n * d)
            for column, values in enumerate(profile):
                np.add.at(image.profile[:, column], shell[seen], values)
            exposed = image.profile[:, 1] > 0.0
            image.level = image.scale = float(np.mean(image.profile[exposed, 0] / image.profile[exposed, 1]))
            image.n_spots = 150
            offsets = rng.normal(0.001, 0.05, (150, 3))
            image.offset, image.offset_sq = offsets.sum(axis=0), (offsets**2).sum(axis=0)
            exposure_scale, square_scale = self.settings.quanta
            weight = self.exposure * image.scale
            kernel_sums = {
                columns.COUNTS: n * columns.COUNT_SCALE,
                columns.EXPOSURE: np.full(len(seen), 4.0 * weight * exposure_scale),
                columns.PIXELS: np.full(len(seen), 4.0 * columns.COUNT_SCALE),
                columns.VARIANCE: n * columns.COUNT_SCALE,
                columns.SQUARES: (counts**2 - counts).sum(axis=0) / weight * square_scale,
            }
            if number % 2:
                kernel_sums[columns.HALF_COUNTS] = kernel_sums[columns.COUNTS]
                kernel_sums[columns.HALF_EXPOSURE] = kernel_sums[columns.EXPOSURE]
            for column, values in kernel_sums.items():
                sums[seen, column] += np.rint(values).astype(np.int64)


@pytest.fixture(scope="session")
def synthetic() -> Synthetic:
    """A tetragonal map, twelve images of it, one of which is bad."""
    pytest.importorskip("numba", reason="the loops over voxels are compiled by numba")
    return Synthetic()


@pytest.fixture(scope="session")
def make_synthetic():
    """Synthetic, for other cells and grids."""
    pytest.importorskip("numba", reason="the loops over voxels are compiled by numba")
    return Synthetic


@pytest.fixture()
def load_browser():
    """A function: a copy of test_in_browser.py whose probe clicks on the headers of these columns, if any."""

    def load(*columns: str):
        name = "copy_of_test_in_browser"
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("test_in_browser.py"))
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if module.CHROMIUM is None:
            pytest.skip("no chromium, chromium-browser or google-chrome is on PATH")
        if columns:
            probe = module.LAST.replace('["lattice", "G", "CC model"]', json.dumps(columns))
            assert probe != module.LAST
            module.LAST = probe
        return module

    return load


@pytest.fixture()
def check_in_browser(load_browser, tmp_path):
    """A function: that a browser of a width (pixels) shows a page of so many figures, and sorts by these columns."""

    def check(html: str, width: int, columns: tuple[str, ...], n_figures: int) -> None:
        sized = html.replace("</head>", f"<style>body {{ width: {width}px; margin: 0 }}</style></head>")
        visit = load_browser(*columns).visit(sized, tmp_path, max(width, 500))
        assert visit.console == [] and visit.found["problems"] == []
        figures = visit.found["figures"]
        assert len(figures) == n_figures
        for one in figures:
            assert one["width"] > 240 and 0.4 < one["height"] / one["width"] < 1.0, one
            assert one["drawn"] >= 10 and one["words"] >= 4, one
        assert max(one["x"] + one["width"] for one in figures) <= width and visit.found["body"] <= width
        assert visit.found["columns"][columns[-1]]["sort"] == ["ascending", "descending"]

    return check


@pytest.fixture(scope="session")
def scaled_sweeps(tmp_path_factory):
    """The .expt and the .refl file, each in a list, of three simulated sweeps of tau = 0.25."""
    pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    sweeps = simulate_sweeps(SweepOptions(tau=0.25, n_images=60, n_crystals=3))
    return [[name] for name in write_sweeps(sweeps, tmp_path_factory.mktemp("sweeps") / "scaled")]
