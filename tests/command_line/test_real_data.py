"""
dials.postrefine on real stills of all kinds (../shared/data/README.md), and DIALS' programs on what it writes.

All inputs that must work are taken by dials.show and dials.report as they are, those without image sets (nanobragg,
lyso_xfel_300, thermolysin_xfel_10_indexed) too; dials.export takes all but thermolysin_xfel_10_indexed, which has no
`xyzcal.px` before it is postrefined.  So the output is held to the same everywhere.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from comparison import results

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import crystal, miller
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

pytestmark = [pytest.mark.dials, pytest.mark.data, pytest.mark.slow]

NANOBRAGG = "nanobragg_lysozyme_20/integrated"
SNASE = "snase_stills_48/stills"
LYSOZYME = "lyso_xfel_300/stills"
THERMOLYSIN = "thermolysin_xfel_4/stills"
ABISMAL = "thermolysin_xfel_3_abismal/stills"
CUNIR = "cunir_ssx_5/integrated"
INDEXED = "thermolysin_xfel_10_indexed/stills"
THERMOLYSIN_MODEL = "models/2tli_icalc_93.4_131.1_1.6A.mtz"

OF_THEMSELVES = {stem: (stem, None) for stem in (NANOBRAGG, SNASE, LYSOZYME, THERMOLYSIN, ABISMAL, CUNIR, INDEXED)}
WITH_REFERENCE = {
    f"{stem} with reference": (stem, reference)
    for stem, reference in (
        (NANOBRAGG, "nanobragg_lysozyme_20/truth_1.75A.mtz"),
        (SNASE, "models/1stn_icalc_48.40_63.33_1.5A.mtz"),
        (LYSOZYME, "models/hewl_icalc_79.03_38.15_1.6A.mtz"),
        (THERMOLYSIN, THERMOLYSIN_MODEL),
        (ABISMAL, THERMOLYSIN_MODEL),
    )
}
OPTIONS = {INDEXED: ["intensity_choice=strong_spots"]}
WRITTEN = {"dials.merge": "merged.mtz", "dials.export": "scaled.mtz", "dials.report": "dials.report.html"}


@dataclass
class Run:
    """The folder of a run with its input; done: what each program of DIALS said of the output."""

    folder: Path
    stem: Path
    done: dict

    def __post_init__(self):
        self.summary = json.loads((self.folder / "dials.postrefine.json").read_text())
        self.accepted = [lattice for lattice in self.summary["lattices"] if lattice["accepted"]]

    @property
    def table(self):
        return flex.reflection_table.from_file(str(self.folder / "postrefined.refl"))

    @property
    def experiments(self):
        return ExperimentList.from_file(str(self.folder / "postrefined.expt"), check_format=False)

    @property
    def identifiers(self) -> list[str]:
        return [lattice["identifier"] for lattice in self.accepted]


@pytest.fixture(scope="module")
def postrefine(run_program, tmp_path_factory, shared_data):
    """
    A function that postrefines a set in a new folder and runs DIALS' programs on the outcome, two at a time; where
    there is a reference dials.merge alone, as the files are of the same kind.

    It does so once for the same arguments.
    """

    @lru_cache(maxsize=None)
    def run(stem: str, reference: Path | None = None) -> Run:
        folder = tmp_path_factory.mktemp("run")
        pair = [shared_data / f"{stem}{ending}" for ending in (".expt", ".refl")]
        options = [*OPTIONS.get(stem, ()), *([f"reference={shared_data / reference}"] if reference else [])]
        done = run_program("dials.postrefine", *pair, *options, "nproc=2", cwd=folder)
        assert done.returncode == 0, done.stderr
        log = (folder / "dials.postrefine.log").read_text()
        (merge,) = re.findall(r"^\s*(dials\.merge .*)$", log, re.MULTILINE)
        both = "postrefined.expt postrefined.refl"
        merge += " output.html=None"  # half of its time
        others = [f"dials.report {both}", f"dials.export {both} intensity=scale", f"dials.show {both}"]
        commands = [merge] if reference else [merge, *others]
        with ThreadPoolExecutor(2) as pool:
            results = pool.map(lambda command: run_program(*shlex.split(command), cwd=folder), commands)
        return Run(folder, shared_data / stem, {c.split()[0]: result for c, result in zip(commands, results)})

    return run


@pytest.fixture(params=OF_THEMSELVES | WITH_REFERENCE)
def postrefined(request, postrefine) -> Run:
    return postrefine(*(OF_THEMSELVES | WITH_REFERENCE)[request.param])


@pytest.fixture(params=WITH_REFERENCE)
def with_reference(request, postrefine) -> Run:
    return postrefine(*WITH_REFERENCE[request.param])


def assert_one_sentence(done, folder) -> str:
    """The program failed with one sentence and left nothing behind."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Sorry: ") and line.endswith(".")
    assert not results(folder)
    return line


