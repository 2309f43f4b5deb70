"""
What the next program takes from dials.postrefine: the MTZ, cctbx.xfel.merge's files, and dials.postrefine itself; and
that it takes what dials.scale makes of stills.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

MODEL = ("profile=gaussian", "radius=mosaic", "unit_cell=scale")
PAIR = ("postrefined.expt", "postrefined.refl")
CONVERGENCE = 0.005  # the documented default

# Debian's cctbx has cctbx.xfel.merge, but not all of its extension modules.  What is missing for the steps that are run
# here is one function, which hands each process the reflections of its share of the indices, and the parameters of a
# step that is not run.
XFEL_MERGE = """
import runpy, sys, types
import dials_postrefine
import iotbx.phil, simtbx
from dials.array_family import flex

def get_hkl_chunks_cpp(reflections, hkl_list, chunk_ids, chunks):
    known = set(hkl_list)
    share = reflections.select(flex.bool([h in known for h in reflections["miller_index_asymmetric"]]))
    for name in list(share.keys()):
        if name not in chunks[0]:
            del share[name]
    chunks[0].extend(share)

try:
    import sx_merging_ext
except ImportError:
    sys.modules["sx_merging_ext"] = types.ModuleType("sx_merging_ext")
    sys.modules["sx_merging_ext"].get_hkl_chunks_cpp = get_hkl_chunks_cpp
try:
    import simtbx.command_line.hopper
except ImportError:
    for name in ("simtbx.command_line", "simtbx.command_line.hopper"):
        sys.modules[name] = types.ModuleType(name)
    simtbx.command_line = sys.modules["simtbx.command_line"]
    simtbx.command_line.hopper = sys.modules["simtbx.command_line.hopper"]
    simtbx.command_line.hopper.phil_scope = iotbx.phil.parse("")
