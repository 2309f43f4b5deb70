"""Files of maps: read back by gemmi, cctbx and h5py at the right index; sums that come back and add, bit for bit."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("h5py", reason="NeXus files are HDF5")
pytest.importorskip("gemmi", reason="gemmi reads the maps independently")
pytest.importorskip("numba", reason="maps are merged by compiled loops")
pytest.importorskip("cctbx", reason="cctbx has the space groups")
pytest.importorskip("dials.array_family.flex", reason="a Sorry is that of DIALS")

import gemmi
import h5py

from cctbx import sgtbx
from dials.util import Sorry

from dials_postrefine.diffuse.map import columns, symmetry
from dials_postrefine.diffuse.map.columns import make_sums
from dials_postrefine.diffuse.map.grid import addresses, make_grid, voxels
from dials_postrefine.diffuse.map.merging import Map, merge
from dials_postrefine.diffuse.map.records import (
    N_PROFILE,
    N_SHELLS,
    Corrections,
    Description,
    ImageResult,
    MappingSettings,
)
from dials_postrefine.files.maps import nexus, writing
from dials_postrefine.files.maps import sums as sums_of_files
from dials_postrefine.files.maps.sums import Sums, add_sums, sort_images, write_sums
from dials_postrefine.files.maps.writing import write_map, write_radial
from dials_postrefine.files.safety.outputs import Outputs

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

SETTINGS = MappingSettings(scale="none")
KEYS = tuple(nexus.FILL)


@dataclass
class Case:
    """A crystal and a grid; everything about the map is found from them."""

    group: str
    subdivide: tuple[int, int, int] = (2, 2, 2)
    symmetry: str = "laue"
    spacing: float | None = None
    d_max: float = np.inf

    def __str__(self) -> str:
        return f"{self.group}, {self.symmetry}, {self.spacing or self.subdivide}"


CASES = [
    Case("P 21 3"),
    Case("F m -3 m"),
    Case("P 41 21 2", (2, 2, 3), d_max=9.0),
    Case("P 3 2 1", (2, 2, 1)),  # -3m1
    Case("P 31 1 2", (2, 2, 1)),  # -31m
    Case("R 3 2 :H", (3, 3, 2)),
    Case("R -3 m :R"),
    Case("P 1 21 1", (2, 3, 1), d_max=12.0),
    Case("P 1 1 21", (1, 2, 3)),  # unique axis c
    Case("I 1 2/a 1", (2, 1, 2)),
    Case("C 1 2 1 (x+y,-x+y,z)", (2, 2, 2)),  # mates at h,k and k,h
    Case("C 2 2 21", (3, 2, 1), "friedel"),
    Case("P 21 21 21", (2, 2, 1), "p1"),
    Case("P -1", (3, 2, 2), "p1", d_max=10.0),
    Case("P 4 3 2", spacing=0.05),
    Case("P 1 21 1", symmetry="friedel", spacing=0.04),
]
INDEXED = [case for case in CASES if case.spacing is None]


def rotations_of(group) -> np.ndarray:
    """The point group on indices as columns (n, 3, 3): cctbx has them as rows."""
    return np.array([np.array(op.r().as_double()).reshape(3, 3).T for op in group.all_ops()])


def settled(group_symbol: str):
    info = sgtbx.space_group_info(group_symbol)
    return info.group(), info.any_compatible_unit_cell(volume=1500.0)


def raw(x: np.ndarray) -> np.ndarray:
    """What is counted at voxels x (..., 3): each place has its own, and no symmetry."""
    return 3000 + 31 * x[..., 0] - 17 * x[..., 1] + 11 * x[..., 2] + 3 * x[..., 0] * x[..., 1] - 2 * x[..., 2] ** 2


def description_of(case: Case, cell, identifiers=("crystal",)) -> Description:
    return Description(
        unit_cell=cell.parameters(),
        space_group=case.group,
        ub=np.array(cell.fractionalization_matrix()).reshape(3, 3).T,
        wavelength=0.9763,
        symmetry=case.symmetry,
        version="0.0",
        parameters="d_min = 3",
        input_files=("a.expt", "a.refl"),
        identifiers=tuple(identifiers),
    )


def image(number: int = 1, series: int = 0, **more) -> ImageResult:
    return ImageResult(series, number, scale=1.0, level=2.0, time=0.1, **more)


def sums_of(grid) -> np.ndarray:
    """One second at each voxel, but for those in a shell of resolution, and half of it in the first half set."""
    sums, x = make_sums(grid), voxels(grid)
    s = np.linalg.norm(x @ grid.to_s.T, axis=1)
    seen = np.abs(s * grid.d_min - 0.6) > 0.1
    counts = raw(x)[seen]
    sums[seen, columns.COUNTS] = counts * int(columns.COUNT_SCALE)
    sums[seen, columns.EXPOSURE] = int(SETTINGS.quanta[0])
    sums[seen, columns.PIXELS] = 2 * int(columns.COUNT_SCALE)
    sums[seen, columns.VARIANCE] = counts * int(columns.COUNT_SCALE)
    sums[seen, columns.SQUARES] = 5
    sums[seen, columns.HALF_COUNTS] = (counts // 3) * int(columns.COUNT_SCALE)
    sums[seen, columns.HALF_EXPOSURE] = int(SETTINGS.quanta[0]) // 2
    return sums


@dataclass
class Written:
    """A map and its files."""

    case: Case
    merged: Map
    description: Description
    operations: np.ndarray  # on voxels
    folder: object
    notes: list[str]

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def expected(self) -> dict[str, np.ndarray]:
        """The planes of the map as whole arrays; the intensity is checked against the mean of mates."""
        planes = [self.merged.plane(i) for i in range(self.merged.grid.shape[0])]
        return {key: np.array([plane[key] for plane in planes]) for key in KEYS}

    def n_observed(self) -> int:
        """Without the origin, which no MTZ has."""
        seen = np.isfinite(self.expected()["intensity"])
        seen[tuple(-self.merged.grid.low)] = False
        return np.count_nonzero(seen)

    def coordinates(self) -> np.ndarray:
        """Voxel coordinates (n0, n1, n2, 3) of the box."""
        grid = self.merged.grid
        return np.stack(np.meshgrid(*(grid.low[a] + np.arange(grid.shape[a]) for a in range(3)), indexing="ij"), -1)

    def mean_of_mates(self) -> np.ndarray:
        x = self.coordinates()
        return np.mean([raw(x @ operation.T) for operation in self.operations], axis=0)


def make(case: Case, folder) -> Written:
    group, cell = settled(case.group)
    reciprocal = np.array(cell.fractionalization_matrix()).reshape(3, 3).T
    grid = make_grid(reciprocal, 2.6, case.d_max, case.subdivide, case.spacing)
    operations = symmetry.operations(grid, rotations_of(group), case.symmetry)
    sums = sums_of(grid)
    written = Written(case, None, description_of(case, cell), operations, folder, [])
    write_sums(written.path("diffuse.nxs"), Sums(sums, [image()], grid, SETTINGS, written.description))
    written.merged = merge(sums, [image()], grid, SETTINGS, operations, operations)
    written.notes = write_map(
        written.merged,
        written.description,
        *map(written.path, ("diffuse.nxs", "diffuse.ccp4", "diffuse_anisotropic.ccp4", "diffuse.mtz")),
    )
    return written


@pytest.fixture(scope="module", params=CASES, ids=str)
def written(request, tmp_path_factory) -> Written:
    return make(request.param, tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module", params=INDEXED, ids=str)
def indexed(request, tmp_path_factory) -> Written:
    return make(request.param, tmp_path_factory.mktemp("maps"))


def same(found, expected) -> bool:
    return np.array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32), equal_nan=True)


# NeXus


def test_map_has_the_mean_of_mates_where_observed(written):
    intensity = written.expected()["intensity"]
    seen = np.isfinite(intensity)
    assert 0.05 < seen.mean() < 0.8
    np.testing.assert_allclose(intensity[seen], written.mean_of_mates()[seen], rtol=1e-12)


def test_nexus_has_every_voxel_at_its_index(written):
    expected = written.expected()
    with h5py.File(written.path("diffuse.nxs")) as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert [file.attrs["default"], entry.attrs["NX_class"], data.attrs["NX_class"]] == [
            "entry",
            "NXentry",
            "NXdata",
        ]
        for key in KEYS:
            assert data[key].dtype == np.float32
            assert same(data[key][:], expected[key]), key
        assert same(data[data.attrs["signal"]][:], expected["intensity"])
        assert same(data["intensity_errors"][:], expected["sigma"])
        steps = [written.case.spacing or 1.0 / n for n in written.case.subdivide]
        for number, name in enumerate(data.attrs["axes"]):
            assert data.attrs[f"{name}_indices"] == number
            np.testing.assert_allclose(
                data[name][:], np.unique(written.coordinates()[..., number]) * steps[number], atol=1e-12
            )


def test_nexus_says_where_the_map_comes_from(written):
    given = written.description
    with h5py.File(written.path("diffuse.nxs")) as file:
        entry = file["entry"]
        assert entry["program_name"].asstr()[()] == "dials.diffuse_map"
        assert entry["program_name"].attrs["configuration"] == given.parameters
        assert tuple(entry["input_files"].asstr()[:]) == given.input_files
        assert tuple(entry["experiment_identifiers"].asstr()[:]) == given.identifiers
        assert entry["sample/space_group"].asstr()[()] == given.space_group
        assert entry["symmetry/averaged"].asstr()[()] == given.symmetry
        assert np.array_equal(entry["symmetry/operations_on_voxels"][:], written.operations)
        assert entry["instrument/beam/incident_wavelength"][()] == given.wavelength
        np.testing.assert_allclose(entry["sample/unit_cell"][0], given.unit_cell)
        np.testing.assert_allclose(entry["sample/ub_matrix"][0], given.ub)
        np.testing.assert_allclose(entry["sample/orientation_matrix"][0], np.eye(3), atol=1e-12)
        np.testing.assert_array_equal(entry["radial/intensity"][:], written.merged.radial.intensity)
        shells = written.merged.shells
        assert entry["statistics/overall/n"][()] == shells[-1].n
        assert entry["statistics/shells/completeness"][:].tolist() == [shell.completeness for shell in shells[:-1]]


def test_blocks_without_an_observed_voxel_take_no_space(tmp_path):
    case = Case("P 1", symmetry="p1")
    _, cell = settled(case.group)
    grid = make_grid(np.array(cell.fractionalization_matrix()).reshape(3, 3).T, 0.6)
    assert min(grid.shape) > 32
    sums = make_sums(grid)
    at = addresses(grid, np.array([[1, 2, 3], [2, 2, 3], [-9, 0, 20]]))
    sums[at] = [2**16, int(SETTINGS.quanta[0]), 2**16, 2**16, 0, 0, 0]
    path, operations = str(tmp_path / "diffuse.nxs"), np.eye(3, dtype=np.int64)[None]
    description = description_of(case, cell)
    write_sums(path, Sums(sums, [image()], grid, SETTINGS, description))
    merged = merge(sums, [image()], grid, SETTINGS, operations, operations)
    write_map(merged, description, path, mtz=str(tmp_path / "diffuse.mtz"))
    with h5py.File(path) as file:
        intensity = file["entry/map/intensity"]
        blocks = {tuple(b) for b in (np.array([[1, 2, 3], [2, 2, 3], [-9, 0, 20]]) - grid.low) // nexus.CHUNK}
        assert intensity.id.get_num_chunks() == len(blocks)
        found = np.argwhere(np.isfinite(intensity[:])) + grid.low
        assert found.tolist() == [[-9, 0, 20], [1, 2, 3], [2, 2, 3]]
        assert np.count_nonzero(file["entry/map/pixels"][:]) == 3
        assert file["entry/sums/values"].shape == (columns.N_SUMS, 3)
    assert gemmi.read_mtz_file(str(tmp_path / "diffuse.mtz")).nreflections == 3
    assert (tmp_path / "diffuse.nxs").stat().st_size < 200_000


# CCP4


@pytest.mark.parametrize("key, name", [("intensity", "diffuse"), ("anisotropic", "diffuse_anisotropic")])
def test_gemmi_reads_the_voxel_of_each_index(written, key, name):
    expected, grid = written.expected()[key], written.merged.grid
    file = gemmi.read_ccp4_map(written.path(f"{name}.ccp4"))
    seen = np.isfinite(expected)
    values = expected[seen]
    found = [file.header_float(word) for word in (20, 21, 22, 55)]
    assert found == pytest.approx([values.min(), values.max(), values.mean(), values.std()], rel=1e-5, abs=1e-3)
    labels = [file.header_str(57 + 20 * number, 80) for number in range(file.header_i32(56))]
    assert any("0 where not observed" in label for label in labels)
    file.setup(np.nan, gemmi.MapSetup.Full)
    assert (file.grid.nu, file.grid.nv, file.grid.nw) == grid.shape
    assert file.grid.spacegroup.hm == "P 1"
    for x in written.coordinates()[seen][::97]:
        assert file.grid.get_value(*map(int, x)) == np.float32(expected[tuple(x - grid.low)])
    # all of them, in the order of the file, and 0 where nothing was observed
    file = gemmi.read_ccp4_map(written.path(f"{name}.ccp4"))
    file.setup(np.nan, gemmi.MapSetup.ReorderOnly)
    assert same(np.array(file.grid, copy=False), np.nan_to_num(expected))


def test_ccp4_cell_is_the_box_in_reciprocal_space(written):
    grid = written.merged.grid
    file = gemmi.read_ccp4_map(written.path("diffuse.ccp4"), setup=True)
    steps = np.array(file.grid.unit_cell.orth.mat) / np.array(grid.shape) / 100.0
    np.testing.assert_allclose(steps.T @ steps, grid.to_s.T @ grid.to_s, rtol=1e-5, atol=1e-9)


def test_cctbx_reads_the_voxel_of_each_index(written):
    map_manager = pytest.importorskip("iotbx.map_manager", reason="needs mrcfile").map_manager
    pytest.importorskip("mrcfile", reason="cctbx reads maps with it")
    expected, grid = written.expected()["intensity"], written.merged.grid
    manager = map_manager(file_name=written.path("diffuse.ccp4"))
    data = manager.map_data()
    assert data.all() == grid.shape
    assert tuple(data.origin()) == tuple(int(n) for n in grid.low)
    assert manager.unit_cell_grid == grid.shape
    assert manager.crystal_symmetry().space_group_number() == 1
    assert same(data.as_numpy_array(), np.nan_to_num(expected))


def test_mrcfile_finds_the_file_in_order(written):
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.open(written.path("diffuse.ccp4")) as file:  # not permissive: raises where the header is wrong
        assert file.header.nversion == 20140
        assert file.data.shape == written.merged.grid.shape


# MTZ


def laue_group(case: Case):
    """The symmetry that was averaged, without translations, in cctbx's words."""
    if case.symmetry == "p1":
        return sgtbx.space_group()
    if case.symmetry == "friedel":
        return sgtbx.space_group("-P 1")
    return settled(case.group)[0].build_derived_acentric_group().build_derived_point_group()


