"""
What a message advises to run is run here as it stands, and helps; and outputs of several runs can be joined.

Others: the printed dials.merge and cctbx.xfel.merge, test_handover.py; reindex_operation, test_reindex.py.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import miller, sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList
from iotbx import mtz

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.simulate.still_files import make_experiments, make_reflections, write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

QUICK = ("n_cycles=1", "nproc=1", "cross_validation=none", "output.html=None")


def write_pair(folder: Path, name: str, seed: int, identifier=None) -> None:
    """Eight stills with the identifiers that identifier(number) gives, None: none at all."""
    sim = simulate_stills(StillsOptions(n_lattices=8, seed=seed, d_min=3.0))
    experiments = make_experiments(sim)
    table = make_reflections(sim, experiments)
    names = table.experiment_identifiers()
    for k, experiment in enumerate(experiments):
        del names[k]
        experiment.identifier = identifier(k) if identifier else ""
        if identifier:
            names[k] = experiment.identifier
    experiments.as_file(str(folder / f"{name}.expt"))
    table.as_file(str(folder / f"{name}.refl"))


def identifiers(path: Path) -> list[str]:
    return list(ExperimentList.from_file(str(path), check_format=False).identifiers())


def scaled_indices(path: Path) -> set:
    table = flex.reflection_table.from_file(str(path))
    return set(table.select(table.get_flags(table.flags.scaled))["miller_index"])


@pytest.fixture(scope="module")
def two_runs(run_program, tmp_path_factory) -> Path:
    """A folder with what two runs made of tables without identifiers: first/ and second/."""
    folder = tmp_path_factory.mktemp("two_runs")
    for seed, name in enumerate(("first", "second")):
        (folder / name).mkdir()
        write_pair(folder, name, seed)
        pair = (f"../{name}.expt", f"../{name}.refl")
        done = run_program("dials.postrefine", *pair, *QUICK, "output.xfel_merge=handed", cwd=folder / name)
        assert done.returncode == 0, done.stderr
    return folder


def test_outputs_of_two_runs_are_combined_and_merged_by_dials(two_runs, run_program, tmp_path):
    outputs = [two_runs / name / f"postrefined{end}" for name in ("first", "second") for end in (".expt", ".refl")]
    done = run_program("dials.combine_experiments", *outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = identifiers(tmp_path / "combined.expt")
    assert names == identifiers(outputs[0]) + identifiers(outputs[2]) and len(set(names)) == len(names) > 10
    table = flex.reflection_table.from_file(str(tmp_path / "combined.refl"))
    assert len(table) == sum(len(flex.reflection_table.from_file(str(path))) for path in outputs[1::2])
    assert set(table.experiment_identifiers().values()) == set(names)

    (line,) = re.findall(r"^\s*(dials\.merge .*)$", (two_runs / "first/dials.postrefine.log").read_text(), re.M)
    program, _, _, *args = shlex.split(line)
    done = run_program(program, "combined.expt", "combined.refl", *args, "output.html=None", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (merged,) = [a for a in mtz.object(str(tmp_path / "merged.mtz")).as_miller_arrays() if "IMEAN" in a.info().labels]
    in_asu = []
    for path in outputs[1::2]:
        indices = flex.miller_index(sorted(scaled_indices(path)))
        in_asu.append(set(miller.set(merged.crystal_symmetry(), indices, anomalous_flag=False).map_to_asu().indices()))
    found = set(merged.customized_copy(anomalous_flag=False).map_to_asu().indices())
    assert found <= in_asu[0] | in_asu[1] and found & (in_asu[0] - in_asu[1]) and found & (in_asu[1] - in_asu[0])


def test_outputs_of_two_runs_are_merged_by_cctbx_xfel_merge(two_runs, tmp_path):
    pytest.importorskip("xfel", reason="cctbx.xfel.merge is not part of this cctbx (Debian sid's)")
    source = ast.parse((Path(__file__).parent / "test_handover.py").read_text())
    (program,) = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "XFEL_MERGE"
    ]
    log = (two_runs / "first/dials.postrefine.log").read_text()
    (line,) = re.findall(r"^\s*(cctbx\.xfel\.merge .*)$", log, re.M)
    args = [word for word in shlex.split(line)[1:] if not word.startswith("input.path=")]
    args += [f"input.path={name}/handed.refl" for name in ("first", "second")]
    command = [sys.executable, "-c", program, *args, f"output.output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=two_runs, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    tables = [flex.reflection_table.from_file(str(two_runs / name / "handed.refl")) for name in ("first", "second")]
    seen = np.concatenate([miller_indices_to_numpy(table["miller_index_asymmetric"]) for table in tables])
    h, n = np.unique(seen, axis=0, return_counts=True)
    (merged,) = [
        a for a in mtz.object(str(tmp_path / "iobs_all.mtz")).as_miller_arrays() if a.info().labels[0] == "IMEAN"
    ]
    (d_min,) = [float(word.split("=")[1]) for word in args if word.startswith("merging.d_min=")]  # of the first run
    d = np.array([merged.unit_cell().d(tuple(one)) for one in h.tolist()])
    assert set(merged.map_to_asu().indices()) == set(map(tuple, h[(n >= 2) & (d >= d_min)].tolist()))


def test_the_command_that_makes_identifiers_unique_does(run_program, tmp_path):
    """The identifiers 0, 1, 2 ... are those that users of dials.assign_experiment_identifiers give most often."""
    for seed, name in enumerate(("first", "a second", "third")):
        write_pair(tmp_path, name, seed, str)
    pairs = [f"{name}{end}" for name in ("first", "a second", "third") for end in (".expt", ".refl")]
    for _ in range(2):
        refused = run_program("dials.postrefine", *pairs, *QUICK, cwd=tmp_path)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        found = re.search(r"run '(.*)' and give (\S+) and (\S+) instead\.\n$", refused.stderr)
        assert found, refused.stderr
        command, *new = found.groups()
        program, expt, refl, *_ = shlex.split(command.split(" identifiers=")[0])
        made = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert made.returncode == 0, made.stdout + made.stderr
        pairs = [dict(zip((expt, refl), new)).get(name, name) for name in pairs]
    done = run_program("dials.postrefine", *pairs, *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(identifiers(tmp_path / "postrefined.expt")) > 15


def test_a_file_given_twice_is_not_to_be_renamed(run_program, tmp_path):
    for identifier in (str, None):
        write_pair(tmp_path, "first", 1, identifier)
        done = run_program("dials.postrefine", *(["first.expt", "first.refl"] * 2), *QUICK, cwd=tmp_path)
        assert done.returncode == 1
        assert "8 lattices are given more than once" in done.stderr and "give each file once.\n" in done.stderr


def reindexed(source: Path, operation: str, target: Path) -> None:
    """The pair as if it had been indexed with another choice of the unit cell."""
    experiments = ExperimentList.from_file(f"{source}.expt", check_format=False)
    table = flex.reflection_table.from_file(f"{source}.refl")
    change = sgtbx.change_of_basis_op(operation)
    for experiment in experiments:
        experiment.crystal = experiment.crystal.change_basis(change)
    table["miller_index"] = change.apply(table["miller_index"])
    experiments.as_file(f"{target}.expt")
    table.as_file(f"{target}.refl")


def test_the_reindexing_that_a_refused_reference_names_helps(run_program, tmp_path):
    options = StillsOptions(
        n_lattices=6, seed=2, d_min=3.5, space_group="P2221", unit_cell=(40.0, 60.0, 50.0, 90.0, 90.0, 90.0)
    )
    write_stills(simulate_stills(options), tmp_path / "stills")
    reindexed(tmp_path / "stills", "c,a,b", tmp_path / "other")
    reference = ("reference=stills_truth.mtz", *QUICK)
    refused = run_program("dials.postrefine", "other.expt", "other.refl", *reference, cwd=tmp_path)
    found = re.search(r"(dials\.reindex) (change_of_basis_op=\S+)\.\n$", refused.stderr)
    assert refused.returncode == 1 and found, refused.stderr
    done = run_program(found[1], "other.expt", "other.refl", found[2], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_program("dials.postrefine", "reindexed.expt", "reindexed.refl", *reference, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again, first = (miller_indices_to_numpy(flex.reflection_table.from_file(str(tmp_path / f"{name}.refl"))
                    ["miller_index"]) for name in ("reindexed", "stills"))  # fmt: skip
    assert np.abs(np.sort(np.abs(again), axis=0) - np.sort(np.abs(first), axis=0)).max() == 0


def test_the_reindexing_of_another_choice_of_the_cell_helps(run_program, tmp_path):
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    for seed, name in enumerate(("first", "second")):
        sweeps = simulate_sweeps(SweepOptions(n_crystals=1, n_images=60, seed=seed))
        for k, experiment in enumerate(sweeps.experiments):
            experiment.identifier = sweeps.table.experiment_identifiers()[k] = f"{name}-{k}"
        write_sweeps(sweeps, tmp_path / name)
    reindexed(tmp_path / "second", "a,b,c+a", tmp_path / "skewed")
    data = ("first.expt", "first.refl", "skewed.expt", "skewed.refl", "match=laue")
    refused = run_program("dials.image_spread", *data, "space_group=P1", cwd=tmp_path)
    found = re.search(r"(dials\.reindex) (change_of_basis_op=\S+)\.\n$", refused.stderr)
    assert refused.returncode == 1 and found, refused.stderr
    done = run_program(found[1], "skewed.expt", "skewed.refl", found[2], "space_group=P1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    data = ("first.expt", "first.refl", "reindexed.expt", "reindexed.refl", "match=laue", "space_group=P1")
    done = run_program("dials.image_spread", *data, cwd=tmp_path)
    assert "reindex" not in done.stderr, done.stderr


def test_dials_show_lists_the_identifiers_that_lattice_plots_wants(two_runs, run_program, tmp_path):
    pair = [two_runs / "first" / name for name in ("postrefined.expt", "postrefined.refl")]
    refused = run_program("dials.postrefine", *pair, *QUICK, "lattice_plots=nobody", cwd=tmp_path)
    assert refused.returncode == 1 and "dials.show lists those of the .expt files" in refused.stderr
    shown = run_program("dials.show", pair[0], cwd=tmp_path, check=True).stdout
    assert all(name in shown for name in identifiers(pair[0]))


def advised() -> list[tuple[str, str]]:
    """The programs of DIALS and cctbx that texts of the package and README name, with the parameter beside them."""
    package = Path(dials_postrefine.__file__).parent
    texts = [(package.parent / "README.rst").read_text()]
    for path in package.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    pattern = re.compile(r"\b((?:dials|cctbx\.xfel)\.[a-z_]+)(?:``)?(?: ([a-z_.]+)=)?")
    return sorted({found.groups(default="") for text in texts for found in pattern.finditer(text)})


NOT_PROGRAMS = {"dials.github", "dials.util", "dials.array_family", "dials.algorithms", "dials.command_line"}


@pytest.mark.parametrize("program, parameter", advised())
def test_programs_and_parameters_that_are_named_exist(program, parameter):
    name = program.rsplit(".", 1)[1]
    if program in NOT_PROGRAMS or importlib.util.find_spec(f"dials_postrefine.command_line.{name}"):
        return
    if program == "cctbx.xfel.merge":  # not all of its modules are there everywhere; test_handover.py runs it
        pytest.importorskip("xfel", reason="cctbx.xfel.merge is not part of this cctbx (Debian sid's)")
        return
    module = "dials.command_line." + {"import": "dials_import"}.get(name, name)
    assert importlib.util.find_spec(module), f"{program} does not exist"
    if parameter:
        loaded = importlib.import_module(module)
        scope = getattr(loaded, "phil_scope", None) or loaded.generate_phil_scope()
        paths = [item.path for item in scope.all_definitions()]
        assert any(path == parameter or path.endswith(f".{parameter}") for path in paths), f"{program} {parameter}="
