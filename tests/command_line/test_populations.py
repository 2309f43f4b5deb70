"""Data of several populations: two choices of the cell are merged as one, several wavelengths get a remark."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line.postrefine import run
from dials_postrefine.files.dials.reindexing import reindex_files
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(
    n_lattices=30, d_min=3.5, seed=4, space_group="P121", unit_cell=(40.0, 45.0, 50.0, 90.0, 100.0, 90.0)
)
SHORT = ["nproc=1", "cross_validation=none", "n_cycles=2", "output.html=None"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated stills (right) and the same with half of them indexed with -a-c, b, a (mixed)."""
    path = tmp_path_factory.mktemp("choices")
    write_stills(simulate_stills(OPTIONS), path / "right")
    experiments = ExperimentList.from_file(str(path / "right.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(path / "right.refl"))
    change = sgtbx.change_of_basis_op("-a-c,b,a")
    chosen = (np.arange(30) >= 15).astype(int)
    reindex_files(
        table, experiments, [sgtbx.change_of_basis_op(), change], chosen, experiments[0].crystal.get_space_group()
    )
    experiments.as_file(str(path / "mixed.expt"))
    table.as_file(str(path / "mixed.refl"))
    return path


def postrefine(folder, monkeypatch, name: str, *options: str):
    """The summary, and the merged intensities by index."""
    monkeypatch.chdir(folder)
    run([f"{name}.expt", f"{name}.refl", *SHORT, *options])
    table = flex.reflection_table.from_file("postrefined.refl")
    table = table.select(table.get_flags(table.flags.scaled))
    values = np.array(table["intensity.scale.value"]) / np.array(table["inverse_scale_factor"])
    group = sgtbx.space_group_info("P121").group()
    h = table["miller_index"]
    from cctbx import miller

    miller.map_to_asu(group.type(), False, h)
    sums: dict = {}
    for index, value in zip(h, values):
        sums.setdefault(index, []).append(value)
    with open("dials.postrefine.json") as file:
        return json.load(file), {index: np.mean(value) for index, value in sums.items()}


def test_two_choices_of_the_cell_give_what_one_gives(folder, monkeypatch):
    expected, right = postrefine(folder, monkeypatch, "right")
    found, mixed = postrefine(folder, monkeypatch, "mixed")
    assert found["dataset"]["unit_cell"] == pytest.approx(expected["dataset"]["unit_cell"])
    assert found["dataset"]["n_accepted"] == expected["dataset"]["n_accepted"] == 30
    assert [choice["n_lattices"] for choice in found["dataset"]["cell_choices"]] == [15]
    assert expected["dataset"]["cell_choices"] == []
    assert mixed.keys() == right.keys()
    assert [mixed[h] for h in right] == pytest.approx([right[h] for h in right], rel=1e-6)
    assert any("another choice of the unit cell" in remark for remark in found["remarks"])


def test_without_reindexing_the_other_choice_is_rejected_with_its_reason(folder, monkeypatch):
    found, _ = postrefine(folder, monkeypatch, "mixed", "reindex=none")
    assert found["rejected"] == {"indexed with another choice of the unit cell": 15}
    assert any("dials.reindex" in remark for remark in found["remarks"])


def write_distances(folder, distances, name: str) -> list[str]:
    """The right stills with the detector of each at its distance (mm)."""
    from dxtbx.model import Detector

    experiments = ExperimentList.from_file(str(folder / "right.expt"), check_format=False)
    for experiment, distance in zip(experiments, distances):
        detector = Detector.from_dict(experiment.detector.to_dict())
        for panel in detector:
            fast, slow, origin = panel.get_fast_axis(), panel.get_slow_axis(), np.array(panel.get_origin())
            origin *= distance / abs(panel.get_directed_distance())
            panel.set_frame(fast, slow, origin)
        experiment.detector = detector
    experiments.as_file(str(folder / f"{name}.expt"))
    return [f"{name}.expt", "right.refl"]


@pytest.mark.parametrize(
    ("spread", "apart", "n_groups"), [(0.0, 1.0, 2), (0.02, 1.0, 2), (0.02, 0.0, 1), (0.0, 0.05, 1), (0.5, 1.0, 1)]
)
def test_detector_distances_in_groups_are_a_remark(folder, monkeypatch, spread, apart, n_groups):
    """30 lattices, half of them with the detector 100 mm away, half further; each distance refined to a spread."""
    monkeypatch.chdir(folder)
    rng = np.random.default_rng(3)
    distances = 100.0 + apart * (np.arange(30) % 2) + spread * rng.normal(size=30)
    run([*write_distances(folder, distances, "moved"), *SHORT, "n_cycles=1"])
    with open("dials.postrefine.json") as file:
        summary = json.load(file)
    groups = summary["dataset"]["detector_distances"]
    assert [group["n_lattices"] for group in groups] == ([15, 15] if n_groups == 2 else [30])
    assert groups[0]["distance"] == pytest.approx(100.0 + 0.5 * apart * (n_groups == 1), abs=0.5 * spread + 0.026)
    found = [remark for remark in summary["remarks"] if "The detector stands at" in remark]
    assert len(found) == n_groups - 1
    assert all("2 distances" in remark and "mm (15 lattices)" in remark for remark in found)


@pytest.fixture(scope="module")
def sweeps():
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps

    return simulate_sweeps(SweepOptions(n_crystals=4, n_images=30, tau=0.2))


@pytest.fixture()
def changed_sweeps(sweeps, tmp_path, monkeypatch):
    """A function (change of an experiment, change of indices): the last two of the four sweeps are changed; files."""
    import copy

    from dials_postrefine.simulate.sweeps import write_sweeps

    monkeypatch.chdir(tmp_path)

    def write(change=None, change_of_basis=None, space_group=None):
        experiments, table = copy.deepcopy(sweeps.experiments), sweeps.table.copy()
        for k, experiment in enumerate(experiments):
            if space_group is not None:
                experiment.crystal.set_space_group(sgtbx.space_group_info(space_group).group())
            if k < 2:
                continue
            if change is not None:
                change(experiment)
            if change_of_basis is not None:
                operation = sgtbx.change_of_basis_op(change_of_basis)
                experiment.crystal = experiment.crystal.change_basis(operation)
                own = table["id"] == k
                table["miller_index"].set_selected(own, operation.apply(table["miller_index"].select(own)))
        return [str(name) for name in write_sweeps(type(sweeps)(experiments, table, None, None), tmp_path / "scaled")]

    return write


def new_wavelength(experiment, factor: float = 1.2):
    from dxtbx.model import BeamFactory

    beam = BeamFactory.from_dict(experiment.beam.to_dict())
    beam.set_wavelength(factor * beam.get_wavelength())
    experiment.beam = beam


def new_distance(experiment, factor: float = 1.02):
    from dxtbx.model import Detector

    experiment.detector = Detector.from_dict(experiment.detector.to_dict())
    for panel in experiment.detector:
        panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), factor * np.array(panel.get_origin()))


