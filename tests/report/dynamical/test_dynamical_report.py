"""Log, page and JSON of dials.dynamical say the same, of numbers that are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.electron.dynamical.charge import compare_charges
from dials_postrefine.electron.dynamical.explained import Factored, explain
from dials_postrefine.electron.dynamical.orders import Order
from dials_postrefine.electron.dynamical.results import (
    DynamicalFit,
    Estimate,
    HandCandidate,
    HandChoice,
    Stage,
    Structure,
)
from dials_postrefine.electron.spread.spread import Tau
from dials_postrefine.numerics.frames import FrameData, Frames
from dials_postrefine.report.common.page import render
from dials_postrefine.report.dynamical.page import make_page
from dials_postrefine.report.dynamical.summary import Asides, FrameDataset, make_summary
from dials_postrefine.report.dynamical.text import text

N_FRAMES, N_UNIQUE, EQUIVALENTS = 24, 60, 6


@pytest.fixture(scope="module")
def case():
    """Observations of 24 frames whose factors explain most of their spread, and a fit that knows them."""
    rng = np.random.default_rng(3)
    n = N_UNIQUE * EQUIVALENTS
    unique = np.repeat(np.arange(N_UNIQUE), EQUIVALENTS)
    frame = rng.permuted(np.tile(np.arange(N_FRAMES), n // N_FRAMES + 1))[:n]
    kinematical = rng.gamma(1.0, 200.0, N_UNIQUE)[unique] + 10.0
    dynamical = kinematical * rng.gamma(10.0, 0.1, n)
    variance = dynamical + 25.0
    intensity = dynamical * (1.0 + 0.08 * rng.normal(size=n)) + np.sqrt(variance) * rng.normal(size=n)
    frames = Frames(
        number=np.arange(1, N_FRAMES + 1),
        sweep=np.zeros(N_FRAMES, int),
        angle=np.radians(np.arange(N_FRAMES) - 10.0),
        semi_width=np.full(N_FRAMES, np.radians(0.5)),
        a_matrix=np.tile(0.2 * np.eye(3), (N_FRAMES, 1, 1)),
        axis=np.tile([1.0, 0.0, 0.0], (N_FRAMES, 1)),
        k=np.tile([0.0, 0.0, 39.8], (N_FRAMES, 1)),
    )
    h = np.stack([1 + unique % 7, unique // 7, np.arange(n) % 3], axis=1)
    data = FrameData(
        frames, frame, h, intensity, variance, np.zeros(n), np.ones(n), np.ones(n), np.arange(n),
        np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0]), unique, np.eye(3)[None], np.eye(3)[None],
    )  # fmt: skip
    identity = np.eye(3, dtype=int)
    fit = DynamicalFit(
        thickness=Estimate(612.3, 4.2),
        spread=Estimate(0.12, 0.03),
        thicknesses=np.full(N_FRAMES, 612.3),
        thicknesses_esd=np.full(N_FRAMES, np.nan),
        absorption=Estimate(0.031, 0.004),
        mosaicity=Estimate(0.0),
        scale=np.ones(N_FRAMES),
        scale_esd=np.full(N_FRAMES, 0.02),
        tilt=np.radians(0.05) * rng.normal(size=(N_FRAMES, 3)),
        tilt_esd=np.full((N_FRAMES, 3), np.radians(0.01)),
        structure=Structure(
            np.array([[0.47, 0.0, 0.333333]]), np.array([[0.0003, 0, 0]]), np.array([0.5]), np.array([0.02]),
            Estimate(0.1, 0.02),
        ),
        kinematical=kinematical,
        dynamical=dynamical,
        observed=intensity > 3.0 * np.sqrt(variance),
        r1_kinematical=0.181,
        r1_dynamical=0.0712,
        hand=HandChoice(
            (
                HandCandidate("inverted", -1, identity, 0.0712, -1000.0),
                HandCandidate("as given", 1, identity, 0.0954, -1031.5),
            ),
            5.2,
            0.0954,
        ),
        stages=(
            Stage("scale", ("scale",), 24, 3, 0.12, 1e4), Stage("thickness", ("scale", "thickness"), 25, 8, 0.0712, 4e3)
        ),
        notes=("A note of the refinement.",),
        scanned=np.array([[500.0, 0.15], [600.0, 0.09], [700.0, 0.13]]),
    )  # fmt: skip
    return data, fit


@pytest.fixture(scope="module")
def summary(case):
    data, fit = case
    found = explain(Factored(data.unique, data.frame, data.intensity, data.variance, fit.factor))
    wrong = fit.dynamical * np.where(data.d_star < 0.6, 1.3, 1.0)
    wrong[7] = np.nan  # that one of the models does not calculate
    ions = replace(fit, r1_dynamical=0.0650)
    charge = compare_charges(data, ("neutral atoms", "ions"), (replace(fit, dynamical=wrong), ions))
    orders = (
        Order("scaled, then corrected", 0.0851, Tau(0.11, 0.10, 0.12, 340, 60), 0.131),
        Order("integrated, then corrected, then scaled", 0.0822, Tau(0.10, 0.09, 0.11, 338, 60), 0.125),
    )
    dataset = FrameDataset(
        ["sweep"], "quartz.cif", "P 32 2 1", (5, 5, 5, 90, 90, 90), "intensity.scale.value", "counting", 400,
        {"outliers of scaling": 60},
    )  # fmt: skip
    made = make_summary(dataset, data, fit, found, Asides(charge, orders))
    return made | {"provenance": _provenance()}


def _provenance() -> dict:
    from dials_postrefine.report.common.provenance import record_run

    return record_run(["dials.dynamical"], [], "").as_dict()


def test_json_has_the_names_that_are_promised(summary):
    found = json.loads(json.dumps(summary, allow_nan=False))
    assert found["r1"] == {"kinematical": 0.181, "dynamical": 0.0712, "other_hand": 0.0954, "n": found["r1"]["n"]}
    assert found["thickness"]["value"] == 612.3 and found["thickness"]["esd"] == 4.2 and found["hand"] == -1
    assert found["tau"]["after"] < 0.12 < found["tau"]["before"]
    share = found["explained"]
    assert 0.7 < share["low"] < share["value"] < share["high"] < 1.0


def test_groups_and_frames_hold_the_observed_reflections(summary, case):
    data, fit = case
    f, calculated = np.sqrt(data.intensity[fit.observed]), np.sqrt(fit.dynamical[fit.observed])
    whole = np.abs(f - calculated).sum() / f.sum()
    for groups in (*summary["groups"].values(), summary["frames"]):
        assert sum(one["n"] for one in groups) == summary["r1"]["n"]
    frame = data.frame[fit.observed]
    total = sum(one["dynamical"] * f[frame == one["number"] - 1].sum() for one in summary["frames"])
    assert total / f.sum() == pytest.approx(whole)


def test_the_charge_comes_from_where_the_models_differ(summary):
    charge = summary["charge"]
    assert charge["log_ratio"] > 3.0 * charge["deviation"]
    assert charge["log_ratio"] == pytest.approx(sum(one["log_ratio"] for one in charge["by_resolution"]))
    parts = charge["by_resolution"]
    # all of what differs is beyond 1/0.6 A
    assert max(parts, key=lambda one: one["log_ratio"])["d_max"] > 1.0 / 0.6


def test_log_and_page_say_the_same(summary):
    log, page = text(summary), render(make_page(summary))
    assert max(map(len, log.splitlines())) <= 400  # sentences are wrapped by the log
    for number in ("0.0712", "0.0954", "612.3 +- 4.2", "0.031", "31.5", "0.0822"):
        assert number in log and number.replace("+-", "±") in page, number
    share = summary["explained"]
    assert f"{share['value']:.0%}" in log and f"{share['value']:.0%}" in page
    assert "INVERTED" in log and "inverted" in page and "A note of the refinement." in page
    assert page.count("<svg") == 9  # amplitudes twice, R1 four times, pairs, moves, thickness
    assert "nan" not in log.lower().replace("resonan", "") and "None" not in log


def test_what_is_not_known_is_said(case):
    data, fit = case
    alone = replace(
        fit,
        hand=HandChoice(fit.hand.candidates[:1], float("nan"), float("nan")),
        thickness=Estimate(600.0),
        r1_dynamical=0.31,
    )
    dataset = FrameDataset(["sweep"], "si.cif", "F d -3 m", (5,) * 6, "intensity.prf.value", "of the column", 360, {})
    made = make_summary(dataset, data, alone, "no symmetry equivalents were observed.") | {"provenance": _provenance()}
    assert made["tau"]["before"] is None and made["explained"]["value"] is None and made["r1"]["other_hand"] is None
    log = text(made)
    assert "other hand" not in log and "no symmetry equivalents" in " ".join(made["remarks"])
    assert made["verdict"]["grade"] == "distrust" and "600.0" in log and "600.0 +-" not in log
    assert "How much is physics" not in render(make_page(made))
