"""
Bad input to dials.postrefine: one sentence, a non-zero exit status, and every file as it was.

One bad lattice, on the other hand, never stops a run: it is rejected with its reason, and listed in log and JSON.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparison import results

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import miller, sgtbx, uctbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Experiment, Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

from dials_postrefine.command_line import postrefine
from dials_postrefine.settings.scope import RENAMED
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

N_LATTICES = 8
OUTPUTS = ("postrefined.expt", "postrefined.refl", "dials.postrefine.log", "dials.postrefine.json")
PAIR = ("stills.expt", "stills.refl")
BAD = 3  # the lattice that is made a bad one
BAD_NAME = "still-1-00003"


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A folder with two small data sets, stills and more, and what an earlier run would have left."""
    folder = tmp_path_factory.mktemp("bad_input")
    for name, options in {
        "stills": StillsOptions(n_lattices=N_LATTICES, seed=1, d_min=3.0),
        "more": StillsOptions(n_lattices=5, seed=2, d_min=3.0),
    }.items():
        write_stills(simulate_stills(options), str(folder / name))
    for name in OUTPUTS:
        (folder / name).write_text(f"{name} of an earlier run\n")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Case:
    """A folder of its own for each test, where the program is run in this process."""

    def __init__(self, folder: Path):
        self.folder = folder

    def refused(self, *args) -> str:
        """Run; the program must end with one sentence, which is returned, and leave all files alone."""
        before = results(self.folder)
        with pytest.raises(SystemExit) as stop:
            postrefine.run(["nproc=1", "output.html=None", *map(str, args)])
        message = stop.value.code  # Python prints a text to stderr and exits with status 1
        assert isinstance(message, str)
        assert message.startswith("Sorry: ") and message.endswith(".") and "\n" not in message, message
        assert results(self.folder) == before
        return message

    def accepted(self, *args) -> dict:
        """Run; the output files must be written, nothing else, and the JSON is returned."""
        before = set(snapshot(self.folder))
        postrefine.run(["nproc=1", "output.html=None", *map(str, args)])
        after = snapshot(self.folder)
        assert set(after) == before
        assert not [name for name in OUTPUTS if after[name].endswith(b"earlier run\n")]
        summary = json.loads(after["dials.postrefine.json"])
        experiments = ExperimentList.from_file("postrefined.expt", check_format=False)
        table = flex.reflection_table.from_file("postrefined.refl")
        table.assert_experiment_identifiers_are_consistent(experiments)
        kept = [lattice["identifier"] for lattice in summary["lattices"] if lattice["accepted"]]
        assert kept == list(experiments.identifiers())
        for key in ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor", "partiality"):
            assert np.isfinite(flumpy.to_numpy(table[key])).all(), key
        return summary

    def rejected(self, *args) -> dict[str, str]:
        """Run as `accepted`; the rejected lattices with their reasons, which the log must list too."""
        summary = self.accepted(*args)
        log = Path("dials.postrefine.log").read_text()
        found = {x["identifier"]: x["reason"] for x in summary["lattices"] if not x["accepted"]}
        for identifier, reason in found.items():
            assert any(identifier in line and reason in line for line in log.splitlines())
        return found


@pytest.fixture
def case(simulated, tmp_path, monkeypatch):
    """A `Case` with copies of the simulated files; the loggers are left as they were."""
    folder = tmp_path / "case"
    shutil.copytree(simulated, folder)
    monkeypatch.chdir(folder)
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx", "py.warnings")]
    handlers = [list(logger.handlers) for logger in loggers]
    yield Case(folder)
    for logger, old in zip(loggers, handlers):
        for handler in set(logger.handlers) - set(old):
            logger.removeHandler(handler)
            handler.close()
    logging.captureWarnings(False)


def read_table(name: str = "stills.refl"):
    return flex.reflection_table.from_file(name)


def read_experiments(name: str = "stills.expt"):
    return ExperimentList.from_file(name, check_format=False)


def select(table, mask):
    return table.select(flumpy.from_numpy(np.ascontiguousarray(mask)))


def ids_of(table) -> np.ndarray:
    return flumpy.to_numpy(table["id"]).copy()


