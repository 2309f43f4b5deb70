"""dials.postrefine against an atomic model: real files in, what the model did to the result out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comparison import results

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the model")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

ATOM = "ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N\n"


@pytest.fixture(scope="module")
def summaries(shared_data, run_program, tmp_path_factory) -> dict:
    """
    JSON of the nanoBragg stills refined with the atomic model behind them, and with themselves; and the first one's
    folder.
    """
    pair = [shared_data / "nanobragg_lysozyme_20" / f"integrated{ending}" for ending in (".expt", ".refl")]
    model = [f"reference={shared_data / 'models' / 'RTSAD_HEWL_refine_25.pdb'}"]
    found = {}
    for name, reference in {"model": model, "self": []}.items():
        folder = tmp_path_factory.mktemp(name)
        args = ("profile=gaussian", "radius=mosaic", "unit_cell=fixed", "nproc=2")
        done = run_program("dials.postrefine", *pair, *reference, *args, cwd=folder)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((folder / "dials.postrefine.json").read_text())
        found[name]["folder"] = folder
    return found


@pytest.mark.data
@pytest.mark.slow
def test_the_honest_half_sets_are_those_of_a_run_without_the_model(summaries):
    ours, without = summaries["model"]["after"], summaries["self"]["after"]
    assert len(ours) == len(without)
    for shell, other in zip(ours, without):
        for key in ("cc_half_honest", "r_split_honest"):
            assert shell[key] == pytest.approx(other[key], rel=1e-9), key
    assert ours[-1]["cc_half"] != without[-1]["cc_half"]


@pytest.mark.data
@pytest.mark.slow
def test_the_report_says_how_much_comes_from_the_model(summaries):
    summary, folder = summaries["model"], summaries["model"]["folder"]
    assert [cycle["n_accepted"] for cycle in summary["cycles"]] == [20, 20, 20]
    share = summary["reference_model"]["share"]
    # with 20 stills of multiplicity 1.4 and the structure that they were simulated from
    assert 0.0 < share[-1]["share"] < 0.5
    assert sum(shell["n"] for shell in share[:-1]) == share[-1]["n"] == summary["after"][-1]["n_unique"]
    for shell in share:
        assert 0.0 <= shell["share"] <= 1.0
    log, page = (Path(folder, f"dials.postrefine.{ending}").read_text() for ending in ("log", "html"))
    for text in (log, page):
        assert "share of the data" in text and f"{share[-1]['share']:.2f}" in text
    assert "Atomic model" in page
    # the intensities that these stills were simulated with have a flat solvent of 0.35 and 46
    assert summary["reference_model"]["fit"]["k_sol"]["value"] == pytest.approx(0.35, abs=0.03)
    assert summary["after"][-1]["cc_reference"] > 0.99 > 0.9 > summary["before"][-1]["cc_reference"]
    assert summaries["self"]["reference_model"] is None


@pytest.mark.data
@pytest.mark.slow
def test_one_cycle_is_against_the_model_alone_and_the_report_says_so(shared_data, run_program, tmp_path):
    pair = [shared_data / "nanobragg_lysozyme_20" / f"integrated{ending}" for ending in (".expt", ".refl")]
    model = f"reference={shared_data / 'models' / 'RTSAD_HEWL_refine_25.pdb'}"
    args = ("n_cycles=1", "cross_validation=none", "nproc=2")
    done = run_program("dials.postrefine", *pair, model, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "dials.postrefine.json").read_text())
    assert len(summary["cycles"]) == 1 and summary["reference_model"]["share"] == []
    for ending in ("log", "html"):
        text = (tmp_path / f"dials.postrefine.{ending}").read_text()
        assert "fitted to the model alone" in text and "share of the data" not in text


def test_a_model_that_can_not_be_used_is_one_sentence_and_no_file_is_touched(run_program, tmp_path):
    write_stills(simulate_stills(StillsOptions(n_lattices=5, seed=1, d_min=4.0)), tmp_path / "stills")
    cell = "CRYST1   79.000   79.000   38.000  90.00  90.00  90.00 P 43 21 2\n"
    models = {
        "no_cell.pdb": (ATOM, "CRYST1"),
        "other_cell.pdb": (cell.replace("79.000", "60.000") + ATOM, "unit cell"),
        "dummy.pdb": (cell + ATOM.replace("           N\n", "           X\n"), "no known element"),
    }
    for name, (text, word) in models.items():
        (tmp_path / name).write_text(text)
        before = results(tmp_path)
        done = run_program("dials.postrefine", "stills.expt", "stills.refl", f"reference={name}", cwd=tmp_path)
        assert done.returncode == 1, done.stdout
        (sentence,) = done.stderr.strip().splitlines()
        assert sentence.startswith("Sorry: ") and name in sentence and word in sentence
        assert results(tmp_path) == before
