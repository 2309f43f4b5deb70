"""The frames of .cif_pets files: conventions proven by excitation errors, and what can't be meant."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx", reason="the files are read by iotbx")

from dials_postrefine.files.electron.pets import read_pets

pytestmark = pytest.mark.dials

TEXT = """data_pets
_cell_length_a 10
_cell_length_b 10
_cell_length_c 10
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_diffrn_radiation_wavelength 0.0251
_diffrn_orient_matrix_UB_11 0.1
_diffrn_orient_matrix_UB_12 0
_diffrn_orient_matrix_UB_13 0
_diffrn_orient_matrix_UB_21 0
_diffrn_orient_matrix_UB_22 0.1
_diffrn_orient_matrix_UB_23 0
_diffrn_orient_matrix_UB_31 0
_diffrn_orient_matrix_UB_32 0
_diffrn_orient_matrix_UB_33 0.1
_diffrn_measurement_details
;
data collection geometry: continuous rotation
;
loop_
_diffrn_zone_axis_id
_diffrn_zone_axis_u
_diffrn_zone_axis_v
_diffrn_zone_axis_w
_diffrn_zone_axis_precession_angle
_diffrn_zone_axis_alpha
_diffrn_zone_axis_beta
_diffrn_zone_axis_omega
_diffrn_zone_axis_scale
7 0.00000 0.57735 1.00000 0.5 30 0 90 1.0
9 0.00000 0.00000 1.00000 0.5  0 0  0 1.0
loop_
_refln_index_h
_refln_index_k
_refln_index_l
_refln_intensity_meas
_refln_intensity_sigma
_refln_zone_axis_id
1 0 0 100.0 2.0 7
0 0 0 100.0 2.0 7
0 2 0 ? 2.0 7
0 2 -1 -3.0 2.0 9
0 2 -1 -3.0 0.0 9
"""


@pytest.fixture
def read_text(tmp_path):
    def read(text):
        path = tmp_path / "frames.cif_pets"
        path.write_text(text)
        return read_pets(str(path))

    return read


def median_error(found, direction):
    """The median |s| of all reflections with the electrons along z times direction."""
    frames = found.frames
    g = np.einsum("nij,nj->ni", frames.a_matrix[found.frame], found.hkl)
    k = direction * frames.k[0]
    s = -(2.0 * g @ k + np.sum(g * g, axis=1)) / (2.0 * np.linalg.norm(k))
    return float(np.median(np.abs(s)))


@pytest.mark.parametrize(
    "name, n, right, wrong",
    [
        ("ed_cif_pets/quartz_exp", (99, 6666), 0.016, 0.044),
        ("ed3d_synthetic/quartz_sim_a", (99, 2845), 0.008, 0.046),
    ],
)
def test_the_electrons_travel_along_minus_z(shared_data, name, n, right, wrong):
    found = read_pets(str(shared_data / f"{name}.cif_pets"))
    assert (found.frames.n, len(found.hkl)) == n and found.frames.motion == "rotation"
    assert median_error(found, 1.0) == pytest.approx(right, abs=5e-4)
    assert median_error(found, -1.0) == pytest.approx(wrong, abs=5e-4)


def test_half_width_and_axis_are_those_of_the_frames_that_follow(shared_data):
    """Frames of two images a step of one apart: half the width is the step; the axis turns one into the next."""
    found = read_pets(str(shared_data / "ed_cif_pets" / "quartz_exp.cif_pets"))
    frames = found.frames
    turns = frames.a_matrix[1:] @ np.linalg.inv(frames.a_matrix[:-1])
    angle = np.arccos((np.trace(turns, axis1=1, axis2=2) - 1.0) / 2.0)
    assert np.median(angle) == pytest.approx(np.median(frames.semi_width), rel=0.02)
    mean = turns.sum(axis=0)
    about = np.array([mean[2, 1] - mean[1, 2], mean[0, 2] - mean[2, 0], mean[1, 0] - mean[0, 1]])
    axis = frames.axis.mean(axis=0)
    assert np.degrees(np.arccos(about @ axis / np.linalg.norm(about) / np.linalg.norm(axis))) < 0.5
    assert "-1.09%" in found.notes[0]  # the lengths of UB's cell: 4.87 for 4.92 A


def test_dials_own_file(shared_data):
    """dials.export writes this convention: the setting matrices are the experiment's, turned as a whole."""
    from dxtbx.model.experiment_list import ExperimentListFactory

    from dials_postrefine.files.dials.models import setting_matrix

    folder = shared_data / "ed_quartz_scaled"
    found = read_pets(str(folder / "dials_prf.cif_pets"))
    (experiment,) = ExperimentListFactory.from_json_file(str(folder / "integrated.expt"), check_format=False)
    k = np.array(experiment.beam.get_s0())
    for i in (0, 50, 98):  # frame i is of the images i and i + 1
        a = setting_matrix(experiment, i + 1, 0.0)
        # what is along the beam does not depend on the laboratory's frame
        along = found.frames.k[i] @ found.frames.a_matrix[i] * found.frames.wavelength
        np.testing.assert_allclose(along, k @ a / np.linalg.norm(k), atol=3e-4)


