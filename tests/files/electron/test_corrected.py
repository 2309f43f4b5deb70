"""Corrected tables through DIALS' programs, orientations that were turned, and refined structures, read again."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from scipy.spatial.transform import Rotation

from cctbx import adptbx
from dials.array_family import flex
from iotbx import mtz

from dials_postrefine.electron.dynamical.results import Estimate, Structure
from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.electron.corrected import move_orientations, refuse_corrected, write_corrected
from dials_postrefine.files.electron.moving import read_frames
from dials_postrefine.files.electron.refined_structure import in_hand, with_esd, write_structure
from dials_postrefine.files.reference.atomic_models import read_atomic_model

pytestmark = pytest.mark.dials


@pytest.fixture(scope="module")
def quartz(shared_data):
    folder = shared_data / "ed_quartz_scaled"
    return read_frames([str(folder / "scaled.expt")], [str(folder / "scaled.refl")])


def merged_by_hand(files, factor):
    """Weighted means of the observations that are not corrected in the file, each divided by its factor."""
    from cctbx import crystal, miller
    from dxtbx import flumpy

    good = np.isfinite(factor) & (factor > 0.0)
    row = files.row[good]
    names = ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    value, variance, scale = (flumpy.to_numpy(files.table[name])[row] for name in names)
    divisor = scale * factor[good]
    symmetry = crystal.symmetry(unit_cell=files.cell, space_group=files.space_group)
    indices = files.table["miller_index"].select(flumpy.from_numpy(row.astype(np.uint64)))
    asu = miller.set(symmetry, indices, anomalous_flag=False).map_to_asu().indices()
    sums: dict = {}
    for h, i, v in zip(asu, value / divisor, variance / divisor**2):
        total = sums.setdefault(h, [0.0, 0.0])
        total[0] += i / v
        total[1] += 1.0 / v
    return {h: (wi / w, w**-0.5) for h, (wi, w) in sums.items()}


@pytest.mark.slow
def test_a_corrected_table_through_merge_and_export(quartz, shared_data, tmp_path, run_program):
    files, data = quartz
    factor = np.exp(0.4 * np.sin(np.arange(data.n)))
    factor[:3] = np.nan, 0.0, np.inf
    path = tmp_path / "dynamical.refl"
    assert write_corrected(files.table, files.row, factor, str(path)) == len(factor) - 3
    found = tables.read_table(str(path))
    assert len(found) == len(factor) - 3
    with pytest.raises(Exception, match="corrected already"):
        refuse_corrected(found, "dynamical.refl")
    experiments = shared_data / "ed_quartz_scaled" / "scaled.expt"
    run_program("dials.merge", experiments, path, "truncate=False", cwd=tmp_path, check=True)
    arrays = mtz.object(str(tmp_path / "merged.mtz")).as_miller_arrays()
    merged = next(one for one in arrays if one.is_xray_intensity_array())
    expected = merged_by_hand(files, factor)
    assert merged.size() == len(expected)
    for h, i, sigma in merged:
        assert (i, sigma) == pytest.approx(expected[h], rel=1e-4)
    run_program("dials.export", experiments, path, "format=shelx", cwd=tmp_path, check=True)
    lines = [line for line in (tmp_path / "dials.hkl").read_text().splitlines() if line[:12].split() != ["0"] * 3]
    assert len(lines) == len(found)
    scaled = np.array(found["intensity.scale.value"]) / np.array(found["inverse_scale_factor"])
    exported = np.sort([float(line[12:20]) for line in lines])
    # the file's scale makes the largest one fit
    np.testing.assert_allclose(exported / exported[-1], np.sort(scaled) / scaled.max(), rtol=1e-3, atol=1e-6)
    # the integrated intensities are corrected, too: times the factor they are those of the input
    before = tables.select_rows(files.table, flex.size_t(np.sort(files.row[3:]).astype(np.uint64)))
    for name in ("intensity.prf.value", "intensity.sum.value", "intensity.scale.value"):
        again = np.array(found[name]) * np.array(found["dynamical_factor"])
        np.testing.assert_allclose(again, before[name], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found["intensity.dyn.value"], found["intensity.scale.value"])


@pytest.mark.slow
def test_a_corrected_table_through_scale(quartz, shared_data, tmp_path, run_program):
    files, data = quartz
    path = tmp_path / "dynamical.refl"
    write_corrected(files.table, files.row, np.exp(0.4 * np.sin(np.arange(data.n))), str(path))
    experiments = shared_data / "ed_quartz_scaled" / "scaled.expt"
    run_program("dials.scale", experiments, path, "model=KB", cwd=tmp_path, check=True)
    rescaled = tables.read_table(str(tmp_path / "scaled.refl"))
    assert {"dynamical_factor", "intensity.dyn.value", "intensity.scale.value"} <= set(rescaled.keys())


def test_orientations_are_turned_in_the_laboratory(quartz):
    """A turn that is linear in the angle of the scan is written as it is, whatever the goniometer."""
    files, data = quartz
    place = np.linspace(-1.0, 1.0, data.frames.n)
    tilt = np.radians(0.1) * (np.outer(place, [1.0, -2.0, 0.5]) + [0.3, 0.2, -0.1])
    moved, off = move_orientations(files.experiments, data.frames, tilt)
    # nothing is known beyond the middles of the first and the last frame
    assert off < 0.02 * np.radians(0.1)
    for k in (1, data.frames.n // 2, data.frames.n - 2):
        frame = data.frames
        index = moved[0].scan.get_array_index_from_angle(float(np.degrees(frame.angle[k])))
        whole = int(np.floor(index))
        a = models.setting_matrix(moved[0], whole, index - whole)
        expected = Rotation.from_rotvec(tilt[k]).as_matrix() @ frame.a_matrix[k]
        np.testing.assert_allclose(a, expected, atol=2e-7)
    # those that were read are left as they are
    index = files.experiments[0].crystal.get_A_at_scan_point(50)
    assert not np.allclose(index, moved[0].crystal.get_A_at_scan_point(50), atol=1e-6)


@pytest.mark.parametrize("hand, group", [(1, "P 32 2 1"), (-1, "P 31 2 1")])
def test_a_refined_structure_is_read_as_it_was(shared_data, tmp_path, hand, group):
    model = read_atomic_model(str(shared_data / "ed_quartz_scaled" / "quartz_enantiomer_1.cif"))
    structure = in_hand(model.structure, hand)
    sites = np.array([one.site for one in structure.scatterers()])
    sites[1] += 0.01
    esd = np.array([[0.0, 0.0002, 0.0], [0.0003, 0.0004, 0.0011]])
    atoms = Structure(sites, esd, np.array([0.4, 0.4]), np.zeros(2), Estimate(0.4, 0.1))
    path = tmp_path / "refined.cif"
    write_structure(str(path), structure, atoms, {"_refine_ls_R_factor_gt": "0.0512"})
    text = path.read_text()
    assert f"{sites[1, 0]:.4f}(3)" in text and f"{sites[1, 2]:.4f}(11)" in text and "0.0512" in text
    found = read_atomic_model(str(path)).structure
    assert str(found.space_group_info()) == group
    np.testing.assert_allclose([one.site for one in found.scatterers()], sites, atol=6e-5)
    for before, after in zip(structure.scatterers(), found.scatterers()):
        u = [adptbx.u_star_as_u_cart(s.unit_cell(), x.u_star) for s, x in ((structure, before), (found, after))]
        added = 0.4 / (8.0 * np.pi**2) * np.array([1, 1, 1, 0, 0, 0])
        np.testing.assert_allclose(np.array(u[1]) - np.array(u[0]), added, atol=2e-6)


def test_numbers_with_esds():
    assert with_esd(0.46981, 0.00034) == "0.4698(3)" and with_esd(0.5, 0.0) == "0.500000"
    assert with_esd(0.5, float("nan")) == "0.500000"
