"""cross_validation=free_reflections from files to files: log, JSON, and DIALS' programs on the output."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, model_partiality, simulate_stills
from dials_postrefine.stills.freereflections import free_set

pytestmark = pytest.mark.dials

MISLED = 7
TURN = np.radians(0.1)
SETTINGS = ["cross_validation=free_reflections", "free_fraction=0.15", "seed=5", "min_correlation=0.2", "nproc=1"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Files of 30 stills: the working reflections of the lattice MISLED look turned about x, its free ones are true."""
    sim = simulate_stills(StillsOptions(n_lattices=30, d_min=2.5, seed=3))
    rows = sim.lattice == MISLED
    c, s = np.cos(TURN), np.sin(TURN)
    free = free_set(sim.reference_h, 0.15, seed=5)[sim.asu[rows]]
    q = sim.h[rows] @ sim.a_indexed[MISLED].T
    p = []
    for turned in (q @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T, q):
        r_h = np.linalg.norm(turned + sim.s0[MISLED], axis=1) - np.linalg.norm(sim.s0[MISLED])
        p.append(model_partiality("lorentzian", r_h, sim.radius[MISLED]))
    intensity = sim.intensity.copy()
    intensity[rows] = sim.scale[MISLED] * sim.polarisation[rows] * sim.i_full[rows] * np.where(free, p[1], p[0])
    return write_stills(replace(sim, intensity=intensity), tmp_path_factory.mktemp("given") / "stills")


@pytest.fixture(scope="module")
def outputs(given, run_program, tmp_path_factory):
    """The folders of a run against the truth, and of one without a reference."""
    folders = {}
    for name, more in {"reference": [f"reference={given[2]}"], "self": []}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        done = run_program("dials.postrefine", *given[:2], *SETTINGS, *more, cwd=folders[name])
        assert done.returncode == 0, done.stderr
    return folders


@pytest.fixture(scope="module", params=["reference", "self"])
def output(request, outputs):
    return outputs[request.param]


@pytest.fixture(scope="module")
def summary(output):
    return json.loads((output / "dials.postrefine.json").read_text())


def amplitude(intensity):
    return np.sign(intensity) * np.sqrt(np.abs(intensity))


def row_of(log: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(name)} +\|(.*)\|$", log, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_log_has_what_the_json_has(output, summary):
    log = (output / "dials.postrefine.log").read_text()
    accepted = [lattice for lattice in summary["lattices"] if lattice["accepted"]]
    for row, name in (("CC_free of a lattice, median", "cc_free"), ("R_free of a lattice, median", "r_free")):
        medians = [np.median([lattice[f"{name}_{when}"] for lattice in accepted]) for when in ("before", "after")]
        assert row_of(log, row) == [f"{value:.3f}" for value in medians]
    n_free = np.median([lattice["n_free"] for lattice in accepted])
    assert row_of(log, "free reflections of a lattice, median")[1] == f"{n_free:.0f}"
    n_reverted = sum(lattice["reverted"] for lattice in summary["lattices"])
    assert row_of(log, "worse, back to unrefined geometry")[1] == str(n_reverted)


def test_free_agreement_rises_and_the_misled_lattice_goes_back(summary):
    lattices = summary["lattices"]
    rest = [lattice for k, lattice in enumerate(lattices) if k != MISLED]
    for name, sign in (("cc_free", 1.0), ("r_free", -1.0)):
        before, after = (np.median([lattice[f"{name}_{when}"] for lattice in rest]) for when in ("before", "after"))
        assert sign * (after - before) > 0.0
    assert lattices[MISLED]["reverted"] and sum(lattice["reverted"] for lattice in rest) <= 1
    assert lattices[MISLED]["cc_free_after"] < lattices[MISLED]["cc_free_before"]
    for name in ("theta_x", "theta_y", "b_factor", "theta_x_esd", "radius_esd"):
        assert lattices[MISLED][name] == 0.0
        assert all(lattice[name] != 0.0 for lattice in rest if not lattice["reverted"])


def test_the_misled_lattice_is_written_as_it_was_indexed(given, output, summary):
    before, after = (
        {e.identifier: e for e in ExperimentList.from_file(str(path), check_format=False)}
        for path in (given[0], output / "postrefined.expt")
    )
    for lattice in summary["lattices"]:
        if lattice["accepted"]:
            old, new = (np.array(one[lattice["identifier"]].crystal.get_A()) for one in (before, after))
            assert (np.abs(new - old).max() < 1e-12) == lattice["reverted"]
    assert summary["lattices"][MISLED]["accepted"]


def test_figures_follow_from_what_is_written(given, outputs):
    """CC_free and R_free of the refined lattices from the columns of the written table, against the truth."""
    summary = json.loads((outputs["reference"] / "dials.postrefine.json").read_text())
    table = flex.reflection_table.from_file(str(outputs["reference"] / "postrefined.refl"))
    group = ExperimentList.from_file(str(given[0]), check_format=False)[0].crystal.get_space_group()
    h = np.rint(flumpy.to_numpy(table["miller_index"].as_vec3_double())).astype(int)
    free = free_set(map_to_asymmetric_unit(h, group), 0.15, seed=5)
    assert 0.1 < free.mean() < 0.2
    names = ("intensity.scale.value", "inverse_scale_factor", "partiality", "intensity.ref.value", "id")
    value, scale, p, reference, ids = (flumpy.to_numpy(table[name]) for name in names)
    by_identifier = {lattice["identifier"]: lattice for lattice in summary["lattices"]}
    n = 0
    for i, identifier in table.experiment_identifiers():
        lattice = by_identifier[identifier]
        own = (ids == i) & free & (reference > 0.0)
        observed, calculated = amplitude(value[own] * p[own]), amplitude(scale[own] * p[own] * reference[own])
        assert lattice["n_free"] == len(observed)
        if not lattice["reverted"]:
            n += 1
            assert lattice["cc_free_after"] == pytest.approx(np.corrcoef(observed, calculated)[0, 1], rel=1e-6)
            r_free = np.abs(observed - calculated).sum() / np.abs(observed).sum()
            assert lattice["r_free_after"] == pytest.approx(r_free, rel=1e-6)
    assert n > 20


def test_dials_merges_and_shows_the_output(output, summary, run_program):
    name, *args = shlex.split(summary["merge_command"])
    assert run_program(name, *args, cwd=output).returncode == 0
    assert (output / "merged.mtz").is_file()
    shown = run_program("dials.show", "postrefined.expt", "postrefined.refl", cwd=output)
    assert shown.returncode == 0 and "inverse_scale_factor" in shown.stdout


def test_nothing_is_free_by_default(given, run_program, tmp_path):
    done = run_program("dials.postrefine", *given[:2], f"reference={given[2]}", "nproc=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "dials.postrefine.log").read_text()
    assert "CC_free" not in log and "R_free" not in log
    lattice = json.loads((tmp_path / "dials.postrefine.json").read_text())["lattices"][MISLED]
    assert lattice["n_free"] == 0 and lattice["cc_free_after"] is None and lattice["reverted"] is False


def test_a_fraction_out_of_range_is_a_sentence(given, run_program, tmp_path):
    done = run_program("dials.postrefine", *given[:2], "free_fraction=0.9", cwd=tmp_path)
    assert done.returncode != 0
    assert "free_fraction" in done.stderr and "Traceback" not in done.stderr
