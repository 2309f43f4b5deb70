"""Atoms by selections, secondary structure, and trajectories, from files."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx.pdb", reason="selections are cctbx's")

from rigid_maps import simulate_atoms, write_pdb

from dials.util import Sorry

from dials_postrefine.files.reference.selections import secondary_structure, select_atoms
from dials_postrefine.files.reference.trajectories import read_trajectory

pytestmark = pytest.mark.dials


def residues_of(path):
    """The residue number of each atom with an occupancy, by the columns of the file."""
    lines = [line for line in path.read_text().splitlines() if line[:6] in ("ATOM  ", "HETATM")]
    return np.array([int(line[22:26]) for line in lines if float(line[54:60]) > 0.0])


def test_helices_are_those_of_the_records(shared_data):
    path = shared_data / "models" / "2tli.pdb"
    if not path.exists():
        pytest.skip("needs ../shared/data/models")
    number = residues_of(path)
    names, parts, source = secondary_structure(str(path), len(number))
    records = [line for line in path.read_text().splitlines() if line.startswith("HELIX")]
    helices = [part for name, part in zip(names, parts) if name.startswith("helix")]
    assert source == "records of the file" and len(helices) == len(records)
    first, last = int(records[0][21:25]), int(records[0][33:37])
    assert set(number[helices[0]]) == set(range(first, last + 1))
    assert np.sum(parts, axis=0).max() == 1


def test_records_that_cannot_be_read_are_found_anew(shared_data, capsys):
    """1stn's HELIX records have no chain: cctbx finds the helices by their CA positions."""
    path = shared_data / "models" / "1stn.pdb"
    if not path.exists():
        pytest.skip("needs ../shared/data/models")
    number = residues_of(path)
    names, parts, source = secondary_structure(str(path), len(number))
    assert source == "CA positions" and sum(name.startswith("helix") for name in names) == 3
    inside = number[parts[names.index("helix 1")]]
    assert {56, 60, 66} <= set(inside) and set(inside) <= set(range(52, 72))  # HELIX 1: 54 to 68
    assert capsys.readouterr().out == ""


def test_selections_leave_out_what_has_no_occupancy(tmp_path):
    path = write_pdb(tmp_path / "model.pdb")
    text = path.read_text().splitlines()
    text[2] = text[2][:54] + "  0.00" + text[2][60:]  # the second atom
    path.write_text("\n".join(text) + "\n")
    first, rest = select_atoms(str(path), ["resseq 1", "resseq 2:10"], 39, "x")
    assert first.tolist() == [True] * 3 + [False] * 36 and (first ^ rest).all()
    with pytest.raises(Sorry, match="x needs the atoms of"):
        select_atoms(str(path), ["all"], 40, "x")


def test_a_trajectory_has_the_atoms_of_the_model(tmp_path):
    """In the order of the model, without what it has not, whatever order the trajectory has."""
    xyz, model = simulate_atoms()[0], write_pdb(tmp_path / "model.pdb")
    kept = [line for line in model.read_text().splitlines() if not line.startswith("ATOM")]
    atoms = [line for line in model.read_text().splitlines() if line.startswith("ATOM")]
    atoms = [f"{line[:12]} {line[13]}{k % 4:<2d}{line[16:]}" for k, line in enumerate(atoms)]
    model.write_text("\n".join([kept[0], *atoms, "END", ""]))
    water = "HETATM   41  O   HOH W 900       1.000   2.000   3.000  1.00  0.00           O"
    lines = []
    for number in range(3):
        lines += [f"MODEL {number + 1:8d}", water]
        for line in reversed(atoms):
            x = float(line[30:38]) + 0.25 * number
            lines.append(f"{line[:30]}{x:8.3f}{line[38:]}")
        lines.append("ENDMDL")
    (tmp_path / "frames.pdb").write_text("\n".join([*lines, "END", ""]))
    frames = read_trajectory(str(tmp_path / "frames.pdb"), str(model), 40)
    assert frames.shape == (3, 40, 3)
    for number in range(3):
        np.testing.assert_allclose(frames[number], xyz + [0.25 * number, 0.0, 0.0], atol=1e-3)
    assert np.ptp(frames[:, :, 1:], axis=0).max() == 0.0
    with pytest.raises(Sorry, match="can't be read as a PDB trajectory|has 0 models"):
        read_trajectory(str(tmp_path / "missing.pdb"), str(model), 40)