def part(first: int, last: int, name: str) -> None:
    """Write lattices first to last of the stills as a pair of files of its own, ids counted from 0."""
    experiments, table = read_experiments(), read_table()
    ExperimentList([experiments[k] for k in range(first, last)]).as_file(f"{name}.expt")
    ids = ids_of(table)
    table = select(table, (ids >= first) & (ids < last))
    table["id"] = table["id"] - first
    for i in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[i]
    for i, k in enumerate(range(first, last)):
        table.experiment_identifiers()[i] = experiments[k].identifier
    table.as_file(f"{name}.refl")


def truncate(name: str, fraction: float) -> None:
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: int(fraction * len(content))])


# Files that are not there, or not what they should be


@pytest.mark.parametrize("missing", ["stills.expt", "stills.refl"])
def test_a_missing_file_is_named(case, missing):
    os.remove(missing)
    assert f"{missing} does not exist" in case.refused(*PAIR)


def test_a_missing_reference_is_named(case):
    assert "none.mtz does not exist" in case.refused(*PAIR, "reference=none.mtz")


@pytest.mark.parametrize("given", PAIR)
def test_one_file_of_a_pair_is_not_enough(case, given):
    assert "are needed" in case.refused(given)


@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_table_is_named(case, fraction):
    truncate("stills.refl", fraction)
    assert "stills.refl can't be read as a reflection table" in case.refused(*PAIR)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999])
def test_truncated_experiments_are_named(case, fraction):
    truncate("stills.expt", fraction)
    assert "stills.expt can't be read as an experiment list" in case.refused(*PAIR)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.5, 0.97, 0.985, 0.995])
def test_a_truncated_reference_is_named(case, fraction):
    # libccp4 would read on for ever in a header without an end
    truncate("stills_truth.mtz", fraction)
    message = case.refused(*PAIR, "reference=stills_truth.mtz")
    assert "stills_truth.mtz can't be read" in message or "stills_truth.mtz is no reflection file" in message


@pytest.mark.parametrize("content", [b"h k l I\n1 2 3 4\n", b"\x00" * 100, b"\xff" * 5000, pickle.dumps({"id": [1]})])
def test_a_table_that_is_none_is_named(case, content):
    Path("stills.refl").write_bytes(content)
    assert "stills.refl can't be read as a reflection table" in case.refused(*PAIR)


def test_experiments_renamed_to_a_table_and_a_table_to_experiments(case):
    shutil.copy("more.expt", "wrong.refl")
    assert "wrong.refl can't be read as a reflection table" in case.refused("stills.expt", "wrong.refl")
    shutil.copy("more.refl", "wrong.expt")
    assert "wrong.expt can't be read as an experiment list" in case.refused("wrong.expt", "stills.refl")


@pytest.mark.parametrize("content", ["{}", "[]", "1", "null", '{"__id__": "ExperimentList"}', '{"a": [}'])
def test_json_that_is_no_experiment_list(case, content):
    Path("stills.expt").write_text(content)
    message = case.refused(*PAIR)
    assert "stills.expt can't be read as an experiment list" in message or "hold no experiments" in message


def test_a_folder_in_place_of_a_file(case):
    os.mkdir("folder.refl")
    said = case.refused("stills.expt", "folder.refl")
    assert "folder.refl is a folder without any .expt and .refl file of one name" in said


def test_random_damage_to_a_table_ends_in_a_sentence_or_a_result(case):
    content = Path("stills.refl").read_bytes()
    rng = random.Random(5)
    for i in range(16):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 30))):
            damaged[rng.randrange(len(damaged) if i % 2 else 3000)] ^= 1 << rng.randrange(8)
        Path("stills.refl").write_bytes(damaged)
        try:
            postrefine.run([*PAIR, "n_cycles=1", "nproc=1", "output.log=None", "output.html=None"])
        except SystemExit as stop:
            assert isinstance(stop.code, str) and stop.code.startswith("Sorry: ") and "\n" not in stop.code


# Tables and experiments that do not belong together


def test_identifiers_that_disagree(case):
    message = case.refused("stills.expt", "more.refl")
    assert "5 of the lattices in more.refl are not in the .expt files" in message and "still-2-00000" in message


def test_ids_without_an_identifier(case):
    table = read_table()
    del table.experiment_identifiers()[BAD]
    table.as_file("stills.refl")
    assert "1 of the lattices in stills.refl are not in the .expt files" in case.refused(*PAIR)


