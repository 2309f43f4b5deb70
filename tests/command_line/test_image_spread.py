"""dials.image_spread as its user runs it: real data, files, the same numbers twice, bad input."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest
from comparison import content, refusal

pytestmark = pytest.mark.dials

SWEEPS = ("20_25", "30", "35")


@pytest.fixture(scope="module")
def run_spread(run_for_summary):
    """A function: arguments -> the folder of a run and its summary."""
    return partial(run_for_summary, "dials.image_spread")


@pytest.fixture(scope="module")
def quartz(run_spread, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    return run_spread(folder / "scaled.expt", folder / "scaled.refl", "match=laue", "min_angle=5", "compare=profile")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Names of the .expt and .refl of four sweeps with tau 0.2."""
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    return write_sweeps(
        simulate_sweeps(SweepOptions(tau=0.2, n_images=60)), tmp_path_factory.mktemp("sweeps") / "scaled"
    )


@pytest.mark.data
def test_quartz_electrons(quartz):
    """The figures of electron.md, and what they must be."""
    _, summary = quartz
    spread = summary["spread"]
    parts = {part["name"]: part for part in spread["parts"]}
    assert 0.42 <= spread["overall"]["tau"] <= 0.49
    assert spread["overall"]["low"] < 0.455 < spread["overall"]["high"]
    assert parts["weakest half"]["tau"] > 0.7 and parts["strongest tenth"]["tau"] < 0.1
    assert summary["pairs"]["n_found"] == 27
    assert summary["dataset"]["variance"] == "counting" and summary["dataset"]["outliers"] == "excluded"
    assert spread["r_meas"] == pytest.approx(0.13, abs=0.005)
    columns = summary["compare"]["columns"]
    assert columns["profile"]["r_meas"] == pytest.approx(0.20, abs=0.01)
    assert columns["scale"]["tau"] == spread["overall"]
    assert columns["profile"]["tau"]["low"] > columns["scale"]["tau"]["high"]


@pytest.mark.data
def test_pairs_of_quartz_with_the_errors_of_scaling(run_spread, shared_data):
    """Measured before with the variances of dials.scale: a log spread of 0.141, of the stored profiles 0.365."""
    folder = shared_data / "ed_quartz_scaled"
    _, summary = run_spread(
        folder / "scaled.expt",
        folder / "scaled.refl",
        "match=laue",
        "min_angle=5",
        "compare=profile",
        "variance=scaled",
    )
    columns = summary["compare"]["columns"]
    assert columns["scale"]["pairs"]["log_spread"] == pytest.approx(0.141, abs=0.0006)
    assert columns["profile"]["pairs"]["log_spread"] == pytest.approx(0.365, abs=0.0006)


