"""
Every two options of dials.postrefine together, on simulated stills whose intensities are known.

Whatever the options, the merged intensities must be those of the structure, most good lattices must be kept, and the
counts of log, table and JSON must add up.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from pairwise import all_pairs, factors, value_of

from cctbx import miller, sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine import scopes
from dials_postrefine.command_line.postrefine import run
from dials_postrefine.files.simulated import write_stills
from dials_postrefine.files.versions import miller_indices_to_numpy
from dials_postrefine.simulate import StillsOptions, simulate_stills

pytestmark = [pytest.mark.dials, pytest.mark.slow]

# 77 reflections a lattice
OPTIONS = StillsOptions(
    n_lattices=40,
    seed=11,
    d_min=3.0,
    unit_cell=(50.0, 50.0, 38.0, 90.0, 90.0, 90.0),
    radius=0.0006,
    window=0.0012,
    misorientation=0.03,
)
N_USELESS_TESTS = "a threshold of rejection: the tests of the filters move it"
VARIED = {
    "reference": ("None", "truth.mtz"),
    "n_cycles": ("Auto", "1", "3"),
    "free_fraction": ("0.1", "0.2"),
    "model_error": ("0.1", "0"),
    "fix": ("None", "scale", "b_factor", "theta_x+theta_y", "radius"),
    "space_group": ("None", "P43212"),
    "d_min": ("None", "3.5"),
    "d_max": ("None", "12"),
    "partiality_threshold": ("0.2", "0.5"),
    "reflections_per_parameter": ("3", "30"),
    "parameter_outlier_z": ("5", "3"),
    "outlier_z": ("6", "4"),
    "min_partial_correlation": ("0.25", "-1"),
    "seed": ("0", "1"),
}
CONSTANT = {
    "input.*": "data",
    "output.*": "names of files",
    "nproc": "the number of processes changes nothing: test_parallel.py",
    "lattice_plots": "what is drawn",
    "n_shells": "the rows of tables",
    "convergence": "when the cycles end, as n_cycles says",
    "reference_model.*": "of atomic models, which test_atomic_reference.py has",
    "min_correlation": N_USELESS_TESTS,
    "min_reflections": N_USELESS_TESTS,
    "max_misorientation": N_USELESS_TESTS,
    "max_b_factor": N_USELESS_TESTS,
    "filtering.unit_cell.*": N_USELESS_TESTS,
    "filtering.significance_filter.n_bins": "a threshold of a filter that is switched on and off",
    "filtering.significance_filter.min_ct": "a threshold of a filter that is switched on and off",
    "filtering.significance_filter.sigma": "a threshold of a filter that is switched on and off",
    "filtering.deltacchalf.*": "a threshold of a filter that is switched on and off",
}
LEFT_OUT = {"intensity_choice=profile": "stills have no profile-fitted intensities"}
FACTORS = factors(scopes.load("postrefine"), VARIED, CONSTANT, LEFT_OUT)
ROWS = all_pairs(FACTORS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    write_stills(simulate_stills(OPTIONS), path / "stills")
    (path / "stills_truth.mtz").rename(path / "truth.mtz")
    return path


@pytest.fixture(scope="module")
def truth(folder):
    """Intensity by index of the asymmetric unit."""
    from iotbx import mtz

    array = mtz.object(str(folder / "truth.mtz")).as_miller_arrays()[0].map_to_asu()
    return dict(zip(array.indices(), array.data()))


def merged(path):
    """The weighted mean by index of what the flags say is to be merged, and the table."""
    table = flex.reflection_table.from_file(str(path))
    kept = table.select(table.get_flags(table.flags.scaled))
    kept = kept.select(~kept.get_flags(kept.flags.bad_for_scaling, all=False))
    h = kept["miller_index"]
    miller.map_to_asu(sgtbx.space_group_info(OPTIONS.space_group).group().type(), False, h)
    factor = np.array(kept["inverse_scale_factor"])
    value = np.array(kept["intensity.scale.value"]) / factor
    weight = factor**2 / np.array(kept["intensity.scale.variance"])
    unique, number = np.unique(miller_indices_to_numpy(h), axis=0, return_inverse=True)
    number = number.ravel()
    mean = np.bincount(number, weight * value) / np.bincount(number, weight)
    return [tuple(int(x) for x in index) for index in unique], mean, len(kept), table


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_every_pair_of_options_gives_the_intensities_of_the_structure(row, folder, truth, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"reference={folder / 'truth.mtz'}" if item == "reference=truth.mtz" else item
        for item in row
        if item != "fix=None"
    ]
    files = [str(folder / "stills.expt"), str(folder / "stills.refl")]
    run([*files, *arguments, "nproc=1", "output.html=None"])
    with open("dials.postrefine.json") as file:
        summary = json.load(file)
    dataset = summary["dataset"]
    indices, mean, n_merged, table = merged("postrefined.refl")
    experiments = ExperimentList.from_file("postrefined.expt", check_format=False)

    # counts
    assert dataset["n_lattices"] == OPTIONS.n_lattices == dataset["n_accepted"] + sum(summary["rejected"].values())
    assert len(experiments) == dataset["n_accepted"] == sum(one["accepted"] for one in summary["lattices"])
    assert n_merged == dataset["n_merged"] == summary["after"][-1]["n_observations"]
    assert len(indices) == summary["after"][-1]["n_unique"]
    n_input = len(flex.reflection_table.from_file(files[1]))
    assert dataset["n_observations"] + sum(dataset["not_used"].values()) == n_input

    # no good lattice or observation goes without need
    assert dataset["n_accepted"] >= 0.8 * OPTIONS.n_lattices
    d = np.array(table["d"])
    low, high = (value_of(row, name) for name in ("d_min", "d_max"))
    limits = 0.0 if low == "None" else float(low), np.inf if high == "None" else float(high)
    assert all(limits[0] <= x <= limits[1] for x in d[np.array(table.get_flags(table.flags.scaled))])

    # the truth
    expected = np.array([truth[index] for index in indices])
    assert np.corrcoef(mean, expected)[0, 1] > 0.9
    k = (mean @ expected) / (expected @ expected)
    assert np.abs(mean / k - expected).sum() / expected.sum() < 0.3
