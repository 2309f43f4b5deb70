"""What a file is, is seen from its content: kinds, compression, and the same numbers whatever its name is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the files")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import crystal, miller
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.maps import sums as map_sums
from dials_postrefine.files.reference.atomic_models import is_atomic_model, read_atomic_model
from dials_postrefine.files.reference.file_kinds import Kind, compression, kind_of, plain_file, read_text
from dials_postrefine.files.reference.reflection_files import read_intensities
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

PACKERS = {"": None, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PDB = """\
HEADER    TEST
CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N
HETATM    2 SE   MSE A   2       9.000   6.000   7.000  1.00 12.00          SE
END
"""
SMALL = """\
# a comment first
data_quartz
_cell_length_a 4.9
_cell_length_b 4.9
_cell_length_c 5.4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 31 2 1'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Si 0.47 0.0 0.333333 0.01
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind that the programs read, by the ending that it usually has."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "model.pdb").write_text(PDB)
    (folder / "model.cif").write_text(SMALL)
    symmetry = crystal.symmetry((30.0, 40.0, 50.0, 90.0, 90.0, 90.0), "P 21 21 21")
    indices = miller.build_set(symmetry, anomalous_flag=False, d_min=4.0)
    values = flumpy.from_numpy(np.random.default_rng(5).uniform(10.0, 1000.0, indices.size()).round(2))
    array = indices.array(values, 0.1 * values).set_observation_type_xray_intensity()
    array.as_mtz_dataset(column_root_label="I").mtz_object().write(str(folder / "data.mtz"))
    (folder / "mmcif.cif").write_text(mmcif_of(folder / "model.pdb"))
    with open(folder / "sf.cif", "w") as file:
        array.as_cif_simple(out=file, array_type="meas", data_name="r9xyzsf")
    write_stills(simulate_stills(StillsOptions(n_lattices=2, seed=1, d_min=4.0)), str(folder / "stills"))
    return folder


def mmcif_of(path) -> str:
    import iotbx.cif
    import iotbx.pdb

    source, blocks = iotbx.pdb.input(file_name=str(path)), iotbx.cif.model.cif()
    blocks["model"] = source.construct_hierarchy().as_cif_block(crystal_symmetry=source.crystal_symmetry())
    return str(blocks)


def packed(source, target, ending):
    """The file under another name, compressed as the ending says."""
    with open(source, "rb") as file, (PACKERS[ending] or open)(target, "wb") as out:
        shutil.copyfileobj(file, out)
    return str(target)