@pytest.mark.data
def test_outliers_make_the_spread_larger(run_spread, quartz, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    _, summary = run_spread(folder / "scaled.expt", folder / "scaled.refl", "match=laue", "outliers=keep")
    assert summary["spread"]["overall"]["tau"] > 1.15 * quartz[1]["spread"]["overall"]["tau"]


@pytest.mark.data
def test_matched_pairs_of_quartz_are_told_from_random_ones(run_spread, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    _, summary = run_spread(folder / "scaled.expt", folder / "scaled.refl", "match=laue")
    test = summary["random_match"]
    assert test["auc"] >= 0.9 and 0.0 < test["auc_esd"] < 0.05
    assert test["kurtosis"] > 2.0 and test["p_normal"] < 1e-3
    assert any("not normally distributed" in remark for remark in summary["remarks"])


@pytest.mark.data
@pytest.mark.slow
def test_l_cysteine_x_rays(run_spread, shared_data):
    folder = shared_data / "l_cysteine_4_sweeps_scaled"
    names = [folder / f"scaled_{sweep}.{ending}" for sweep in SWEEPS for ending in ("expt", "refl")]
    _, summary = run_spread(*names, "match=laue")
    spread = summary["spread"]
    assert 0.055 <= spread["overall"]["tau"] <= 0.065
    assert len(spread["experiments"]) == 4
    # flat in intensity, compared with electrons: 12 from the weakest half to the strongest tenth of quartz
    parts = {part["name"]: part["tau"] for part in spread["parts"]}
    assert parts["weakest half"] < 2.0 * parts["strongest tenth"]
    assert summary["random_match"]["auc"] > 0.99
    assert summary["dataset"]["images_taken_as_one"] > 1


def test_a_known_spread_comes_back(run_spread, simulated):
    _, summary = run_spread(*simulated, "match=laue")
    overall = summary["spread"]["overall"]
    assert overall["low"] < 0.2 < overall["high"]
    assert summary["dataset"]["beam_intensity"] == "background of the spots"
    assert len(summary["spread"]["experiments"]) == len(summary["dataset"]["experiments"]) == 4


def test_the_files_say_the_same(run_spread, simulated):
    folder, summary = run_spread(*simulated, "match=laue", "compare=sum")
    assert sorted(path.name for path in folder.iterdir()) == [
        "dials.image_spread.html",
        "dials.image_spread.json",
        "dials.image_spread.log",
        "image_pairs.csv",
    ]
    with open(folder / "image_pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["pairs"]["n_analysed"] == summary["pairs"]["n_found"]
    best = summary["pairs"]["best"]
    for row, pair in zip(rows, best):
        assert int(row["n_common"]) == pair["n_common"]
        assert float(row["jaccard"]) == pytest.approx(pair["jaccard"], rel=1e-5)
        assert float(row["r"]) == pytest.approx(pair["r"], rel=1e-5)
        assert row["log_spread"] == "" if pair["log_spread"] is None else float(row["log_spread"]) > 0.0
    log, html = ((folder / name).read_text() for name in ("dials.image_spread.log", "dials.image_spread.html"))
    tau = f"{summary['spread']['overall']['tau']:.3f}"
    assert tau in log and tau in html and "intensity.scale.value / inverse_scale_factor" in log
    assert "same observations" in log


def test_two_runs_are_the_same_to_the_last_byte(run_spread, simulated):
    first, second = (run_spread(*simulated, "match=laue")[0] for _ in range(2))
    for name in ("dials.image_spread.json", "image_pairs.csv", "dials.image_spread.html"):
        assert content(first / name) == content(second / name)


def test_integrated_columns_are_called_so(run_spread, simulated):
    folder, summary = run_spread(*simulated, "match=laue", "intensity_choice=profile")
    assert any("INTEGRATED" in remark for remark in summary["remarks"])
    assert "INTEGRATED" in (folder / "dials.image_spread.log").read_text()
    assert summary["spread"]["overall"]["tau"] > 0.4


def test_one_sweep_needs_no_option(run_spread, simulated):
    """A single sweep has no indices twice: match=exact finds nothing, the default what match=laue finds."""
    _, summary = run_spread(*simulated)
    _, named = run_spread(*simulated, f"match={summary['settings']['match']}")
    for one in (summary, named):
        del one["provenance"]
    assert summary == named


@pytest.mark.data
def test_a_real_sweep_needs_no_option(run_spread, shared_data):
    folder = shared_data / "ed_quartz_scaled"
    _, summary = run_spread(folder / "scaled.expt", folder / "scaled.refl")
    assert summary["settings"]["match"] == "laue" and summary["pairs"]["n_found"] > 20


@pytest.mark.parametrize("match", ["exact", "operation"])
def test_the_other_ways_to_match(run_spread, simulated, match):
    _, summary = run_spread(*simulated, f"match={match}", "min_common=2")
    assert summary["pairs"]["n_found"] > 0
    assert all(pair["n_common"] >= 2 for pair in summary["pairs"]["best"])


def test_files_that_are_not_wanted_are_not_written(run_program, simulated, tmp_path):
    outputs = [f"output.{name}=None" for name in ("json", "pairs", "html", "log")]
    result = run_program("dials.image_spread", *simulated, "match=laue", *outputs, cwd=tmp_path)
    assert result.returncode == 0 and not list(tmp_path.iterdir())


@pytest.fixture()
def refused(tmp_path, monkeypatch):
    """A function: run with arguments, in this process; the one sentence, and no file but those that were there."""
    from dials_postrefine.command_line.image_spread import run

    monkeypatch.chdir(tmp_path)

    return lambda *args: refusal(run, tmp_path, args)


@pytest.fixture()
def changed(simulated, tmp_path):
    """A function: change of the table, or of which rows are kept -> names of the files."""
    from dials.array_family import flex

    def change(edit):
        table = flex.reflection_table.from_file(simulated[1])
        table = edit(table) or table
        table.as_file(str(tmp_path / "changed.refl"))
        return simulated[0], str(tmp_path / "changed.refl")

    return change


def test_no_files(refused):
    assert "are needed" in refused("match=laue")


def test_no_images_in_common(refused, simulated):
    assert "1000 indices in common" in refused(*simulated, "match=laue", "min_common=1000")


def test_one_image(refused, changed):
    from dxtbx import flumpy

    def keep_one(table):
        z, ids = flumpy.to_numpy(table["xyzcal.px"])[:, 2], flumpy.to_numpy(table["id"])
        return table.select(flumpy.from_numpy((ids == 0) & (z < 1.0)))

    names = changed(keep_one)
    sentence = refused(*names, "match=laue", "image_width=1000")
    assert "one image" in sentence


def test_no_symmetry_equivalents(refused, changed):
    from cctbx import crystal, miller
    from dxtbx import flumpy

    from dials_postrefine.files.dials.versions import miller_indices_to_numpy
    from dials_postrefine.simulate.sweeps import CELL, SPACE_GROUP

    def keep_first(table):
        symmetry = crystal.symmetry(unit_cell=CELL, space_group_symbol=SPACE_GROUP)
        unique = miller.set(symmetry, table["miller_index"], anomalous_flag=False).map_to_asu().indices()
        _, first = np.unique(miller_indices_to_numpy(unique), axis=0, return_index=True)
        keep = np.zeros(len(table), dtype=bool)
        keep[first] = True
        return table.select(flumpy.from_numpy(keep))

    assert "symmetry equivalents are needed" in refused(*changed(keep_first), "match=laue", "min_common=1")


def test_an_unscaled_table(refused, changed):
    def unscale(table):
        del table["intensity.scale.value"]

    assert "not scaled" in refused(*changed(unscale), "match=laue")


def test_nan(refused, changed):
    from dials.array_family import flex

    def spoil(table):
        table["intensity.scale.value"] = flex.double(len(table), float("nan"))

    sentence = refused(*changed(spoil), "match=laue")
    assert "No observation can be used" in sentence and "bad intensity" in sentence


def test_limits_that_cross(refused, simulated):
    assert "d_min=3 is not below d_max=2" in refused(*simulated, "d_min=3", "d_max=2")
    assert "beam.annulus=5 20" in refused(*simulated, "beam.annulus=5 20")
