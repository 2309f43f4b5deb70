"""dials.intensity_model as its user runs it: real data, training and test sets, the table it writes, bad input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from comparison import content, refusal

pytestmark = pytest.mark.dials

FAST = ("trees.max_iter=30", "trees.permutations=2")


@pytest.fixture(scope="module")
def run_model(run_for_summary):
    """A function: arguments -> the folder of a run and its summary."""
    return partial(run_for_summary, "dials.intensity_model")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Names of the .expt and .refl of two pairs of sweeps, with amplitudes that depend on orientation, and a model."""
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, structure, write_sweeps

    folder = tmp_path_factory.mktemp("sweeps")
    names = []
    for seed in (0, 1):
        sweeps = simulate_sweeps(SweepOptions(n_crystals=2, perturbation=0.2, seed=seed))
        for k, experiment in enumerate(sweeps.experiments):
            experiment.identifier = f"{seed}-{k}"
            sweeps.table.experiment_identifiers()[k] = experiment.identifier
        names.append(write_sweeps(sweeps, folder / f"scaled_{seed}"))
    model = folder / "quartz.cif"
    model.write_text(as_cif(structure()))
    return names, model


def as_cif(structure) -> str:
    from io import StringIO

    stream = StringIO()
    structure.as_cif_simple(out=stream)
    return stream.getvalue()


@pytest.mark.data
@pytest.mark.slow
def test_quartz(run_model, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    model = folder / "quartz_enantiomer_1.cif"
    for split in ("image_blocks", "unique"):
        out, summary = run_model(folder / "scaled.expt", folder / "scaled.refl", f"split={split}", f"reference={model}")
        r1 = {name: one["value"] for name, one in summary["overall"].items()}
        assert r1["both"] < r1["f_calc"] and summary["gain"]["value"] > 5.0 * summary["gain"]["esd"]
        log = " ".join((out / "dials.intensity_model.log").read_text().split())
        assert "Trees with |F_calc| beat |F_calc| alone" in log
        if split == "image_blocks":
            assert r1["trees"] > r1["equivalents"] and "Trees alone lose to the mean of symmetry equivalents" in log
        else:
            assert r1["equivalents"] is None and "no mean to compare with" in log


def test_training_and_test_sets(run_model, simulated):
    (train, test), model = simulated
    out, summary = run_model(f"train={','.join(train)}", f"test={','.join(test)}", f"reference={model}", *FAST)
    assert [one["name"] for one in summary["experiments"]] == ["1-0", "1-1"]
    r1 = {name: one["value"] for name, one in summary["overall"].items()}
    assert set(r1) == {"equivalents", "f_calc", "trees", "both"} and all(0.0 < value < 1.0 for value in r1.values())
    # each in turn
    assert list(summary["compare"]["overall"]) == list(summary["overall"])
    assert summary["dataset"]["n_predicted"] < summary["dataset"]["n_observations"]
    assert summary["features"] == [
        "index", "resolution", "orientation", "excitation", "scale", "background", "f_calc",
    ]  # fmt: skip
    assert (out / "dials.intensity_model.html").stat().st_size > 10_000


def test_the_table_has_what_was_predicted_and_dials_reads_it(run_model, run_program, simulated):
    from dials.array_family import flex
    from dxtbx import flumpy

    (train, test), model = simulated
    out, summary = run_model(f"train={','.join(train)}", f"test={','.join(test)}", f"reference={model}", *FAST)
    shown = run_program("dials.show", "intensity_model.expt", "intensity_model.refl", cwd=out, check=True).stdout
    assert "intensity.model.value" in shown
    table, given = (flex.reflection_table.from_file(str(name)) for name in (out / "intensity_model.refl", test[1]))
    assert len(table) == len(given) and sorted(table.experiment_identifiers().values()) == ["1-0", "1-1"]
    scale = flumpy.to_numpy(table["inverse_scale_factor"])
    observed, predicted = (flumpy.to_numpy(table[f"intensity.{name}.value"]) / scale for name in ("scale", "model"))
    used = predicted > 0.0
    f, f_p = np.sqrt(np.maximum(observed[used], 0.0)), np.sqrt(predicted[used])
    # R1 of the log is over the observations that have mates in the training set
    assert np.abs(f - f_p).sum() / f.sum() == pytest.approx(summary["overall"]["both"]["value"], abs=0.02)


def test_without_a_model_there_are_trees_and_mates(run_model, simulated):
    names, _ = simulated
    _, summary = run_model(*names[0], "split=experiment", *FAST)
    assert list(summary["overall"]) == ["equivalents", "trees"] and summary["gain"]["value"] is None
    assert summary["compare"]["column"] == "profile"


def test_two_runs_are_the_same_to_the_last_byte(run_model, simulated):
    names, model = simulated
    runs = [run_model(*names[0], "split=image_blocks", f"reference={model}", *FAST)[0] for _ in range(2)]
    for name in ("dials.intensity_model.json", "intensity_model.refl", "dials.intensity_model.html"):
        assert content(runs[0] / name) == content(runs[1] / name)


@pytest.fixture()
def refused(tmp_path, monkeypatch):
    """A function: run with arguments, in this process; the one sentence, and no file but those that were there."""
    from dials_postrefine.command_line.intensity_model import run

    monkeypatch.chdir(tmp_path)

    return lambda *args: refusal(run, tmp_path, [*FAST, *args])


def test_bad_input_is_one_sentence(refused, simulated, tmp_path):
    (train, test), model = simulated
    assert "Data are needed" in refused()
    assert "belong together" in refused(f"train={','.join(train)}")
    assert "Data are needed" in refused(*train, f"train={','.join(train)}", f"test={','.join(test)}")
    assert "neither an .expt nor a .refl" in refused(f"train={train[0]},data.csv", f"test={','.join(test)}")
    assert "given more than once" in refused(f"train={','.join(train)}", f"test={','.join(train)}")
    assert "does not exist" in refused(*train, "reference=missing.cif")
    assert "n_folds" in refused(*train, "n_folds=1")
    assert "not below" in refused(*train, "d_min=3", "d_max=2")
    assert "are left to train on" in refused(*train, "d_min=2.5", "split=image_blocks")


@pytest.mark.data
def test_one_experiment_can_not_be_split_by_experiment(refused, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    sentence = refused(folder / "scaled.expt", folder / "scaled.refl", "split=experiment")
    assert "one experiment only" in sentence