def test_frames_as_written(read_text):
    found = read_text(TEXT)
    frames = found.frames
    assert found.names == ("7", "9") and frames.number.tolist() == [7, 9] and found.n_unusable == 3
    assert found.hkl.tolist() == [[1, 0, 0], [0, 2, -1]] and found.frame.tolist() == [0, 1]
    assert found.intensity.tolist() == [100.0, -3.0] and found.row.tolist() == [0, 3] and found.notes == []
    np.testing.assert_allclose(frames.semi_width, np.radians(0.5))
    # R_z(90) R_x(30): x -> y, y -> -x cos + z sin
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    np.testing.assert_allclose(frames.a_matrix[0], 0.1 * np.array([[0, -c, s], [1, 0, 0], [0, s, c]]), atol=1e-12)
    np.testing.assert_allclose(frames.axis[0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(frames.k[1], [0, 0, -1 / 0.0251])


@pytest.mark.parametrize(
    "geometry, interval", [("continuous rotation", np.radians([-0.5, 0.5])), ("precession", [0, 2 * np.pi])]
)
def test_observations_are_means_over_their_own_interval(read_text, geometry, interval):
    from cctbx.sgtbx import space_group_info

    found = read_text(TEXT.replace("continuous rotation", geometry).replace("1 0 0 100.0", "0 -1 2 100.0"))
    data = found.data(space_group_info("P 4 3 2").group())
    np.testing.assert_allclose([data.start[0], data.end[0]], interval)
    np.testing.assert_allclose(data.weight * (data.end - data.start), 1.0)
    np.testing.assert_allclose(data.variance, 4.0)
    assert data.frames.motion == geometry.split()[-1] and data.unique.tolist() == [0, 0] and len(data.laue) == 24


def test_a_space_group_of_another_lattice(read_text):
    from cctbx.sgtbx import space_group_info
    from dials.util import Sorry

    with pytest.raises(Sorry, match="does not fit the space group P 3 2 1"):
        read_text(TEXT).data(space_group_info("P 3 2 1").group())


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("0.0251", "1.54", "not of electrons"),
        ("continuous rotation", "Laue", "geometry .* is laue"),
        ("data collection geometry: continuous rotation", "", "geometry .* is not stated"),
        ("_diffrn_orient_matrix_UB_22 0.1", "_diffrn_orient_matrix_UB_22 -0.1", "not of its unit cell"),
        ("_diffrn_orient_matrix_UB_22 0.1", "_diffrn_orient_matrix_UB_22 0.2", "not of its unit cell"),
        ("_diffrn_orient_matrix_UB_31 0\n", "", "lacks _diffrn_orient_matrix_UB_11 to"),
        ("_cell_length_b 10", "_cell_length_b ?", "lacks _cell_length_a to"),
        ("9 0.00000 0.00000 1.00000 0.5", "9 0.00000 0.00000 -1.0000 0.5", "180.0 degrees from where its angles"),
        ("9 0.00000 0.00000 1.00000 0.5", "9 0.00000 0.00000 1.00000 0.0", "not above zero"),
        ("9 0.00000 0.00000 1.00000 0.5", "7 0.00000 0.00000 1.00000 0.5", "two frames of one number"),
        ("-3.0 2.0 9", "-3.0 2.0 8", "frames that it does not list"),
        ("0 2 -1 -3.0 2.0 9", "0 2.5 -1 -3.0 2.0 9", "no whole numbers"),
        ("_refln_intensity_sigma", "_refln_intensity_esd", "no column _refln_intensity_sigma"),
        ("_refln_zone_axis_id", "_refln_frame", "no reflections by frame"),
        ("_diffrn_zone_axis_id", "_frame_id", "0 data blocks with frames"),
    ],
)
def test_what_can_not_be_meant(read_text, old, new, sentence):
    from dials.util import Sorry

    assert old in TEXT
    with pytest.raises(Sorry, match=sentence) as error:
        read_text(TEXT.replace(old, new))
    assert "\n" not in str(error.value)
