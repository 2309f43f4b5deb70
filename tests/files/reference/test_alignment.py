"""Reference intensities: amplitudes squared, equivalents merged as cctbx does, scaled tables, symmetry checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the references")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import crystal, sgtbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy
from iotbx import mtz

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.reference.alignment import (
    align,
    align_apart,
    merge_friedel_pairs,
    read_reference,
    read_tallied,
)
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.simulate.still_files import make_experiments, make_reflections
from dials_postrefine.simulate.stills import StillsOptions, reference_intensities, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(n_lattices=3, seed=5, d_min=4.0)
CELL = OPTIONS.unit_cell
GROUP = sgtbx.space_group_info(OPTIONS.space_group).group()


@pytest.fixture(scope="module")
def array():
    """The intensities of the simulated structure with standard deviations that differ."""
    array = reference_intensities(OPTIONS)[2]
    sigmas = flumpy.from_numpy(np.random.default_rng(0).uniform(1.0, 20.0, array.size()))
    return array.customized_copy(sigmas=sigmas).set_observation_type_xray_intensity()


def as_dict(h, intensity) -> dict:
    return dict(zip(map(tuple, h.tolist()), intensity.tolist()))


def test_intensities_of_an_mtz_are_read_as_they_are(array, tmp_path):
    path = str(tmp_path / "i.mtz")
    array.as_mtz_dataset(column_root_label="I").mtz_object().write(path)
    found = as_dict(*read_reference(path, GROUP, CELL))
    assert found == pytest.approx(dict(zip(array.indices(), array.data())), rel=1e-5)


def test_amplitudes_are_squared(array, tmp_path):
    path = str(tmp_path / "f.mtz")
    amplitudes = array.customized_copy(data=flex.sqrt(array.data()), sigmas=None).set_observation_type_xray_amplitude()
    amplitudes.as_mtz_dataset(column_root_label="F").mtz_object().write(path)
    found = as_dict(*read_reference(path, GROUP, CELL))
    assert found == pytest.approx(dict(zip(array.indices(), array.data())), rel=1e-5)


def test_intensities_are_preferred_to_amplitudes(array, tmp_path):
    path = str(tmp_path / "both.mtz")
    other = array.customized_copy(
        data=flex.double(array.size(), 3.0), sigmas=None
    ).set_observation_type_xray_amplitude()
    dataset = other.as_mtz_dataset(column_root_label="F")
    dataset.add_miller_array(array, column_root_label="I")
    dataset.mtz_object().write(path)
    found = as_dict(*read_reference(path, GROUP, CELL))
    assert found == pytest.approx(dict(zip(array.indices(), array.data())), rel=1e-5)


def equivalents(array, seed: int):
    """Every index a few times in other settings and as Friedel pairs, with noise: h (n, 3), values and sigmas (n,)."""
    rng = np.random.default_rng(seed)
    h, values, sigmas = [], [], []
    operators = [op.r().as_double() for op in GROUP.smx()]
    for index, value, sigma in zip(array.indices(), array.data(), array.sigmas()):
        for _ in range(rng.integers(1, 4)):
            r = np.array(operators[rng.integers(len(operators))]).reshape(3, 3)
            h.append(np.rint(rng.choice([-1, 1]) * (index @ r)))
            sigmas.append(sigma * rng.uniform(0.5, 2.0))
            values.append(value + sigmas[-1] * rng.standard_normal())
    return np.array(h, dtype=np.int32), np.array(values), np.array(sigmas)


def write_unmerged(path: str, h: np.ndarray, values: np.ndarray, sigmas: np.ndarray) -> None:
    """An unmerged MTZ of these observations."""
    file = mtz.object().set_space_group_info(sgtbx.space_group_info(OPTIONS.space_group))
    dataset = file.add_crystal("crystal", "project", CELL).add_dataset("data", 1.3)
    file.adjust_column_array_sizes(len(h))
    file.set_n_reflections(len(h))
    for label, kind, column in (
        *zip("HKL", "HHH", h.T),
        ("M_ISYM", "Y", np.ones(len(h))),
        ("BATCH", "B", np.ones(len(h))),
        ("I", "J", values),
        ("SIGI", "Q", sigmas),
    ):
        dataset.add_column(label, kind).set_values(flumpy.from_numpy(column.astype(np.float32)))
    file.write(path)


def weighted_means(h, values, sigmas) -> dict:
    """sum w I / sum w with w = 1/sigma^2 by index of the asymmetric unit, in plain numpy."""
    asu = map_to_asymmetric_unit(h, GROUP)
    _, first, group = np.unique(pack(asu), return_index=True, return_inverse=True)
    w = sigmas**-2.0
    return as_dict(asu[first], np.bincount(group, w * values) / np.bincount(group, w))


def test_an_unmerged_mtz_is_merged_as_cctbx_does(array, tmp_path):
    h, values, sigmas = equivalents(array, seed=1)
    path = str(tmp_path / "unmerged.mtz")
    write_unmerged(path, h, values, sigmas)

    found = as_dict(*read_reference(path, GROUP, CELL))
    (unmerged,) = [a for a in mtz.object(path).as_miller_arrays(merge_equivalents=False) if a.is_xray_intensity_array()]
    assert unmerged.size() == len(h) > array.size()
    theirs = unmerged.map_to_asu().merge_equivalents(use_internal_variance=False).array()
    assert found == pytest.approx(dict(zip(theirs.indices(), theirs.data())), rel=1e-9)
    assert found == pytest.approx(weighted_means(h, values, sigmas), rel=1e-4, abs=1e-3)


def write_scaled(folder, factor: float = 2.5):
    """A scaled pair; returns the means that it holds.  Bad rows of it are wild."""
    sim = simulate_stills(OPTIONS)
    experiments = make_experiments(sim)
    table = make_reflections(sim, experiments)
    n = len(table)
    table["inverse_scale_factor"] = flumpy.from_numpy(factor * (1.0 + np.arange(n) % 3))
    scale = flumpy.to_numpy(table["inverse_scale_factor"])
    table["intensity.scale.value"] = flumpy.from_numpy(sim.i_full * scale)
    table["intensity.scale.variance"] = flumpy.from_numpy((1.0 + np.arange(n) % 5) * scale**2)
    bad = np.arange(n) % 7 == 0
    flumpy.to_numpy(table["intensity.scale.value"])[bad] = 1e6
    names = table.flags
    for i, flag in enumerate((names.excluded_for_scaling, names.outlier_in_scaling, names.user_excluded_in_scaling)):
        table.set_flags(flumpy.from_numpy(bad & (np.arange(n) % 3 == i)), flag)
    experiments.as_file(str(folder / "scaled.expt"))
    table.as_file(str(folder / "scaled.refl"))
    return weighted_means(sim.h[~bad], sim.i_full[~bad], np.sqrt(1.0 + np.arange(n) % 5)[~bad])


def test_a_scaled_table_is_divided_by_its_scale_and_merged(tmp_path):
    expected = write_scaled(tmp_path)
    found = as_dict(*read_reference(str(tmp_path / "scaled.refl"), GROUP, CELL))
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_scaled_table_needs_its_experiments_and_must_be_scaled(tmp_path):
    write_scaled(tmp_path)
    table = flex.reflection_table.from_file(str(tmp_path / "scaled.refl"))
    del table["inverse_scale_factor"]
    table.as_file(str(tmp_path / "scaled.refl"))
    with pytest.raises(Sorry, match="is not scaled"):
        read_reference(str(tmp_path / "scaled.refl"), GROUP, CELL)
    (tmp_path / "scaled.expt").unlink()
    with pytest.raises(Sorry, match="needs .*scaled.expt"):
        read_reference(str(tmp_path / "scaled.refl"), GROUP, CELL)


@pytest.mark.parametrize(
    "space_group, cell, words",
    [
        ("P43212", (79.0, 79.0, 40.0, 90.0, 90.0, 90.0), "unit cell"),
        ("P1", (79.0, 79.0, 38.0, 90.0, 93.0, 90.0), "unit cell"),
        ("P41212", CELL, None),  # the other hand: of the same point group
        ("P4", CELL, "space group"),
    ],
)
def test_cell_and_point_group_must_be_those_of_the_data(array, tmp_path, space_group, cell, words):
    path = str(tmp_path / "i.mtz")
    symmetry = crystal.symmetry(unit_cell=CELL, space_group_symbol=space_group)
    array.customized_copy(crystal_symmetry=symmetry).as_mtz_dataset(column_root_label="I").mtz_object().write(path)
    ours = GROUP if space_group != "P1" else sgtbx.space_group_info("P1").group()
    if words is None:
        assert len(read_reference(path, ours, cell)[0])
    else:
        with pytest.raises(Sorry, match=words):
            read_reference(path, ours, cell)


def test_align_puts_values_in_order_and_leaves_nan():
    h = np.array([[1, 2, 3], [0, 0, 4], [-1, 0, 2]], dtype=np.int32)
    wanted = np.array([[-1, 0, 2], [5, 5, 5], [1, 2, 3], [-9, 0, 0], [0, 0, 4], [1, 2, 3]], dtype=np.int32)
    found = align(wanted, h, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, [3.0, np.nan, 1.0, np.nan, 2.0, 1.0])
    assert align(wanted[:0], h, np.ones(3)).shape == (0,)


def test_the_result_is_in_the_asymmetric_unit_and_unique(array, tmp_path):
    path = str(tmp_path / "i.mtz")
    array.expand_to_p1().customized_copy(crystal_symmetry=array.crystal_symmetry()).as_mtz_dataset(
        column_root_label="I"
    ).mtz_object().write(path)
    h, intensity = read_reference(path, GROUP, CELL)
    assert len(h) == len(intensity) == array.size()
    assert np.array_equal(map_to_asymmetric_unit(h, GROUP), h)
    assert not any(GROUP.is_sys_absent(to_flex_miller(h)))


@pytest.fixture(scope="module")
def apart():
    """The same structure with anomalous scatterers, Friedel pairs apart."""
    array = reference_intensities(dataclasses.replace(OPTIONS, bijvoet_ratio=0.05))[2]
    return array.customized_copy(sigmas=0.01 * array.data()).set_observation_type_xray_intensity()


def columns(array) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, 3) and intensities (n,)."""
    return np.array(array.indices(), dtype=np.int32).reshape(-1, 3), np.array(array.data())


