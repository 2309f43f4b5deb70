"""dials.postrefine's filters from end to end: log and JSON give each bad lattice its reason, the table what is out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(n_lattices=40, d_min=2.5, seed=4, scale_spread=0.2)
LARGE_CELL, JUNK, BRIGHT, EMPTY = 3, 8, 13, 21
REASONS = {
    LARGE_CELL: "unit cell far from the median",
    JUNK: "intensities unrelated to the reference",
    BRIGHT: "scale is an outlier",
    EMPTY: "no usable reflections",
}
FIRST_STEP = ("n_cycles=1", "cross_validation=none", "nproc=1")


@dataclass
class Given:
    """What was simulated, and the files of it and of the truth."""

    sim: SimulatedStills
    folder: Path

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.folder / "stills.expt", self.folder / "stills.refl"

    @property
    def reference(self) -> str:
        return f"reference={self.folder / 'stills_truth.mtz'}"


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Given:
    """Forty stills: one of too large a cell (5 %), one of rolled intensities, one 300 times too bright, one of none."""
    folder = tmp_path_factory.mktemp("given")
    sim = simulate_stills(OPTIONS)
    own = {k: np.flatnonzero(sim.lattice == k) for k in REASONS}
    by_resolution = own[JUNK][np.argsort(-sim.d[own[JUNK]])]
    for values in (sim.intensity, sim.variance):
        values[by_resolution] = np.roll(values[by_resolution], 20)
    sim.intensity[own[BRIGHT]] *= 300.0
    sim.variance[own[BRIGHT]] *= 300.0**2
    sim.intensity[own[EMPTY]] = 0.0
    given = Given(sim, folder)
    write_stills(sim, folder / "stills")
    experiments = ExperimentList.from_file(str(given.pair[0]), check_format=False)
    crystal = experiments[LARGE_CELL].crystal
    crystal.set_B(tuple(b / 1.05 for b in crystal.get_B()))
    experiments.as_file(str(given.pair[0]))
    return given


@pytest.fixture(scope="module")
def postrefine(run_program, tmp_path_factory):
    """A function that runs dials.postrefine and returns its folder, its log and its lattices by number."""

    def run(given, *args):
        folder = tmp_path_factory.mktemp("run")
        done = run_program("dials.postrefine", *given.pair, *args, *FIRST_STEP, cwd=folder)
        assert done.returncode == 0, done.stderr
        lattices = json.loads((folder / "dials.postrefine.json").read_text())["lattices"]
        return folder, (folder / "dials.postrefine.log").read_text(), lattices

    return run


def reasons(lattices) -> dict[int, str]:
    return {k: lattice["reason"] for k, lattice in enumerate(lattices) if not lattice["accepted"]}


def rows_of(log: str, *words: str) -> list[str]:
    return [line for line in log.splitlines() if all(word in line for word in words)]


def test_each_bad_lattice_is_rejected_with_its_own_reason_in_log_and_json(given, postrefine):
    significance = "significance_filter.enable=True"
    folder, log, lattices = postrefine(given, given.reference, "min_correlation=-1", significance)
    assert reasons(lattices) == REASONS
    for k, reason in REASONS.items():
        assert len(rows_of(log, given.sim.identifiers[k], reason)) == 1
        assert len(rows_of(log, f"| {reason} ")) == 2  # counted, and in the list
    assert lattices[JUNK]["partial_correlation"] < 0.25
    good = [lattice["partial_correlation"] for lattice in lattices if lattice["accepted"]]
    assert len(good) == 36 and min(good) > 0.5
    experiments = ExperimentList.from_file(str(folder / "postrefined.expt"), check_format=False)
    assert not set(experiments.identifiers()) & {given.sim.identifiers[k] for k in REASONS}


def test_the_tests_are_those_of_the_parameters(given, postrefine):
    lenient = (
        "relative_length_tolerance=0.1",
        "min_partial_correlation=-1",
        "min_correlation=-1",
        "parameter_outlier_z=1000",
        "max_b_factor=1000",
        "max_misorientation=10",
    )
    _, _, lattices = postrefine(given, given.reference, *lenient)
    assert not {REASONS[k] for k in (LARGE_CELL, JUNK, BRIGHT)} & set(reasons(lattices).values())
    assert lattices[JUNK]["accepted"] and lattices[BRIGHT]["accepted"]


def test_a_lattice_that_lowers_cc_half_is_rejected_on_request(given, postrefine):
    # with it kept, the merge of unseen reflections is no better than that of scaled ones, and these would be written
    lenient = ("min_partial_correlation=-1", "min_correlation=-1", "max_b_factor=1000", "max_misorientation=10")
    lenient += ("require_gain=False",)
    method = "filtering.method=deltacchalf"
    _, log, lattices = postrefine(given, given.reference, *lenient, method)
    assert reasons(lattices)[JUNK] == "lowers CC1/2"
    assert len(rows_of(log, given.sim.identifiers[JUNK], "lowers CC1/2")) == 1
    _, _, lattices = postrefine(given, given.reference, *lenient, method, "max_percent_removed=0")
    assert "lowers CC1/2" not in reasons(lattices).values()


def test_observations_beyond_the_significant_resolution_are_counted_and_excluded(given, postrefine):
    """Against a count of the simulation's own numbers, bin by bin."""
    limit = 8.0
    options = ("significance_filter.enable=True", f"significance_filter.sigma={limit}", "n_bins=6", "min_ct=15")
    folder, log, _ = postrefine(given, given.reference, *options)
    sim, out = given.sim, np.zeros(len(given.sim.lattice), dtype=bool)
    for k in range(OPTIONS.n_lattices):
        rows = np.flatnonzero(sim.lattice == k)
        rows = rows[np.argsort(-sim.d[rows], kind="stable")]
        n_bins = max(1, min(6, len(rows) // 15))
        edges = [i * len(rows) // n_bins for i in range(n_bins + 1)]
        for low, high in zip(edges[:-1], edges[1:]):
            inside = rows[low:high]
            if np.mean(sim.intensity[inside] / np.sqrt(sim.variance[inside])) < limit:
                out[rows[low:]] = True
                break
    assert 100 < out.sum() < 0.9 * len(out)
    assert rows_of(log, "Not used:", f"{out.sum()} beyond the resolution of their lattice")

    table = flex.reflection_table.from_file(str(folder / "postrefined.refl"))
    excluded = flumpy.to_numpy(table.get_flags(table.flags.excluded_for_scaling))
    scaled = flumpy.to_numpy(table.get_flags(table.flags.scaled))
    identifiers = dict(zip(table.experiment_identifiers().keys(), table.experiment_identifiers().values()))
    number = {identifier: k for k, identifier in enumerate(sim.identifiers)}
    written = {
        (number[identifiers[i]], *h): (bool(e), bool(s))
        for i, h, e, s in zip(table["id"], table["miller_index"], excluded, scaled)
    }
    keys = list(zip(sim.lattice.tolist(), *sim.h.T.tolist()))
    flags = np.array([written[key] for key in keys if key in written])
    dropped = out[[key in written for key in keys]]
    assert dropped.any()
    assert flags[dropped, 0].all()
    assert not flags[dropped, 1].any()
    assert flags[~dropped, 1].mean() > 0.3