def test_programs_of_dials_take_the_output(postrefined):
    for program, done in postrefined.done.items():
        assert done.returncode == 0, done.stdout + done.stderr
        assert program not in WRITTEN or (postrefined.folder / WRITTEN[program]).stat().st_size > 0


def test_table_and_experiments_hold_the_accepted_lattices_with_all_their_reflections(postrefined):
    table, experiments = postrefined.table, postrefined.experiments
    before = flex.reflection_table.from_file(str(postrefined.stem.with_suffix(".refl")))
    names = dict(before.experiment_identifiers())
    counts = Counter(names[i] for i in before["id"])
    assert list(experiments.identifiers()) == postrefined.identifiers
    assert dict(table.experiment_identifiers()) == dict(enumerate(postrefined.identifiers))
    assert Counter(table["id"]) == {i: counts[name] for i, name in enumerate(postrefined.identifiers)}
    assert "partial_id" not in table
    if "imageset_id" in table and experiments.imagesets():
        assert list(table["imageset_id"]) == [
            experiments.imagesets().index(experiments[i].imageset) for i in table["id"]
        ]
    for name in ("intensity.scale.variance", "inverse_scale_factor", "partiality"):
        values = flumpy.to_numpy(table[name])
        assert (np.isfinite(values) & (values > 0.0)).all(), name


def test_dials_merge_as_printed_gives_cctbxs_mean_of_what_was_kept(postrefined):
    table, first = postrefined.table, postrefined.experiments[0].crystal
    table = table.select(table.get_flags(table.flags.scaled))
    scale = table["inverse_scale_factor"]
    kept = miller.array(
        miller.set(crystal.symmetry(first.get_unit_cell(), space_group=first.get_space_group()), table["miller_index"]),
        data=table["intensity.scale.value"] / scale,
        sigmas=flex.sqrt(table["intensity.scale.variance"]) / scale,
    )
    kept = kept.customized_copy(anomalous_flag=False).map_to_asu()
    ours = kept.merge_equivalents(use_internal_variance=False).array()
    arrays = mtz.object(str(postrefined.folder / "merged.mtz")).as_miller_arrays()
    (theirs,) = (a.map_to_asu() for a in arrays if a.info().labels[0].startswith("IMEAN"))
    ours = dict(zip(ours.indices(), ours.data()))
    theirs = dict(zip(theirs.indices(), theirs.data()))
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([theirs[h] for h in ours], list(ours.values()), rtol=1e-4)


def test_merged_file_has_as_many_reflections_as_the_log_says(postrefined):
    arrays = mtz.object(str(postrefined.folder / "merged.mtz")).as_miller_arrays()
    (mean,) = (a for a in arrays if a.info().labels[0].startswith("IMEAN"))
    # DIALS writes systematic absences into the file and leaves them out of its statistics, and so do we
    present = ~mean.sys_absent_flags().data()
    assert present.count(True) == postrefined.summary["after"][-1]["n_unique"]


def test_every_rejected_lattice_has_a_reason_and_most_are_accepted(postrefined):
    lattices = postrefined.summary["lattices"]
    assert all((lattice["reason"] is None) == lattice["accepted"] for lattice in lattices)
    if postrefined.stem.parent.name == INDEXED.split("/")[0]:
        # ten lattices of some thirty spots with hardly one in common: nothing settles, and the data are scaled alone
        log = " ".join((postrefined.folder / "dials.postrefine.log").read_text().split())
        words = postrefined.summary["course"]["words"]
        assert postrefined.accepted and words.startswith("Not converged in") and words in log
        assert postrefined.summary["scaled_only"] and log.count(postrefined.summary["gain"]["words"]) == 2
    else:
        assert len(postrefined.accepted) >= 0.5 * len(lattices)


def test_correlation_with_the_reference_goes_up(with_reference):
    """Of what is merged: in a lattice by itself corrections by small partialities make the weak ones noisier."""
    total = [with_reference.summary[which][-1]["cc_reference"] for which in ("before", "after")]
    assert total[1] > total[0]


def test_reference_merged_from_the_data_themselves_passes_the_checks_of_cell_and_space_group(postrefine):
    """Circular, and so no proof of anything else; nothing agrees better with scaled data than these themselves."""
    first = postrefine(CUNIR, None)
    again = postrefine(CUNIR, first.folder / "merged.mtz")
    assert first.summary["scaled_only"] and again.summary["scaled_only"]
    assert again.summary["after"][-1]["cc_reference"] > 0.8
    assert all(done.returncode == 0 for done in again.done.values())


def test_indexed_but_not_integrated_data_end_in_one_sentence(run_program, shared_data, tmp_path):
    pair = [shared_data / f"{INDEXED}{ending}" for ending in (".expt", ".refl")]
    line = assert_one_sentence(run_program("dials.postrefine", *pair, cwd=tmp_path), tmp_path)
    assert "not integrated" in line
    assert "intensity_choice=strong_spots" in line


