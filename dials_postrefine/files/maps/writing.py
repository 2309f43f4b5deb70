"""
A map of diffuse scattering -> files, each plane of it computed once.

NeXus      nexus.py (and sums.py: the sums that add= takes).
CCP4       The box of the grid is the "unit cell" of a map in P 1, its lengths a hundred times those in 1/Angstrom, as
           viewers take them for Angstrom.  NSTART is below zero: the grid point 0 0 0 is the origin, and n h that of
           the fractional index h.  Planes along the first axis are the sections, as cctbx has it (MAPC, MAPR, MAPS =
           3, 2, 1), so that they can be written one after another and no map is ever held; which a header made by hand
           allows, and needs no library.  Viewers do not take NaN: a voxel that was not observed is 0, in both maps, and
           a label says so; which ones these are is told by diffuse.nxs.  Minimum, maximum, mean and rms are those of
           the observed voxels.
MTZ        The supercell n_a a, n_b b, n_c c, in which fractional indices are integers, and of symmetry equivalents one,
           in cctbx's asymmetric unit, but for the origin.  The space group is the symmetry that was averaged, in the
           setting of the crystal, without translations but with the inversion.  Where that is not among it (symmetry
           p1), a row has a Friedel pair as (+) and (-).  Columns I, SIGI, IANISO, SIGIANISO and NPIX, the number of
           pixels.
delta-PDF  Of the anisotropic part (diffuse/map/delta_pdf.py), as CCP4 in P 1 with the supercell in which it repeats, in
           Angstrom, as its unit cell, the origin of which is r = 0.
CSV        The isotropic part.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from dials_postrefine.files.maps.nexus import NexusWriter
from dials_postrefine.numerics.indices import INDEX_BASE, pack

if TYPE_CHECKING:
    from dials_postrefine.diffuse.map.grid import Grid
    from dials_postrefine.diffuse.map.merging import Map, Radial
    from dials_postrefine.diffuse.map.records import Description
    from dials_postrefine.diffuse.map.sections import Collector

# Cell lengths of a CCP4 map in steps of the grid: 1/Angstrom in viewers' Angstrom.
CCP4_SCALE = 100.0
# More are not written to an MTZ, which is held in memory, and which no program would take.
MOST_REFLECTIONS = 10_000_000
MTZ_COLUMNS = (("I", "JK"), ("SIGI", "QM"), ("IANISO", "JK"), ("SIGIANISO", "QM"), ("NPIX", "RR"))


def write_map(
    merged: Map,
    description: Description,
    nxs: str | None = None,
    ccp4: str | None = None,
    anisotropic: str | None = None,
    mtz: str | None = None,
    sections: Collector | None = None,
) -> list[str]:
    """
    Write the files whose paths are given (module docstring); nxs is one that sums.write_sums has begun;
    and collect the sections that are asked for.

    Returns sentences that the user should read: what could not be written, and why.
    """
    notes = []
    if mtz and merged.grid.frame != "hkl":
        notes.append("No MTZ is written, as the voxels of a Cartesian grid have no indices.")
        mtz = None
    with ExitStack() as stack:
        writers = [
            stack.enter_context(Ccp4Writer(path, merged.grid, key, description.version, description.unit))
            for path, key in ((ccp4, "intensity"), (anisotropic, "anisotropic"))
            if path
        ]
        if nxs:
            writers.append(stack.enter_context(NexusWriter(nxs, merged, description)))
        reflections = UniqueVoxels(merged.grid, merged.operations) if mtz else None
        if reflections:
            writers.append(reflections)
        for i in range(merged.grid.shape[0]):
            planes = merged.plane(i)
            observed = np.flatnonzero(np.isfinite(planes["intensity"]))
            for writer in writers:
                writer.add(i, planes, observed)
            if sections is not None:
                sections.add(i, planes)
    if reflections and not 0 < reflections.n <= MOST_REFLECTIONS:
        notes.append(
            f"No MTZ is written, as it would have more than {MOST_REFLECTIONS} reflections: take a coarser "
            "grid.subdivide or a larger d_min where it is needed."
            if reflections.n
            else "No MTZ is written, as no voxel was observed."
        )
    elif reflections:
        _write_mtz(mtz, merged, description, reflections)
    return notes


def write_delta_pdf(path: str, values: np.ndarray, grid: Grid, description: Description) -> None:
    """Write the delta-PDF of a map, values (n0, n1, n2) from the origin on, in units of the map times 1/Angstrom^3."""
    from cctbx import sgtbx, uctbx
    from cctbx.array_family import flex
    from dxtbx import flumpy
    from iotbx import ccp4_map

    lengths, angles = cell_parameters(np.linalg.inv(grid.to_s).T)
    ccp4_map.write_ccp4_map(
        file_name=path,
        unit_cell=uctbx.unit_cell((*lengths.tolist(), *angles.tolist())),
        space_group=sgtbx.space_group("P 1"),
        map_data=flumpy.from_numpy(values.astype(float)),
        labels=flex.std_string([f"delta-PDF, {description.unit}/A^3; {description.version}"]),
    )


def write_radial(path: str, radial: Radial) -> None:
    """Write the isotropic part: d (Angstrom), s = 1/d, intensity and its sigma, and the voxels it is taken from."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("d,s,intensity,sigma,voxels\n")
        for s, intensity, sigma, n in zip(radial.s, radial.intensity, radial.sigma, radial.n):
            file.write(f"{1.0 / s:.6g},{s:.6g},{intensity:.8g},{sigma:.6g},{int(n)}\n")


