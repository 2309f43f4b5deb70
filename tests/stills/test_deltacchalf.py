"""Delta CC1/2 of each lattice: against merges done anew without it, against DIALS, and on lattices made bad."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("scitbx", reason="the fits are those of scitbx.lstbx")

from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.deltacchalf import (
    DeltaCCHalfFilter,
    cc_half_without_each,
    harmful_lattices,
    resolution_shells,
)
from dials_postrefine.stills.filters import LatticeFilters
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.geometry import vectors_of_lattices
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import Scaled

NOTHING = np.zeros(0)


def make_observations(n_lattices=12, n_unique=60, seed=0, offset=1000.0):
    """Noisy intensities of half of the indices for each lattice, some of them twice, and one lattice far noisier."""
    rng = np.random.default_rng(seed)
    truth = offset + rng.exponential(300.0, n_unique)
    n = n_lattices * n_unique // 2
    lattice = np.sort(rng.integers(0, n_lattices, n))
    unique = rng.integers(0, n_unique - 5, n)  # a few are never seen
    value = truth[unique] + rng.normal(0.0, np.where(lattice == 4, 400.0, 60.0))
    return value, unique, lattice, np.arange(n_unique) * 4 // n_unique


def cc_half(value, unique, shell) -> float:
    """CC1/2 by the sigma-tau method, index after index (Assmann, Brehm and Diederichs 2016)."""
    means, errors = defaultdict(list), defaultdict(list)
    for index in np.unique(unique):
        x = value[unique == index]
        if len(x) > 1:
            means[shell[index]].append(np.mean(x))
            errors[shell[index]].append(np.var(x, ddof=1) / len(x))
    total = weighted = 0.0
    for s in means:
        n = len(means[s])
        if n > 1:
            s_y, s_e = np.var(means[s], ddof=1), np.mean(errors[s])
            total, weighted = total + n, weighted + n * (s_y - s_e) / (s_y + s_e)
    return weighted / total if total else np.nan


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, 1e6], ids=["small means", "means far above their spread"])
def test_one_pass_is_the_same_as_leaving_out_each_lattice(seed, offset):
    value, unique, lattice, shell = make_observations(seed=seed, offset=offset)
    whole, without = cc_half_without_each(value, unique, lattice, shell)
    assert whole == pytest.approx(cc_half(value, unique, shell), abs=1e-9)
    expected = [cc_half(value[lattice != k], unique[lattice != k], shell) for k in range(12)]
    assert without == pytest.approx(np.array(expected), abs=1e-9)
    assert np.argmin(whole - without) == 4


def test_what_a_lattice_leaves_may_be_too_little():
    value, unique, lattice = np.array([3.0, 5.0, 4.0, 9.0]), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    whole, without = cc_half_without_each(value, unique, lattice, np.zeros(3, dtype=int))
    assert whole == pytest.approx(cc_half(value, unique, np.zeros(3, dtype=int)))
    assert np.isnan(without).all()


def test_the_figures_are_those_of_dials():
    pytest.importorskip("dials.array_family.flex", reason="the comparison is with DIALS")
    from cctbx import sgtbx, uctbx
    from dials.algorithms.statistics.delta_cchalf import PerGroupCChalfStatistics
    from dials.array_family import flex

    h = np.array([(i, j, k) for i in range(4) for j in range(4) for k in range(1, 5)])
    value, unique, lattice, _ = make_observations(n_unique=len(h))
    table = flex.reflection_table()
    table["miller_index"] = flex.miller_index([tuple(map(int, h[index])) for index in unique])
    table["intensity"] = flex.double(value)
    table["variance"] = flex.double(len(value), 1.0)
    table["dataset"] = table["group"] = flex.int(lattice.astype(np.int32))
    dials = PerGroupCChalfStatistics(table, uctbx.unit_cell((40, 50, 60, 90, 90, 90)), sgtbx.space_group(), n_bins=4)
    dials.run()
    shell = np.array([dials.binner.index(tuple(map(int, index))) for index in h])
    whole, without = cc_half_without_each(value, unique, lattice, shell)
    assert whole == pytest.approx(dials.mean_cchalf(), abs=1e-9)
    delta = dials.delta_cchalf_i()
    assert whole - without == pytest.approx(np.array([delta[k] for k in range(12)]), abs=1e-9)


@pytest.fixture(scope="module")
def sim():
    return simulate_stills(StillsOptions(n_lattices=40, d_min=3.0, seed=3))


@pytest.fixture(scope="module")
def stills(sim, as_stills):
    """Forty lattices, the intensities of number 7 and 23 belonging to other reflections."""
    return spoil(as_stills(sim), 7, 23)


def spoil(stills, *lattices):
    intensity = stills.intensity.copy()
    for k in lattices:
        intensity[stills.rows(k)] = np.roll(intensity[stills.rows(k)], 9)
    return replace(stills, intensity=intensity)


def true_scales(sim) -> Scaled:
    """What a merge would be made of if each lattice were known as the simulation knows it."""
    return Scaled(sim.expected / (sim.i_full * sim.polarisation), np.ones(len(sim.i_full)), NOTHING, NOTHING, 0.0)


def test_lattices_that_lower_cc_half_are_named_the_worst_first_and_not_too_many(sim, stills):
    scaled, used = true_scales(sim), sim.partiality > 0.3
    found = harmful_lattices(stills, scaled, used, DeltaCCHalfFilter(stdcutoff=3.0, max_percent_removed=10.0))
    assert sorted(found) == [7, 23]
    shell = resolution_shells(stills, used)
    value, lattice = (stills.intensity / scaled.partiality)[used], stills.lattice()[used]
    unique = stills.unique[used]
    without = {k: cc_half(value[lattice != k], unique[lattice != k], shell) for k in (7, 23)}
    assert without[found[0]] > without[found[1]]
    share = 100.0 * np.count_nonzero(lattice == found[0]) / len(lattice)
    for percent, expected in ((0.99 * share, 0), (1.01 * share, 1)):
        assert list(harmful_lattices(stills, scaled, used, DeltaCCHalfFilter(3.0, percent))) == list(found[:expected])
    assert not len(harmful_lattices(stills, scaled, used, DeltaCCHalfFilter(stdcutoff=30.0)))


def test_absent_indices_and_single_lattices_are_nothing_to_compare(sim, stills):
    scaled, used = true_scales(sim), sim.partiality > 0.3
    everything = DeltaCCHalfFilter(-10.0, 100.0)
    absent = replace(stills, absent=np.ones(stills.n_unique, dtype=bool))
    assert not len(harmful_lattices(absent, scaled, used, everything))
    assert not len(harmful_lattices(stills, scaled, used & (stills.lattice() == 3), everything))


def test_the_shells_follow_resolution_in_equal_volumes(sim, stills):
    used = sim.partiality > 0.3
    shell = resolution_shells(stills, used)
    measured = np.unique(stills.unique[used])
    d_star = np.linalg.norm(sim.reference_h / np.array(sim.options.unit_cell[:3]), axis=1)
    low, high = d_star[measured].min() ** 3, d_star[measured].max() ** 3
    expected = np.clip(np.floor(10.0 * (d_star[measured] ** 3 - low) / (high - low)), 0, 9)
    assert np.mean(shell[measured] == expected) > 0.99  # but for rounding at the edges


def test_the_cycles_reject_them_on_request_with_the_reason(sim, as_stills):
    stills = spoil(as_stills(sim), 7)
    settings = DatasetSettings(
        fit=FitSettings(min_correlation=-1.0),
        filters=LatticeFilters(-1.0, np.inf),
        delta_cc_half=DeltaCCHalfFilter(),
    )
    result = postrefine(stills, settings, FitReference(sim.reference_intensity))
    named = [k for k, reason in enumerate(result.reasons) if reason is Reason.DELTA_CC_HALF]
    assert named == [7]
    rows = np.isin(stills.lattice(), named)
    assert not result.kept[rows].any()
    assert not result.outlier[rows].any()
    assert result.kept[~rows].any()
    without = postrefine(stills, replace(settings, delta_cc_half=None), FitReference(sim.reference_intensity))
    assert all(reason is not Reason.DELTA_CC_HALF for reason in without.reasons)
    assert without.kept[rows].any()


def test_a_lattice_without_which_nothing_is_left_saves_no_other(as_stills):
    """
    Lattice 0 shares each observation's index, and no other two share one: without it there is no CC1/2 to compare with.

    The one that is noisy all the same is found as it is where lattice 0 is twice there.
    """
    rng, n_unique, n = np.random.default_rng(5), 300, 30
    truth = rng.exponential(1000.0, n_unique)
    parts = np.array_split(rng.permutation(n_unique), 10)
    unique = [np.arange(n_unique), *parts]
    noise = [1.0, *(400.0 if k == 4 else 1.0 for k in range(10))]
    value = np.concatenate([truth[u] + rng.normal(0.0, s, len(u)) for u, s in zip(unique, noise)])
    offsets = np.cumsum([0, *(len(u) for u in unique)])
    sim = simulate_stills(StillsOptions(n_lattices=11, d_min=3.0, seed=1))
    stills, h = as_stills(sim), rng.integers(1, 12, (offsets[-1], 3))
    q, q_sq = vectors_of_lattices(stills.a_matrix, h, offsets)
    stills = replace(
        stills, offsets=offsets, h=h, q=q, q_sq=q_sq, unique=np.concatenate(unique),
        intensity=value, variance=np.ones(len(value)), absent=np.zeros(n_unique, dtype=bool),
    )  # fmt: skip
    ones = np.ones(len(value))
    scaled = Scaled(ones, ones, NOTHING, NOTHING, 0.0)
    lattice = stills.lattice()
    shell = np.zeros(n_unique, dtype=int)
    assert np.isnan(cc_half_without_each(value, stills.unique, lattice, shell)[1]).tolist() == [True] + [False] * 10
    assert n * 10 == n_unique
    assert harmful_lattices(stills, scaled, ones > 0.0, DeltaCCHalfFilter(2.0, 20.0)).tolist() == [5]
