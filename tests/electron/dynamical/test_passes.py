"""Parts of rocking curves on overlapping frames, put together to the whole reflections that they were made of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from dials_postrefine.electron.dynamical.explained import explain
from dials_postrefine.electron.dynamical.passes import frame_scales, number_passes, overlap, whole_reflections
from dials_postrefine.numerics.frames import FrameData, Frames

N_FRAMES = 40


def made(other=0.0, seed=0):
    """
    Reflections of 30 unique indices, each with 8 equivalents that pass at some angle with a curve of 0.4 degrees, seen
    by frames of 2 degrees a step of 1; d by reflection, and scales of frames that vary by a factor of two.
    """
    rng = np.random.default_rng(seed)
    angle = np.arange(N_FRAMES, dtype=float)
    n = 240
    unique = np.repeat(np.arange(30), 8)
    h = np.stack([np.arange(n), unique, np.ones(n, int)], axis=1)
    centre = rng.uniform(2.0, N_FRAMES - 3.0, n)
    strength = rng.gamma(2.0, 50.0, 30)[unique] + 20.0
    factor = rng.gamma(8.0, 1.0 / 8.0, n)
    spread = np.exp(other * rng.normal(size=n))
    c = rng.uniform(0.7, 1.4, N_FRAMES)
    part = norm.cdf((angle + 1.0 - centre[:, None]) / 0.4) - norm.cdf((angle - 1.0 - centre[:, None]) / 0.4)
    row, frame = np.nonzero(part > 0.02)
    kinematical = (strength[:, None] * part)[row, frame]
    dynamical = kinematical * factor[row] * c[frame]
    variance = dynamical + 0.01
    intensity = dynamical * spread[row] + 0.1 * np.sqrt(variance) * rng.normal(size=len(row))
    frames = Frames(
        np.arange(N_FRAMES), np.zeros(N_FRAMES, int), np.radians(angle), np.full(N_FRAMES, np.radians(1.0)),
        np.tile(np.eye(3), (N_FRAMES, 1, 1)), np.tile([1.0, 0, 0], (N_FRAMES, 1)), np.tile([0, 0, 40.0], (N_FRAMES, 1)),
    )  # fmt: skip
    m = len(row)
    data = FrameData(
        frames, frame, h[row], intensity, 0.01 * variance, np.zeros(m), np.ones(m), np.ones(m), np.arange(m),
        np.ones(6), unique[row], np.eye(3)[None], np.eye(3)[None],
    )  # fmt: skip
    fit = SimpleNamespace(kinematical=kinematical, dynamical=dynamical, observed=np.ones(m, bool))
    return data, fit, row, factor


def test_a_pass_is_one_index_in_frames_that_follow():
    data, _, row, _ = made()
    found = number_passes(data)
    assert len(np.unique(found)) == 240
    assert np.array_equal(np.unique(np.stack([found, row]), axis=1)[0], np.arange(240))
    # a gap of a frame makes two of one
    gap = data.select(~((row == row[0]) & (data.frame == data.frame[row == row[0]][1])))
    assert len(np.unique(number_passes(gap))) == 241
    assert overlap(data.frames) == pytest.approx(2.0)


def test_scales_are_those_of_single_scattering():
    data, _, _, _ = made()
    truth = np.linspace(0.5, 2.0, N_FRAMES)
    calculated = data.intensity / truth[data.frame]
    found, seen = frame_scales(data, calculated, data.intensity > 0.0), np.unique(data.frame)
    np.testing.assert_allclose(found[seen], truth[seen], rtol=1e-12)
    assert not found[np.setdiff1d(np.arange(N_FRAMES), seen)].any()


def test_whole_reflections_have_their_factors_and_agree_once_divided():
    data, fit, row, factor = made()
    whole = whole_reflections(data, fit)
    assert len(whole.factor) == 240
    # all was seen twice, whatever the angle: between both are the scales of frames, known by a dozen of reflections
    assert np.corrcoef(np.log(whole.factor), np.log(factor))[0, 1] > 0.9
    found = explain(whole)
    assert found.before.tau == pytest.approx(8**-0.5, rel=0.15) and found.after.tau < 0.03
    assert found.share.low > 0.98


def test_what_no_model_knows_is_left():
    data, fit, _, _ = made(other=0.2, seed=1)
    found = explain(whole_reflections(data, fit))
    assert found.after.tau == pytest.approx(0.2, rel=0.2)
    assert found.share.low < 1.0 - 0.04 / (0.04 + 1.04 / 8.0) < found.share.high
