"""
Every two options of dials.intensity_model together, on simulated sweeps whose amplitudes are |F_calc| (1 + a f).

What |F_calc| explains is known of each reflection, and so is its R1; trees that have it are better than trees alone.
"""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")
pytest.importorskip("sklearn", reason="scikit-learn grows the trees")

from pairwise import all_pairs, factors, value_of

from dials_postrefine.command_line.intensity_model import run
from dials_postrefine.settings import scope

pytestmark = [pytest.mark.dials, pytest.mark.slow]

VARIED = {
    "n_folds": ("3", "2"),
    "reference": ("None", "quartz.cif"),
    "d_min": ("None", "1.0"),
    "d_max": ("None", "3"),
    "space_group": ("None", "P321"),
    "trees.max_iter": ("40", "20"),
    "trees.learning_rate": ("0.1", "0.2"),
    "trees.min_samples_leaf": ("5", "10"),
    "trees.permutations": ("2", "3"),
    "seed": ("0", "1"),
}
CONSTANT = {
    "input.*": "data",
    "output.*": "names of files",
    "train": "in place of split: test_intensity_model.py",
    "test": "in place of split: test_intensity_model.py",
    "reference_model.*": "of the reference: test_reference_intensities_pairs.py",
}
FACTORS = factors(scope.load("intensity_model"), VARIED, CONSTANT)
ROWS = all_pairs(FACTORS)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The sweeps, their files, and the model."""
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, structure, write_sweeps

    folder = tmp_path_factory.mktemp("sweeps")
    sweeps = simulate_sweeps(SweepOptions(n_crystals=3, n_images=40, perturbation=0.3))
    text = StringIO()
    structure().as_cif_simple(out=text)
    (folder / "quartz.cif").write_text(text.getvalue())
    return sweeps, [str(name) for name in write_sweeps(sweeps, folder / "scaled")], folder / "quartz.cif"


def r1(f, p):
    """sum |F - k P| / sum F with the k that makes it least."""
    ratio = f / p
    order = np.argsort(ratio)
    k = ratio[order][np.searchsorted(np.cumsum(p[order]), 0.5 * p.sum())]  # the weighted median
    return np.abs(f - k * p).sum() / f.sum()


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_every_pair_of_options_gives_the_r1_of_the_truth(row, simulated, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check(row, simulated)


def check(row, simulated) -> None:
    sweeps, files, model = simulated
    given = [f"reference={model}" if item == "reference=quartz.cif" else item for item in row]
    run([*files, *given, "output.html=None"])
    with open("dials.intensity_model.json") as file:
        summary = json.load(file)
    overall, dataset = summary["overall"], summary["dataset"]
    assert dataset["n_observations"] + sum(summary["not_used"].values()) == len(sweeps.f_calc)
    if value_of(row, "reference") == "None":
        assert set(overall) == {"equivalents", "trees"}
        return
    d_star_sq = sweeps.experiments[0].crystal.get_unit_cell().d_star_sq(sweeps.table["miller_index"])
    low, high = (value_of(row, name) for name in ("d_min", "d_max"))
    inside = np.array(d_star_sq) <= (np.inf if low == "None" else float(low) ** -2)
    inside &= np.array(d_star_sq) >= (0.0 if high == "None" else float(high) ** -2)
    f_calc, factor = sweeps.f_calc[inside], sweeps.factor[inside]
    scale = np.array(sweeps.table["inverse_scale_factor"])[inside]
    i_obs, variance = (np.array(sweeps.table[f"intensity.scale.{name}"])[inside] for name in ("value", "variance"))
    f_obs = np.sqrt(np.maximum(i_obs / scale, 1e-9))
    # sum of sigma(F) over sum of F, where sigma(F) is no more than F itself
    counts = np.minimum(np.sqrt(variance) / scale / (2.0 * f_obs), f_obs).sum() / f_obs.sum()
    expected = r1(f_calc * factor, f_calc)
    found = overall["f_calc"]
    assert found["esd"] < 0.1 * expected
    if value_of(row, "intensity_choice") == "scale":
        # that |F_calc| are scaled to the data by k and B (7 parameters of n means) makes R1 no less than by this
        fit = expected * (1.0 - np.sqrt(1.0 - 7.0 / dataset["n_unique"]))
        assert abs(found["value"] - expected) < counts + fit, (found["value"], expected, counts, fit)
    else:  # as integrated: the Lorentz factor and the scale of the image are still in it
        assert found["value"] > expected
    assert overall["both"]["value"] < min(overall["trees"]["value"], found["value"] + 2.0 * found["esd"])


FAULTS = {
    "none": lambda value, variance, scale: (value, variance),
    "scale not divided": lambda value, variance, scale: (value * scale, variance * scale**2),
    "intensities taken for amplitudes": lambda value, variance, scale: (value**2, 4.0 * value**2 * variance),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault, simulated, plant_fault, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plant_fault(FAULTS[fault])
    row = ["intensity_choice=scale", "reference=quartz.cif", "d_min=None", "d_max=None", "trees.max_iter=10"]
    if fault == "none":
        check(row, simulated)
    else:
        with pytest.raises(AssertionError):
            check(row, simulated)
