"""
dials.postrefine where the lattice leaves a choice of indexing: what is chosen, what is written, what DIALS makes of it.

Lattices are reindexed by DIALS' own code before the program sees them.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.alignment import read_reference
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.programs.stills_input import StillsChoice, read_stills, resolve_ambiguity
from dials_postrefine.report.stills import text
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(
    n_lattices=60,
    seed=3,
    d_min=2.5,
    space_group="P43",
    unit_cell=(60.0, 60.0, 38.0, 90.0, 90.0, 90.0),
    useless_fraction=0.05,
)
SWAP = "k,h,-l"


def read(stem: Path):
    return flex.reflection_table.from_file(f"{stem}.refl"), ExperimentList.from_file(f"{stem}.expt", check_format=False)


def reindex_some(stem: Path, operations: list[str], chosen: np.ndarray, new_stem: Path) -> None:
    """Write the pair with lattice k reindexed by operations[chosen[k]], as dials.reindex does it."""
    from dials.command_line.reindex import reindex_experiments

    table, experiments = read(stem)
    group = experiments[0].crystal.get_space_group()
    indices, ids = table["miller_index"], flumpy.to_numpy(table["id"])
    for m, name in enumerate(operations):
        operation = sgtbx.change_of_basis_op(name)
        rows = flumpy.from_numpy(np.flatnonzero(chosen[ids] == m).astype(np.uint64))
        indices.set_selected(rows, operation.apply(indices.select(rows)))
        for k in np.flatnonzero(chosen == m):
            single = ExperimentList([experiments[int(k)]])
            single[0].crystal.set_space_group(sgtbx.space_group("P 1"))
            crystal = reindex_experiments(single, operation)[0].crystal
            crystal.set_space_group(group)
            experiments[int(k)].crystal = crystal
    table["miller_index"] = indices
    table.as_file(f"{new_stem}.refl")
    experiments.as_file(f"{new_stem}.expt")


def q_by_lattice(table, experiments) -> dict[str, np.ndarray]:
    """A h of all rows of each lattice, by identifier."""
    h, ids = miller_indices_to_numpy(table["miller_index"]), flumpy.to_numpy(table["id"])
    names = dict(table.experiment_identifiers())
    matrices = {e.identifier: np.array(e.crystal.get_A()).reshape(3, 3) for e in experiments}
    return {name: h[ids == i] @ matrices[name].T for i, name in names.items()}


def classes(h: np.ndarray, group) -> np.ndarray:
    return pack(map_to_asymmetric_unit(h, group))


def indexed_alike(h: np.ndarray, true_h: np.ndarray, lattice: np.ndarray, group, operations: list[str]) -> np.ndarray:
    """Which lattices have indices equivalent to the true ones, (L,), after the operation that makes it the most."""
    outcomes = []
    for name in operations:
        after = miller_indices_to_numpy(sgtbx.change_of_basis_op(name).apply(to_flex_miller(true_h)))
        off = classes(after, group) != classes(h, group)
        outcomes.append(np.bincount(lattice, off) == 0)
    return max(outcomes, key=np.count_nonzero)


def turn(axis: int, degrees: float) -> np.ndarray:
    """The right-handed rotation about x (0) or y (1)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == 0 else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """
    mixed.*, half of whose 60 lattices were reindexed, and the truth: folder, simulation, and which were.

    One row in ten is not integrated, and no fit sees it.
    """
    folder = tmp_path_factory.mktemp("given")
    sim = simulate_stills(OPTIONS)
    write_stills(sim, folder / "true")
    rng = np.random.default_rng(1)
    swapped = (rng.random(OPTIONS.n_lattices) < 0.5).astype(int)
    table, _ = read(folder / "true")
    table.unset_flags(flumpy.from_numpy(rng.random(len(table)) < 0.1), table.flags.integrated_sum)
    table.as_file(str(folder / "true.refl"))
    reindex_some(folder / "true", ["h,k,l", SWAP], swapped, folder / "mixed")
    assert 20 < swapped.sum() < 40 and sim.useless.any()
    return folder, sim, swapped


