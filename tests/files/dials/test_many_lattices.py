"""Thousands of lattices, each with an image set of its own: steps are counted that must not grow with the square."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.format.Format import Reader
from dxtbx.imageset import ImageSet, ImageSetData
from dxtbx.model import Beam, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.dials.experiment_lists import OneSpaceGroup
from dials_postrefine.files.dials.identifiers import content_identifiers
from dials_postrefine.files.dials.symmetry import group_operations
from dials_postrefine.files.electron.scaled_images import read_images
from dials_postrefine.files.images.experiments import reflections_by_experiment
from dials_postrefine.files.reference.reflection_files import scaled_intensities
from dials_postrefine.simulate.still_files import make_experiments
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials


@pytest.fixture
def comparisons(monkeypatch):
    """How often image sets were compared, a list that grows."""
    found = []

    def counted(name):
        original = getattr(ImageSet, name)

        def compare(self, other):
            found.append(name)
            return original(self, other)

        return compare

    for name in ("__eq__", "__ne__"):
        monkeypatch.setattr(ImageSet, name, counted(name))
    monkeypatch.setattr(ImageSet, "__hash__", object.__hash__)  # lost where __eq__ is set
    return found


@pytest.mark.parametrize("order", ["as they are", "each twice, the second time in another order"])
def test_image_sets_are_numbered_without_comparing_all_with_all(comparisons, order):
    n = 300
    sets = [ImageSet(ImageSetData(Reader(None, [f"shot_{i}.cbf"]), None)) for i in range(n)]
    of = np.arange(n)
    if order != "as they are":
        of = np.concatenate([of, np.random.default_rng(2).permutation(n)])
    beam = Beam((0.0, 0.0, 1.0), 1.0)
    experiments = ExperimentList([Experiment(identifier=str(k), beam=beam, imageset=sets[i]) for k, i in enumerate(of)])
    table = flex.reflection_table()
    table["id"] = flumpy.from_numpy(np.arange(len(of), dtype=np.int32))
    models.number_imagesets(table, experiments)
    np.testing.assert_array_equal(flumpy.to_numpy(table["imageset_id"]), of)
    assert len(comparisons) <= 2 * len(of)  # n^2/2 = 45000 where each is looked for among all


@pytest.fixture
def selections(monkeypatch):
    """How many identifiers a table had, each time that rows were selected: DIALS compares them with one another."""
    found = []
    original = flex.reflection_table.select

    def select(self, *args):
        found.append(len(self.experiment_identifiers()))
        return original(self, *args)

    monkeypatch.setattr(flex.reflection_table, "select", select)
    return found


@pytest.fixture
def pair(tmp_path):
    """Three scaled sweeps, with reflections of no lattice among theirs."""
    sweeps = simulate_sweeps(SweepOptions(n_crystals=3, n_images=60))
    sweeps.table["id"].set_selected(flex.size_t([5, 9]), -1)
    return [[name] for name in write_sweeps(sweeps, tmp_path / "scaled")]


def test_rows_are_selected_without_identifiers(pair, selections):
    files = read_images(*pair)
    assert len(selections) > 0 and set(selections) == {0}
    scaled_intensities(pair[1][0], pair[0][0])
    parts = reflections_by_experiment(pair[1], [files.identifiers], files.experiments)
    assert len(selections) > 4 and set(selections) == {0}
    assert [len(part) for part in parts] == np.bincount(flumpy.to_numpy(files.table["id"])).tolist()


def test_select_rows_is_the_selection_of_dials_with_its_identifiers():
    table = flex.reflection_table()
    table["id"] = flex.int([0, 0, 2, 2, 5])
    table["x"] = flex.double(range(5))
    names = {0: "a", 2: "b", 5: "c"}
    for i, name in names.items():
        table.experiment_identifiers()[i] = name
    for rows in (flex.bool([True, True, False, True, False]), flex.size_t([3, 1]), flex.size_t([])):
        expected, found = table.select(rows), tables.select_rows(table, rows)
        assert dict(found.experiment_identifiers()) == dict(expected.experiment_identifiers())
        assert list(found["x"]) == list(expected["x"]) and list(found["id"]) == list(expected["id"])
        assert dict(table.experiment_identifiers()) == names


def test_space_groups_are_named_once_each_and_not_once_a_crystal(monkeypatch):
    """It takes a third of a millisecond, more than all else that is done with a still in reading or writing."""
    experiments = make_experiments(simulate_stills(StillsOptions(n_lattices=40, seed=2, d_min=8.0)))
    groups = [sgtbx.space_group_info(symbol).group() for symbol in ("P43212", "P41212")]
    for k, experiment in enumerate(experiments):
        experiment.crystal.set_space_group(groups[k % 2])
    alone = [content_identifiers(ExperimentList([experiment]))[0] for experiment in experiments]
    named = []

    def counted(kind):
        original = kind.type

        def find(self, *args, **kwargs):
            group = self.group() if kind is sgtbx.space_group_info else self
            if group.order_z() > 1:  # P 1 is found at once
                named.append(kind)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "type", find)

    counted(sgtbx.space_group)
    counted(sgtbx.space_group_info)
    assert content_identifiers(experiments) == alone
    assert len(named) <= 2 * len(groups)
    group_operations(experiments, groups[0])
    OneSpaceGroup(experiments, groups[0]).to_dict()
    assert 0 < len(named) < 10
