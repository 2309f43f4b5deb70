"""Atomic models: what is read of each format, and one sentence for each that can't be meant."""

from __future__ import annotations

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the models")
pytest.importorskip("dials.array_family.flex", reason="the messages are those of DIALS")

from dials.util import Sorry

from dials_postrefine.files.reference.atomic_models import read_atomic_model

pytestmark = pytest.mark.dials

CRYST1 = "CRYST1   20.000   30.000   40.000  90.00  90.00  90.00 P 21 21 21"
ATOMS = [
    "ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N",
    "ATOM      2  CA  ALA A   1       2.000   3.000   4.000  1.00 11.00           C",
    "HETATM    3 FE   HEM A   2       5.000   6.000   7.000  0.50 12.00          FE3+",
]
CIF_HEAD = """\
data_{name}
_cell_length_a 5
_cell_length_b 6
_cell_length_c 7
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
-x,-y,-z
"""
CIF_ATOMS = """\
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
{atoms}
"""
MMCIF = """\
data_model
_cell.length_a 20
_cell.length_b 30
_cell.length_c 40
_cell.angle_alpha 90
_cell.angle_beta 90
_cell.angle_gamma 90
_symmetry.space_group_name_H-M 'P 21 21 21'
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.auth_asym_id
_atom_site.auth_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.pdbx_PDB_model_num
ATOM 1 N N . ALA A 1 1 A 1 1.0 2.0 3.0 1.0 10.0 1
ATOM 2 C CA . ALA A 1 1 A 1 2.0 3.0 4.0 1.0 11.0 1
"""


def pdb(*lines: str) -> str:
    return "\n".join([*lines, "END", ""])


def read(tmp_path, text: str, name: str = "model.pdb", block=None):
    path = tmp_path / name
    path.write_text(text)
    return read_atomic_model(str(path), block)


def refused(tmp_path, text: str, name: str = "model.pdb", block=None) -> str:
    """The one sentence, which names the file."""
    with pytest.raises(Sorry) as stop:
        read(tmp_path, text, name, block)
    message = str(stop.value)
    assert name in message and "\n" not in message and message.endswith(".") and len(message) < 400
    return message


def test_a_pdb_file_is_read_with_its_charges(tmp_path):
    model = read(tmp_path, pdb(CRYST1, *ATOMS))
    structure = model.structure
    assert model.types() == ["C", "Fe3+", "N"]
    assert model.macromolecule and model.notes == []
    assert structure.unit_cell().parameters() == (20.0, 30.0, 40.0, 90.0, 90.0, 90.0)
    assert str(structure.space_group_info()) == "P 21 21 21"
    assert list(structure.scatterers().extract_occupancies()) == [1.0, 1.0, 0.5]
    assert structure.sites_cart()[1] == pytest.approx((2.0, 3.0, 4.0))


def test_mmcif_is_read_as_the_same_pdb(tmp_path):
    model, same = read(tmp_path, MMCIF, "model.cif"), read(tmp_path, pdb(CRYST1, *ATOMS[:2]))
    assert model.macromolecule
    for one, other in zip(model.structure.scatterers(), same.structure.scatterers()):
        assert one.scattering_type == other.scattering_type
        assert one.site == pytest.approx(other.site)
        assert one.u_iso == pytest.approx(other.u_iso)


def test_a_small_molecule_has_no_bulk_solvent(tmp_path):
    text = CIF_HEAD.format(name="one") + CIF_ATOMS.format(atoms="C1 C 0.1 0.2 0.3 0.02\nO1 O2- 0.4 0.1 0.2 0.03")
    model = read(tmp_path, text, "small.cif")
    assert not model.macromolecule
    assert model.types() == ["C", "O2-"]
    assert model.structure.scatterers()[0].site == pytest.approx((0.1, 0.2, 0.3))


def test_zero_occupancies_are_left_out_with_a_note(tmp_path):
    absent = ATOMS[0].replace("  1.00 10.00", "  0.00 10.00")
    model = read(tmp_path, pdb(CRYST1, absent, *ATOMS[1:]))
    assert model.structure.scatterers().size() == 2
    assert len(model.notes) == 1 and "1 atom" in model.notes[0] and "zero occupancy" in model.notes[0]


def test_deuterium_is_an_element(tmp_path):
    deuterium = "HETATM    4  D   DOD A   3       8.000   9.000   9.500  1.00 12.00           D"
    assert "D" in read(tmp_path, pdb(CRYST1, *ATOMS, deuterium)).types()