@pytest.fixture(scope="module")
def run(given, run_program, tmp_path_factory):
    """A function that postrefines mixed.* in a new folder: that folder."""

    def postrefine(*args) -> Path:
        folder = tmp_path_factory.mktemp("run")
        pair = [given[0] / f"mixed{ending}" for ending in (".expt", ".refl")]
        model = ("profile=lorentzian", "radius=constant", "unit_cell=fixed")  # that made the data
        options = ("nproc=1", "cross_validation=none", "n_cycles=3", *model, *args)
        done = run_program("dials.postrefine", *pair, *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        return folder

    return postrefine


@pytest.fixture(scope="module")
def merge(run_program):
    """A function that merges in a folder what was postrefined there, as printed."""

    def merge_as_printed(folder: Path) -> None:
        (command,) = re.findall(r"^\s*(dials\.merge .*)$", (folder / "dials.postrefine.log").read_text(), re.MULTILINE)
        done = run_program(*shlex.split(command), "output.html=None", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr

    return merge_as_printed


@pytest.fixture(scope="module")
def alone(run, merge) -> Path:
    folder = run()
    merge(folder)
    return folder


@pytest.fixture(scope="module")
def with_reference(run, merge, given) -> Path:
    folder = run(f"reference={given[0] / 'true_truth.mtz'}")
    merge(folder)
    return folder


def summary(folder: Path) -> dict:
    return json.loads((folder / "dials.postrefine.json").read_text())


def correlation_with_truth(folder: Path, sim, operation: str = "h,k,l") -> float:
    """Of the merged intensities, reindexed by the operation."""
    (array,) = [a for a in mtz.object(str(folder / "merged.mtz")).as_miller_arrays() if a.info().labels[0] == "IMEAN"]
    group = sgtbx.space_group_info("P43").group()
    indices = sgtbx.change_of_basis_op(operation).apply(array.indices())
    keys = classes(miller_indices_to_numpy(indices), group)
    truth = dict(zip(classes(sim.reference_h, group).tolist(), sim.reference_intensity))
    pairs = np.array([(i, truth[key]) for i, key in zip(array.data(), keys.tolist()) if key in truth])
    assert len(pairs) > 1000
    return float(np.corrcoef(np.sign(pairs[:, 0]) * np.sqrt(np.abs(pairs[:, 0])), np.sqrt(pairs[:, 1]))[0, 1])


def test_lattices_are_indexed_like_the_reference(given, with_reference):
    _, sim, swapped = given
    lattices = summary(with_reference)["lattices"]
    other = {x["reindex_operation"] for x in lattices} - {"h,k,l"}
    assert len(other) == 1
    found = np.array([x["reindex_operation"] != "h,k,l" for x in lattices])
    np.testing.assert_array_equal(found[~sim.useless], swapped[~sim.useless] == 1)
    probability = np.array([x["reindex_probability"] for x in lattices])
    assert probability[~sim.useless].min() > 0.9 and probability.max() <= 1.0
    assert correlation_with_truth(with_reference, sim) > 0.97


def test_without_a_reference_they_are_indexed_alike_and_most_stay(given, alone):
    _, sim, swapped = given
    lattices = summary(alone)["lattices"]
    found = np.array([x["reindex_operation"] != "h,k,l" for x in lattices])
    assert 20 < found.sum() <= 30
    good = ~sim.useless
    same = found[good] == (swapped[good] == 1)
    assert same.all() or not same.any()
    whole = "h,k,l" if same.all() else SWAP
    assert correlation_with_truth(alone, sim, whole) > 0.95


def test_without_reindexing_those_of_the_other_setting_are_lost(given, run):
    folder, sim, swapped = given
    lattices = summary(run("reindex=none", f"reference={folder / 'true_truth.mtz'}"))["lattices"]
    assert all("reindex_operation" not in lattice for lattice in lattices)
    accepted = np.array([lattice["accepted"] for lattice in lattices])
    good = ~sim.useless
    assert accepted[good & (swapped == 0)].all()
    assert not accepted[swapped == 1].any()


def test_q_of_every_row_is_what_it_was(given, alone):
    """Of those that no fit saw, too; apart from the rotation that was refined."""
    before = q_by_lattice(*read(given[0] / "mixed"))
    after = q_by_lattice(*read(alone / "postrefined"))
    lattices = {x["identifier"]: x for x in summary(alone)["lattices"] if x["accepted"]}
    assert after.keys() == lattices.keys() and len(after) > 50
    assert {x["reindex_operation"] for x in lattices.values()} > {"h,k,l"}
    for name, lattice in lattices.items():
        rotation = turn(1, lattice["theta_y"]) @ turn(0, lattice["theta_x"])
        np.testing.assert_allclose(after[name], before[name] @ rotation.T, atol=1e-8)


def test_operation_is_in_the_scale_model_and_counted_in_the_log(alone):
    lattices = {x["identifier"]: x for x in summary(alone)["lattices"]}
    for experiment in read(alone / "postrefined")[1]:
        written = experiment.scaling_model.configdict
        for key in ("reindex_operation", "reindex_probability"):
            assert written[key] == lattices[experiment.identifier][key]
    log = (alone / "dials.postrefine.log").read_text()
    for name in {x["reindex_operation"] for x in lattices.values()}:
        n = sum(x["reindex_operation"] == name for x in lattices.values())
        assert re.search(rf"\| {re.escape(name)} +\| {n} +\|", log)


def test_dials_takes_what_was_written(alone, run_program):
    done = run_program("dials.show", "postrefined.expt", "postrefined.refl", cwd=alone)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"Space group: *(.*)", done.stdout)) == {"P 43"}


