"""Lattices on their way to workers and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.stills.chunks import FEWEST_BATCHED, Start, choose_engine, fit_chunk, make_tasks, spread_fits
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.lattice import no_starts
from dials_postrefine.stills.model import MAX_RELATIVE_VARIANCE
from dials_postrefine.stills.scaling import Scaled, mean_of_kept, mean_of_others

SETTINGS = FitSettings()


@pytest.fixture(scope="module")
def marked(obedient):
    """Two lattices of the second chunk are rejected already."""
    sim, stills = obedient
    return sim, replace(stills, rejected={33: Reason.CELL, 40: Reason.CELL_OUTLIER})


def make_chunks(stills, *args):
    return [task.chunk(stills) for task in make_tasks(stills, *args)]


def start_of(stills) -> Start:
    x = no_starts(stills.n_lattices)
    x[::2] = np.arange(stills.n_lattices)[::2, None]
    return Start(x, np.arange(stills.n_lattices, dtype=float))


def test_the_engine_is_the_one_asked_for_and_else_follows_from_the_number_of_lattices():
    assert [choose_engine(engine, 1000) for engine in ("lstbx", "batched", "auto")] == ["lstbx", "batched", "batched"]
    assert choose_engine("auto", FEWEST_BATCHED) == "batched" and choose_engine("auto", FEWEST_BATCHED - 1) == "lstbx"
    assert choose_engine("batched", 1) == "batched"


def test_each_lattice_is_in_one_chunk_with_all_that_is_its_own(marked):
    sim, stills = marked
    start = start_of(stills)
    chunks = make_chunks(stills, sim.reference_intensity, None, start, SETTINGS, "auto")
    assert [len(chunk.lattices) for chunk in chunks] == [32, 32, 16]
    assert {chunk.engine for chunk in chunks} == {"batched"}  # also the last one, which is small
    assert [chunk.rejected for chunk in chunks] == [{}, {1: Reason.CELL, 8: Reason.CELL_OUTLIER}, {}]
    lattices = [lattice for chunk in chunks for lattice in chunk.lattices]
    for k, lattice in enumerate(lattices):
        rows = stills.rows(k)
        assert np.array_equal(lattice.intensity, stills.intensity[rows])
        assert np.array_equal(lattice.reference, sim.reference_intensity[stills.unique[rows]])
    for name in ("x", "linear_scale"):
        whole = np.concatenate([getattr(chunk.start, name) for chunk in chunks])
        assert np.array_equal(whole, getattr(start, name), equal_nan=True), name


def test_a_lattice_is_fitted_to_the_mean_of_the_others_where_there_is_a_mean(marked):
    sim, stills = marked
    ones = np.ones(len(stills.unique))
    scaled = Scaled(ones, ones, 0.01 * ones, ones > 0.0, 1.0)
    mean = mean_of_kept(stills, scaled, ErrorModel(), 6.0, fits_model=False)
    chunks = make_chunks(stills, sim.reference_intensity, mean, start_of(stills), SETTINGS, "lstbx")
    found = np.concatenate([lattice.reference for chunk in chunks for lattice in chunk.lattices])
    assert np.array_equal(found, mean_of_others(stills, mean), equal_nan=True)


def test_what_comes_back_is_spread_over_the_observations(marked):
    sim, stills = marked
    start = Start(no_starts(80), np.full(80, np.nan))
    chunks = make_chunks(stills, sim.reference_intensity, None, start, SETTINGS, "batched")
    fits = [fit for chunk in chunks for fit in fit_chunk(chunk)]
    assert [k for k, fit in enumerate(fits) if fit.reason is not None] == [33, 40]
    partialities = np.concatenate([fit.partiality for fit in fits])
    scaled = spread_fits(stills, SETTINGS, fits, 1.0)
    assert np.array_equal(scaled.partiality, partialities)
    assert all(len(fit.partiality) == len(fit.relative_variance) == 0 for fit in fits), "nothing is held twice"
    rejected = np.isin(stills.lattice(), [33, 40])
    assert not scaled.kept[rejected].any() and np.all(scaled.partiality[rejected] == 0.0)
    assert np.all(scaled.scale[rejected] == 1.0)
    assert np.all(scaled.relative_variance[rejected] == MAX_RELATIVE_VARIANCE)
    assert np.array_equal(scaled.kept[~rejected], scaled.partiality[~rejected] >= SETTINGS.partiality_threshold)
    true_scale = sim.scale[stills.lattice()] * np.exp(-2.0 * sim.b_factor[stills.lattice()] * stills.q_sq)
    assert np.median(scaled.scale[~rejected] / true_scale[~rejected]) == pytest.approx(1.0, abs=0.02)