def test_gemmi_reads_the_mtz(indexed):
    case, expected, grid = indexed.case, indexed.expected(), indexed.merged.grid
    assert not indexed.notes
    file = gemmi.read_mtz_file(indexed.path("diffuse.mtz"))
    labels = ["I", "SIGI", "IANISO", "SIGIANISO", "NPIX"]
    keys = ["intensity", "sigma", "anisotropic", "sigma", "pixels"]
    hands = ["(+)", "(-)"] if case.symmetry == "p1" else [""]
    assert sorted(file.column_labels()) == sorted([*"HKL", *(label + hand for label in labels for hand in hands)])
    assert [column.type for column in file.columns[3:5]] == (["K", "M"] if case.symmetry == "p1" else ["J", "Q"])
    rows = np.array(file, copy=False)
    h = rows[:, :3].astype(int)
    assert not (h == 0).all(axis=1).any()
    n_found = 0
    for hand in hands:
        x = (-h if hand == "(-)" else h) - grid.low
        there = np.isfinite(file.column_with_label("I" + hand).array)
        n_found += np.count_nonzero(there)
        for label, key in zip(labels, keys):
            found = file.column_with_label(label + hand).array[there]
            assert same(found, expected[key][tuple(x[there].T)]), label
    # the cell is the supercell: s as the grid has it
    d = [file.cell.calculate_d([int(n) for n in index]) for index in h[::50]]
    np.testing.assert_allclose(1.0 / np.array(d), np.linalg.norm(h[::50] @ grid.to_s.T, axis=1), rtol=1e-5)
    if case.symmetry == "p1":
        assert n_found == indexed.n_observed()


