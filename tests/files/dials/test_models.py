"""Experiments and geometry: the scale model as DIALS evaluates it, orientations, sets of indices, image sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the experiments are those of DIALS")

from cctbx import sgtbx, uctbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy
from dxtbx.format.Format import Reader
from dxtbx.imageset import ImageSet, ImageSetData
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.simulate.still_files import make_experiments
from dials_postrefine.simulate.stills import StillsOptions, rotation_matrices, simulate_stills

pytestmark = pytest.mark.dials


@pytest.fixture
def experiments():
    return make_experiments(simulate_stills(StillsOptions(n_lattices=4, seed=2, d_min=8.0)))


def test_the_scale_model_has_our_value_when_dials_evaluates_it(experiments, tmp_path):
    g, b, d = 1.7, 3.2, np.array([20.0, 5.0, 2.0, 1.3])
    models.write_scaling_model(experiments[0], g, 0.1, b, 0.5, {"radius": 0.0004, "profile": "gaussian"})
    experiments.as_file(str(tmp_path / "scaled.expt"))
    read = ExperimentList.from_file(str(tmp_path / "scaled.expt"), check_format=False)
    for model in (experiments[0].scaling_model, read[0].scaling_model):
        assert model.id_ == "KB" and model.is_scaled
        scale, decay = model.components["scale"], model.components["decay"]
        scale.data, decay.data = {"id": flex.int(len(d), 0)}, {"d": flumpy.from_numpy(d.copy())}
        product = np.ones(len(d))
        for component in (scale, decay):
            component.update_reflection_data()
            product *= flumpy.to_numpy(component.calculate_scales())
        assert product == pytest.approx(g * np.exp(-0.5 * b / d**2), rel=1e-12)
        assert list(scale.parameter_esds) == [0.1]
        assert list(decay.parameter_esds) == [0.5]
        assert model.configdict["radius"] == 0.0004 and model.configdict["profile"] == "gaussian"
    assert read[1].scaling_model is None


def test_write_orientation_turns_a_to_r_a(experiments):
    (rotation,) = rotation_matrices([[0.01, -0.02, 0.3]])
    before, _ = models.geometry_arrays(experiments)
    b_before = experiments[1].crystal.get_B()
    models.write_orientation(experiments[1], rotation)
    after, _ = models.geometry_arrays(experiments)
    assert after[1] == pytest.approx(rotation @ before[1], abs=1e-12)
    assert experiments[1].crystal.get_B() == pytest.approx(b_before)
    assert np.array_equal(np.delete(after, 1, axis=0), np.delete(before, 1, axis=0))


def test_write_orientation_scales_the_reciprocal_cell(experiments):
    (rotation,) = rotation_matrices([[0.01, -0.02, 0.3]])
    before, _ = models.geometry_arrays(experiments)
    cell = np.array(experiments[1].crystal.get_unit_cell().parameters())
    models.write_orientation(experiments[1], rotation, 0.002)
    after, _ = models.geometry_arrays(experiments)
    assert after[1] == pytest.approx(1.002 * rotation @ before[1], abs=1e-12)
    cell[:3] /= 1.002
    assert experiments[1].crystal.get_unit_cell().parameters() == pytest.approx(cell)


def test_geometry_arrays_are_a_and_s0_and_nan_without_a_crystal(experiments):
    experiments[2].crystal = None
    a_matrix, s0 = models.geometry_arrays(experiments)
    q = a_matrix[1] @ (3, -4, 5)
    assert np.linalg.norm(q) == pytest.approx(1.0 / experiments[1].crystal.get_unit_cell().d((3, -4, 5)))
    assert np.linalg.norm(s0, axis=1) == pytest.approx(1.0 / 1.3)
    assert np.isnan(a_matrix[2]).all() and np.isfinite(np.delete(a_matrix, 2, axis=0)).all()
    assert models.has_crystal(experiments).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    "space_group, cell",
    [
        ("P43212", (79.0, 79.0, 38.0, 90.0, 90.0, 90.0)),
        ("C2", (60.0, 40.0, 50.0, 90.0, 105.0, 90.0)),
        ("P1", (20.0, 24.0, 30.0, 80.0, 95.0, 100.0)),
    ],
)
def test_complete_set_and_d_star_sq_by_counting_all_indices(space_group, cell):
    d_min, d_max = 4.0, 15.0
    group, unit_cell = sgtbx.space_group_info(space_group).group(), uctbx.unit_cell(cell)
    limits = unit_cell.max_miller_indices(d_min)
    h = np.array(list(itertools.product(*(range(-n, n + 1) for n in limits))), dtype=np.int32)
    d_star_sq = np.array([unit_cell.d_star_sq(tuple(map(int, row))) for row in h])
    assert models.d_star_sq(cell, h) == pytest.approx(d_star_sq, rel=1e-10)

    inside = (d_star_sq >= d_max**-2) & (d_star_sq <= d_min**-2)
    absent = flumpy.to_numpy(group.is_sys_absent(to_flex_miller(h[inside])))
    asu = pack(map_to_asymmetric_unit(h[inside][~absent], group))
    _, first = np.unique(asu, return_index=True)
    found = models.complete_set(cell, group, d_min, d_max)
    assert np.sort(found) == pytest.approx(np.sort(d_star_sq[inside][~absent][first]), rel=1e-10)


def set_cell(crystal, *cell: float) -> None:
    """Give the crystal a unit cell: B has the columns a*, b*, c*."""
    matrix = np.array(uctbx.unit_cell(cell).fractionalization_matrix()).reshape(3, 3)
    crystal.set_B(tuple(matrix.T.ravel()))


def image_set(name: str) -> ImageSet:
    return ImageSet(ImageSetData(Reader(None, [name]), None))


def test_image_sets_are_numbered_as_the_list_names_them(experiments):
    first, second = image_set("1.cbf"), image_set("2.cbf")
    for experiment, images in zip(experiments, (first, second, second, first)):
        experiment.imageset = images
    table = flex.reflection_table()
    table["id"] = flex.int([3, 0, 1, 2, 2])
    table["imageset_id"] = flex.int(5, 9)
    models.number_imagesets(table, experiments)
    assert list(table["imageset_id"]) == [0, 0, 1, 1, 1]
    assert [experiments.imagesets().index(experiments[i].imageset) for i in table["id"]] == [0, 0, 1, 1, 1]
    # where not all have images there is nothing to number
    experiments[0].imageset = None
    models.number_imagesets(table, experiments)
    assert "imageset_id" not in table


def test_made_up_identifiers_are_unique_and_given_ones_stay(experiments):
    other = make_experiments(simulate_stills(StillsOptions(n_lattices=2, seed=3, d_min=8.0)))
    for experiment in other:
        experiment.identifier = ""
    given, made_up = models.set_identifiers([experiments, other])
    assert given == [f"still-2-0000{i}" for i in range(4)]
    assert len(set(made_up)) == 2 and made_up == list(other.identifiers())
    with pytest.raises(Sorry, match="4 lattices are given more than once"):
        models.set_identifiers([experiments, other, experiments])


def test_the_common_space_group_and_the_cells_that_fit_it(experiments):
    tetragonal = experiments[0].crystal.get_space_group()
    assert models.common_space_group(experiments) == tetragonal
    assert models.common_space_group(experiments, "P 1 21 1").type().number() == 4
    with pytest.raises(Sorry, match="space_group=foo"):
        models.common_space_group(experiments, "foo")
    set_cell(experiments[1].crystal, 79, 79, 38, 90, 93, 90)
    experiments[2].crystal = None
    assert models.common_space_group(experiments) == tetragonal
    assert models.cells_fit(experiments, tetragonal).tolist() == [True, False, False, True]
    experiments[1].crystal.set_space_group(sgtbx.space_group_info("P1").group())
    with pytest.raises(Sorry, match=r"P 43 21 2 \(2\), P 1 \(1\)"):
        models.common_space_group(experiments)
    models.set_space_group(experiments, tetragonal)
    assert models.common_space_group(experiments) == tetragonal


def test_the_median_cell_obeys_the_space_group(experiments):
    for experiment, a in zip(experiments, (78.0, 79.0, 80.0, 90.0)):
        experiment.crystal.set_space_group(sgtbx.space_group_info("P1").group())
        set_cell(experiment.crystal, a, a + 1.0, 38.0, 90, 90, 90)
    cell = models.median_cell(experiments, sgtbx.space_group_info("P4").group())
    assert cell == pytest.approx((80.0, 80.0, 38.0, 90.0, 90.0, 90.0), rel=1e-3)
    assert cell[0] == cell[1]
