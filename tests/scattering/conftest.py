"""A made-up protein and a made-up small molecule as files, which cctbx and gemmi each read for themselves."""

from __future__ import annotations

import numpy as np
import pytest

CELL = (41.0, 41.0, 33.0, 90.0, 90.0, 90.0)
ELEMENTS = ("C", "C", "C", "N", "O", "S", "H", "SE", "FE")


def protein_text(n_atoms: int = 120, seed: int = 3) -> str:
    """A PDB file: atoms at random in P43212, half of them anisotropic, some of half occupancy."""
    rng = np.random.default_rng(seed)
    a, b, c = CELL[:3]
    lines = [f"CRYST1{a:9.3f}{b:9.3f}{c:9.3f}  90.00  90.00  90.00 P 43 21 2     8"]
    for i in range(n_atoms):
        x, y, z = rng.uniform(0.0, 1.0, 3) * CELL[:3]
        element, occupancy, b_iso = ELEMENTS[i % len(ELEMENTS)], 0.5 if i % 7 == 0 else 1.0, rng.uniform(5.0, 40.0)
        head = f"{i + 1:5d}  {element:<3s} GLY A{i + 1:4d}    "
        lines.append(f"ATOM  {head}{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{b_iso:6.2f}          {element:>2s}")
        if i % 2:
            root = rng.normal(0.0, 1.0, (3, 3))
            u = 0.15 * np.eye(3) + 0.02 * (root @ root.T)
            elements = (u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
            numbers = "".join(f"{round(1e4 * value):7d}" for value in elements)
            lines.append(f"ANISOU{head.rstrip():<22s}{numbers}      {element:>2s}")
    return "\n".join([*lines, "END", ""])


SMALL_MOLECULE = """\
data_made_up
_cell_length_a   6.31
_cell_length_b   7.42
_cell_length_c   9.13
_cell_angle_alpha 90
_cell_angle_beta  101.3
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1 21/c 1'
_symmetry_Int_Tables_number 14
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
-x,y+1/2,-z+1/2
-x,-y,-z
x,-y+1/2,z+1/2
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_adp_type
_atom_site_occupancy
Cu1 Cu 0.0 0.0 0.0 0.021 Uani 1
S1 S 0.1213 0.2391 0.3127 0.031 Uani 1
O1 O 0.4117(3) 0.1021 0.1313 0.041 Uiso 1
C1 C 0.3314 0.4411 0.2121 0.025 Uiso 0.7
H1 H 0.2711 0.3511 0.0913 0.051 Uiso 1
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
Cu1 0.021 0.017 0.025 0.003 0.004 -0.002
S1 0.031 0.027 0.035 -0.003 0.005 0.002
"""


@pytest.fixture(scope="session")
def protein_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("models") / "protein.pdb"
    path.write_text(protein_text())
    return str(path)


@pytest.fixture(scope="session")
def small_molecule_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("models") / "small.cif"
    path.write_text(SMALL_MOLECULE)
    return str(path)