@pytest.mark.parametrize(
    "names",
    ["l_cysteine_4_sweeps_scaled/scaled_*", "l_cysteine_4_sweeps_scaled/scaled_30*", "ed_quartz_scaled/scaled*"],
)
def test_rotation_data_end_in_one_sentence(run_program, shared_data, tmp_path, names):
    files = sorted(shared_data.glob(names))
    assert len(files) >= 2
    line = assert_one_sentence(run_program("dials.postrefine", *files, cwd=tmp_path), tmp_path)
    assert "rotation" in line and "dials.scale" in line


def test_a_reference_of_another_protein_is_refused(run_program, shared_data, tmp_path):
    pair = [shared_data / f"{NANOBRAGG}{ending}" for ending in (".expt", ".refl")]
    reference = shared_data / THERMOLYSIN_MODEL
    done = run_program("dials.postrefine", *pair, f"reference={reference}", cwd=tmp_path)
    sentence = assert_one_sentence(done, tmp_path)
    assert "unit cell 93.40 93.40 131.10" in sentence and "79.34 79.34 37.81" in sentence


@pytest.mark.parametrize(("group", "wrong"), [("P41", False), ("P43212", True), ("I41", True)])
def test_a_wrong_space_group_is_a_remark(shared_data, run_program, tmp_path, group, wrong):
    """Nuclease is P 41: the twofold axes of P43212 are not there, nor is the centring that makes half of all absent."""
    files = [shared_data / "snase_stills_48" / f"stills.{kind}" for kind in ("expt", "refl")]
    options = [f"space_group={group}", "cross_validation=none", "n_cycles=1", "nproc=1"]
    run_program("dials.postrefine", *files, *options, cwd=tmp_path, check=True)
    summary = json.loads((tmp_path / "dials.postrefine.json").read_text())
    dataset, symmetry = summary["dataset"], summary["symmetry"]
    assert dataset["n_input"] == 23595 == dataset["n_observations"] + sum(dataset["not_used"].values())
    supported = {one["name"]: one["supported"] for one in symmetry["operations"]}
    assert supported["k,-h,l"] and supported["-h,-k,l"]
    assert any("set space_group=" in remark for remark in summary["remarks"]) == wrong
    if group == "P43212":
        assert supported["h,-k,-l"] is supported["-h,k,-l"] is False
        assert not symmetry["absences"]["strong"]  # the screw axis along c is there
    if group == "I41":
        assert symmetry["absences"]["n"] == 11775 and symmetry["absences"]["strong"]
        assert symmetry["absences"]["ratio"] == pytest.approx(1.0, abs=0.1)


def test_more_cycles_that_do_not_converge_are_no_worse(shared_data, run_program, tmp_path):
    """Nuclease against itself: 1.3 observations an index, and cycles that went from CC 0.70 to 0.62 by themselves."""
    pair = [shared_data / f"{SNASE}{ending}" for ending in (".expt", ".refl")]
    done = run_program("dials.postrefine", *pair, "n_cycles=20", "nproc=2", "output.html=None", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary, log = (
        json.loads((tmp_path / "dials.postrefine.json").read_text()),
        (tmp_path / "dials.postrefine.log").read_text(),
    )
    course, cycles, after = summary["course"], summary["cycles"], summary["after"][-1]
    if course["chosen_by"] == "half_sets":  # else they converged
        assert course["ended"] == "most" and course["damped_from"]
        assert after["cc_half_honest"] == pytest.approx(max(cycle["agreement"] for cycle in cycles))
    assert after["cc_half_honest"] > 0.65  # 0.46 once
    assert course["words"] in " ".join(log.split())
    table = flex.reflection_table.from_file(str(tmp_path / "postrefined.refl"))
    table = table.select(table.get_flags(table.flags.scaled))
    experiments = ExperimentList.from_file(str(tmp_path / "postrefined.expt"), check_format=False)
    model = mtz.object(str(shared_data / "models/1stn_icalc_48.40_63.33_1.5A.mtz")).as_miller_arrays()[0]
    symmetry = crystal.symmetry(
        experiments[0].crystal.get_unit_cell(), space_group=experiments[0].crystal.get_space_group()
    )
    found = miller.array(
        miller.set(symmetry, table["miller_index"], False),
        table["intensity.scale.value"] / table["inverse_scale_factor"],
        flex.sqrt(table["intensity.scale.variance"]) / table["inverse_scale_factor"],
    )
    merged = found.map_to_asu().merge_equivalents(use_internal_variance=False).array()
    model = model.customized_copy(crystal_symmetry=symmetry).map_to_asu()
    one, two = merged.common_sets(model, assert_is_similar_symmetry=False)
    if two.is_xray_amplitude_array():
        two = two.f_as_f_sq()
    assert np.corrcoef(one.data(), two.data())[0, 1] > 0.68
