"""
Maps of diffuse scattering -> arrays.

NeXus      entry/map as dials.diffuse_map writes it (nexus.py): axes h, k, l, intensity, sigma (or intensity_errors),
           and where they are there counts and exposure; entry/sample with unit_cell and space_group; entry/symmetry
           with what was averaged.  Voxels that are NaN, have no exposure, or sigma 0 were not observed.
lunus      .lat: three numbers of points (uint32), limits in 1/Angstrom along each axis (six float32), then intensities
           (float32, h fastest, -32768 where there is none), at integer indices of a cell with right angles.

In: a path; out: a MapOnGrid; Sorry for what is none of these.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from dials.util import Sorry

NOTHING = -32768.0  # of a lunus lattice


@dataclass(frozen=True)
class MapOnGrid:
    """
    A map: axes h, k, l (fractional indices), intensity (n_h, n_k, n_l), NaN where not observed; sigma and exposure the
    same, NaN everywhere where the file has none; unit_cell (6 numbers), space_group a symbol or None; averaged: "laue",
    "friedel" or "p1".
    """

    path: str
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    intensity: np.ndarray
    sigma: np.ndarray
    exposure: np.ndarray
    unit_cell: tuple[float, ...]
    space_group: str | None
    averaged: str

    @property
    def has_sigma(self) -> bool:
        """Whether the file has standard deviations."""
        return not np.isnan(self.sigma).all()

    @property
    def cells(self) -> np.ndarray:
        """The voxels an index along each axis (3,)."""
        steps = [np.diff(axis).min() if len(axis) > 1 else 1.0 for axis in self.axes]
        return np.maximum(np.rint(1.0 / np.array(steps)), 1).astype(int)


def read_map_on_grid(path: str) -> MapOnGrid:
    """The map of a file (module docstring); raises Sorry."""
    if not os.path.isfile(path):
        raise Sorry(f"The map {path} does not exist: check the name.")
    found = _read_lattice(path) if path.lower().endswith(".lat") else _read_nexus(path)
    for axis in found.axes:
        on_grid = axis * found.cells[[one is axis for one in found.axes].index(True)]
        if len(axis) < 2 or np.abs(on_grid - np.rint(on_grid)).max() > 1e-3 or np.ptp(np.diff(axis)) > 1e-3:
            raise Sorry(f"The axes of {path} are no even steps of 1/n of an index: make the map with grid.subdivide=.")
    if not np.isfinite(found.intensity).any():
        raise Sorry(f"No voxel of {path} was observed: there is nothing to fit.")
    return found


def _read_nexus(path: str) -> MapOnGrid:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            entry = file["entry"]
            if "map" not in entry:
                raise Sorry(f"{path} has sums but no map: run dials.diffuse_map add={path} first.")
            data, sample = entry["map"], entry["sample"]
            if "h" not in data:
                raise Sorry(f"{path} is on a Cartesian grid: make the map with grid.frame=hkl.")
            errors = next((data[name][()] for name in ("intensity_errors", "sigma") if name in data), None)
            exposure = data["exposure"][()].astype(float) if "exposure" in data else None
            intensity = data["intensity"][()].astype(float)
            averaged = entry["symmetry/averaged"][()] if "symmetry/averaged" in entry else b"p1"
            cell = np.ravel(sample["unit_cell"][()])[:6]
            group = sample["space_group"][()] if "space_group" in sample else None
            axes = tuple(np.asarray(data[name][()], float) for name in "hkl")
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).split("\n", 1)[0].strip("'\"")
        raise Sorry(f"{path} can't be read as a map of dials.diffuse_map ({reason}).") from None
    if intensity.shape != tuple(map(len, axes)):
        raise Sorry(f"{path} has a map of another size than its axes: make it again.")
    observed = np.isfinite(intensity)
    if exposure is not None:
        observed &= exposure > 0.0
    if errors is not None:
        errors = errors.astype(float)
        observed &= np.isfinite(errors) & (errors > 0.0)
    intensity = np.where(observed, intensity, np.nan)
    errors, exposure = (_nothing(intensity.shape) if values is None else values for values in (errors, exposure))
    text = [one.decode() if isinstance(one, bytes) else one for one in (averaged, group)]
    return MapOnGrid(path, axes, intensity, errors, exposure, tuple(map(float, cell)), text[1], str(text[0]))


def _read_lattice(path: str) -> MapOnGrid:
    with open(path, "rb") as file:
        content = file.read()
    shape = np.frombuffer(content[:12], "<u4").astype(int) if len(content) > 36 else np.zeros(3, int)
    n = int(np.prod(shape, dtype=float))
    if not 8 <= n or len(content) < 36 + 4 * n:
        raise Sorry(f"{path} is no lattice of lunus, or cut off: check the file.")
    low, high = np.frombuffer(content[12:36], "<f4").astype(float).reshape(3, 2).T
    steps = (high - low) / (shape - 1)
    if not (steps > 0.0).all():
        raise Sorry(f"{path} is no lattice of lunus: its limits make no sense.")
    values = np.frombuffer(content[36 : 36 + 4 * n], "<f4").reshape(shape[::-1]).transpose(2, 1, 0).astype(float)
    axes = tuple(np.arange(number) + np.rint(start / step) for number, start, step in zip(shape, low, steps))
    lengths = tuple(float(f"{1.0 / step:.5g}") for step in steps)
    intensity = np.where(values == NOTHING, np.nan, values)
    nothing = _nothing(intensity.shape)
    return MapOnGrid(path, axes, intensity, nothing, nothing, (*lengths, 90.0, 90.0, 90.0), None, "p1")


def _nothing(shape: tuple[int, ...]) -> np.ndarray:
    """NaN for each voxel, in the memory of one."""
    return np.broadcast_to(np.nan, shape)


def write_model_map(path: str, observed: MapOnGrid, volumes: dict[str, np.ndarray], chosen: str) -> None:
    """Write volumes (calculated, residual, ...) on the grid of the map they were fitted to, as NeXus."""
    from dials_postrefine.files.maps.nexus import COMPRESSION, create_file, make_group

    with create_file(path) as file:
        file.attrs["default"] = "entry"
        entry = make_group(file, "entry", "NXentry")
        entry.attrs["default"] = "map"
        entry["title"] = "Diffuse scattering calculated by a model"
        entry["program_name"] = "dials.diffuse_model"
        entry["model"] = chosen
        sample = make_group(entry, "sample", "NXsample")
        sample["unit_cell"] = np.array([observed.unit_cell])
        if observed.space_group:
            sample["space_group"] = observed.space_group
        data = make_group(entry, "map", "NXdata")
        data.attrs["signal"] = "calculated"
        data.attrs["axes"] = list("hkl")
        for number, (name, axis) in enumerate(zip("hkl", observed.axes)):
            data[name] = axis
            data.attrs[f"{name}_indices"] = number
        for name, volume in volumes.items():
            data.create_dataset(name, data=volume.astype(np.float32), fillvalue=np.nan, chunks=True, **COMPRESSION)


@dataclass(frozen=True)
class _GridOfMap:
    """What Ccp4Writer needs of a grid."""

    frame: str
    subdivide: tuple[int, ...]
    shape: tuple[int, ...]
    low: np.ndarray
    to_s: np.ndarray


def write_ccp4(path: str, observed: MapOnGrid, values: np.ndarray) -> None:
    """Write a volume on the grid of a map as CCP4, as writing.py has it."""
    from cctbx import uctbx

    import dials_postrefine
    from dials_postrefine.files.maps.writing import Ccp4Writer

    cells = observed.cells
    low = np.array([int(round(axis[0] * n)) for axis, n in zip(observed.axes, cells)])
    basis = np.array(uctbx.unit_cell(observed.unit_cell).fractionalization_matrix()).reshape(3, 3).T
    grid = _GridOfMap("hkl", tuple(int(n) for n in cells), values.shape, low, basis / cells)
    with Ccp4Writer(
        path, grid, "intensity", f"dials_postrefine {dials_postrefine.__version__}", "calculated"
    ) as writer:
        for i, plane in enumerate(values):
            known = np.flatnonzero(np.isfinite(plane))
            writer.add(i, {"intensity": np.nan_to_num(plane)}, known)
