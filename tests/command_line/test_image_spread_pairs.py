"""
Every two options of dials.image_spread together, on simulated sweeps whose excess relative spread tau is known.

Whatever pairs of images are looked at, and of whatever limits: tau of scaled intensities is the one that was put in.
Integrated intensities as they are have the Lorentz factor and the scale of the image in them, and a far larger tau.
"""

from __future__ import annotations

import json

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from pairwise import all_pairs, factors, value_of

from dials.array_family import flex

from dials_postrefine.command_line.image_spread import run
from dials_postrefine.settings import scope

pytestmark = [pytest.mark.dials, pytest.mark.slow]

TAU = 0.2
VARIED = {
    "min_common": ("5", "2"),
    "min_angle": ("0", "3"),
    "max_pairs": ("5000", "40"),
    "image_width": ("None", "4"),
    "d_min": ("None", "1.0"),
    "d_max": ("None", "3"),
    "space_group": ("None", "P321"),
    "strong": ("3", "6"),
    "random_match.prior": ("0.5", "0.2"),
    "random_match.permutations": ("None", "49"),
    "zone_axis.max_index": ("2", "1"),
    "seed": ("0", "1"),
}
CONSTANT = {
    "input.*": "data",
    "output.*": "names of files",
    "n_shells": "the rows of tables",
    "dynamical": "of a structure, what the report says beside the rest: test_dynamical.py",
    "beam.annulus": "of images, which this data have not: tests/files/electron/test_scaled_images.py",
}
LEFT_OUT = {"beam.intensity=images": "these data have no images: tests/files/electron/test_scaled_images.py"}
FACTORS = factors(scope.load("image_spread"), VARIED, CONSTANT, LEFT_OUT)
ROWS = all_pairs(FACTORS)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

    sweeps = simulate_sweeps(SweepOptions(n_crystals=3, tau=TAU, n_images=40))
    return [str(name) for name in write_sweeps(sweeps, tmp_path_factory.mktemp("sweeps") / "scaled")]


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_every_pair_of_options_gives_the_spread_that_was_put_in(row, simulated, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check(row, simulated)


def check(row, simulated) -> None:
    run([*simulated, *row, "output.html=None"])
    with open("dials.image_spread.json") as file:
        summary = json.load(file)
    tau, n_rows = summary["spread"]["overall"], len(flex.reflection_table.from_file(simulated[1]))
    esd = (tau["high"] - tau["low"]) / 3.92

    assert summary["dataset"]["n_observations"] + sum(summary["not_used"].values()) == n_rows
    assert tau["n"] <= summary["dataset"]["n_observations"]
    assert summary["pairs"]["n_analysed"] == min(summary["pairs"]["n_found"], int(value_of(row, "max_pairs")))
    if value_of(row, "intensity_choice") == "scale":
        assert abs(tau["tau"] - TAU) < 3.0 * esd and esd < 0.1 * TAU
    else:
        assert tau["low"] > 1.5 * TAU


FAULTS = {
    "none": lambda value, variance, scale: (value, variance),
    "scale not divided": lambda value, variance, scale: (value * scale, variance * scale**2),
    "scale divided twice": lambda value, variance, scale: (value / scale, variance / scale**2),
    "variances 100 times too large": lambda value, variance, scale: (value, 100.0 * variance),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault, simulated, plant_fault, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plant_fault(FAULTS[fault])
    row = ["intensity_choice=scale", "max_pairs=40"]
    if fault == "none":
        check(row, simulated)
    else:
        with pytest.raises(AssertionError):
            check(row, simulated)