def test_ids_beyond_the_experiments_of_a_table_without_identifiers(case):
    table = read_table()
    for i in range(N_LATTICES):
        del table.experiment_identifiers()[i]
    table["id"] = table["id"] * 1000
    table.as_file("stills.refl")
    message = case.refused(*PAIR)
    assert "ids up to 7000" in message and "holds 8 experiments" in message


def test_the_same_pair_twice(case):
    message = case.refused(*PAIR, *PAIR)
    assert "8 lattices are given more than once (the first: still-1-00000)" in message


def test_the_same_table_twice(case):
    message = case.refused("stills.expt", "stills.refl", "stills.refl")
    assert "given more than once" in message and "stills.refl and stills.refl" in message


def test_one_identifier_for_two_ids(case):
    table = read_table()
    table.experiment_identifiers()[BAD] = "still-1-00002"
    table.as_file("stills.refl")
    assert "given more than once" in case.refused(*PAIR)


def test_rows_of_no_experiment_are_left_out(case):
    table = read_table()
    ids = ids_of(table)
    ids[::3] = -1
    table["id"] = flumpy.from_numpy(ids)
    table.as_file("stills.refl")
    case.accepted(*PAIR)
    assert len(read_table("postrefined.refl")) == np.count_nonzero(ids >= 0)


def merged_lattices(summary: dict) -> dict[str, float]:
    return {lattice["identifier"]: lattice["scale"] for lattice in summary["lattices"]}


@pytest.fixture(scope="session")
def scales(simulated, tmp_path_factory) -> dict[str, float]:
    """The scale of each lattice as a plain run finds it."""
    folder = tmp_path_factory.mktemp("plain")
    command = [sys.executable, "-m", "dials_postrefine.command_line.postrefine", "nproc=1", "output.html=None"]
    subprocess.run([*command, *(simulated / name for name in PAIR)], cwd=folder, check=True, capture_output=True)
    return merged_lattices(json.loads((folder / "dials.postrefine.json").read_text()))


def test_a_table_whose_rows_are_in_any_order(case, scales):
    table = read_table()
    order = np.random.default_rng(1).permutation(len(table))
    table.select(flumpy.from_numpy(order.astype(np.uint64))).as_file("stills.refl")
    assert merged_lattices(case.accepted(*PAIR)) == pytest.approx(scales, rel=1e-4)


def test_tables_in_another_order_than_the_experiments(case, scales):
    part(0, 3, "first")
    part(3, N_LATTICES, "second")
    found = merged_lattices(case.accepted("second.expt", "first.expt", "first.refl", "second.refl"))
    assert found == pytest.approx(scales, rel=1e-4)


def test_one_table_with_the_lattices_of_two_experiment_files(case, scales):
    part(0, 3, "first")
    part(3, N_LATTICES, "second")
    found = merged_lattices(case.accepted("second.expt", "first.expt", "stills.refl"))
    assert found == pytest.approx(scales, rel=1e-4)


def test_tables_with_different_columns(case, scales):
    part(0, 3, "first")
    part(3, N_LATTICES, "second")
    table = read_table("first.refl")
    table.compute_corrections(read_experiments("first.expt"))
    assert "lp" in table
    table["qe"] = flex.double(len(table), 0.5)
    for name in ("value", "variance"):  # so that I/qe is the same again
        table[f"intensity.sum.{name}"] *= 0.5 if name == "value" else 0.25
    del table["d"]
    table["entering"] = table["entering"].as_int()  # of another type
    table.as_file("first.refl")
    found = merged_lattices(case.accepted("first.expt", "first.refl", "second.expt", "second.refl"))
    assert found == pytest.approx(scales, rel=1e-4)
    assert "entering" not in read_table("postrefined.refl")


def test_a_table_that_lacks_a_needed_column(case):
    table = read_table()
    del table["miller_index"]
    table.as_file("stills.refl")
    assert "stills.refl lacks miller_index" in case.refused(*PAIR)


def test_a_needed_column_of_another_type(case):
    table = read_table()
    table["id"] = table["id"].as_double()
    table.as_file("stills.refl")
    assert "stills.refl lacks id" in case.refused(*PAIR)