def test_cctbx_expands_the_mtz_to_all_that_was_observed(indexed):
    from iotbx.reflection_file_reader import any_reflection_file

    expected, grid = indexed.expected()["intensity"], indexed.merged.grid
    arrays = {
        array.info().labels[0]: array for array in any_reflection_file(indexed.path("diffuse.mtz")).as_miller_arrays()
    }
    hand = "(+)" if indexed.case.symmetry == "p1" else ""
    array = arrays["I" + hand]
    assert array.is_xray_intensity_array() and array.sigmas() is not None
    assert array.anomalous_flag() == (indexed.case.symmetry == "p1")
    assert {"IANISO" + hand, "NPIX" + hand} <= set(arrays)
    assert array.is_unique_set_under_symmetry()
    assert array.map_to_asu().indices().all_eq(array.indices())
    on_voxels = {tuple(int(n) for n in operation.ravel()) for operation in indexed.operations}
    of_file = {tuple(int(n) for n in np.rint(r).ravel()) for r in rotations_of(array.space_group())}
    assert of_file == on_voxels
    everywhere = array.expand_to_p1()
    if not array.anomalous_flag():
        everywhere = everywhere.generate_bijvoet_mates()
    x = np.array(everywhere.indices()) - grid.low
    assert len(np.unique(x, axis=0)) == len(x) == indexed.n_observed()
    # (mates of the box that are not in the map would be outside of it)
    np.testing.assert_allclose(np.array(everywhere.data()), expected[tuple(x.T)], rtol=1e-6)