runpy.run_module("xfel.merging.command_line.merge", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(run_program, tmp_path_factory) -> Path:
    """Simulated stills, some useless, that dials.postrefine has refined and handed over in every way."""
    folder = tmp_path_factory.mktemp("handover")
    write_stills(simulate_stills(StillsOptions.unlike_model(60, seed=4)), folder / "stills")
    wanted = ("output.mtz=kept.mtz", "output.xfel_merge=for xfel")
    done = run_program("dials.postrefine", "stills.expt", "stills.refl", *MODEL, *wanted, "nproc=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def summary(folder) -> dict:
    return json.loads((folder / "dials.postrefine.json").read_text())


def mean_intensities(path: Path) -> dict:
    """IMEAN and SIGIMEAN by index."""
    (array,) = [a for a in mtz.object(str(path)).as_miller_arrays() if a.info().labels[0].startswith("IMEAN")]
    array = array.map_to_asu()
    return {h: (i, s) for h, i, s in zip(array.indices(), array.data(), array.sigmas())}


def test_the_column_d_is_that_of_the_refined_cells(folder, summary):
    table = flex.reflection_table.from_file(str(folder / "postrefined.refl"))
    experiments = ExperimentList.from_file(str(folder / "postrefined.expt"), check_format=False)
    assert np.ptp([lattice["cell_scale"] for lattice in summary["lattices"] if lattice["accepted"]]) > 1e-4
    h = list(zip(table["id"], table["miller_index"]))
    expected = [experiments[k].crystal.get_unit_cell().d(index) for k, index in h]
    assert list(table["d"]) == pytest.approx(expected, rel=1e-9)


def test_the_mtz_is_what_the_printed_dials_merge_makes(folder, summary, run_program, tmp_path):
    name, *args = shlex.split(summary["merge_command"])
    done = run_program(name, *[folder / a if a in PAIR else a for a in args], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (mtz.object(str(path)) for path in (folder / "kept.mtz", tmp_path / "merged.mtz"))
    assert ours.column_labels() == theirs.column_labels()
    for label in set(ours.column_labels()) - {"FreeR_flag"}:  # which the newest dials.merge adds, by chance
        np.testing.assert_array_equal(*(list(x.get_column(label).extract_values()) for x in (ours, theirs)), label)


def test_another_threshold_reaches_the_mtz(folder, run_program, tmp_path):
    args = (folder / "stills.expt", folder / "stills.refl", *MODEL, "partiality_threshold=0.6", "cross_validation=none")
    done = run_program("dials.postrefine", *args, "output.mtz=kept.mtz", "nproc=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = flex.reflection_table.from_file(str(tmp_path / "postrefined.refl"))
    good = flumpy.to_numpy(table.get_flags(table.flags.scaled))
    assert flumpy.to_numpy(table["partiality"])[good].min() >= 0.6
    group = ExperimentList.from_file(str(tmp_path / "postrefined.expt"), False)[0].crystal.get_space_group()
    h = map_to_asymmetric_unit(miller_indices_to_numpy(table["miller_index"])[good], group)
    absent = flumpy.to_numpy(group.is_sys_absent(flex.miller_index(list(map(tuple, h.tolist())))))
    assert len(mean_intensities(tmp_path / "kept.mtz")) == len(np.unique(h[~absent], axis=0))


def test_where_dials_merge_fails_all_else_is_there_and_a_sentence_says_so(folder, tmp_path, monkeypatch):
    from dials.util import Sorry

    from dials_postrefine.files.stills.handover import merge_to_mtz

    monkeypatch.chdir(tmp_path)
    with pytest.raises(Sorry) as error:
        merge_to_mtz("dials.merge nothing.expt nothing.refl", "kept.mtz")
    message = str(error.value)
    assert "dials.merge nothing.expt nothing.refl" in message and "\n" not in message and message.endswith(".")
    assert os.listdir(tmp_path) == []


def test_xfel_merge_table_holds_what_is_to_be_merged_and_nothing_else(folder, summary):
    table = flex.reflection_table.from_file(str(folder / "postrefined.refl"))
    handed = flex.reflection_table.from_file(str(folder / "for xfel.refl"))
    experiments = ExperimentList.from_file(str(folder / "for xfel.expt"), check_format=False)
    handed.assert_experiment_identifiers_are_consistent(experiments)

    kept = ~flumpy.to_numpy(table.get_flags(table.flags.bad_for_scaling, all=False))
    assert 0 < np.count_nonzero(kept) < len(table)
    needed = ("id", "intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    columns = {name: flumpy.to_numpy(table[name])[kept] for name in needed}
    scale = columns["inverse_scale_factor"]
    value, variance = (flumpy.to_numpy(handed[f"intensity.sum.{name}"]) for name in ("value", "variance"))
    np.testing.assert_allclose(value, columns["intensity.scale.value"] / scale, rtol=1e-12)
    np.testing.assert_allclose(variance, columns["intensity.scale.variance"] / scale**2, rtol=1e-12)
    np.testing.assert_array_equal(flumpy.to_numpy(handed["id"]), columns["id"])
    assert not handed.get_flags(handed.flags.bad_for_scaling, all=False).count(True)
    for name in ("miller_index", "s1"):
        assert list(handed[name]) == [row for row, good in zip(table[name], kept) if good]

    # one index of the asymmetric unit for all that are equivalent, found here by trying all operations
    group = experiments[0].crystal.get_space_group()
    operations = np.array([op.r().as_double() for op in group.all_ops()]).reshape(-1, 3, 3)
    h = miller_indices_to_numpy(handed["miller_index"])
    asymmetric = miller_indices_to_numpy(handed["miller_index_asymmetric"])
    mates = np.einsum("ni,oij->noj", h, np.concatenate([operations, -operations])).astype(int)
    assert (mates == asymmetric[:, None]).all(axis=2).any(axis=1).all()
    orbit = np.array([max(map(tuple, some)) for some in mates.tolist()])
    assert len(np.unique(asymmetric, axis=0)) == len(np.unique(orbit, axis=0)) < len(h)

    names = list(experiments.identifiers())
    lattices = {lattice["identifier"]: lattice for lattice in summary["lattices"]}
    for column, key in {"correlation": "correlation_before", "correlation_after_post": "correlation_after"}.items():
        expected = np.array([lattices[name][key] for name in names])[flumpy.to_numpy(handed["id"])]
        np.testing.assert_allclose(flumpy.to_numpy(handed[column]), expected, rtol=1e-12)


@pytest.mark.skipif(find_spec("xfel") is None, reason="cctbx.xfel.merge is not part of this cctbx (Debian sid's)")
def test_xfel_merge_as_printed_gives_the_merge_of_dials(folder, summary, tmp_path):
    name, *args = shlex.split(summary["xfel_merge_command"])
    assert name == "cctbx.xfel.merge"
    output = f"output.output_dir={tmp_path}"
    command = [sys.executable, "-c", XFEL_MERGE, *args, output]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    theirs, ours = mean_intensities(tmp_path / "iobs_all.mtz"), mean_intensities(folder / "kept.mtz")
    table = flex.reflection_table.from_file(str(folder / "for xfel.refl"))
    h, n = np.unique(miller_indices_to_numpy(table["miller_index_asymmetric"]), axis=0, return_counts=True)
    assert theirs.keys() == {tuple(index) for index in h[n >= 2].tolist()} & ours.keys()
    assert len(theirs) > 1000
    for index, (intensity, sigma) in theirs.items():
        assert intensity == pytest.approx(ours[index][0], rel=1e-4, abs=1e-4 * sigma)
        assert sigma == pytest.approx(ours[index][1], rel=1e-4)


# dials.postrefine's own output as its input


@pytest.fixture(scope="module")
def again(folder, run_program, tmp_path_factory) -> dict:
    """The JSON of one cycle more."""
    new = tmp_path_factory.mktemp("again")
    files = [folder / name for name in PAIR]
    done = run_program("dials.postrefine", *files, *MODEL, "n_cycles=1", "output.mtz=kept.mtz", "nproc=2", cwd=new)
    assert done.returncode == 0, done.stderr
    return {"folder": new, **json.loads((new / "dials.postrefine.json").read_text())}


def test_a_further_cycle_changes_no_merged_intensity_beyond_convergence(folder, summary, again):
    assert summary["cycles"][-1]["change"] < CONVERGENCE
    assert again["cycles"][0]["change"] < CONVERGENCE
    first, second = mean_intensities(folder / "kept.mtz"), mean_intensities(again["folder"] / "kept.mtz")
    both = first.keys() & second.keys()
    assert len(both) > 0.99 * len(first)
    one, two = (np.array([means[h][0] for h in both]) for means in (first, second))
    assert np.abs(one - two).sum() < CONVERGENCE * np.abs(one).sum()


def test_a_further_cycle_leaves_parameters_where_they_are(summary, again):
    accepted = {x["identifier"]: x for x in summary["lattices"] if x["accepted"]}
    assert [x["identifier"] for x in again["lattices"] if x["accepted"]] == list(accepted)
    for name in ("b_factor", "theta_x", "theta_y", "radius", "mosaicity", "cell_scale", "scale"):
        before = np.array([x[name] for x in accepted.values()])
        after, esd = (np.array([x[name + end] for x in again["lattices"]]) for end in ("", "_esd"))
        if name == "scale":  # what all have in common goes with the mean intensity: nothing determines it
            after /= np.median(after / before)
        assert np.median(np.abs(after - before) / esd) < 0.1, name  # nothing, beside the error


def test_lattices_are_read_back_in_their_orientation_as_indexed(folder):
    indexed = read_stills([str(folder / "stills.expt")], [str(folder / "stills.refl")])
    back = read_stills(*([str(folder / name)] for name in PAIR))
    number = {name: k for k, name in enumerate(indexed.experiments.identifiers())}
    of_each = [number[name] for name in back.experiments.identifiers()]
    np.testing.assert_allclose(back.stills.a_matrix, indexed.stills.a_matrix[of_each], rtol=0.0, atol=1e-14)
    assert len(back.stills.earlier) == len(of_each) > 40
    np.testing.assert_array_equal(
        back.stills.intensity, np.concatenate([indexed.stills.intensity[indexed.stills.rows(k)] for k in of_each])
    )


def test_with_another_model_the_refinement_starts_as_from_the_integrated_lattices(folder, run_program, tmp_path):
    """What was rejected the first time is left out by hand."""
    kept = set(ExperimentList.from_file(str(folder / PAIR[0]), False).identifiers())
    experiments = ExperimentList.from_file(str(folder / "stills.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "stills.refl"))
    table = table.select_on_experiment_identifiers([name for name in experiments.identifiers() if name in kept])
    table.reset_ids()
    ExperimentList([e for e in experiments if e.identifier in kept]).as_file(str(tmp_path / "kept.expt"))
    table.as_file(str(tmp_path / "kept.refl"))
    found = []
    for number, pair in enumerate([("kept.expt", "kept.refl"), [folder / name for name in PAIR]]):
        model = ("profile=lorentzian", "radius=constant", "unit_cell=fixed")
        args = (*model, "cross_validation=none", "nproc=2", f"output.json={number}.json")
        done = run_program("dials.postrefine", *pair, *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / f"{number}.json").read_text()))
    assert [c["change"] for c in found[0]["cycles"]] == pytest.approx([c["change"] for c in found[1]["cycles"]], 1e-6)
    for one, other in zip(*(x["lattices"] for x in found)):
        assert one["scale"] == pytest.approx(other["scale"], rel=1e-6)


@pytest.mark.slow
def test_stills_that_dials_scale_has_scaled_are_refined_like_the_integrated_ones(run_program, tmp_path):
    write_stills(simulate_stills(StillsOptions(n_lattices=30, seed=2, d_min=3.0)), tmp_path / "stills")
    done = run_program("dials.scale", "stills.expt", "stills.refl", "model=KB", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "intensity.scale.value" in flex.reflection_table.from_file(str(tmp_path / "scaled.refl"))
    merged = []
    for name in ("stills", "scaled"):
        done = run_program(
            "dials.postrefine", f"{name}.expt", f"{name}.refl", "nproc=2", f"output.mtz={name}.mtz", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        merged.append(mean_intensities(tmp_path / f"{name}.mtz"))
    assert merged[0].keys() == merged[1].keys() and len(merged[0]) > 500
    for h, (intensity, sigma) in merged[0].items():
        assert merged[1][h] == pytest.approx((intensity, sigma), rel=1e-5)