# What kind of data it is


def test_rotation_data(case):
    experiments = read_experiments()
    for experiment in experiments:
        experiment.scan, experiment.goniometer = Scan((1, 10), (0.0, 0.1)), Goniometer()
    experiments.as_file("stills.expt")
    message = case.refused(*PAIR)
    assert "8 of 8 experiments are rotation data" in message and "dials.scale" in message


def test_tables_that_were_not_integrated(case):
    table = read_table()
    table.unset_flags(flex.bool(len(table), True), table.flags.integrated_sum)
    table.as_file("stills.refl")
    message = case.refused(*PAIR)
    assert "not integrated" in message and "intensity_choice=strong_spots" in message
    table = read_table()
    for name in ("value", "variance"):
        del table[f"intensity.sum.{name}"]
    table.as_file("stills.refl")
    assert "carry no intensity.sum.value" in case.refused(*PAIR)
    shutil.copy("more.refl", "stills.refl")
    assert "carry no intensity.prf.value" in case.refused("more.expt", "more.refl", "intensity_choice=profile")


def test_an_empty_table(case):
    flex.reflection_table().as_file("stills.refl")
    assert "stills.refl holds an empty reflection table" in case.refused(*PAIR)
    select(read_table("more.refl"), np.zeros(len(read_table("more.refl")), dtype=bool)).as_file("more.refl")
    assert "no reflections" in case.refused("more.expt", "more.refl")


def test_an_empty_table_beside_a_good_one(case):
    table = read_table("more.refl")
    table = select(table, np.zeros(len(table), dtype=bool))
    table.as_file("more.refl")
    rejected = case.rejected("more.expt", "more.refl", *PAIR)
    assert rejected == {f"still-2-0000{i}": "no usable reflections" for i in range(5)}


def test_no_crystals(case):
    experiments = read_experiments()
    for experiment in experiments:
        experiment.crystal = None
    experiments.as_file("stills.expt")
    assert "No experiment has a crystal" in case.refused(*PAIR)


def test_one_lattice_without_a_crystal_is_rejected(case):
    experiments = read_experiments()
    experiments[BAD].crystal = None
    experiments.as_file("stills.expt")
    rejected = case.rejected(*PAIR)
    assert rejected == {BAD_NAME: "no crystal"}
    assert "without a crystal" in Path("dials.postrefine.log").read_text()


@pytest.mark.parametrize("number", ["NaN", "0"])
def test_one_lattice_with_a_damaged_crystal_is_rejected(case, number):
    content = json.loads(Path("stills.expt").read_text())
    content["crystal"][BAD]["real_space_a"][1] = "here"
    Path("stills.expt").write_text(json.dumps(content).replace('"here"', number))
    assert set(case.rejected(*PAIR)) <= {BAD_NAME}


@pytest.mark.parametrize("number", ["NaN", "1e300"])
def test_an_impossible_wavelength(case, number):
    content = json.loads(Path("stills.expt").read_text())
    content["beam"][0]["wavelength"] = "here"
    Path("stills.expt").write_text(json.dumps(content).replace('"here"', number))
    message = case.refused(*PAIR)
    assert "8 of 8 experiments have an impossible wavelength" in message or "can't be read" in message


def test_no_experiments(case):
    ExperimentList().as_file("stills.expt")
    assert "hold no experiments" in case.refused(*PAIR)


@pytest.mark.parametrize("model", ["beam", "detector"])
def test_no_beam_or_detector(case, model):
    experiments = read_experiments()
    given = {name: getattr(experiments[BAD], name) for name in ("beam", "detector", "crystal") if name != model}
    experiments[BAD] = Experiment(identifier=experiments[BAD].identifier, **given)
    experiments.as_file("stills.expt")
    assert f"1 of 8 experiments have no {model}" in case.refused(*PAIR)


# Symmetry


def test_mixed_space_groups(case):
    experiments = read_experiments()
    experiments[BAD].crystal.set_space_group(sgtbx.space_group_info("P4").group())
    experiments.as_file("stills.expt")
    message = case.refused(*PAIR)
    assert "P 43 21 2 (7), P 4 (1)" in message and "space_group=" in message
    assert not case.rejected(*PAIR, "space_group=P43212")


