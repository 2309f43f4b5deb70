"""
Maps of diffuse scattering as HDF5/NeXus.

    /entry            NXentry       program, its parameters, input files, identifiers of the experiments
      sample          NXsample      unit cell, space group, UB (Busing & Levy's, where there is one crystal)
      instrument/beam NXbeam        wavelength
      symmetry        NXcollection  what was averaged: its name and the operations on voxel coordinates
      map             NXdata        the voxels along h, k, l (fractional indices), of a Cartesian grid x, y, z
                                    (1/Angstrom): intensity, sigma, anisotropic, half_1, half_2 (NaN where not
                                    observed), counts, exposure, pixels (0 there), float32
      radial          NXdata        the isotropic part by |s|
      statistics      NXcollection  by shell and overall
      sums            NXcollection  sums.py

Volumes are kept in blocks of CHUNK voxels, compressed as HDF5's filters shuffle and gzip have it; blocks in which no
voxel was observed are not written.  They are compressed here and handed over whole: of the bytes of numbers, which
shuffle brings together by their place, the lower ones are noise as a rule, and stand as they are (RFC 1951, 3.2.4); the
others have runs, but hardly any repeats, so deflate looks for runs only.  That takes a third of the time, and hardly
more space.  The format is that of HDF5 1.10, whose structures all have check sums.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dials_postrefine.diffuse.map.merging import Map
    from dials_postrefine.diffuse.map.records import Description

PROGRAM = "dials.diffuse_map"
LIBVER = ("v110", "v110")
# Voxels along each axis: planes in any direction can be read without much else.
CHUNK = (8, 32, 32)
# What is in the voxels that were not observed.
FILL = {
    "intensity": np.nan,
    "sigma": np.nan,
    "anisotropic": np.nan,
    "counts": 0.0,
    "exposure": 0.0,
    "pixels": 0.0,
    "half_1": np.nan,
    "half_2": np.nan,
}
# What is in the units of the map.
INTENSITIES = ("intensity", "sigma", "anisotropic", "half_1", "half_2")
# Bytes are noise where fewer neighbours than this part are the same, as one of LOOK tells.
FEW_RUNS, LOOK = 0.1, 8
MOST_STORED = 0xFFFF  # bytes in a stored block of deflate
COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def create_file(path: str):
    """A new HDF5 file in which no object carries the time of its making: the same map is the same file."""
    import h5py
    from h5py import h5f, h5p

    access, creation = h5p.create(h5p.FILE_ACCESS), h5p.create(h5p.FILE_CREATE)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    creation.set_obj_track_times(False)
    return h5py.File(h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access))


def make_group(parent, name: str, kind: str):
    """A group of the NeXus class `kind`, without times as the file."""
    import h5py
    from h5py import h5g, h5p

    creation = h5p.create(h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    group = h5py.Group(h5g.create(parent.id, name.encode(), gcpl=creation))
    group.attrs["NX_class"] = kind
    return group


def write_chunks(dataset, offsets, blocks: np.ndarray) -> None:
    """Write whole chunks, blocks (n, ...) at offsets (n, rank), of a dataset that has the filters COMPRESSION."""
    if not len(blocks):
        return
    size = blocks.dtype.itemsize
    shuffled = np.ascontiguousarray(blocks).view(np.uint8).reshape(len(blocks), -1, size).transpose(0, 2, 1)
    shuffled = np.ascontiguousarray(shuffled)
    # how many of the lower bytes are noise, by a look at one pair of neighbours in so many
    runs = (shuffled[:, :, 1::LOOK] == shuffled[:, :, ::LOOK][:, :, : shuffled[:, :, 1::LOOK].shape[2]]).mean(axis=2)
    n_noise = (runs < FEW_RUNS).cumprod(axis=1).sum(axis=1)
    for offset, block, n in zip(offsets, shuffled, n_noise):
        dataset.id.write_direct_chunk(tuple(map(int, offset)), _compressed(block, n))


def _compressed(block: np.ndarray, n_noise: int) -> bytes:
    """The bytes (size, n) as zlib has them (RFC 1950), the first n_noise rows stored, the others deflated by runs."""
    if not n_noise:
        deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
        return deflate.compress(block) + deflate.flush()
    parts, noise = [b"\x78\x01"], block[:n_noise].tobytes()
    for start in range(0, len(noise), MOST_STORED):
        piece = noise[start : start + MOST_STORED]
        parts += [b"\0", struct.pack("<HH", len(piece), len(piece) ^ 0xFFFF), piece]
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    parts += [deflate.compress(block[n_noise:]), deflate.flush(), struct.pack(">I", zlib.adler32(block))]
    return b"".join(parts)


def write_entry(file, description: Description, reciprocal: np.ndarray) -> None:
    """Begin a file: where its content comes from, and the crystal with the reciprocal matrix B (3, 3)."""
    file.attrs["default"] = "entry"
    entry = make_group(file, "entry", "NXentry")
    entry.attrs["default"] = "map"
    entry["title"] = "Diffuse scattering"
    entry["program_name"] = PROGRAM
    entry["program_name"].attrs["version"] = description.version
    entry["program_name"].attrs["configuration"] = description.parameters
    entry["input_files"] = _texts(description.input_files)
    entry["experiment_identifiers"] = _texts(description.identifiers)
    sample = make_group(entry, "sample", "NXsample")
    sample["unit_cell"] = np.array([description.unit_cell], float)
    sample["unit_cell_abc"] = np.array(description.unit_cell[:3], float)
    sample["unit_cell_abc"].attrs["units"] = "angstrom"
    sample["unit_cell_alphabetagamma"] = np.array(description.unit_cell[3:], float)
    sample["unit_cell_alphabetagamma"].attrs["units"] = "degrees"
    sample["space_group"] = description.space_group
    if description.ub.size:
        sample["ub_matrix"] = np.array([description.ub], float)
        sample["ub_matrix"].attrs["units"] = "1/angstrom"
        left, _, right = np.linalg.svd(description.ub @ np.linalg.inv(reciprocal))
        sample["orientation_matrix"] = np.array([left @ right])  # the rotation: B is that of the mean cell
    beam = make_group(make_group(entry, "instrument", "NXinstrument"), "beam", "NXbeam")
    beam["incident_wavelength"] = float(description.wavelength)
    beam["incident_wavelength"].attrs["units"] = "angstrom"


class NexusWriter:
    """Adds a map, plane by plane, to a file that has an entry (module docstring)."""

    def __init__(self, path: str, merged: Map, description: Description):
        self.path, self.merged, self.description = path, merged, description
        shape = merged.grid.shape
        self.chunk = tuple(min(n, size) for n, size in zip(CHUNK, shape))
        self.n_blocks = [-(-size // n) for n, size in zip(self.chunk, shape)]
        slab = self.chunk[0], self.n_blocks[1] * self.chunk[1], self.n_blocks[2] * self.chunk[2]
        self.slabs = {name: np.full(slab, fill, np.float32) for name, fill in FILL.items()}

    def __enter__(self) -> NexusWriter:
        import h5py

        self.file = h5py.File(self.path, "r+", libver=LIBVER)
        entry = self.file["entry"]
        _write_symmetry(entry, self.merged, self.description)
        _write_radial(entry, self.merged, self.description.unit)
        _write_shells(entry, self.merged)
        grid = self.merged.grid
        data = make_group(entry, "map", "NXdata")
        names = list("xyz" if grid.frame == "cartesian" else "hkl")
        data.attrs["signal"] = "intensity"
        data.attrs["axes"] = names
        data.attrs["auxiliary_signals"] = [name for name in FILL if name not in ("intensity", "sigma")]
        for number, (name, values) in enumerate(zip(names, grid.axes)):
            data[name] = values
            if grid.frame == "cartesian":
                data[name].attrs["units"] = "1/angstrom"
            data.attrs[f"{name}_indices"] = number
        for name, fill in FILL.items():
            data.create_dataset(name, grid.shape, np.float32, chunks=self.chunk, fillvalue=fill, **COMPRESSION)
            if name in INTENSITIES:
                data[name].attrs["units"] = self.description.unit
        data["intensity_errors"] = data["sigma"]  # a hard link: the name NeXus knows
        self.data = data
        return self

    def add(self, i: int, planes: dict[str, np.ndarray], observed: np.ndarray) -> None:
        """Add the i-th plane, of which the voxels `observed` (numbers within it) are."""
        n, (n_planes, n_rows, n_columns) = self.chunk[0], self.merged.grid.shape
        for name, slab in self.slabs.items():  # where nothing was observed the plane has FILL, too
            slab[i % n, :n_rows, :n_columns] = planes[name]
        if i % n == n - 1 or i == n_planes - 1:
            self._flush(i - i % n)
            for name, slab in self.slabs.items():
                slab[:] = FILL[name]

    def _flush(self, first: int) -> None:
        def in_blocks(slab):
            n, rows, columns = self.chunk
            return slab.reshape(n, self.n_blocks[1], rows, self.n_blocks[2], columns).transpose(1, 3, 0, 2, 4)

        observed = in_blocks(~np.isnan(self.slabs["intensity"])).any(axis=(2, 3, 4))
        if not observed.any():
            return
        offsets = [(first, j * self.chunk[1], k * self.chunk[2]) for j, k in np.argwhere(observed)]
        for name, slab in self.slabs.items():
            write_chunks(self.data[name], offsets, in_blocks(slab)[observed])

    def __exit__(self, kind, error, traceback) -> None:
        self.file.close()


def _write_symmetry(entry, merged: Map, description: Description) -> None:
    symmetry = make_group(entry, "symmetry", "NXcollection")
    symmetry["averaged"] = description.symmetry
    symmetry["operations_on_voxels"] = merged.operations
    symmetry["level"] = merged.level


def _write_radial(entry, merged: Map, unit: str) -> None:
    radial = make_group(entry, "radial", "NXdata")
    radial.attrs["signal"] = "intensity"
    radial.attrs["axes"] = ["s"]
    radial.attrs["s_indices"] = 0
    for name, field in (("s", "s"), ("intensity", "intensity"), ("intensity_errors", "sigma"), ("offset", "offset")):
        radial[name] = getattr(merged.radial, field)
        radial[name].attrs["units"] = "1/angstrom" if name == "s" else unit
    radial["voxels"] = merged.radial.n


def _write_shells(entry, merged: Map) -> None:
    statistics = make_group(entry, "statistics", "NXcollection")
    shells, overall = (make_group(statistics, name, "NXcollection") for name in ("shells", "overall"))
    for field in fields(merged.shells[0]):
        values = [getattr(shell, field.name) for shell in merged.shells]
        values = np.array([np.nan if value is None else value for value in values])
        shells[field.name], overall[field.name] = values[:-1], values[-1]


def _texts(values) -> np.ndarray:
    import h5py

    return np.array([str(value) for value in values], dtype=h5py.string_dtype())
