"""Identifiers from content: the same in every run, others for other content, whatever the order and the place."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.format.Format import Reader
from dxtbx.imageset import ImageSet, ImageSetData
from dxtbx.model import Scan
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials.identifiers import content_identifiers
from dials_postrefine.files.dials.models import read_experiments, set_identifiers
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.simulate.still_files import make_experiments, make_reflections
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials


def make(seed=1):
    """Four stills without identifiers, and their table."""
    sim = simulate_stills(StillsOptions(n_lattices=4, seed=seed, d_min=4.0))
    experiments = make_experiments(sim)
    table = make_reflections(sim, experiments)
    for k, experiment in enumerate(experiments):
        experiment.identifier = ""
        del table.experiment_identifiers()[k]
    return experiments, table


def with_images(experiments, folder="/data", first=0):
    for k, experiment in enumerate(experiments):
        experiment.imageset = ImageSet(ImageSetData(Reader(None, [f"{folder}/shot_{first + k}.cbf"]), None))


def test_they_are_valid_unique_and_the_same_again():
    (experiments, table), (other, other_table) = make(1), make(2)
    found = content_identifiers(experiments, table)
    assert len({*found, *content_identifiers(other, other_table)}) == 8
    assert [uuid.UUID(name).version for name in found] == [5] * 4
    assert content_identifiers(*make(1)) == found


def test_they_do_not_depend_on_the_order_of_rows_or_lattices():
    experiments, table = make()
    found = content_identifiers(experiments, table)
    order = np.random.default_rng(0).permutation(len(table))
    assert content_identifiers(experiments, table.select(flumpy.from_numpy(order.astype(np.uint64)))) == found
    back = ExperimentList([experiments[k] for k in (3, 2, 1, 0)])
    table["id"] = 3 - table["id"]
    assert content_identifiers(back, table) == found[::-1]


def test_they_do_not_depend_on_where_the_files_lie(tmp_path):
    experiments, table = make()
    with_images(experiments, "/data")
    found = content_identifiers(experiments, table)
    experiments.as_file(str(tmp_path / "a.expt"))
    table.as_file(str(tmp_path / "a.refl"))
    again = flex.reflection_table.from_file(str(tmp_path / "a.refl"))
    assert content_identifiers(read_experiments(str(tmp_path / "a.expt")), again) == found
    with_images(experiments, "/elsewhere")
    assert content_identifiers(experiments, table) == found


def turn(experiments, table):
    experiments[1].crystal.rotate_around_origin((1, 0, 0), 1e-4, deg=False)


def change_beam(experiments, table):
    beam = type(experiments[1].beam)(experiments[1].beam)
    beam.set_wavelength(beam.get_wavelength() * (1.0 + 1e-4))
    experiments[1].beam = beam


def change_intensity(experiments, table):
    row = list(table["id"]).index(1)
    table["intensity.sum.value"][row] = np.nextafter(table["intensity.sum.value"][row], np.inf)


def change_index(experiments, table):
    row = list(table["id"]).index(1)
    table["miller_index"][row] = (9, 9, 9)


def lose_a_row(experiments, table):
    table.del_selected(flex.size_t([list(table["id"]).index(1)]))


def change_image(experiments, table):
    experiments[1].imageset = ImageSet(ImageSetData(Reader(None, ["/data/another.cbf"]), None))


def give_scan(experiments, table):
    experiments[1].scan = Scan((7, 7), (0.0, 0.0))


def lose_crystal(experiments, table):
    experiments[1].crystal = None


@pytest.mark.parametrize(
    "change",
    [turn, change_beam, change_intensity, change_index, lose_a_row, change_image, give_scan, lose_crystal],
)
def test_another_content_is_another_identifier(change):
    experiments, table = make()
    with_images(experiments)
    before = content_identifiers(experiments, table)
    change(experiments, table)
    after = content_identifiers(experiments, table)
    assert [a == b for a, b in zip(after, before)] == [True, False, True, True]


def test_a_table_that_is_damaged_is_left_to_those_who_read_it():
    experiments, table = make()
    for name in ("id", "miller_index", "intensity.sum.value", "panel"):
        damaged = table.copy()
        damaged[name] = flex.std_string(["x"] * len(table))
        assert len(set(content_identifiers(experiments, damaged))) == 4


def test_given_identifiers_stay_and_content_is_read_only_where_it_is_needed(monkeypatch):
    experiments, table = make()
    for k, experiment in enumerate(experiments):
        experiment.identifier = str(k)
    monkeypatch.setattr("dials_postrefine.files.dials.models.content_identifiers", None)
    assert set_identifiers([experiments], [table]) == [["0", "1", "2", "3"]]


def test_half_sets_do_not_depend_on_the_run_nor_on_what_else_is_given(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        experiments, table = make(seed)
        experiments.as_file(str(tmp_path / f"{name}.expt"))
        table.as_file(str(tmp_path / f"{name}.refl"))

    def halves(*names):
        files = read_stills(*([str(tmp_path / f"{name}{end}") for name in names] for end in (".expt", ".refl")))
        return dict(zip(files.experiments.identifiers(), files.stills.half.tolist()))

    assert halves("a", "b") == halves("b", "a") == halves("a") | halves("b")