def test_a_space_group_that_fits_no_cell(case):
    assert "No unit cell fits the space group P 2 3" in case.refused(*PAIR, "space_group=P23")


def test_a_space_group_that_does_not_exist(case):
    assert "nonsense" in case.refused(*PAIR, "space_group=nonsense")


def test_one_lattice_whose_cell_does_not_fit_is_rejected(case):
    experiments = read_experiments()
    crystal = experiments[BAD].crystal
    crystal.set_space_group(sgtbx.space_group_info("P1").group())
    crystal.set_B(uctbx.unit_cell((79, 85, 38, 90, 90, 90)).fractionalization_matrix())
    experiments.as_file("stills.expt")
    rejected = case.rejected(*PAIR, "space_group=P43212")
    assert rejected == {BAD_NAME: "unit cell does not fit the space group"}


# References


def write_reference(change) -> None:
    """Write reference.mtz, the true intensities as change(miller array) returns them, or an MTZ dataset."""
    (array,) = mtz.object("stills_truth.mtz").as_miller_arrays()
    array = change(array)
    if isinstance(array, miller.array):
        array = array.as_mtz_dataset(column_root_label="X")
    array.mtz_object().write("reference.mtz")


def with_symmetry(array, cell, space_group):
    symmetry = miller.crystal.symmetry(unit_cell=cell, space_group_symbol=space_group)
    return array.customized_copy(crystal_symmetry=symmetry).set_info(array.info())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: with_symmetry(a, (83, 83, 38, 90, 90, 90), "P43212"), "unit cell 83.00"),
        (lambda a: with_symmetry(a, (79, 79, 38, 90, 90, 90), "P4"), "space group P 4"),
        (lambda a: a.customized_copy(data=flex.int(a.size(), 1), sigmas=None), "neither intensities nor amplitudes"),
        (
            lambda a: (
                a.customized_copy(data=flex.double(a.size(), 1.0), sigmas=None)
                .set_observation_type(None)
                .as_mtz_dataset(column_root_label="PHI", column_types="P")
            ),
            "neither intensities nor amplitudes",
        ),
        (lambda a: a.customized_copy(data=flex.double(a.size(), np.nan), sigmas=None), "reference.mtz"),
    ],
    ids=["cell", "space group", "R-free flags", "phases", "NaN"],
)
def test_a_reference_that_can_not_be_used(case, change, words):
    write_reference(change)
    message = case.refused(*PAIR, "reference=reference.mtz")
    assert words in message and "reference.mtz" in message


def test_a_reference_at_another_resolution(case):
    write_reference(lambda array: array.resolution_filter(d_min=8.0))
    message = case.refused(*PAIR, "reference=reference.mtz", "d_max=7")
    assert "No observed reflection is in the reference reference.mtz" in message


def test_a_reference_table_that_is_not_scaled_or_alone(case):
    assert "not scaled" in case.refused(*PAIR, "reference=more.refl")
    os.remove("more.expt")
    assert "needs more.expt beside it" in case.refused(*PAIR, "reference=more.refl")


def test_a_reference_of_text(case):
    Path("reference.mtz").write_text("h k l F\n")
    assert "reference.mtz is no reflection file" in case.refused(*PAIR, "reference=reference.mtz")


# Numbers that are none


@pytest.mark.parametrize(
    "column, value",
    [
        ("intensity.sum.value", np.nan),
        ("intensity.sum.value", -np.inf),
        ("intensity.sum.value", 1e200),
        ("intensity.sum.variance", 0.0),
        ("intensity.sum.variance", -1.0),
        ("intensity.sum.variance", np.nan),
        ("intensity.sum.variance", np.inf),
        ("s1", np.nan),
        ("s1", 0.0),
        ("qe", 0.0),
        ("lp", np.nan),
    ],
)
def test_bad_numbers_are_left_out_and_counted(case, column, value):
    table = read_table()
    if column in ("lp", "qe"):
        table[column] = flex.double(len(table), 1.0)
    ids, data = ids_of(table), flumpy.to_numpy(table[column]).copy()
    few = (np.arange(len(ids)) % 10 == 0) & (ids != BAD)
    data[few | (ids == BAD)] = value
    table[column] = flumpy.vec_from_numpy(data) if column == "s1" else flumpy.from_numpy(data)
    table.as_file("stills.refl")
    assert case.rejected(*PAIR) == {BAD_NAME: "no usable reflections"}
    reason = {"s1": "without a direction s1", "lp": "bad lp or qe", "qe": "bad lp or qe"}
    reason = reason.get(column, "bad intensity or variance")
    n = np.count_nonzero(few | (ids == BAD))
    assert f"Not used: {n} {reason}" in Path("dials.postrefine.log").read_text()
    assert len(read_table("postrefined.refl")) == np.count_nonzero(ids != BAD)


