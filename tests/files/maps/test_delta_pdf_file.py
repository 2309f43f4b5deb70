"""The file of a delta-PDF, read back by gemmi: its cell is the supercell, its values sums of cosines over voxels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("gemmi", reason="gemmi reads the file independently")
pytest.importorskip("cctbx", reason="cctbx writes the file")

import gemmi

from dials_postrefine.diffuse.map.delta_pdf import delta_pdf
from dials_postrefine.diffuse.map.grid import make_grid
from dials_postrefine.files.maps.writing import write_delta_pdf

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

CELL = (9.0, 11.0, 12.0, 82.0, 97.0, 104.0)
DESCRIPTION = SimpleNamespace(unit="photons/(s sr)", version="0.0")


def test_gemmi_reads_the_delta_pdf(tmp_path):
    orthogonal = np.array(gemmi.UnitCell(*CELL).orth.mat.tolist())
    grid = make_grid(np.linalg.inv(orthogonal).T, 1.9, subdivide=(2, 3, 2))
    x = np.stack(np.meshgrid(*(low + np.arange(n) for low, n in zip(grid.low, grid.shape)), indexing="ij"), axis=-1)
    s = x @ grid.to_s.T
    length = np.linalg.norm(s, axis=-1)
    values = np.cos(2.0 * np.pi * s @ [3.0, 1.0, -4.0]) + 0.5 * np.cos(s @ [9.0, -5.0, 2.0])
    path = str(tmp_path / "pdf.ccp4")
    write_delta_pdf(path, delta_pdf(values, grid), grid, DESCRIPTION)

    file = gemmi.read_ccp4_map(path)
    file.setup(float("nan"))
    found = np.array(file.grid, copy=False)
    np.testing.assert_allclose(file.grid.unit_cell.parameters, [18.0, 33.0, 24.0, *CELL[3:]], rtol=1e-5)
    assert found.shape == grid.shape
    window = np.where(length < 1.0 / 1.9, 0.5 + 0.5 * np.cos(np.pi * length * 1.9), 0.0)
    supercell = orthogonal * [2, 3, 2]
    for index in [(0, 0, 0), (1, 2, 0), (3, 0, 5), (found.shape[0] - 1, 4, found.shape[2] - 2)]:
        r = supercell @ (np.array(index) / found.shape)
        total = np.sum(window * values * np.cos(2.0 * np.pi * s @ r)) / np.linalg.det(supercell)
        assert found[index] == pytest.approx(total, abs=1e-5 * found.max())