BAD_PDB = {
    "no CRYST1": (pdb(*ATOMS), "CRYST1"),
    "dummy cell": (pdb("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1", *ATOMS), "CRYST1"),
    "cell of another system": (pdb(CRYST1.replace("P 21 21 21", "P 43 21 2 "), *ATOMS), "does not fit the space group"),
    "unknown element X": (pdb(CRYST1, *ATOMS, ATOMS[1].replace("           C", "           X")), "no known element"),
    "dummy atom": (
        pdb(CRYST1, *ATOMS, "HETATM    4 DUM  DUM A   3       8.000   9.000   9.500  1.00 12.00"),
        "no known element",
    ),
    "all of zero occupancy": (pdb(CRYST1, ATOMS[0].replace("  1.00 10.00", "  0.00 10.00")), "zero occupancy"),
    "negative occupancy": (pdb(CRYST1, ATOMS[0].replace("  1.00 10.00", " -1.00 10.00")), "negative occupancy"),
    "negative B": (pdb(CRYST1, ATOMS[0].replace("  1.00 10.00", "  1.00 -5.00"), *ATOMS[1:]), "negative B"),
    "one B of 0": (pdb(CRYST1, ATOMS[0].replace("  1.00 10.00", "  1.00  0.00"), *ATOMS[1:]), "with B = 0"),
    "all B are 0": (pdb(CRYST1, ATOMS[0].replace("  1.00 10.00", "  1.00  0.00")), "All atoms of"),
    "anisotropic B not positive": (
        pdb(CRYST1, ATOMS[0], "ANISOU    1  N   ALA A   1      500    500   -900      0      0      0       N"),
        "not positive definite",
    ),
    "two models": (pdb(CRYST1, "MODEL        1", *ATOMS, "ENDMDL", "MODEL        2", *ATOMS, "ENDMDL"), "2 models"),
    "no atoms": (pdb(CRYST1), "no atoms"),
    "empty": ("", "CRYST1"),
    "damaged number": (pdb(CRYST1, ATOMS[0].replace("1.000   2.000", "1.x00   2.000")), "can't be read"),
}


@pytest.mark.parametrize("case", BAD_PDB)
def test_a_bad_pdb_file_is_refused_with_one_sentence(tmp_path, case):
    text, words = BAD_PDB[case]
    assert words in refused(tmp_path, text)


def test_the_sentence_names_the_atoms(tmp_path):
    message = refused(tmp_path, BAD_PDB["negative B"][0])
    assert "1 atom" in message and "ALA A 1" in message


ONE_ATOM = CIF_ATOMS.format(atoms="C1 C 0.1 0.2 0.3 0.02")
BAD_CIF = {
    "two blocks": (CIF_HEAD.format(name="a") + ONE_ATOM + CIF_HEAD.format(name="b") + ONE_ATOM, "2 data blocks (a, b)"),
    "unknown element": (
        CIF_HEAD.format(name="a") + CIF_ATOMS.format(atoms="Q1 Q 0.1 0.2 0.3 0.02"),
        "no known element",
    ),
    "negative U": (CIF_HEAD.format(name="a") + CIF_ATOMS.format(atoms="C1 C 0.1 0.2 0.3 -0.02"), "negative B"),
    "no atoms": (CIF_HEAD.format(name="a"), "no atoms"),
    "no cell": ("data_a\n" + ONE_ATOM, "unit cell"),
    "damaged": ("data_a\nloop_\n_atom_site_label\n_atom_site_fract_x\nC1\n", "can't be read"),
    "mmCIF with a dummy cell": (
        MMCIF.replace(" 20\n", " 1\n").replace(" 30\n", " 1\n").replace(" 40\n", " 1\n"),
        "unit cell",
    ),
    "not a CIF": ("this is text\n", "can't be read"),
}


@pytest.mark.parametrize("case", BAD_CIF)
def test_a_bad_cif_is_refused_with_one_sentence(tmp_path, case):
    text, words = BAD_CIF[case]
    assert words in refused(tmp_path, text, "model.cif")


def test_one_of_several_blocks_can_be_chosen_and_only_such_a_one(tmp_path):
    other = ONE_ATOM.replace("C1 C", "N1 N")
    text = CIF_HEAD.format(name="a") + ONE_ATOM + CIF_HEAD.format(name="b") + other
    assert read(tmp_path, text, "model.cif", "b").types() == ["N"]
    assert "no data block c" in refused(tmp_path, text, "model.cif", "c")


def test_a_block_without_atoms_is_no_ambiguity(tmp_path):
    text = "data_global\n_audit_creation_date 2020-01-01\n" + CIF_HEAD.format(name="a") + ONE_ATOM
    assert read(tmp_path, text, "model.cif").types() == ["C"]


def test_a_missing_file_is_refused():
    with pytest.raises(Sorry, match="nowhere.pdb does not exist"):
        read_atomic_model("nowhere.pdb")


@pytest.mark.data
def test_the_models_beside_the_data_are_read(shared_data):
    folder = shared_data / "models"
    assert read_atomic_model(str(folder / "1stn.pdb")).types() == ["C", "N", "O", "S"]
    assert "Zn" in read_atomic_model(str(folder / "2tli.pdb")).types()
    quartz = read_atomic_model(str(shared_data / "ed_quartz_scaled" / "quartz_enantiomer_1.cif"))
    assert quartz.types() == ["O", "Si"] and not quartz.macromolecule