def test_printed_operation_is_one_that_dials_reindex_takes(given, run_program, tmp_path):
    """And its program makes the same of a lattice as ours."""
    files = [[str(given[0] / f"mixed{ending}")] for ending in (".expt", ".refl")]
    before = read_stills(*files)
    external = read_reference(str(given[0] / "true_truth.mtz"), before.space_group, before.cell)
    ours = resolve_ambiguity(before, external)
    k = int(ours.ambiguity.choice.operation.argmax())
    name = ours.ambiguity.of_lattice(k)["reindex_operation"]
    assert name != "h,k,l"
    table, experiments = read(given[0] / "mixed")
    ids = flumpy.to_numpy(table["id"])
    ExperimentList([experiments[k]]).as_file(str(tmp_path / "one.expt"))
    one = table.select(flumpy.from_numpy(ids == k))
    one.as_file(str(tmp_path / "one.refl"))
    arguments = ("one.expt", "one.refl", f"change_of_basis_op={name}", "space_group=P43")
    done = run_program("dials.reindex", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs, theirs_experiments = read(tmp_path / "reindexed")
    rows = flumpy.from_numpy(flumpy.to_numpy(ours.table["id"]) == k)
    assert list(theirs["miller_index"]) == list(ours.table["miller_index"].select(rows))
    np.testing.assert_allclose(theirs_experiments[0].crystal.get_A(), ours.experiments[k].crystal.get_A(), atol=1e-9)
    assert list(table["miller_index"].select(flumpy.from_numpy(ids == k))) != list(theirs["miller_index"])


def test_files_in_another_order_give_the_same_choice(given, tmp_path):
    table, experiments = read(given[0] / "mixed")
    names = []
    for part in (0, 1):
        chosen = np.flatnonzero(np.arange(len(experiments)) % 2 == part)
        rows = table.select(flumpy.from_numpy(np.isin(flumpy.to_numpy(table["id"]), chosen)))
        ExperimentList([experiments[int(k)] for k in chosen]).as_file(str(tmp_path / f"{part}.expt"))
        rows.as_file(str(tmp_path / f"{part}.refl"))
        names.append(str(tmp_path / f"{part}"))
    outcomes = []
    for order in (names, names[::-1]):
        files = read_stills([f"{x}.expt" for x in order], [f"{x}.refl" for x in order])
        files = resolve_ambiguity(files)
        identifiers = files.experiments.identifiers()
        outcomes.append({name: files.ambiguity.of_lattice(k) for k, name in enumerate(identifiers)})
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "symbol, cell, operations",
    [
        ("P212121", (50.0, 50.4, 80.0, 90.0, 90.0, 90.0), ["h,k,l", "k,h,-l"]),
        # the fourfold axis is one of three: what is equivalent depends on the way a lattice is indexed
        ("P41", (60.0, 60.0, 60.4, 90.0, 90.0, 90.0), ["h,k,l", "k,h,-l", "k,l,h", "-k,-h,-l", "l,h,k", "h,l,-k"]),
    ],
)
def test_axes_of_nearly_equal_length_are_told_apart(symbol, cell, operations, tmp_path):
    options = replace(OPTIONS, n_lattices=100, space_group=symbol, unit_cell=cell, cell_spread=0.002)
    sim = simulate_stills(options)
    write_stills(sim, tmp_path / "true")
    chosen = np.random.default_rng(0).integers(len(operations), size=100)
    reindex_some(tmp_path / "true", operations, chosen, tmp_path / "mixed")
    files = read_stills([str(tmp_path / "mixed.expt")], [str(tmp_path / "mixed.refl")])
    assert not files.stills.rejected
    before = q_by_lattice(files.table, files.experiments)
    files = resolve_ambiguity(files)
    assert files.ambiguity.choice.resolved and not files.stills.rejected
    for name, q in q_by_lattice(files.table, files.experiments).items():
        np.testing.assert_allclose(q, before[name], atol=1e-9)
    # the arrays say the same as the files
    stills = files.stills
    h = miller_indices_to_numpy(files.table["miller_index"])
    np.testing.assert_array_equal(stills.h, h[files.usable.row])
    np.testing.assert_allclose(stills.a_matrix.reshape(-1, 9), [e.crystal.get_A() for e in files.experiments])
    group = files.space_group
    np.testing.assert_array_equal(pack(files.h_unique[stills.unique]), classes(stills.h, group))
    alike = indexed_alike(h, sim.h, sim.lattice, group, operations)
    assert (alike | sim.useless).sum() >= 99
    cells = np.array([e.crystal.get_unit_cell().parameters()[:3] for e in files.experiments])[alike]
    np.testing.assert_allclose(cells, np.broadcast_to(cells[0], cells.shape), rtol=1e-6)
    np.testing.assert_allclose(files.cell[:3], cells[0], rtol=1e-6)