def test_no_good_number_at_all(case):
    table = read_table()
    table["intensity.sum.variance"] = flex.double(len(table), 0.0)
    table.as_file("stills.refl")
    message = case.refused(*PAIR)
    assert f"No usable reflections are left ({len(table)} bad intensity or variance)" in message


def test_indices_that_can_not_diffract_are_left_out(case):
    # one such index would make the set of all indices to its resolution larger than any memory
    table = read_table()
    rows = flex.size_t([5, 50, 500])
    table["miller_index"].set_selected(rows, flex.miller_index([(2**31 - 1, 0, 0), (5000, 1, 1), (0, 0, -(2**30))]))
    table.as_file("stills.refl")
    assert not case.rejected(*PAIR)
    assert "Not used: 3 with an index that can't diffract" in Path("dials.postrefine.log").read_text()


def test_an_empty_lattice_is_rejected(case):
    table = read_table()
    select(table, ids_of(table) != BAD).as_file("stills.refl")
    assert case.rejected(*PAIR) == {BAD_NAME: "no usable reflections"}


def test_a_lattice_of_few_reflections_is_rejected(case):
    table = read_table()
    ids = ids_of(table)
    keep = ids != BAD
    keep[np.flatnonzero(ids == BAD)[:5]] = True
    select(table, keep).as_file("stills.refl")
    assert case.rejected(*PAIR) == {BAD_NAME: "too few reflections"}


def test_a_lattice_of_constant_zero_or_negative_intensities_is_rejected(case):
    for value in (0.0, -100.0):
        shutil.copy("more.refl", "more_bad.refl")
        table = read_table("more.refl")
        flumpy.to_numpy(table["intensity.sum.value"])[ids_of(table) == 2] = value
        table.as_file("more_bad.refl")
        before = set(os.listdir())
        rejected = case.rejected("more.expt", "more_bad.refl", *PAIR)
        assert list(rejected) == ["still-2-00002"]
        assert set(os.listdir()) == before


def test_all_lattices_rejected(case):
    message = case.refused(*PAIR, "min_reflections=10000")
    assert "All 8 lattices were rejected, most often because of 'too few reflections'" in message


def test_a_single_lattice_needs_a_reference(case):
    part(0, 1, "one")
    assert "A single lattice can't be postrefined against itself" in case.refused("one.expt", "one.refl")
    assert not case.rejected("one.expt", "one.refl", "reference=stills_truth.mtz")


# Parameters


@pytest.mark.parametrize(
    "argument, words",
    [
        ("partality_threshold=0.1", "partality_threshold"),
        ("output.reflection_table=a.refl", "output.reflection_table"),
        ("algorithm=foo", "Not a possible choice for algorithm: foo"),
        ("fix=scale+foo", "Not a possible choice for fix: foo"),
        ("algorithm=None", "algorithm=None"),
        ("outlier_z=None", "outlier_z=None"),
        ("algorithm=", "Missing value for algorithm"),
        ("partiality_threshold=2", "partiality_threshold element is greater"),
        ("d_min=-1", "d_min element is less"),
        ("nproc=0", "nproc element is less"),
        ("nproc=many", "nproc"),
        ("seed=0.5", "seed"),
        ("n_cycles=1e999", "infinity"),
        ("d_min=100", "No usable reflections are left"),
        ("d_max=1", "No usable reflections are left"),
        ("nothing.phil", "nothing.phil is missing"),
        ("wrong.phil", "not recognised; partality_threshold = 0.1"),
        ("broken.phil", "broken.phil is missing or can't be read"),
        ("--phil=nothing.phil", "nothing.phil"),
        ("stills_truth.mtz", "stills_truth.mtz is neither an .expt nor a .refl file"),
        ("stills", "stills is neither an .expt nor a .refl file"),
        ("output.experiments=None", "output.experiments has no file name"),
        ("output.reflections=None", "output.reflections has no file name"),
        ("output.experiments=out.txt", "must end in .expt"),
        ("output.reflections=nowhere/out.refl", "its folder does not exist"),
        ("output.json=nowhere/out.json", "its folder does not exist"),
        ("output.log=nowhere/out.log", "its folder does not exist"),
        ("output.json=.", "it is a folder"),
        ("output.json=dials.postrefine.log", "Two output files"),
    ],
)
def test_a_wrong_parameter_is_named(case, argument, words):
    Path("wrong.phil").write_text("partality_threshold = 0.1\n")
    Path("broken.phil").write_text("output {\n")
    assert words in case.refused(*PAIR, argument)


