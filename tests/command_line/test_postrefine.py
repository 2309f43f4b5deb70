"""
dials.postrefine from end to end on simulated stills: what it writes is what DIALS' programs take, and is the truth.

Expected values come from the simulation, from an independent recomputation in numpy, or from DIALS itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from comparison import content

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import miller, sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Experiment
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

MODEL = ("profile=lorentzian", "radius=constant", "unit_cell=fixed")  # that made the data
THRESHOLD = 0.2  # the documented default of partiality_threshold
# Lattices to be rejected, wild observations to be outliers, an azimuthal dependence of the polarisation
OPTIONS = StillsOptions(
    n_lattices=40,
    d_min=2.5,
    seed=1,
    useless_fraction=0.1,
    wild_fraction=0.01,
    polarization_fraction=0.99,
)
FIRST_PART = 25  # lattices of the first of two pairs
WRITTEN = {
    "intensity.scale.value",
    "intensity.scale.variance",
    "inverse_scale_factor",
    "inverse_scale_factor_variance",
    "partiality",
    "intensity.ref.value",
    "flags",
}

# intensity and standard deviation by index of the asymmetric unit
Means = dict[tuple[int, int, int], tuple[float, float]]


@dataclass
class Input:
    """Simulated files in a folder, and the row of the simulation behind each row of the table."""

    folder: Path
    sim: SimulatedStills
    row: np.ndarray

    def pair(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.expt", self.folder / f"{name}.refl"


@dataclass
class Output:
    """What a run left in its folder."""

    folder: Path

    def __post_init__(self):
        self.summary = json.loads((self.folder / "dials.postrefine.json").read_text())
        self.pair = self.folder / "postrefined.expt", self.folder / "postrefined.refl"

    @property
    def table(self):
        return flex.reflection_table.from_file(str(self.pair[1]))

    @property
    def experiments(self):
        return ExperimentList.from_file(str(self.pair[0]), check_format=False)

    @property
    def accepted(self) -> dict[str, dict]:
        return {lattice["identifier"]: lattice for lattice in self.summary["lattices"] if lattice["accepted"]}


def select_lattices(table, experiments, chosen):
    """The table and the experiments of the lattices numbered chosen, numbered anew."""
    ids = flumpy.to_numpy(table["id"])
    part = table.select(flumpy.from_numpy(np.isin(ids, chosen)))
    number = np.zeros(len(experiments), dtype=np.int32)
    number[chosen] = np.arange(len(chosen), dtype=np.int32)
    part["id"] = flumpy.from_numpy(number[flumpy.to_numpy(part["id"])])
    for i in list(part.experiment_identifiers().keys()):
        del part.experiment_identifiers()[i]
    lattices = [experiments[int(k)] for k in chosen]
    for i, lattice in enumerate(lattices):
        part.experiment_identifiers()[i] = lattice.identifier
    return part, ExperimentList(lattices)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Input:
    """
    whole.*, its lattices split into first.* and second.*, p4mmm.expt, and simulated_truth.mtz.

    The rows are in a random order, some can't be used, and there is the `partial_id` of dials.stills_process.
    """
    folder = tmp_path_factory.mktemp("input")
    sim = simulate_stills(OPTIONS)
    write_stills(sim, folder / "simulated")
    experiments = ExperimentList.from_file(str(folder / "simulated.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "simulated.refl"))
    rng = np.random.default_rng(5)
    row = rng.permutation(len(table))
    table = table.select(flumpy.from_numpy(row.astype(np.uint64)))
    table["partial_id"] = flex.size_t(range(len(table)))
    table["a.column.of.the.user"] = flumpy.from_numpy(rng.random(len(table)))

    bad = rng.choice(len(table), size=(3, 20), replace=False)
    masks = [np.isin(np.arange(len(table)), rows) for rows in bad]
    table.unset_flags(flumpy.from_numpy(masks[0]), table.flags.integrated_sum)
    table.set_flags(flumpy.from_numpy(masks[1]), table.flags.overloaded)
    variance = flumpy.to_numpy(table["intensity.sum.variance"]).copy()
    variance[masks[2]] = 0.0
    table["intensity.sum.variance"] = flumpy.from_numpy(variance)

    numbers = np.arange(len(experiments))
    parts = {"whole": numbers, "first": numbers[:FIRST_PART], "second": numbers[FIRST_PART:]}
    for name, chosen in parts.items():
        part, lattices = select_lattices(table, experiments, chosen)
        lattices.as_file(str(folder / f"{name}.expt"))
        part.as_file(str(folder / f"{name}.refl"))
    for crystal in experiments.crystals():
        crystal.set_space_group(sgtbx.space_group_info("P4/mmm").group())
    experiments.as_file(str(folder / "p4mmm.expt"))
    return Input(folder, sim, row)


@pytest.fixture(scope="module")
def postrefine(run_program, tmp_path_factory):
    """A function that runs dials.postrefine in a new folder, with the model that made the data: its Output."""

    def run(*args, model=MODEL) -> Output:
        folder = tmp_path_factory.mktemp("run")
        done = run_program("dials.postrefine", *model, *args, cwd=folder)
        assert done.returncode == 0, done.stderr
        return Output(folder)

    return run


@pytest.fixture(scope="module")
def postrefined(given, postrefine) -> Output:
    return postrefine(*given.pair("whole"), "nproc=2")


@pytest.fixture(scope="module")
def merged(postrefined, run_program) -> Path:
    """The MTZ that the printed command makes."""
    return run_printed_merge(postrefined, run_program)


@pytest.fixture(scope="module")
def against_truth(tmp_path_factory, postrefine):
    """Beam along z, and tilted with a wavelength to each lattice: simulation, and Output against the truth."""
    results = {}
    for name, beam in {"straight": {}, "tilted": {"beam_tilt": 1.0, "wavelength_jitter": 0.002}}.items():
        sim = simulate_stills(StillsOptions(n_lattices=40, d_min=2.5, seed=1, **beam))
        files = write_stills(sim, tmp_path_factory.mktemp(name) / "stills")
        results[name] = sim, postrefine(*files[:2], f"reference={files[2]}", "restraints=False", "nproc=2")
    return results


def run_printed_merge(output: Output, run_program) -> Path:
    log = (output.folder / "dials.postrefine.log").read_text()
    (command,) = re.findall(r"^\s*(dials\.merge .*)$", log, re.MULTILINE)
    assert command == output.summary["merge_command"]
    name, *args = shlex.split(command)
    done = run_program(name, *args, cwd=output.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return output.folder / "merged.mtz"


def read_mean_intensities(path: Path) -> Means:
    """IMEAN and SIGIMEAN by index of the asymmetric unit."""
    found = [a for a in mtz.object(str(path)).as_miller_arrays() if a.info().labels[0].startswith("IMEAN")]
    assert len(found) == 1, "one wavelength, one data set"
    array = found[0].map_to_asu()
    return {h: (i, s) for h, i, s in zip(array.indices(), array.data(), array.sigmas())}


def merge_written_table(output: Output, threshold: float = THRESHOLD) -> Means:
    """Weighted means and their standard deviations by index of the asymmetric unit, from the written table alone."""
    table, space_group = output.table, output.experiments[0].crystal.get_space_group()
    bad = flumpy.to_numpy(table.get_flags(table.flags.bad_for_scaling, all=False))
    kept = ~bad & (flumpy.to_numpy(table["partiality"]) >= threshold)
    scale = flumpy.to_numpy(table["inverse_scale_factor"])[kept]
    value = flumpy.to_numpy(table["intensity.scale.value"])[kept] / scale
    weight = scale**2 / flumpy.to_numpy(table["intensity.scale.variance"])[kept]
    indices = table["miller_index"].select(flumpy.from_numpy(kept))
    miller.map_to_asu(space_group.type(), False, indices)
    h, number = np.unique(np.array(list(indices)), axis=0, return_inverse=True)
    number = number.ravel()
    total = np.bincount(number, weight)
    mean = np.bincount(number, weight * value) / total
    return {tuple(k): (i, s) for k, i, s in zip(h.tolist(), mean, total**-0.5)}


def assert_same_merge(one: Means, other: Means) -> None:
    assert len(one) > 1000
    assert one.keys() == other.keys()
    values = np.array([(one[h], other[h]) for h in one])
    np.testing.assert_allclose(values[:, 0], values[:, 1], rtol=1e-4)


def turn(axis: int, degrees: float) -> np.ndarray:
    """The right-handed rotation about x (0) or y (1)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == 0 else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """The angle (degrees) of the rotation that takes b to a; from its antisymmetric part, exact for small ones."""
    r = a @ np.linalg.inv(b)
    return math.degrees(0.5 * np.linalg.norm([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]))