KINDS = {
    "model.pdb": Kind.PDB,
    "model.cif": Kind.CIF,
    "mmcif.cif": Kind.CIF,
    "sf.cif": Kind.CIF,
    "data.mtz": Kind.MTZ,
    "stills.expt": Kind.EXPERIMENTS,
    "stills.refl": Kind.TABLE,
}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_that_of_the_content(folder, tmp_path, name, ending):
    path = packed(folder / name, tmp_path / "nothing-to-see.txt", ending)
    assert kind_of(path) is KINDS[name]
    assert compression(path) == {"": None, ".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}[ending]
    with plain_file(path) as plain, open(plain, "rb") as file:
        assert file.read() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", Kind.EMPTY),
        (b"  \n", Kind.EMPTY),
        (bytes(208) + b"MAP " + bytes(900), Kind.MAP),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), Kind.HDF5),
        (b"###CBF: VERSION 1.5\ndata_image\n", Kind.IMAGE),
        (b"{\nHEADER_BYTES=512;\n", Kind.IMAGE),
        (b'{"spread": 1}', Kind.JSON),
        (b"!FORMAT=XDS_ASCII    MERGE=FALSE\n", Kind.XDS_ASCII),
        (b"TITL quartz\nCELL 0.71 4.9 4.9 5.4 90 90 120\n", Kind.SHELX),
        (b"<!DOCTYPE html><html>", Kind.PAGE),
        (b"PK\x03\x04....", Kind.ARCHIVE),
        (b"\xef\xbb\xbfdata_a\n_cell_length_a 1\n", Kind.CIF),
        (b"REMARK 3 of a CNS reflection file\nINDE 1 2 3 FOBS 10\n", Kind.TEXT),
        (b"\x01\x02\x00\x03", Kind.UNKNOWN),
    ],
)
def test_other_kinds_are_named(tmp_path, content, kind):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert kind_of(str(path)) is kind


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", ["pdb1abc.ent", "model.cif", "model.pdb", "model", "model.mtz"])
@pytest.mark.parametrize("source", ["model.pdb", "model.cif", "mmcif.cif"])
def test_an_atomic_model_is_read_under_any_name(folder, tmp_path, source, name, ending):
    expected = read_atomic_model(str(folder / source)).structure
    path = packed(folder / source, tmp_path / (name + ending), ending)
    assert is_atomic_model(path)
    found = read_atomic_model(path).structure
    assert found.unit_cell().parameters() == expected.unit_cell().parameters()
    assert np.array(found.sites_cart()) == pytest.approx(np.array(expected.sites_cart()))


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", ["r1abcsf.ent", "data.cif", "data.mtz", "data.pdb", "data"])
@pytest.mark.parametrize("source", ["sf.cif", "data.mtz"])
def test_reflections_are_read_under_any_name(folder, tmp_path, source, name, ending):
    expected = read_intensities(str(folder / "data.mtz")).array
    path = packed(folder / source, tmp_path / (name + ending), ending)
    assert not is_atomic_model(path)
    found, expected = read_intensities(path).array.common_sets(expected)
    assert found.size() == expected.size() > 100
    assert np.array(found.data()) == pytest.approx(np.array(expected.data()), rel=1e-5)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_damaged_compression_is_one_sentence(folder, tmp_path, ending):
    path = packed(folder / "data.mtz", tmp_path / ("data.mtz" + ending), ending)
    content = open(path, "rb").read()
    for damaged in (content[: len(content) // 2], content[:40] + bytes(40) + content[80:]):
        with open(path, "wb") as file:
            file.write(damaged)
        for read in (read_intensities, read_text):
            with pytest.raises(Sorry, match="is a damaged .* file") as stop:
                read(path)
            assert "\n" not in str(stop.value)


def test_what_unpacks_beyond_all_measure_is_refused(folder, tmp_path, monkeypatch):
    path = packed(folder / "data.mtz", tmp_path / "data.mtz.gz", ".gz")
    monkeypatch.setattr("dials_postrefine.files.reference.file_kinds.LARGEST", 100)
    for read in (read_intensities, read_text):
        with pytest.raises(Sorry, match="larger than .* when unpacked"):
            read(path)


@pytest.mark.parametrize(
    "read, name, words",
    [
        (read_intensities, "model.pdb", r"is an atomic model \(PDB\), not reflections"),
        (read_intensities, "stills.expt", r"is an experiment list \(.expt\), not reflections"),
        (read_intensities, "model.cif", "holds no reflections"),
        (read_atomic_model, "data.mtz", "is an MTZ file, not an atomic model"),
        (read_atomic_model, "stills.refl", r"is a reflection table \(.refl\), not an atomic model"),
        (read_atomic_model, "sf.cif", "holds no atoms"),
        (is_atomic_model, "stills.expt", "is an experiment list .* give an atomic model"),
        (models.read_experiments, "stills.refl", "can't be read as an experiment list .it is a reflection table"),
        (models.read_experiments, "model.cif", "can't be read as an experiment list .it is a CIF"),
        (tables.read_table, "stills.expt", "can't be read as a reflection table .it is an experiment list"),
        (tables.read_table, "data.mtz", "can't be read as a reflection table .it is an MTZ file"),
        (lambda path: map_sums.add_sums([path]), "data.mtz", "can't be read as a map .* .it is an MTZ file"),
    ],
)
def test_a_file_of_the_wrong_kind_is_called_what_it_is(folder, read, name, words):
    with pytest.raises(Sorry, match=words) as stop:
        read(str(folder / name))
    assert name in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("ending, tool", [(".gz", "gunzip"), (".bz2", "bunzip2"), (".xz", "unxz")])
def test_compressed_files_for_loaders_that_unpack_nothing_are_refused_as_compressed(folder, tmp_path, ending, tool):
    for name, read in (
        ("stills.expt", models.read_experiments),
        ("stills.refl", tables.read_table),
        ("data.mtz", lambda path: map_sums.add_sums([path])),
    ):
        path = packed(folder / name, tmp_path / name, ending)
        with pytest.raises(Sorry, match=f"is compressed by .*{tool} it"):
            read(path)