class Ccp4Writer:
    """Writes one quantity of a map, plane by plane, as CCP4 (module docstring)."""

    def __init__(self, path: str, grid: Grid, key: str, version: str, unit: str):
        self.path, self.grid, self.key, self.version, self.unit = path, grid, key, version, unit
        self.n, self.mean, self.squares, self.smallest, self.largest = 0, 0.0, 0.0, np.inf, -np.inf

    def __enter__(self) -> Ccp4Writer:
        self.file = open(self.path, "wb")
        self.file.write(bytes(1024))
        return self

    def add(self, i: int, planes: dict[str, np.ndarray], observed: np.ndarray) -> None:
        """Write the i-th plane, of which the voxels `observed` (numbers within it) are."""
        whole = np.zeros(self.grid.shape[1] * self.grid.shape[2], "<f4")
        values = planes[self.key].ravel()[observed]
        whole[observed] = values
        self.file.write(whole.data)
        if len(values):
            n, mean = self.n + len(values), values.mean()
            # deviations from the mean of all, from those of the parts: Chan et al., Am. Stat. 1983, 37, 242
            self.squares += ((values - mean) ** 2).sum() + (mean - self.mean) ** 2 * self.n * len(values) / n
            self.mean += (mean - self.mean) * len(values) / n
            self.smallest, self.largest = min(self.smallest, values.min()), max(self.largest, values.max())
            self.n = n

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self.file.seek(0)
                self.file.write(self._header())
        finally:
            self.file.close()

    def _header(self) -> bytes:
        """The header of the MRC2014 format, J. Struct. Biol. 2015, 192, 146."""
        grid, words = self.grid, np.zeros(256, "<i4")
        numbers, text = words.view("<f4"), words.view(np.uint8)
        words[0:3], words[3] = grid.shape[::-1], 2  # columns, rows, sections; 32-bit floats
        words[4:7] = grid.low[::-1]
        words[7:10] = grid.shape
        steps, angles = cell_parameters(grid.to_s)
        numbers[10:16] = [*(CCP4_SCALE * steps * grid.shape), *angles]
        words[16:19] = 3, 2, 1
        if self.n:
            numbers[19:22] = self.smallest, self.largest, self.mean
            numbers[54] = np.sqrt(self.squares / self.n)
        words[22], words[27] = 1, 20140
        text[208:216] = [*b"MAP ", 0x44, 0x44, 0, 0]
        if grid.frame == "hkl":
            axes = "h k l in steps of " + " ".join(f"1/{n}" for n in grid.subdivide)
        else:
            axes = f"x y z in steps of {grid.spacing:g} 1/A"
        labels = [
            f"diffuse scattering, {self.key}, {self.unit}; {self.version}",
            f"axes {axes}, grid point 0 0 0 is the origin",
            f"cell lengths are {CCP4_SCALE:.0f} times those of the box in 1/A",
            "0 where not observed (the .nxs file tells where); min, max, mean and rms of",
            "observed voxels only",
        ]
        words[55] = len(labels)
        for number, label in enumerate(labels):
            start = 224 + 80 * number
            text[start : start + 80] = list(label.encode("ascii", "replace")[:80].ljust(80))
        return words.tobytes()