def test_without_ambiguity_nothing_changes(tmp_path):
    sim = simulate_stills(replace(OPTIONS, n_lattices=12, space_group="P43212", d_min=3.5))
    names = write_stills(sim, tmp_path / "given")
    files = read_stills(names[:1], names[1:2])
    start = time.process_time()
    assert resolve_ambiguity(files) is files
    assert time.process_time() - start < 0.1


# Real stills


@pytest.mark.data
def test_five_stills_with_few_reflections_in_common_stay_as_they_are(shared_data):
    """CuNiR in P213: 11 to 71 reflections in common of two lattices, with a median I/sigma of 0.5."""
    stem = shared_data / "cunir_ssx_5" / "integrated"
    before = read_stills([f"{stem}.expt"], [f"{stem}.refl"])
    files = resolve_ambiguity(before)
    choice = files.ambiguity.choice
    assert len(files.ambiguity.operations) == 2
    assert not choice.resolved and choice.mean_probability < 0.75 and not choice.operation.any()
    np.testing.assert_array_equal(files.stills.h, before.stills.h)
    assert "too low to reindex any" in text.ambiguity_lines(files.ambiguity)


@pytest.mark.data
@pytest.mark.parametrize("reference", [None, "models/1stn_icalc_48.40_63.33_1.5A.mtz"])
def test_stills_of_one_crystal_are_put_back_into_one_setting(shared_data, tmp_path, reference):
    """Staphylococcal nuclease in P41: 48 stills a degree apart, indexed alike, half of them reindexed here."""
    stem = shared_data / "snase_stills_48" / "stills"
    swapped = (np.random.default_rng(8).random(48) < 0.5).astype(int)
    reindex_some(stem, ["h,k,l", SWAP], swapped, tmp_path / "mixed")

    def resolve(stem):
        files = read_stills([f"{stem}.expt"], [f"{stem}.refl"])
        external = read_reference(str(shared_data / reference), files.space_group, files.cell) if reference else None
        choice = resolve_ambiguity(files, external).ambiguity.choice
        return choice, choice.operation[files.order]

    assert not resolve(stem)[1].any()
    found, operation = resolve(tmp_path / "mixed")
    assert found.resolved and found.probability.min() > 0.99
    if reference or swapped.sum() < 24:
        np.testing.assert_array_equal(operation, swapped)
    else:
        np.testing.assert_array_equal(operation, 1 - swapped)


def test_friedel_pairs_kept_apart_change_no_choice(given):
    folder, sim, _ = given
    pair = [folder / "mixed.expt"], [folder / "mixed.refl"]
    reference = sim.reference_h, sim.reference_intensity
    both_hands = np.concatenate([sim.reference_h, -sim.reference_h]), np.tile(sim.reference_intensity, 2)
    for known, known_apart in ((None, None), (reference, both_hands)):
        as_one = resolve_ambiguity(read_stills(*pair), known)
        apart = resolve_ambiguity(read_stills(*pair, StillsChoice(anomalous=True)), known_apart)
        assert np.array_equal(apart.ambiguity.choice.operation, as_one.ambiguity.choice.operation)
        assert np.array_equal(apart.usable.h, as_one.usable.h)
        # and what was reindexed is numbered with its pairs apart
        h_unique = apart.h_unique[apart.stills.unique]
        assert np.array_equal(h_unique, map_to_asymmetric_unit(apart.usable.h, apart.space_group, anomalous=True))
        plus, minus = apart.stills.friedel.pairs()
        assert len(plus) > 0 and np.array_equal(apart.h_unique[plus], -apart.h_unique[minus])