def test_no_mtz_of_a_cartesian_grid(tmp_path):
    written = make(next(case for case in CASES if case.spacing), tmp_path)
    assert len(written.notes) == 1 and "Cartesian" in written.notes[0]
    assert not (tmp_path / "diffuse.mtz").exists()


def test_no_mtz_that_is_too_large_to_be_of_use(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MOST_REFLECTIONS", 10)
    written = make(CASES[0], tmp_path)
    assert len(written.notes) == 1 and "more than 10 reflections" in written.notes[0]


# radial.csv, and failure


def test_radial_profile_is_a_table(written, tmp_path):
    path, radial = str(tmp_path / "radial.csv"), written.merged.radial
    write_radial(path, radial)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["d", "s", "intensity", "sigma", "voxels"]
    np.testing.assert_allclose([float(row["intensity"]) for row in rows], radial.intensity, rtol=1e-6)
    np.testing.assert_allclose([float(row["d"]) * float(row["s"]) for row in rows], 1.0, rtol=1e-5)


def test_nothing_is_left_where_a_plane_fails(tmp_path):
    written = make(CASES[-1], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = replace(written.merged, operations=None)  # no plane can be had of it
    with pytest.raises(Exception), Outputs() as outputs:
        nxs = outputs.temporary(written.path("diffuse.nxs"))
        write_sums(nxs, Sums(written.merged.sums, [image()], written.merged.grid, SETTINGS, written.description))
        write_map(broken, written.description, nxs, outputs.temporary(written.path("diffuse.ccp4")))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# sums


def random_sums(grid, seed: int, part: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sums = make_sums(grid)
    at = np.flatnonzero(rng.random(grid.n_voxels) < part)
    sums[at] = rng.integers(-(2**61), 2**61, (len(at), columns.N_SUMS))
    sums[at, columns.PIXELS] = rng.integers(1, 2**40, len(at))
    return sums


def random_images(seed: int, numbers, series: int = 0) -> list[ImageResult]:
    rng = np.random.default_rng(seed)
    return [
        ImageResult(
            series,
            number,
            error="no such file: \N{GREEK SMALL LETTER ALPHA}" if number % 5 == 0 else None,
            scale=rng.random(),
            level=np.nan if number % 5 == 0 else rng.random(),
            time=0.1,
            n_inside=int(rng.integers(10**6)),
            n_bragg=3,
            n_rejected=4,
            profile=rng.random((N_SHELLS, N_PROFILE)),
            n_spots=5,
            offset=rng.random(3),
            offset_sq=rng.random(3),
        )
        for number in numbers
    ]


def assert_same_images(found, expected) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        for name in ImageResult.__dataclass_fields__:
            x, y = getattr(a, name), getattr(b, name)
            assert type(x) is type(y), name
            np.testing.assert_array_equal(x, y, err_msg=name)


CASE = Case("P 1 21 1", (2, 3, 1), d_max=40.0)


def small_grid(scale: float = 1.0, subdivide=(2, 3, 1), d_min: float = 3.0, d_max: float = 40.0, spacing=None):
    _, cell = settled(CASE.group)
    reciprocal = np.array(cell.fractionalization_matrix()).reshape(3, 3).T / scale
    return make_grid(reciprocal, d_min, d_max, subdivide, spacing), cell


def write_part(path, seed, numbers, identifier="b", grid=None, settings=SETTINGS, space_group=None) -> np.ndarray:
    default, cell = small_grid()
    grid = grid or default
    sums = random_sums(grid, seed)
    description = description_of(CASE, cell, [identifier])
    if space_group:
        description = replace(description, space_group=space_group)
    write_sums(str(path), Sums(sums, random_images(seed, numbers), grid, settings, description))
    return sums


@pytest.mark.parametrize("spacing", [None, 0.04])
def test_sums_come_back_bit_for_bit(tmp_path, spacing, monkeypatch):
    monkeypatch.setattr(sums_of_files, "PIECE", 64)
    grid, cell = small_grid(spacing=spacing)
    sums = random_sums(grid, 1)
    images = [*random_images(1, range(9), series=1), *random_images(2, (7, 5, 3), series=0)]
    corrections = Corrections(air=False)
    settings = MappingSettings(corrections, "smooth", "random", True, 3.5, False)
    description = replace(
        description_of(CASE, cell), identifiers=("z", "a"), ub=np.empty((0, 3)) if spacing else np.eye(3) / 3.0
    )
    path = str(tmp_path / "diffuse.nxs")
    write_sums(path, Sums(sums, images, grid, settings, description))
    found = add_sums([path])
    assert np.array_equal(found.sums, sums)
    assert_same_images(found.images, sort_images(images, ("z", "a"))[0])
    assert [(image.series, image.number) for image in found.images][:2] == [(0, 0), (0, 1)]
    assert found.settings == settings
    for name in ("frame", "subdivide", "spacing", "d_min", "d_max", "shape", "n_voxels"):
        assert getattr(found.grid, name) == getattr(grid, name)
    assert np.array_equal(found.grid.reciprocal, grid.reciprocal)
    assert np.array_equal(found.description.ub, description.ub)
    expected = replace(description, identifiers=("a", "z"))
    # not of ub: newer versions of Python compare field by field, and no array like that
    for name in {field.name for field in fields(expected)} - {"ub"}:
        assert getattr(found.description, name) == getattr(expected, name), name


def test_the_same_map_is_the_same_file(tmp_path):
    for name in "ab":
        write_part(tmp_path / f"{name}.nxs", 3, range(1, 4))
        time.sleep(1.0)  # the resolution of the times of objects, which must not be in the file
    assert (tmp_path / "a.nxs").read_bytes() == (tmp_path / "b.nxs").read_bytes()


def test_parts_add_to_the_whole_exactly(tmp_path):
    numbers = {"c": (2, 4, 6), "d": (1, 3), "e": (7, 9)}
    parts = {name: write_part(tmp_path / name, seed, numbers[name]) for seed, name in enumerate(numbers)}
    names = [str(tmp_path / name) for name in numbers]
    whole = sum(parts.values())
    expected = sorted(
        (one for i, n in enumerate(numbers.values()) for one in random_images(i, n)), key=lambda i: i.number
    )
    for order in (names, names[::-1]):
        found = add_sums(order)
        assert np.array_equal(found.sums, whole)
        assert_same_images(found.images, expected)
        assert found.description.identifiers == ("b",)
    # and what was added can be added
    again = str(tmp_path / "again")
    first = add_sums(names[:2])
    write_sums(again, Sums(first.sums, first.images, first.grid, first.settings, first.description))
    assert np.array_equal(add_sums([names[2], again]).sums, whole)


def test_images_of_several_crystals_are_sorted_by_name_and_number(tmp_path):
    for seed, (name, identifier) in enumerate({"1": "b", "2": "a", "3": "b"}.items()):
        write_part(tmp_path / name, seed, (3 + seed, 1 + 10 * seed), identifier)
    found = add_sums([str(tmp_path / name) for name in "123"])
    assert found.description.identifiers == ("a", "b")
    names = [(found.description.identifiers[image.series], image.number) for image in found.images]
    assert names == [("a", 4), ("a", 11), ("b", 1), ("b", 3), ("b", 5), ("b", 21)]


def test_voxels_find_their_place_on_the_grid_of_another_cell(tmp_path):
    grids = [small_grid(scale)[0] for scale in (1.0, 1.015)]
    assert grids[0].n_voxels != grids[1].n_voxels
    for number, grid in enumerate(grids):
        write_part(tmp_path / str(number), number, (number + 1,), grid=grid)
    found = add_sums([str(tmp_path / "0"), str(tmp_path / "1")])
    assert found.grid.n_voxels == grids[0].n_voxels
    a, b = (random_sums(grid, number) for number, grid in enumerate(grids))
    x = voxels(grids[0])
    there = addresses(grids[1], x)
    expected = a + np.where(there[:, None] >= 0, b[there], 0)
    assert np.array_equal(found.sums, expected)


REFUSED = {
    "grid": ({"grid": small_grid(subdivide=(2, 2, 1))[0]}, "different grids (grid.subdivide 2 3 1 and 2 2 1)"),
    "frame": ({"grid": small_grid(spacing=0.05)[0]}, "different grids (grid.frame hkl and cartesian)"),
    "d_min": ({"grid": small_grid(d_min=3.5)[0]}, "different grids (d_min 3.0 and 3.5)"),
    "d_max": ({"grid": small_grid(d_max=np.inf)[0]}, "different grids (d_max 40.0 and None)"),
    "cell": ({"grid": small_grid(1.03)[0]}, "differ by more than 2%"),
    "group": ({"space_group": "P 1"}, "different space groups (P 1 21 1 and P 1)"),
    "corrections": (
        {"settings": replace(SETTINGS, corrections=Corrections(air=False))},
        "for solid_angle, polarization, efficiency)",
    ),
    "scale": ({"settings": replace(SETTINGS, scale="per_image")}, "different settings (scale none and per_image)"),
    "halves": ({"settings": replace(SETTINGS, half_sets="random")}, "(half_sets images and random)"),
    "offset": ({"settings": replace(SETTINGS, radial_offset=True)}, "(radial_offset False and True)"),
    "rejection": ({"settings": replace(SETTINGS, n_sigma=4.0)}, "(n_sigma None and 4.0)"),
    "image": ({"numbers": (9, 2)}, "Image 2 of b is in both"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_maps_that_do_not_go_together_are_refused_in_a_sentence(tmp_path, what):
    arguments, sentence = REFUSED[what]
    write_part(tmp_path / "a", 0, (1, 2, 3))
    write_part(tmp_path / "b", 1, **{"numbers": (4, 5), **arguments})
    with pytest.raises(Sorry) as error:
        add_sums([str(tmp_path / "a"), str(tmp_path / "b")])
    assert sentence in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_map_is_not_added_to_itself(tmp_path):
    write_part(tmp_path / "a", 0, (1, 2, 3))
    with pytest.raises(Sorry, match="is given twice"):
        add_sums([str(tmp_path / "a")] * 2)


def test_allowing_bad_images_makes_no_difference(tmp_path):
    write_part(tmp_path / "a", 0, (1, 2, 3))
    write_part(tmp_path / "b", 1, (4,), settings=replace(SETTINGS, allow_bad_images=False))
    assert len(add_sums([str(tmp_path / "a"), str(tmp_path / "b")]).images) == 4


def test_other_files_are_no_maps(tmp_path):
    other = tmp_path / "other.nxs"
    with pytest.raises(Sorry, match="does not exist"):
        add_sums([str(other)])
    other.write_text("an .expt")
    with pytest.raises(Sorry, match="can't be read as a map of dials.diffuse_map"):
        add_sums([str(other)])
    with h5py.File(other, "w") as file:
        file["entry/data"] = 1
    with pytest.raises(Sorry, match="is no map with its sums"):
        add_sums([str(other)])
    write_part(other, 0, (1,))
    with h5py.File(other, "r+") as file:
        file["entry/sums"].attrs["format"] = 99
    with pytest.raises(Sorry, match="another version"):
        add_sums([str(other)])


def test_lost_sums_are_noticed(tmp_path):
    write_part(tmp_path / "a", 0, (1,))
    with h5py.File(tmp_path / "a", "r+") as file:
        values = file["entry/sums/values"]
        values[3, 7] += 1
    with pytest.raises(Sorry, match="truncated, or another kind"):
        add_sums([str(tmp_path / "a")])


def test_truncated_files_end_in_a_sentence(tmp_path):
    write_part(tmp_path / "a", 0, range(1, 9))
    content = (tmp_path / "a").read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "b").write_bytes(content[:length])
        with pytest.raises(Sorry, match="can't be read as a map"):
            add_sums([str(tmp_path / "b")])


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    sums = write_part(tmp_path / "a", 0, range(1, 9))
    images = add_sums([str(tmp_path / "a")]).images
    content = (tmp_path / "a").read_bytes()
    rng, n_noticed = np.random.default_rng(0), 0
    for position in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "b").write_bytes(bytes(damaged))
        try:
            found = add_sums([str(tmp_path / "b")])
        except Sorry as sorry:
            n_noticed += 1
            assert "\n" not in str(sorry)
            continue
        assert np.array_equal(found.sums, sums)
        assert_same_images(found.images, images)
    assert n_noticed > 20


@pytest.mark.parametrize("turned", [False, True])
def test_maps_of_two_wavelengths_are_added_in_any_order(tmp_path, turned):
    grid, cell = small_grid()
    settings, paths, total = MappingSettings(scale="none"), [], 0
    for k, (wavelength, n) in enumerate(((1.0, 3), (1.0001, 1))):
        sums = random_sums(grid, k)
        total = total + sums
        described = replace(
            description_of(CASE, cell), identifiers=(f"s{k}",), wavelength=wavelength, ub=np.eye(3) * wavelength
        )
        paths.append(str(tmp_path / f"{k}.nxs"))
        images = random_images(k, range(n + 1))  # of which the first was not used
        write_sums(paths[k], Sums(sums, images, grid, settings, described))
    found = add_sums(paths[::-1] if turned else paths)
    assert np.array_equal(found.sums, total)
    assert found.description.wavelength == pytest.approx((3.0 + 1.0001) / 4.0, rel=1e-12)
    assert found.description.ub.size == 0  # of two crystals there is not one


def test_what_is_known_of_exposure_times_stays_with_a_map(tmp_path):
    grid, cell = small_grid()
    paths = [str(tmp_path / name) for name in ("known.nxs", "unknown.nxs", "other.nxs")]
    for k, (path, known) in enumerate(zip(paths, (True, False, False))):
        described = replace(description_of(CASE, cell), identifiers=(f"s{k}",), times_known=known)
        write_sums(
            path, Sums(random_sums(grid, k), random_images(k, range(2)), grid, MappingSettings(scale="none"), described)
        )
        assert add_sums([path]).description.times_known == known
    for pair in (paths[:2], paths[1:]):
        with pytest.raises(Sorry, match="unknown.nxs is of images whose exposure time is unknown"):
            add_sums(pair)


def test_files_that_have_the_air_among_their_settings_can_be_read(tmp_path):
    import json

    import h5py

    grid, cell = small_grid()
    path = str(tmp_path / "old.nxs")
    write_sums(
        path,
        Sums(random_sums(grid, 1), random_images(1, range(2)), grid, MappingSettings(), description_of(CASE, cell)),
    )
    with h5py.File(path, "r+") as file:
        group = file["entry/sums"]
        header = json.loads(group["header"][0])
        header["settings"]["corrections"]["mu_air"] = 0.00032
        del header["description"]["times_known"], group["header"]
        group["header"] = np.array([json.dumps(header).encode()])
    assert add_sums([path]).settings == MappingSettings()


def test_the_orientation_is_a_rotation_where_the_cell_of_the_crystal_is_not_the_mean_one(tmp_path):
    import h5py
    from scipy.spatial.transform import Rotation

    grid, cell = small_grid()
    turn = Rotation.from_euler("xyz", [20.0, 40.0, 60.0], degrees=True).as_matrix()
    ub = turn @ (np.eye(3) + 1e-3 * np.array([[1.0, 2.0, 0.0], [2.0, -1.0, 1.0], [0.0, 1.0, 2.0]])) @ grid.reciprocal
    path = str(tmp_path / "a.nxs")
    described = replace(description_of(CASE, cell), ub=ub)
    write_sums(path, Sums(random_sums(grid, 1), random_images(1, range(1, 3)), grid, MappingSettings(), described))
    with h5py.File(path, "r") as file:
        found = file["entry/sample/orientation_matrix"][0]
        np.testing.assert_allclose(file["entry/sample/ub_matrix"][0], ub)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found, turn, atol=1e-12)  # a symmetric strain turns nothing