def matrix_of(experiment) -> np.ndarray:
    return np.array(experiment.crystal.get_A()).reshape(3, 3)


def assert_same_parameters(one: Output, other: Output, tolerance: float = 1e-6) -> None:
    """Equal to tolerance, in units of the esds."""
    first, second = ({x["identifier"]: x for x in output.summary["lattices"]} for output in (one, other))
    assert first.keys() == second.keys()
    assert one.accepted.keys() == other.accepted.keys() and len(one.accepted) > 20
    for identifier in one.accepted:
        a, b = first[identifier], second[identifier]
        for name in ("scale", "b_factor", "theta_x", "theta_y", "radius"):
            assert a[name] == pytest.approx(b[name], abs=tolerance * b[name + "_esd"]), (identifier, name)


# The round trip through dials.merge


def test_dials_merge_as_printed_gives_the_mean_of_the_written_table(postrefined, merged):
    assert_same_merge(read_mean_intensities(merged), merge_written_table(postrefined))


def test_dials_merge_as_printed_gives_our_own_merge(given, postrefined, merged):
    from dials_postrefine.programs.algorithm_settings import dataset_settings
    from dials_postrefine.programs.stills_input import read_stills
    from dials_postrefine.settings.postrefine import PostrefineRequest
    from dials_postrefine.stills.loop import postrefine
    from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics

    expt, refl = given.pair("whole")
    files = read_stills([str(expt)], [str(refl)])
    request = PostrefineRequest(profile="lorentzian", radius="constant", unit_cell="fixed")
    result = postrefine(files.stills, dataset_settings(request))
    shells = ResolutionShells(files.d_star_sq, files.complete)
    own = collect_statistics(files.stills, result, shells).merged
    seen = own.n > 0
    ours = zip(files.h_unique[seen].tolist(), own.intensity[seen], own.sigma[seen])
    assert_same_merge(read_mean_intensities(merged), {tuple(h): (i, s) for h, i, s in ours})
    assert postrefined.summary["after"][-1]["n_unique"] == np.count_nonzero(seen)


