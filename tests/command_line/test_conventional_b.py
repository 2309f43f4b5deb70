"""The B that a person gives and sees is the conventional one: intensities fall off as exp(-B d*^2/2)."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line.postrefine import run
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

# A^2, of the lattices in turn
B_FACTORS = (10.0, -6.0, 24.0)
N_LATTICES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stills without any B, whose intensities are then multiplied by exp(-B d*^2/2) as textbooks have it."""
    path = tmp_path_factory.mktemp("b")
    write_stills(
        simulate_stills(StillsOptions(n_lattices=N_LATTICES, d_min=2.6, b_spread=0.0, seed=4)), path / "stills"
    )
    table = flex.reflection_table.from_file(str(path / "stills.refl"))
    experiments = ExperimentList.from_file(str(path / "stills.expt"), check_format=False)
    lattice, h = flumpy.to_numpy(table["id"]), np.array(list(table["miller_index"]), dtype=float)
    d_star_sq = np.empty(len(h))
    for k, experiment in enumerate(experiments):
        inverse = np.array(experiment.crystal.get_B()).reshape(3, 3)
        d_star_sq[lattice == k] = np.sum((h[lattice == k] @ inverse.T) ** 2, axis=1)
    factor = np.exp(-np.array(B_FACTORS)[lattice % len(B_FACTORS)] * d_star_sq / 2.0)
    for name, power in {"intensity.sum.value": 1, "intensity.sum.variance": 2}.items():
        table[name] = flumpy.from_numpy(flumpy.to_numpy(table[name]) * factor**power)
    table.as_file(str(path / "stills.refl"))
    return path


def postrefine(folder, monkeypatch, tmp_path, *args):
    monkeypatch.chdir(tmp_path)
    files = [str(folder / "stills.expt"), str(folder / "stills.refl"), f"reference={folder / 'stills_truth.mtz'}"]
    # each lattice by itself: the three kinds are no population
    run([*files, "restraints=False", "parameter_outlier_z=1000", "cross_validation=none", "nproc=1", *args])
    with open("dials.postrefine.json") as file, open("dials.postrefine.log") as log:
        return json.load(file), log.read()


def test_what_is_printed_is_the_conventional_b_with_its_sign(folder, monkeypatch, tmp_path):
    summary, log = postrefine(folder, monkeypatch, tmp_path)
    experiments = {e.identifier: e for e in ExperimentList.from_file("postrefined.expt", check_format=False)}
    original = ExperimentList.from_file(str(folder / "stills.expt"), check_format=False)
    true = {e.identifier: B_FACTORS[k % len(B_FACTORS)] for k, e in enumerate(original)}
    accepted = [one for one in summary["lattices"] if one["accepted"]]
    assert len(accepted) > 0.9 * N_LATTICES
    found, expected, esd = np.array(
        [(one["b_factor"], true[one["identifier"]], one["b_factor_esd"]) for one in accepted]
    ).T
    for b in B_FACTORS:
        # a quarter, or the other sign, would be off by 4.5 at least
        assert np.median(found[expected == b]) == pytest.approx(b, abs=1.0)
    z = np.abs(found - expected) / esd
    assert 0.3 < np.median(z) < 1.1
    assert summary["histograms"]["b_factor"]["median"] == pytest.approx(np.median(found))
    (shown,) = re.findall(r"^\| B \(A\^2\) +\| +(-?[\d.]+) ", log, re.MULTILINE)
    assert float(shown) == pytest.approx(np.median(found), abs=0.006)
    for one in accepted:  # DIALS' decay is -B
        decay = experiments[one["identifier"]].scaling_model.components["decay"]
        assert list(decay.parameters) == pytest.approx([-one["b_factor"]])
        assert list(decay.parameter_esds) == pytest.approx([one["b_factor_esd"]])


def test_the_limit_of_b_is_conventional(folder, monkeypatch, tmp_path):
    summary, _ = postrefine(folder, monkeypatch, tmp_path, "max_b_factor=17")
    original = ExperimentList.from_file(str(folder / "stills.expt"), check_format=False)
    large = {e.identifier for k, e in enumerate(original) if B_FACTORS[k % len(B_FACTORS)] > 17.0}
    rejected = {one["identifier"] for one in summary["lattices"] if one["reason"] == "B factor too large"}
    assert rejected == large


def test_i_over_sigma_is_compared_with_one_error_model_or_not_at_all(folder, monkeypatch, tmp_path):
    summary, log = postrefine(folder, monkeypatch, tmp_path)
    assert summary["error_model"] is not None
    assert all(shell["i_over_sigma"] is None for shell in summary["before"])
    assert all(shell["i_over_sigma"] > 0.0 for shell in summary["after"])
    assert re.search(r"^\| mean I/sigma +\| - +\| +[\d.]+ ", log, re.MULTILINE)
    with open("dials.postrefine.html", encoding="utf-8") as file:
        page = file.read()
    assert "sigma by the error model" in page and "far too small" not in page
    summary, log = postrefine(folder, monkeypatch, tmp_path, "error_model=none")
    assert summary["error_model"] is None  # of the counts, before and after
    assert all(shell["i_over_sigma"] > 0.0 for when in ("before", "after") for shell in summary[when])


def test_how_the_cycles_ended_is_said_in_log_page_and_json(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    files = [str(folder / "stills.expt"), str(folder / "stills.refl"), "cross_validation=none", "nproc=1"]
    for args, ended in ((["n_cycles=1"], "most"), (["n_cycles=40", "convergence=0.05"], "converged")):
        run([*files, *args])
        with open("dials.postrefine.json") as file:
            summary = json.load(file)
        with open("dials.postrefine.log") as log, open("dials.postrefine.html", encoding="utf-8") as page:
            course, texts = summary["course"], (log.read(), page.read())
        assert course["ended"] == ended and course["taken"] == len(summary["cycles"]) < 40
        assert all(course["words"] in " ".join(text.split()) for text in texts)
        last = summary["cycles"][-1]
        assert f"changed by {last['change']:.2%}, {last['change_esd']:.2f} of their esds" in course["words"]
        assert f"convergence={course['limit']:g}" in course["words"]
        assert (last["change"] < course["limit"]) == (ended == "converged")
