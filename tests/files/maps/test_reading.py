"""Maps that models are fitted to: lattices of lunus, made by hand, and the CCP4 of a map read by another program."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.util", reason="Sorry is DIALS'")

from dials.util import Sorry

from dials_postrefine.files.maps.reading import MapOnGrid, read_map_on_grid, write_ccp4

pytestmark = pytest.mark.dials


def write_lattice(path, values, cell, first):
    """values (h, k, l) at integer indices from `first`, h fastest in the file."""
    limits = []
    for n, length, start in zip(values.shape, cell, first):
        limits += [start / length, (start + n - 1) / length]
    head = np.array(values.shape, "<u4").tobytes() + np.array(limits, "<f4").tobytes()
    path.write_bytes(head + np.ascontiguousarray(values.transpose(2, 1, 0), "<f4").tobytes() + bytes(500))


def test_a_lattice_of_lunus(tmp_path):
    values = np.random.default_rng(1).normal(size=(7, 9, 11))
    values[2, 3, 4] = -32768.0
    write_lattice(tmp_path / "a.lat", values, (40.0, 50.5, 63.498), (-3, -4, -5))
    found = read_map_on_grid(str(tmp_path / "a.lat"))
    assert found.unit_cell == pytest.approx((40.0, 50.5, 63.498, 90, 90, 90))
    assert [axis[0] for axis in found.axes] == [-3, -4, -5] and list(found.cells) == [1, 1, 1]
    assert np.isnan(found.intensity[2, 3, 4]) and not found.has_sigma and np.isnan(found.exposure).all()
    np.testing.assert_allclose(found.intensity[0], values[0], rtol=1e-6)
    (tmp_path / "b.lat").write_bytes((tmp_path / "a.lat").read_bytes()[:900])
    with pytest.raises(Sorry, match="cut off"):
        read_map_on_grid(str(tmp_path / "b.lat"))


def test_the_ccp4_of_a_map(tmp_path):
    mrcfile = pytest.importorskip("mrcfile", reason="reads the map back")
    values = np.random.default_rng(2).normal(size=(5, 7, 9))
    values[0, 0, 0] = np.nan
    axes = (np.arange(-2, 3) / 2.0, np.arange(-3, 4) / 3.0, np.arange(-4, 5) / 1.0)
    observed = MapOnGrid("", axes, values, values, values, (40.0, 50.0, 60.0, 90.0, 90.0, 90.0), None, "p1")
    write_ccp4(str(tmp_path / "a.ccp4"), observed, values)
    with mrcfile.open(tmp_path / "a.ccp4", permissive=True) as file:
        np.testing.assert_allclose(file.data, np.nan_to_num(values), rtol=1e-6)
        assert (int(file.header.nzstart), int(file.header.nystart), int(file.header.nxstart)) == (-2, -3, -4)
        lengths = [float(file.header.cella[name]) for name in "xyz"]
    assert lengths == pytest.approx([100 * 5 / 80, 100 * 7 / 150, 100 * 9 / 60], rel=1e-5)