def test_dials_merge_as_printed_puts_many_wavelengths_into_one_data_set(against_truth, run_program):
    _, output = against_truth["tilted"]
    assert len({e.beam.get_wavelength() for e in output.experiments}) == 40
    assert_same_merge(read_mean_intensities(run_printed_merge(output, run_program)), merge_written_table(output))


def test_printed_dials_merge_keeps_another_threshold(given, postrefine, run_program):
    output = postrefine(*given.pair("whole"), "nproc=2", "partiality_threshold=0.6")
    means = read_mean_intensities(run_printed_merge(output, run_program))
    assert_same_merge(means, merge_written_table(output, 0.6))
    assert len(means) < output.summary["before"][-1]["n_unique"]


def test_printed_dials_merge_runs_where_file_names_have_spaces(given, run_program, tmp_path):
    (tmp_path / "my results").mkdir()
    names = ("output.experiments=my results/postrefined.expt", "output.reflections=my results/postrefined.refl")
    done = run_program("dials.postrefine", *given.pair("first"), *names, "nproc=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = shlex.split(json.loads((tmp_path / "dials.postrefine.json").read_text())["merge_command"])
    done = run_program(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_merged_intensities_are_the_true_ones(given, merged):
    """Over indices without a wild observation: of one or two observations none can be called an outlier."""
    sim, means = given.sim, read_mean_intensities(merged)
    tame = sim.i_full[~np.isin(sim.asu, sim.asu[sim.wild])]
    truth = {tuple(h): i for h, i in zip(sim.reference_h.tolist(), sim.reference_intensity) if i in tame}
    pairs = np.array([(means[h][0], truth[h]) for h in means if h in truth])
    assert len(pairs) > 1000
    assert np.corrcoef(pairs.T)[0, 1] > 0.98
    # the same without postrefinement: the plain mean of I/P
    n = np.bincount(sim.asu, minlength=len(sim.reference_h))
    plain = np.bincount(sim.asu, sim.intensity / sim.polarisation, len(n)) / np.maximum(n, 1)
    same = (n > 0) & np.isin(sim.reference_intensity, tame)
    assert np.corrcoef(plain[same], sim.reference_intensity[same])[0, 1] < 0.9


def test_the_plain_command_chooses_and_says_what_and_why(given, postrefine):
    output = postrefine(*given.pair("whole"), "nproc=2", model=())
    summary, log = output.summary, (output.folder / "dials.postrefine.log").read_text()
    exponent = summary["exponent"]
    assert summary["profile"] == "pearson_vii" and exponent["value"] < 1.8  # a Lorentzian made them
    assert abs(1.0 - 1.0 / exponent["value"]) < 4.0 * exponent["esd"] / exponent["value"] ** 2
    assert len(summary["tried"]) == 6 and not summary["scaled_only"]
    gain = summary["gain"]
    assert gain["difference"] > 5.0 * gain["difference_esd"] and gain["cc_half_refined"] > gain["cc_half_scaled"]
    words = f"profile pearson_vii with exponent {exponent['value']:.3g} (esd {exponent['esd']:.2g})"
    assert words in " ".join(log.split()) and f"radius {summary['radius']}" in log
    means = merge_written_table(output)
    truth = {tuple(h): i for h, i in zip(given.sim.reference_h.tolist(), given.sim.reference_intensity)}
    tame = given.sim.i_full[~np.isin(given.sim.asu, given.sim.asu[given.sim.wild])]
    pairs = np.array([(means[h][0], truth[h]) for h in means if truth.get(h) in tame])
    assert np.corrcoef(pairs.T)[0, 1] > 0.97


# The same result, however it is computed


def test_processes_do_not_change_the_result(given, postrefined, postrefine):
    serial = postrefine(*given.pair("whole"), "nproc=1")
    for name in ("postrefined.refl", "dials.postrefine.json"):
        assert content(serial.folder / name) == content(postrefined.folder / name), name
    experiments = [json.loads(output.pair[0].read_text()) for output in (serial, postrefined)]
    for record in experiments:
        record.pop("history", None)  # the newest dxtbx notes the time here
    assert experiments[0] == experiments[1]


def test_seed_changes_the_half_sets_alone(given, postrefined, postrefine):
    other = postrefine(*given.pair("whole"), "nproc=2", "seed=1")
    assert other.pair[1].read_bytes() == postrefined.pair[1].read_bytes()
    assert other.summary["lattices"] == postrefined.summary["lattices"]
    assert other.summary["after"][-1]["cc_half"] != postrefined.summary["after"][-1]["cc_half"]


@pytest.mark.parametrize(
    "order",
    [
        "first.expt first.refl second.expt second.refl",
        "second.expt second.refl first.expt first.refl",
        "first.expt second.expt second.refl first.refl",
    ],
)
def test_pairs_of_files_give_the_result_of_one_pair(given, postrefined, postrefine, order):
    output = postrefine(*(given.folder / name for name in order.split()), "nproc=2")
    assert_same_parameters(output, postrefined)
    for name in ("n_observations", "n_unique", "cc_half", "r_split", "i_over_sigma"):
        total, expected = (x.summary["after"][-1][name] for x in (output, postrefined))
        assert total == pytest.approx(expected, rel=1e-6), name
    assert_same_merge(merge_written_table(output), merge_written_table(postrefined))


def test_space_group_replaces_that_of_the_lattice(given, postrefined, postrefine):
    expt, refl = given.folder / "p4mmm.expt", given.pair("whole")[1]
    output = postrefine(expt, refl, "space_group=P43212", "nproc=2")
    symbols = {str(e.crystal.get_space_group().info()) for e in output.experiments}
    assert symbols == {"P 43 21 2"}
    assert_same_parameters(output, postrefined, 1e-3)


def test_lattices_that_share_a_crystal_model_are_each_turned_once(given, postrefine, tmp_path):
    table = flex.reflection_table.from_file(str(given.pair("first")[1]))
    experiments = ExperimentList.from_file(str(given.pair("first")[0]), check_format=False)
    table, experiments = select_lattices(table, experiments, np.arange(12))
    double, _ = select_lattices(table, experiments, [0])
    first, n = experiments[0], len(experiments)
    indexed = matrix_of(first)
    experiments.append(Experiment(identifier="double", beam=first.beam, detector=first.detector, crystal=first.crystal))
    del double.experiment_identifiers()[0]
    double["id"] = flex.int(len(double), n)
    double.experiment_identifiers()[n] = "double"
    table.extend(double)
    experiments.as_file(str(tmp_path / "shared.expt"))
    table.as_file(str(tmp_path / "shared.refl"))

    output = postrefine(tmp_path / "shared.expt", tmp_path / "shared.refl", "min_correlation=-1", "nproc=2")
    written = {e.identifier: matrix_of(e) for e in output.experiments}
    for identifier in (first.identifier, "double"):
        lattice = output.accepted[identifier]
        expected = turn(1, lattice["theta_y"]) @ turn(0, lattice["theta_x"]) @ indexed
        assert angle_between(written[identifier], expected) < 1e-5


# What the next program needs of the table


def test_simulation_has_rejected_lattices_and_outliers(given, postrefined):
    """Or else the tests below prove less than they say."""
    useless = {name for name, is_so in zip(given.sim.identifiers, given.sim.useless) if is_so}
    assert len(useless) >= 2
    assert useless.isdisjoint(postrefined.accepted)
    table = postrefined.table
    for flag in (table.flags.scaled, table.flags.outlier_in_scaling, table.flags.excluded_for_scaling):
        assert table.get_flags(flag).count(True) >= 10


def test_identifiers_of_table_and_experiments_are_equal_unique_and_not_empty(postrefined):
    table, experiments = postrefined.table, postrefined.experiments
    identifiers = list(experiments.identifiers())
    assert dict(table.experiment_identifiers()) == dict(enumerate(identifiers))
    assert len(set(identifiers)) == len(identifiers) and all(identifiers)
    assert set(identifiers) == set(postrefined.accepted)
    assert set(table["id"]) == set(range(len(experiments)))
    table.assert_experiment_identifiers_are_consistent(experiments)


def test_columns_of_the_contract_are_there_and_finite(postrefined):
    table = postrefined.table
    assert WRITTEN | {"miller_index", "xyzcal.px", "s1", "intensity.sum.value"} <= set(table.keys())
    assert "partial_id" not in table
    for name in WRITTEN - {"flags"}:
        assert np.isfinite(flumpy.to_numpy(table[name])).all(), name
    for name in ("intensity.scale.variance", "inverse_scale_factor", "partiality"):
        assert (flumpy.to_numpy(table[name]) > 0.0).all(), name
    assert (flumpy.to_numpy(table["partiality"]) <= 1.0).all()
    assert (flumpy.to_numpy(table["inverse_scale_factor_variance"]) >= 0.0).all()
    assert {str(e.crystal.get_space_group().info()) for e in postrefined.experiments} == {"P 43 21 2"}


def test_all_reflections_of_accepted_lattices_are_kept_in_order_and_other_columns_untouched(given, postrefined):
    before, after = flex.reflection_table.from_file(str(given.pair("whole")[1])), postrefined.table
    names = dict(before.experiment_identifiers())
    kept = [names[i] in postrefined.accepted for i in before["id"]]
    before = before.select(flex.bool(kept))
    new_names = dict(after.experiment_identifiers())
    assert [names[i] for i in before["id"]] == [new_names[i] for i in after["id"]]
    untouched = set(before.keys()) - WRITTEN - {"id", "partial_id", "d"}
    assert untouched <= set(after.keys()) and len(untouched) > 10
    for name in untouched:
        assert list(before[name]) == list(after[name]), name
    assert list(after["d"]) == pytest.approx(list(before["d"]), rel=1e-9)  # found anew; no cell was refined
    own = before.flags.scaled | before.flags.outlier_in_scaling | before.flags.excluded_for_scaling
    own = np.array(int(own)).astype(np.uint64)
    flags = [flumpy.to_numpy(table["flags"]).astype(np.uint64) for table in (before, after)]
    assert np.array_equal(flags[0] & ~own, flags[1] & ~own)


def test_each_reflection_is_scaled_or_an_outlier_or_excluded(postrefined):
    table = postrefined.table
    scaled, outlier, excluded, integrated, overloaded = (
        flumpy.to_numpy(table.get_flags(getattr(table.flags, name)))
        for name in ("scaled", "outlier_in_scaling", "excluded_for_scaling", "integrated_sum", "overloaded")
    )
    assert (scaled.astype(int) + outlier + excluded == 1).all()
    usable = integrated & ~overloaded & (flumpy.to_numpy(table["intensity.sum.variance"]) > 0.0)
    assert 30 < np.count_nonzero(~usable) <= 60
    assert np.array_equal(excluded, ~usable | (flumpy.to_numpy(table["partiality"]) < THRESHOLD))


@pytest.mark.parametrize("error_model", ["none", "basic"])
def test_scaled_intensity_is_that_of_the_integrator_over_polarisation_and_partiality(
    given, postrefined, postrefine, error_model
):
    counts_alone = error_model == "none"
    output = postrefine(*given.pair("whole"), "error_model=none", "nproc=2") if counts_alone else postrefined
    table = output.table
    names = np.array(given.sim.identifiers)[given.sim.lattice[given.row]]
    polarisation = given.sim.polarisation[given.row][np.isin(names, list(output.accepted))]
    assert np.ptp(polarisation) > 0.1
    good = flumpy.to_numpy(table.get_flags(table.flags.scaled))
    factor = 1.0 / (polarisation * flumpy.to_numpy(table["partiality"]))
    expected = {}
    for name, power in (("value", 1), ("variance", 2)):
        raw, scaled = (flumpy.to_numpy(table[f"intensity.{kind}.{name}"])[good] for kind in ("sum", "scale"))
        expected[name] = raw * factor[good] ** power
        if name == "value" or counts_alone:
            np.testing.assert_allclose(scaled, expected[name], rtol=1e-9)
    model = output.summary["error_model"]
    if counts_alone:
        assert model is None
    else:  # a^2 (var + what grows with the intensity), var of the counts to be expected: a fifth of what it was or more
        assert model["n"] > 1000
        ratio = scaled / (model["a"] ** 2 * expected["variance"])
        assert ratio.min() > 0.2 * 0.999 and np.median(ratio) > 1.0


def test_partialities_are_the_true_ones(given, postrefined):
    table = postrefined.table
    names = np.array(given.sim.identifiers)[given.sim.lattice[given.row]]
    truth = given.sim.partiality[given.row][np.isin(names, list(postrefined.accepted))]
    difference = np.abs(flumpy.to_numpy(table["partiality"]) - truth)
    assert np.median(difference) < 0.02
    assert np.percentile(difference, 95) < 0.1


def test_polarisation_is_found_by_programs_that_start_from_the_integrated_intensities(given, postrefined):
    """dials.scale, dials.export intensity=sum correct by the column `lp` = 1/P, and by nothing without it."""
    table = postrefined.table
    assert "lp" in table
    names = np.array(given.sim.identifiers)[given.sim.lattice[given.row]]
    polarisation = given.sim.polarisation[given.row][np.isin(names, list(postrefined.accepted))]
    np.testing.assert_allclose(flumpy.to_numpy(table["lp"]), 1.0 / polarisation, rtol=1e-9)


# The refined lattices


def test_refined_orientation_is_nearer_to_the_true_one(given, postrefined):
    truth = json.loads((given.folder / "simulated_truth.json").read_text())["lattices"]
    indexed, refined = [], []
    for experiment in postrefined.experiments:
        lattice = truth[experiment.identifier]
        indexed.append(angle_between(np.array(lattice["a_indexed"]), np.array(lattice["a_true"])))
        refined.append(angle_between(matrix_of(experiment), np.array(lattice["a_true"])))
    indexed, refined = np.array(indexed), np.array(refined)
    assert np.mean(refined < indexed) >= 0.9
    assert np.median(refined) < 0.1 * np.median(indexed)


def test_written_matrix_is_the_indexed_one_turned_by_the_reported_angles(given, postrefined):
    truth = json.loads((given.folder / "simulated_truth.json").read_text())["lattices"]
    for experiment in postrefined.experiments:
        lattice = postrefined.accepted[experiment.identifier]
        indexed = np.array(truth[experiment.identifier]["a_indexed"])
        expected = turn(1, lattice["theta_y"]) @ turn(0, lattice["theta_x"]) @ indexed
        assert math.hypot(lattice["theta_x"], lattice["theta_y"]) > 0.0
        np.testing.assert_allclose(matrix_of(experiment), expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("beam", ["straight", "tilted"])
def test_parameters_deviate_from_the_truth_by_their_esds(against_truth, beam):
    sim, output = against_truth[beam]
    assert list(output.accepted) == sim.identifiers
    truth = {
        "scale": sim.scale,
        "b_factor": 4.0 * sim.b_factor,  # the simulation's is a quarter of the conventional one
        "theta_x": np.degrees(sim.theta_x),
        "theta_y": np.degrees(sim.theta_y),
        "radius": sim.radius,
    }
    for name, true in truth.items():
        found, esd = np.array([(x[name], x[name + "_esd"]) for x in output.accepted.values()]).T
        z = np.abs(found - true) / esd
        # 0.67 is expected of a normal deviate; its own standard error is 0.12 for 40
        assert 0.3 < np.median(z) < 1.1, name
        assert z.max() < 5.0, name


def test_a_tilted_beam_is_no_worse_than_a_straight_one(against_truth):
    spread = {}
    for beam, (sim, output) in against_truth.items():
        true = np.degrees([sim.theta_x, sim.theta_y]).T
        spread[beam] = np.std([(x["theta_x"], x["theta_y"]) for x in output.accepted.values()] - true)
        assert spread[beam] < 0.05 * np.std(true)
    assert spread["tilted"] < 1.5 * spread["straight"]


def test_scale_model_is_what_dials_makes_of_it(postrefined):
    table = postrefined.table
    ids = flumpy.to_numpy(table["id"])
    for i, experiment in enumerate(postrefined.experiments):
        model, lattice = experiment.scaling_model, postrefined.accepted[experiment.identifier]
        assert model.id_ == "KB" and model.is_scaled
        scale, decay = model.components["scale"], model.components["decay"]
        assert list(scale.parameters) == pytest.approx([lattice["scale"]])
        assert list(scale.parameter_esds) == pytest.approx([lattice["scale_esd"]])
        assert list(decay.parameters) == pytest.approx([-lattice["b_factor"]])
        assert list(decay.parameter_esds) == pytest.approx([lattice["b_factor_esd"]])
        extra = ("theta_x", "theta_y", "radius", "correlation_before", "correlation_after")
        for name in (*extra, "theta_x_esd", "theta_y_esd", "radius_esd"):
            assert model.configdict[name] == pytest.approx(lattice[name]), name
        assert model.configdict["postrefinement"] == "rs_hybrid"
        assert model.configdict["profile"] == "lorentzian"

        # the factor of each reflection, by DIALS' own formula of the components
        rows = np.flatnonzero(ids == i)
        q = np.array(list(table["miller_index"]))[rows] @ matrix_of(experiment).T
        scale.data = {"id": flex.int(len(rows), i)}
        decay.data = {"d": flumpy.from_numpy(1.0 / np.linalg.norm(q, axis=1))}
        factors = []
        for component in (scale, decay):
            component.update_reflection_data()
            factors.append(flumpy.to_numpy(component.calculate_scales()))
        written = flumpy.to_numpy(table["inverse_scale_factor"])[rows]
        np.testing.assert_allclose(factors[0] * factors[1], written, rtol=1e-6)


# The programs of DIALS


@pytest.mark.parametrize(
    "program, args, written",
    [
        ("dials.show", (), None),
        ("dials.merge", (), "merged.mtz"),
        ("dials.export", ("intensity=scale",), "scaled.mtz"),
        pytest.param("dials.report", (), "dials.report.html", marks=pytest.mark.slow),
        ("dials.compute_delta_cchalf", (), "delta_cchalf.dat"),
        pytest.param("dials.scale", ("model=KB",), "scaled.refl", marks=pytest.mark.slow),
    ],
)
def test_programs_of_dials_take_the_output(postrefined, run_program, tmp_path, program, args, written):
    done = run_program(program, *postrefined.pair, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written is None or (tmp_path / written).stat().st_size > 0


@pytest.mark.parametrize("kind", ["merged MTZ", "unmerged MTZ", "scaled table"])
def test_references_of_all_kinds_give_the_same_scales(given, postrefined, merged, postrefine, run_program, kind):
    reference = {"merged MTZ": merged, "scaled table": postrefined.pair[1]}.get(kind)
    if kind == "unmerged MTZ":
        reference = postrefined.folder / "unmerged.mtz"
        args = ("intensity=scale", f"partiality_threshold={THRESHOLD}", f"mtz.hklout={reference}")
        done = run_program("dials.export", *postrefined.pair, *args, cwd=postrefined.folder)
        assert done.returncode == 0, done.stdout + done.stderr
    output = postrefine(*given.pair("whole"), f"reference={reference}", "nproc=2")
    assert len(output.summary["cycles"]) == 2
    # not in all digits: without an external reference a lattice is fitted to the mean of the others
    assert output.summary["after"][-1]["cc_reference"] > 0.99
    common = output.accepted.keys() & postrefined.accepted.keys()
    assert len(common) > 0.8 * len(postrefined.accepted)
    ratio = [output.accepted[name]["scale"] / postrefined.accepted[name]["scale"] for name in common]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.std(ratio) < 0.1


# The command line


HELP = """
import sys
from dials_postrefine.command_line import postrefine
try:
    postrefine.run(["-h"])
finally:
    print("imported:", *sys.modules)
"""


def test_help_lists_the_parameters_and_imports_nothing_heavy(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "LIBTBX_BUILD"}
    done = subprocess.run(
        [sys.executable, "-c", HELP], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    text, imported = done.stdout.split("imported:")
    for name in (
        "algorithm",
        "profile",
        "reference",
        "space_group",
        "partiality_threshold",
        "d_min",
        "mp",
        "output",
    ):
        assert re.search(rf"^{name} ", text, re.MULTILINE), name
    assert "dials.postrefine integrated.expt integrated.refl" in text
    heavy = ("dials.algorithms.scaling", "matplotlib", "dials_postrefine.files", "dials_postrefine.stills.loop")
    assert not [name for name in imported.split() if name.startswith(heavy)]
    assert not list(tmp_path.iterdir())


def test_without_arguments_the_help_is_shown(run_program, tmp_path):
    done = run_program("dials.postrefine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: dials.postrefine")
    assert not list(tmp_path.iterdir())


def test_an_output_name_that_dials_can_not_write_ends_in_one_sentence(given, run_program, tmp_path):
    done = run_program("dials.postrefine", *given.pair("first"), "output.experiments=out", "nproc=2", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Sorry: ") and ".expt" in done.stderr
    assert not list(tmp_path.iterdir())