def cell_parameters(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lengths (3,) of the columns of a basis (3, 3), and the angles (3,; degrees) between them."""
    lengths = np.linalg.norm(basis, axis=0)
    cosines = (basis / lengths).T @ (basis / lengths)
    return lengths, np.degrees(np.arccos(np.clip([cosines[1, 2], cosines[0, 2], cosines[0, 1]], -1.0, 1.0)))


class UniqueVoxels:
    """
    Collects of the planes of a map one observed voxel of each orbit: that with the largest packed coordinates.

    Packing is linear in x, p.x, so x is the one if (R' p - p).x <= 0 for all operations R.
    """

    def __init__(self, grid: Grid, operations: np.ndarray):
        self.grid = grid
        weights = np.array([INDEX_BASE**2, INDEX_BASE, 1])
        self.conditions = [w for w in np.einsum("oji,j->oi", operations, weights) - weights if w.any()]
        # what excludes a half of the planes comes first
        self.conditions.sort(key=lambda w: w[0])
        self.n = 0
        self.x: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def add(self, i: int, planes: dict[str, np.ndarray], found: np.ndarray) -> None:
        """Collect what is unique of the voxels `found` (numbers within it) of the i-th plane."""
        if self.n > MOST_REFLECTIONS:
            return
        j, k = np.divmod(found, self.grid.shape[2])
        x, y, z = (int(self.grid.low[0]) + i), j + self.grid.low[1], k + self.grid.low[2]
        for w in self.conditions:
            unique = w[0] * x + w[1] * y + w[2] * z <= 0
            found, y, z = found[unique], y[unique], z[unique]
        if not x:  # and not the origin, which has no resolution
            away = (y != 0) | (z != 0)
            found, y, z = found[away], y[away], z[away]
        keys = ("intensity", "sigma", "anisotropic", "sigma", "pixels")
        self.n += len(found)
        self.x.append(np.stack([np.full(len(found), x), y, z], axis=1).astype(np.int32))
        self.values.append(np.stack([planes[key].ravel()[found] for key in keys], axis=1).astype(np.float32))


def _write_mtz(path: str, merged: Map, description: Description, reflections: UniqueVoxels) -> None:
    from cctbx import sgtbx, uctbx
    from cctbx.array_family import flex
    from dxtbx import flumpy
    from iotbx import mtz

    from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit

    group = sgtbx.space_group()
    for operation in merged.operations:  # on indices as a column; cctbx has them as a row
        group.expand_smx(sgtbx.rt_mx(sgtbx.rot_mx([int(n) for n in operation.T.ravel()], 1), sgtbx.tr_vec((0, 0, 0))))
    lengths, angles = cell_parameters(np.linalg.inv(merged.grid.to_s).T)
    cell = group.average_unit_cell(uctbx.unit_cell((*lengths.tolist(), *angles.tolist())))
    x, values = np.concatenate(reflections.x), np.concatenate(reflections.values)
    h = map_to_asymmetric_unit(x, group)
    _, first, row = np.unique(pack(h), return_index=True, return_inverse=True)
    columns = {label: ("H", h[first, a]) for a, label in enumerate("HKL")}
    minus = (h != x).any(axis=1)
    hands = [("", slice(None))] if group.is_centric() else [("(+)", ~minus), ("(-)", minus)]
    # label by label, (+) before (-): as cctbx looks for pairs
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        for hand, chosen in hands:
            for number in range(start, stop):
                label, types = MTZ_COLUMNS[number]
                column = np.full(len(first), np.nan, np.float32)
                column[row[chosen]] = values[chosen, number]
                columns[label + hand] = types[bool(hand)], column
    file = mtz.object()
    file.set_title("Diffuse scattering")
    file.add_history(flex.std_string([description.version, *_history(merged, description)]))
    file.set_space_group_info(sgtbx.space_group_info(group=group))
    file.set_hkl_base(cell)
    dataset = file.add_crystal("diffuse", "dials_postrefine", cell).add_dataset("diffuse", description.wavelength)
    file.adjust_column_array_sizes(len(first))
    file.set_n_reflections(len(first))
    for label, (kind, column) in columns.items():
        dataset.add_column(label, kind).set_values(flumpy.from_numpy(np.ascontiguousarray(column, np.float32)))
    file.write(path)


def _history(merged: Map, description: Description) -> list[str]:
    n = merged.grid.subdivide
    return [
        f"H K L are those of a supercell of {n[0]} x {n[1]} x {n[2]} cells, divide them by these",
        f"crystal in {description.space_group}, equivalents averaged by {description.symmetry}",
        f"I, SIGI, IANISO and SIGIANISO in {description.unit}",
    ]