@pytest.mark.parametrize("merged", [True, False])
def test_friedel_pairs_are_read_apart_from_merged_and_unmerged_files(apart, merged, tmp_path):
    path = str(tmp_path / "apart.mtz")
    if merged:
        apart.as_mtz_dataset(column_root_label="I").mtz_object().write(path)
    else:
        h, intensity = columns(apart)
        write_unmerged(path, np.tile(h, (2, 1)), np.tile(intensity, 2), np.tile(np.array(apart.sigmas()), 2))
    h, intensity, _ = read_tallied(path, GROUP, CELL, anomalous=True)
    assert as_dict(h, intensity) == pytest.approx(as_dict(*columns(apart)), rel=1e-5)


def test_a_reference_with_pairs_merged_serves_for_both(apart, tmp_path):
    path = str(tmp_path / "mean.mtz")
    mean = apart.average_bijvoet_mates()
    mean.as_mtz_dataset(column_root_label="I").mtz_object().write(path)
    h, intensity, _ = read_tallied(path, GROUP, CELL, anomalous=True)
    h_unique, _ = columns(apart)
    found = align_apart(h_unique, h, intensity, GROUP)
    expected = as_dict(*columns(mean.map_to_asu()))
    asu = map_to_asymmetric_unit(h_unique, GROUP)
    assert found == pytest.approx([expected[tuple(index)] for index in asu.tolist()], rel=1e-5)


def test_one_hand_alone_serves_for_the_other_too(apart):
    h, intensity = columns(apart)
    known = np.random.default_rng(0).random(len(h)) < 0.6
    found = align_apart(h, h[known], intensity[known], GROUP)
    assert np.array_equal(found[known], intensity[known])
    both = as_dict(h[known], intensity[known])
    mates = [both.get(tuple(-i for i in index), np.nan) for index in h[~known].tolist()]
    assert np.array_equal(found[~known], mates, equal_nan=True)
    assert np.isfinite(mates).any() and np.isnan(mates).any()


def test_the_mean_of_a_pair_is_the_mean_of_both_hands(apart):
    mean = apart.customized_copy(sigmas=None).average_bijvoet_mates().map_to_asu()
    found = as_dict(*merge_friedel_pairs(*columns(apart), GROUP))
    assert found == pytest.approx(as_dict(*columns(mean)))