def test_limits_the_wrong_way_round(case):
    assert "d_min=4 is not below d_max=3" in case.refused(*PAIR, "d_min=4", "d_max=3")


def test_limits_of_zero_are_none(case):
    assert not case.rejected(*PAIR, "d_min=0", "d_max=0")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(case):
    os.mkdir("locked", mode=0o500)
    assert "read-only" in case.refused(*PAIR, "output.reflections=locked/out.refl")


@pytest.mark.parametrize(
    "output, file", [("reflections", "stills.refl"), ("json", "stills.refl"), ("log", "stills.expt")]
)
@pytest.mark.parametrize("other_name", [None, os.link, os.symlink])
def test_output_never_overwrites_the_input(case, output, file, other_name):
    name = file
    if other_name is not None:
        name = "other_name"
        other_name(file, name)
    assert f"{name} is read by this run" in case.refused(*PAIR, f"output.{output}={name}")


def test_output_never_overwrites_the_reference(case, scales):
    write_reference(lambda array: array)
    assert "reference.mtz is read by this run" in case.refused(
        *PAIR, "reference=reference.mtz", "output.mtz=reference.mtz"
    )


# As the user sees it


def test_a_sentence_on_stderr_and_no_traceback(case, run_program):
    truncate("stills.refl", 0.5)
    before = results(case.folder)
    done = run_program("dials.postrefine", *PAIR, cwd=case.folder)
    assert done.returncode == 1
    assert done.stderr.startswith("Sorry: stills.refl can't be read") and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout
    assert results(case.folder) == before


@pytest.mark.parametrize("limit", ["d_min=nan", "d_max=nan", "d_max=inf"])
def test_a_limit_that_is_no_number_is_refused(limit):
    """NaN compares with nothing, so that it would pass each test of limits."""
    from dials.util import Sorry
    from libtbx.phil import parse

    from dials_postrefine.settings.binding import from_scope
    from dials_postrefine.settings.checks import check_limits
    from dials_postrefine.settings.postrefine import PostrefineRequest
    from dials_postrefine.settings.scope import load

    request = from_scope(PostrefineRequest, load("postrefine").fetch(source=parse(limit)).extract())
    with pytest.raises(Sorry, match="is no resolution"):
        check_limits(request)


@pytest.mark.parametrize(
    "program, old, new",
    [(program, old, new) for program, names in RENAMED.items() for old, new in names.items()],
)
def test_an_old_name_is_answered_with_the_new_one(run_program, tmp_path, program, old, new):
    (tmp_path / "old.phil").write_text(f"output {{\n  {old} = none\n}}\n{old} = none\n")
    ways = [(f"{old}=none", ""), ("old.phil", " in old.phil")]
    if new.endswith(f".{old}"):  # on the command line the last word of a name is enough
        del ways[0]
    for given, where in ways:
        done = run_program(program, given, cwd=tmp_path)
        assert done.returncode == 1 and done.stdout == ""
        expected = f"Sorry: {old}={where} is {new}= since version 0.2: write {new}= instead."
        assert done.stderr.strip() == expected


@pytest.mark.parametrize("argument", ["d_min=Auto", "reference=Auto", "seed=Auto"])
def test_auto_is_refused_where_the_program_has_nothing_to_choose(run_program, tmp_path, argument):
    done = run_program("dials.postrefine", *PAIR, argument, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"Sorry: {argument} is not possible: give a value, or leave it out."
