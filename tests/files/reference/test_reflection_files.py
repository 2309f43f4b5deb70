"""Reflection files: which columns are taken, what is refused, and scaled tables; symmetry against that of the data."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the files")
pytest.importorskip("dials.array_family.flex", reason="the messages are those of DIALS")

from cctbx import crystal, miller, sgtbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.reference.compatibility import check_compatibility, find_reindexing
from dials_postrefine.files.reference.reflection_files import UnmergedIntensities, merge_intensities, read_intensities

pytestmark = pytest.mark.dials

SYMMETRY = crystal.symmetry((30.0, 40.0, 50.0, 90.0, 90.0, 90.0), "P 21 21 21")


def arrays(anomalous: bool = False, seed: int = 0):
    """Intensities and amplitudes of random values that differ from one another."""
    rng = np.random.default_rng(seed)
    indices = miller.build_set(SYMMETRY, anomalous_flag=anomalous, d_min=5.0)
    values = [flumpy.from_numpy(rng.uniform(10.0, 1000.0, indices.size())) for _ in range(2)]
    sigmas = flumpy.from_numpy(rng.uniform(1.0, 5.0, indices.size()))
    intensity = indices.array(values[0], sigmas).set_observation_type_xray_intensity()
    amplitude = indices.array(values[1], sigmas).set_observation_type_xray_amplitude()
    return intensity, amplitude


def write(tmp_path, *columns, name="data.mtz") -> str:
    path = str(tmp_path / name)
    (first, label), *others = columns
    dataset = first.as_mtz_dataset(column_root_label=label)
    for array, label in others:
        dataset.add_miller_array(array, column_root_label=label)
    dataset.mtz_object().write(path)
    return path


def same(found, expected) -> bool:
    found, expected = found.common_sets(expected)
    return found.size() == expected.size() and np.allclose(np.array(found.data()), np.array(expected.data()), rtol=1e-5)


def refused(path, **kwargs) -> str:
    with pytest.raises(Sorry) as stop:
        read_intensities(path, **kwargs)
    message = str(stop.value)
    assert path in message and "\n" not in message
    return message


def test_intensities_come_before_amplitudes(tmp_path):
    intensity, amplitude = arrays()
    assert same(read_intensities(write(tmp_path, (amplitude, "F"), (intensity, "I"))).array, intensity)


def test_amplitudes_are_squared_with_their_sigmas(tmp_path):
    _, amplitude = arrays()
    found = read_intensities(write(tmp_path, (amplitude, "F"))).array
    f, sigma = np.array(amplitude.data()), np.array(amplitude.sigmas())
    assert np.array(found.data()) == pytest.approx(f**2, rel=1e-5)
    assert np.array(found.sigmas()) == pytest.approx(2.0 * f * sigma, rel=1e-4)


def test_calculated_amplitudes_are_taken_where_there_are_no_others(tmp_path):
    _, amplitude = arrays()
    phased = amplitude.customized_copy(
        data=flex.polar(amplitude.data(), flex.double(amplitude.size(), 1.0)), sigmas=None
    )
    path = write(tmp_path, (phased, "FC"))
    assert same(read_intensities(path).array, amplitude.as_intensity_array())
    path = write(tmp_path, (phased, "FC"), (amplitude, "F"), name="both.mtz")
    assert same(read_intensities(path).array, amplitude.as_intensity_array())


def test_several_columns_are_an_error_that_lists_them_and_labels_choose(tmp_path):
    one, two = arrays(seed=1)[0], arrays(seed=2)[0]
    path = write(tmp_path, (one, "IONE"), (two, "ITWO"))
    message = refused(path)
    assert "IONE,SIGIONE" in message and "ITWO,SIGITWO" in message and "labels=" in message
    assert same(read_intensities(path, "ITWO").array, two)
    assert same(read_intensities(path, "IONE,SIGIONE").array, one)
    assert "IONE,SIGIONE; ITWO,SIGITWO" in refused(path, labels="FP")


def test_mean_or_friedel_mates_as_is_wanted(tmp_path):
    apart, together = arrays(anomalous=True)[0], arrays(seed=3)[0]
    path = write(tmp_path, (together, "IMEAN"), (apart, "I"))
    assert same(read_intensities(path, anomalous=False).array, together)
    assert same(read_intensities(path, anomalous=True).array, apart)


def test_an_mtz_of_phases_only_is_refused(tmp_path):
    indices = arrays()[0]
    phases = miller.array(indices, flex.double(indices.size(), 45.0))
    path = str(tmp_path / "phases.mtz")
    phases.as_mtz_dataset(column_root_label="PHI", column_types="P").mtz_object().write(path)
    assert "neither intensities nor amplitudes" in refused(path)


@pytest.mark.parametrize("content", [b"", b"MTZ ", b"text\n" * 40])
def test_what_is_no_reflection_file_is_refused(tmp_path, content):
    path = tmp_path / "bad.mtz"
    path.write_bytes(content)
    refused(str(path))


def test_a_truncated_mtz_is_refused(tmp_path):
    path = write(tmp_path, (arrays()[0], "I"))
    content = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    refused(path)


CIF = """\
data_{name}
_cell.length_a 30
_cell.length_b 40
_cell.length_c 50
_cell.angle_alpha 90
_cell.angle_beta 90
_cell.angle_gamma 90
_symmetry.space_group_name_H-M 'P 21 21 21'
loop_
_refln.index_h
_refln.index_k
_refln.index_l
_refln.{kind}_meas
_refln.{kind}_meas_sigma
1 1 1 100.0 2.0
1 2 1 {value} 3.0
2 1 3 300.0 4.0
"""


def test_a_structure_factor_cif_is_read(tmp_path):
    path = tmp_path / "sf.cif"
    path.write_text(CIF.format(name="r1", kind="intensity", value=200.0))
    found = read_intensities(str(path)).array
    assert dict(zip(found.indices(), found.data())) == {(1, 1, 1): 100.0, (1, 2, 1): 200.0, (2, 1, 3): 300.0}
    assert str(found.space_group_info()) == "P 21 21 21"


def test_amplitudes_of_a_cif_are_squared(tmp_path):
    path = tmp_path / "sf.cif"
    path.write_text(CIF.format(name="r1", kind="F", value=20.0))
    found = read_intensities(str(path)).array
    assert dict(zip(found.indices(), found.data()))[(1, 2, 1)] == pytest.approx(400.0)


def test_a_cif_of_two_data_blocks_is_refused_and_block_chooses(tmp_path):
    path = tmp_path / "sf.cif"
    text = CIF.format(name="r1", kind="intensity", value=200.0) + CIF.format(name="r2", kind="intensity", value=7.0)
    path.write_text(text)
    assert "2 data blocks (r1, r2)" in refused(str(path))
    found = read_intensities(str(path), block="r2").array
    assert dict(zip(found.indices(), found.data()))[(1, 2, 1)] == 7.0


def test_merging_leaves_out_absences_and_what_is_not_finite():
    indices = flex.miller_index([(1, 2, 3), (-1, -2, -3), (-1, 2, -3), (0, 0, 1), (1, 1, 1), (2, 1, 1)])
    data, sigmas = flex.double([10.0, 20.0, 30.0, 5.0, float("nan"), 4.0]), flex.double([1.0, 1.0, 2.0, 1.0, 1.0, 0.0])
    array = miller.set(SYMMETRY, indices, anomalous_flag=True).array(data, sigmas)
    observations = UnmergedIntensities(array.set_observation_type_xray_intensity())
    merged, tally = merge_intensities("x", observations, SYMMETRY, False)
    assert (tally.n_input, tally.n_merged) == (6, 3)
    assert tally.not_used == {"not a number": 1, "without a positive sigma": 1, "systematically absent": 1}
    assert list(merged.indices()) == [(1, 2, 3)]
    assert merged.data()[0] == pytest.approx((10.0 + 20.0 + 30.0 / 4.0) / (1.0 + 1.0 + 0.25))
    apart, _ = merge_intensities("x", observations, SYMMETRY, True)
    assert dict(zip(apart.indices(), apart.data())) == pytest.approx(
        {(1, 2, 3): (10.0 + 30.0 / 4.0) / 1.25, (-1, -2, -3): 20.0}
    )


@pytest.mark.parametrize("with_sigmas", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_every_observation_is_merged_or_counted_and_strong_absences_are_seen(with_sigmas, centred):
    """A primitive lattice (or a centred one with the absences measured, as noise) taken for one centred on C."""
    rng = np.random.default_rng(5)
    cell = (20.0, 30.0, 40.0, 90.0, 90.0, 90.0)
    primitive = crystal.symmetry(cell, "P 2 2 2")
    indices = miller.build_set(primitive, anomalous_flag=False, d_min=2.0)
    h = np.array(indices.indices())
    absent = (h[:, 0] + h[:, 1]) % 2 == 1
    value = rng.exponential(50.0, len(h)) * (~absent | (not centred)) + rng.normal(size=len(h))
    sigma = np.ones(len(h))
    bad = rng.permutation(np.flatnonzero(~absent))[:30]
    value[bad[:10]] = np.nan
    sigma[bad[10:30]] = [0.0] * 15 + [-1.0] * 5
    array = indices.array(flumpy.from_numpy(value), flumpy.from_numpy(sigma) if with_sigmas else None)
    observations = UnmergedIntensities(array.set_observation_type_xray_intensity(), {"not integrated": 7})
    merged, tally = merge_intensities("x", observations, crystal.symmetry(cell, "C 2 2 2"), False, 2.5)
    beyond = np.array(indices.d_spacings().data()) < 2.5
    counted = np.isfinite(value) & (sigma > 0.0) if with_sigmas else np.isfinite(value)
    expected = {
        "not integrated": 7,
        "not a number": 10,
        "without a positive sigma": 20 * with_sigmas,
        "beyond d_min": np.count_nonzero(counted & beyond),
        "systematically absent": np.count_nonzero(absent & ~beyond),
    }
    assert tally.not_used == {reason: n for reason, n in expected.items() if n}
    assert tally.n_input == len(h) + 7 == tally.n_merged + sum(tally.not_used.values())
    assert merged.size() == tally.n_merged
    assert tally.absences.n == expected["systematically absent"]
    assert tally.absences.ratio == pytest.approx(0.0 if centred else 1.0, abs=4.0 * tally.absences.ratio_esd)
    assert tally.absences.strong == (not centred)


def symmetry(symbol, *cell):
    return crystal.symmetry(cell, symbol)


TETRAGONAL = (79.0, 79.0, 38.0, 90.0, 90.0, 90.0)


def test_the_same_symmetry_needs_no_word():
    one = symmetry("P 43 21 2", *TETRAGONAL)
    assert check_compatibility("m", one, symmetry("P 43 21 2", 79.4, 79.4, 37.8, 90, 90, 90)) == (1, [])


@pytest.mark.parametrize("theirs, ours", [("P 43 21 2", "P 41 21 2"), ("P 41", "P 43")])
def test_a_mirror_image_is_inverted(theirs, ours):
    hand, notes = check_compatibility("m", symmetry(theirs, *TETRAGONAL), symmetry(ours, *TETRAGONAL))
    assert hand == -1 and "mirror image" in notes[0]


def test_more_symmetry_is_taken_and_less_is_refused_with_the_cure():
    high, low = symmetry("P 43 21 2", *TETRAGONAL), symmetry("P 43", *TETRAGONAL)
    hand, notes = check_compatibility("m", high, low)
    assert hand == 1 and "less symmetry" in notes[0]
    with pytest.raises(Sorry, match="set space_group=P43 if"):
        check_compatibility("m", low, high)


def test_another_group_of_the_same_point_group_is_noted():
    one, other = symmetry("P 43 21 2", *TETRAGONAL), symmetry("P 4 2 2", *TETRAGONAL)
    hand, notes = check_compatibility("m", one, other)
    assert hand == 1 and "same point group" in notes[0]


def test_data_that_still_have_the_symmetry_of_their_lattice_are_told_the_space_group():
    with pytest.raises(Sorry, match="set space_group=P43212 if"):
        check_compatibility("m", symmetry("P 43 21 2", *TETRAGONAL), symmetry("P 4/m m m", *TETRAGONAL))


def test_another_cell_is_refused():
    other = symmetry("P 43 21 2", 95.0, 95.0, 38.0, 90, 90, 90)
    with pytest.raises(Sorry, match="unit cell 95.00 .*, the data 79.00 .*same crystal form"):
        check_compatibility("m", other, symmetry("P 43 21 2", *TETRAGONAL))


def test_the_reindexing_that_helps_is_named():
    """The axes of an orthorhombic cell permuted: what the message says brings the data's cell to the reference's."""
    reference, data = symmetry("P 21 21 21", 30, 40, 50, 90, 90, 90), symmetry("P 21 21 21", 40, 50, 30, 90, 90, 90)
    with pytest.raises(Sorry, match="change_of_basis_op="):
        check_compatibility("m", reference, data)
    operation = sgtbx.change_of_basis_op(find_reindexing(reference, data))
    assert data.unit_cell().change_basis(operation).parameters() == pytest.approx(reference.unit_cell().parameters())


def test_a_centred_setting_of_the_same_lattice_is_explained():
    reference = symmetry("C 1 2 1", 60, 40, 50, 90, 110, 90)
    data = reference.primitive_setting()
    with pytest.raises(Sorry, match="change_of_basis_op="):
        check_compatibility("m", reference, data)
    operation = sgtbx.change_of_basis_op(find_reindexing(reference, data))
    found = data.unit_cell().change_basis(operation).parameters()
    assert found == pytest.approx(reference.unit_cell().parameters())