PROGRAMS = {
    "image_spread": ("dials.image_spread.json", []),
    "intensity_model": ("dials.intensity_model.json", ["trees.max_iter=5", "trees.permutations=2"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("change", "words"),
    [(None, None), (new_wavelength, "2 wavelengths"), (new_distance, "The detector stands at 2 distances")],
)
def test_sweeps_of_two_wavelengths_or_distances_are_a_remark(changed_sweeps, program, change, words):
    if program == "intensity_model":
        pytest.importorskip("sklearn", reason="scikit-learn grows the trees")
    module = __import__(f"dials_postrefine.command_line.{program}", fromlist=["run"])
    name, options = PROGRAMS[program]
    module.run([*changed_sweeps(change), *options, "output.html=None"])
    with open(name) as file:
        summary = json.load(file)
    found = [remark for remark in summary["remarks"] if "wavelengths" in remark or "The detector stands" in remark]
    assert len(found) == (words is not None) and all(words in remark for remark in found)
    assert len(summary["dataset"]["wavelengths"]) == (2 if change is new_wavelength else 1)
    assert len(summary["dataset"]["detector_distances"]) == (2 if change is new_distance else 1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sweeps_of_two_choices_of_the_cell_are_refused_with_the_operation(changed_sweeps, program):
    if program == "intensity_model":
        pytest.importorskip("sklearn", reason="scikit-learn grows the trees")
    module = __import__(f"dials_postrefine.command_line.{program}", fromlist=["run"])
    files = changed_sweeps(change_of_basis="a,b,c+a", space_group="P1")
    with pytest.raises(SystemExit) as stop:
        module.run([*files, "output.html=None"])
    assert "dials.reindex" in stop.value.code and "change_of_basis_op=" in stop.value.code


@pytest.fixture()
def map_two(tmp_path, monkeypatch):
    """A function: options of both and of the second of two series, a change of its basis -> the map's summary."""
    pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
    from dials_postrefine.command_line.diffuse_map import run as run_map
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments

    monkeypatch.chdir(tmp_path)

    def run_both(change_of_basis=None, both=None, **options):
        paths, both = [], both or {}
        for name, own in (("first", both), ("second", {**both, **options})):
            experiments = make_experiments(SeriesOptions(n_images=2, name=name, **own))
            path = write_series(experiments, None, tmp_path / name, background=lambda s: 3e4 + 0.0 * s[..., 0], seed=1)
            if change_of_basis and name == "second":
                experiments = ExperimentList.from_file(str(path), check_format=False)
                operation = sgtbx.change_of_basis_op(change_of_basis)
                experiments[0].crystal = experiments[0].crystal.change_basis(operation)
                experiments.as_file(str(path))
            paths.append(str(path))
        run_map([*paths, "d_min=3", "output.html=None"])
        with open("dials.diffuse_map.json") as file:
            return json.load(file)

    return run_both


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"distance": 82.0}, "The detector stands at 80.00 to 82.00 mm"),
        ({"wavelength": 1.02}, "Wavelengths from 1 to 1.02 Angstrom"),
    ],
)
def test_maps_of_two_wavelengths_or_distances_say_so(map_two, options, words):
    found = [one for one in map_two(**options)["remarks"] if "The detector stands" in one or "Wavelengths from" in one]
    assert len(found) == (words is not None) and all(words in one for one in found)


@pytest.mark.parametrize(
    ("cell", "refused"), [((30.0, 40.0, 50.0, 90.0, 90.6, 90.0), False), ((30.0, 40.0, 50.0, 90.0, 93.0, 90.0), True)]
)
def test_series_of_two_choices_of_the_cell_are_not_mapped_in_silence(map_two, cell, refused):
    """a, -b, -c takes beta to 180 - beta: within what cells may differ, or not."""
    options = {"both": {"unit_cell": cell, "space_group": "P 1 21 1"}, "change_of_basis": "a,-b,-c"}
    if refused:
        with pytest.raises(SystemExit) as stop:
            map_two(**options)
        assert "change_of_basis_op=" in stop.value.code
    else:
        remarks = map_two(**options)["remarks"]
        assert any("another choice of the unit cell" in one and "change_of_basis_op=" in one for one in remarks)
