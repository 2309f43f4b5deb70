"""What a file says twice must agree; what agrees is used, whatever the setting."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the models")
pytest.importorskip("dials.array_family.flex", reason="the messages are those of DIALS")

from cctbx import sgtbx, uctbx
from dials.util import Sorry

from dials_postrefine.files.reference.atomic_models import read_atomic_model
from dials_postrefine.files.reference.redundant_records import fits_cell
from dials_postrefine.files.reference.reflection_files import read_intensities
from dials_postrefine.simulate.stills import rotation_matrices

pytestmark = pytest.mark.dials

CELL = (20.0, 31.0, 43.0, 90.0, 101.0, 90.0)
SITES = np.array([[1.0, 2.0, 3.0], [4.0, 8.0, 12.0], [5.0, 1.0, 7.0]])
TURN = rotation_matrices([[0.3, -0.5, 1.1]])[0]
R = np.array(uctbx.unit_cell(CELL).fractionalization_matrix()).reshape(3, 3)
RIGHT = SITES @ R.T  # fractional
SYMMETRY = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,y+1/2,-z\n"


def pdb(matrix, sites, shift=(0.0, 0.0, 0.0)) -> str:
    lines = ["CRYST1" + "{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f}".format(*CELL) + " P 1 21 1"]
    for k, (row, t) in enumerate(zip(matrix, shift)):
        lines.append(f"SCALE{k + 1}    " + "".join(f"{x:10.6f}" for x in row) + f"     {t:10.5f}")
    for k, site in enumerate(sites):
        place = "".join(f"{x:8.3f}" for x in site)
        lines.append(f"ATOM  {k + 1:5d}  C   ALA A{k + 1:4d}    {place}  1.00 10.00           C")
    return "\n".join([*lines, "END", ""])


def mmcif(matrix, sites, symmetry="_symmetry.space_group_name_H-M 'P 1 21 1'\n") -> str:
    lines = ["data_model"]
    lengths = zip(("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"), CELL)
    lines += [f"_cell.{name} {value}" for name, value in lengths] + [symmetry.rstrip()]
    lines += [
        f"_atom_sites.fract_transf_matrix[{i + 1}][{j + 1}] {matrix[i][j]:.6f}" for i in (0, 1, 2) for j in (0, 1, 2)
    ]
    lines += [f"_atom_sites.fract_transf_vector[{i}] 0.0" for i in (1, 2, 3)] + ["loop_"]
    lines += [f"_atom_site.{x}" for x in "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id".split()]
    lines += [f"_atom_site.{x}" for x in "label_asym_id label_entity_id label_seq_id auth_asym_id auth_seq_id".split()]
    lines += [f"_atom_site.{x}" for x in "Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv pdbx_PDB_model_num".split()]
    for k, (x, y, z) in enumerate(sites):
        lines.append(f"ATOM {k + 1} C CA . ALA A 1 {k + 1} A {k + 1} {x:.3f} {y:.3f} {z:.3f} 1.0 10.0 1")
    return "\n".join([*lines, ""])


def small(symmetry: str, cell=(5, 6, 7, 90, 100, 90)) -> str:
    lines = ["data_small"]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{name} {value}" for name, value in zip(names, cell)] + [symmetry.rstrip(), "loop_"]
    lines += [f"_atom_site_{x}" for x in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv")]
    return "\n".join([*lines, "C1 C 0.1 0.2 0.3 0.02", ""])


def read(tmp_path, text: str, name: str):
    (tmp_path / name).write_text(text)
    return read_atomic_model(str(tmp_path / name))


def sites_of(model) -> np.ndarray:
    return np.array(model.structure.sites_frac())


@pytest.mark.parametrize("write, name", [(pdb, "m.pdb"), (mmcif, "m.cif")])
@pytest.mark.parametrize(
    "wrong",
    [1.2 * R, np.diag([0.05, 0.03, 0.02]), R * [[1.0], [0.8], [1.25]], -R, np.zeros((3, 3))],
    ids=["larger", "another angle", "same volume", "left hand", "zero"],
)
def test_a_matrix_of_another_cell_is_ignored_with_a_note(tmp_path, write, name, wrong):
    model = read(tmp_path, write(wrong, SITES), name)
    assert sites_of(model) == pytest.approx(RIGHT, abs=1e-4)
    assert len(model.notes) == 1 and "is ignored" in model.notes[0]


@pytest.mark.parametrize("write, name", [(pdb, "m.pdb"), (mmcif, "m.cif")])
@pytest.mark.parametrize("turn", [np.eye(3), TURN, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])])
def test_a_turned_frame_of_the_right_cell_is_used(tmp_path, write, name, turn):
    model = read(tmp_path, write(R @ turn.T, SITES @ turn.T), name)
    assert sites_of(model) == pytest.approx(RIGHT, abs=2e-4)
    assert model.notes == []


def test_a_shifted_origin_is_used(tmp_path):
    model = read(tmp_path, pdb(R @ TURN.T, SITES @ TURN.T, (0.25, 0.0, 0.1)), "m.pdb")
    assert sites_of(model) == pytest.approx(RIGHT + [0.25, 0.0, 0.1], abs=2e-4)


def test_rounding_to_six_decimals_fits_large_cells():
    for cell in ((400.0, 410.0, 950.0, 90.0, 90.0, 120.0), (300.0, 300.0, 300.0, 70.0, 75.0, 80.0)):
        unit_cell = uctbx.unit_cell(cell)
        turned = np.array(unit_cell.fractionalization_matrix()).reshape(3, 3) @ TURN.T
        assert fits_cell(np.round(turned, 6).ravel(), unit_cell)
        assert not fits_cell(1.01 * turned.ravel(), unit_cell)
    assert not fits_cell([None] * 9, unit_cell)


@pytest.mark.parametrize(
    "symmetry, expected",
    [
        ("_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_Int_Tables_number 14", "P 1 21/n 1"),
        ("_symmetry_space_group_name_H-M 'P 1 21/n 1'", "P 1 21/n 1"),
        ("_symmetry_space_group_name_Hall '-P 2yn'\n_space_group_IT_number 14", "P 1 21/n 1"),
        ("_symmetry_space_group_name_H-M 'I 1 2 1'\n_space_group_IT_number 5", "I 1 2 1"),
        ("_space_group_IT_number 4", "P 1 21 1"),
        (SYMMETRY + "_symmetry_space_group_name_H-M ?\n_space_group_IT_number 4", "P 1 21 1"),
    ],
)
def test_the_setting_of_a_cif_is_that_of_its_symbol(tmp_path, symmetry, expected):
    group = read(tmp_path, small(symmetry), "m.cif").structure.space_group()
    assert group == sgtbx.space_group_info(expected).group()


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_space_group_name_H-M 'P 1 2 1'\n_symmetry_Int_Tables_number 14",
        SYMMETRY + "_symmetry_space_group_name_H-M 'P 1 21/n 1'",
        SYMMETRY + "_symmetry_Int_Tables_number 1",
        "_symmetry_space_group_name_Hall 'P 2yb'\n_symmetry_space_group_name_H-M 'P 1 21/c 1'",
    ],
)
def test_a_cif_of_two_space_groups_is_refused(tmp_path, symmetry):
    with pytest.raises(Sorry, match="contradicts itself") as stop:
        read(tmp_path, small(symmetry), "m.cif")
    assert "\n" not in str(stop.value) and "m.cif" in str(stop.value)


def test_an_mmcif_of_two_space_groups_is_refused_and_its_symbol_tells_the_setting(tmp_path):
    both = "_symmetry.space_group_name_H-M 'P 1 21 1'\n_symmetry.Int_Tables_number {}\n"
    with pytest.raises(Sorry, match="contradicts itself"):
        read(tmp_path, mmcif(R, SITES, both.format(5)), "m.cif")
    assert str(read(tmp_path, mmcif(R, SITES, both.format(4)), "m.cif").structure.space_group_info()) == "P 1 21 1"
    i2 = both.format(5).replace("P 1 21 1", "I 1 2 1")
    assert str(read(tmp_path, mmcif(R, SITES, i2), "m.cif").structure.space_group_info()) == "I 1 2 1"


def test_reflections_of_a_cif_follow_the_same_rules(tmp_path):
    head = small("{}").split("loop_")[0]
    rows = "loop_\n_refln_index_h\n_refln_index_k\n_refln_index_l\n_refln_F_squared_meas\n_refln_F_squared_sigma\n"
    text = head + rows + "1 1 1 5. 1.\n1 2 1 7. 1.\n2 0 0 8. 1.\n"
    path = tmp_path / "data.cif"
    path.write_text(text.format("_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_Int_Tables_number 14"))
    assert read_intensities(str(path)).array.space_group() == sgtbx.space_group_info("P 1 21/n 1").group()
    path.write_text(text.format("_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_Int_Tables_number 4"))
    with pytest.raises(Sorry, match="contradicts itself"):
        read_intensities(str(path))
