"""The filters: what they reject is what was made to be rejected, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scitbx", reason="the fits are those of scitbx.lstbx")

from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.filters import (
    MIN_POPULATION,
    LatticeFilters,
    SignificanceFilter,
    cell_outliers,
    reject_lattices,
    relation_to_reference,
    significant_observations,
)
from dials_postrefine.stills.fits import FitSettings, LatticeFit, Reason
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    LN_MOSAICITY,
    LN_NOTHING,
    LN_RADIUS,
    LN_SCALE,
    N_PARAMETERS,
    THETA_X,
    THETA_Y,
    Observations,
    scale_factor,
)

CELL = np.array([79.0, 85.0, 38.0, 90.0, 101.0, 90.0])


def cells_like(spread: float, n: int = 40, seed: int = 0) -> np.ndarray:
    """Monoclinic cells whose free lengths vary by the relative spread and beta by 20 times as many degrees."""
    cells = np.tile(CELL, (n, 1))
    rng = np.random.default_rng(seed)
    cells[:, :3] *= 1.0 + spread * rng.standard_normal((n, 3))
    cells[:, 4] += 20.0 * spread * rng.standard_normal(n)
    return cells


@pytest.mark.parametrize("axis", range(3))
def test_a_cell_beyond_the_tolerance_is_an_outlier_and_one_within_is_not(axis):
    cells = cells_like(0.001)
    cells[7, axis] = 1.05 * CELL[axis]
    cells[8, axis] = 0.95 * CELL[axis]
    cells[9, axis] = 1.029 * CELL[axis]
    assert list(np.flatnonzero(cell_outliers(cells, 0.03, 2.0))) == [7, 8]
    assert list(np.flatnonzero(cell_outliers(cells, 0.02, 2.0))) == [7, 8, 9]


def test_a_cell_angle_has_a_tolerance_in_degrees():
    cells = cells_like(0.001)
    cells[3, 4] += 2.2
    cells[4, 4] += 1.7
    assert list(np.flatnonzero(cell_outliers(cells, 0.03, 2.0))) == [3]


def test_the_tolerance_of_cells_is_never_tighter_than_the_spread_of_the_data_set():
    cells = cells_like(0.02)
    assert not cell_outliers(cells, 0.03, 2.0).any()
    assert np.abs(cells[:, :3] / CELL[:3] - 1.0).max() > 0.04


@pytest.mark.parametrize("n_large", [20, 40, 60])
def test_of_two_sizes_the_larger_group_is_taken_and_of_equal_ones_the_first(n_large):
    two_sizes = np.concatenate([cells_like(0.001), cells_like(0.001, n_large, seed=1)])
    two_sizes[40:, :3] *= 1.05
    assert np.array_equal(cell_outliers(two_sizes, 0.03, 10.0), (np.arange(40 + n_large) >= 40) == (n_large <= 40))


def test_the_median_cell_holds_against_many_that_are_off_and_cells_that_are_none_stay():
    cells = cells_like(0.001)
    off = np.arange(40) % 3 == 0
    cells[off] *= 1.1
    cells[5] = np.nan
    assert np.array_equal(cell_outliers(cells, 0.03, 20.0), off)
    assert not cell_outliers(np.full((3, 6), np.nan), 0.03, 2.0).any()


def test_observations_are_significant_up_to_the_first_weak_bin_of_their_lattice():
    rng = np.random.default_rng(0)
    n = [30, 0, 30, 7, 10]
    offsets = np.concatenate([[0], np.cumsum(n)])
    d_star_sq, ratio = np.empty((2, offsets[-1]))
    expected = np.empty(offsets[-1], dtype=bool)
    # in order of d*^2: bins of five; one weak bin ends a lattice though the next is strong again
    patterns = [[2.0] * 15 + [0.1] * 5 + [9.0] * 10, [], [1.0] * 30, [0.3] * 7, [5.0] * 5 + [-1.0] * 5]
    kept = [15, 0, 30, 0, 5]
    for k, pattern in enumerate(patterns):
        order = offsets[k] + rng.permutation(n[k])
        ratio[order] = pattern
        d_star_sq[order] = 0.01 * np.arange(n[k])
        expected[order] = np.arange(n[k]) < kept[k]
    variance = rng.uniform(0.5, 50.0, len(ratio))
    settings = SignificanceFilter(sigma=0.5, n_bins=6, min_ct=5)
    found = significant_observations(ratio * np.sqrt(variance), variance, d_star_sq, offsets, settings)
    assert np.array_equal(found, expected)


def test_bins_of_few_reflections_are_joined():
    ratio = np.concatenate([np.full(12, 2.0), np.full(8, -0.5)])  # mean of all above a half, of the last ten below
    order = np.arange(20.0)
    found = significant_observations(ratio, np.ones(20), order, np.array([0, 20]), SignificanceFilter(0.5, 12, 20))
    two = significant_observations(ratio, np.ones(20), order, np.array([0, 20]), SignificanceFilter(0.5, 12, 10))
    assert found.all()
    assert np.array_equal(two, order < 10)


def test_the_relation_to_the_reference_is_of_the_amplitudes_given_geometry_and_fall_off():
    """Against a regression by least squares."""
    rng = np.random.default_rng(6)
    n = 80
    x = np.zeros(N_PARAMETERS)
    x[[LN_SCALE, B_FACTOR, LN_RADIUS, LN_MOSAICITY]] = 0.4, 3.0, np.log(4e-4), LN_NOTHING
    q = rng.normal(0.0, 0.2, (n, 3))
    q_sq = np.sum(q**2, axis=1)
    reference = rng.exponential(1000.0, n)
    reference[::9] = np.nan
    p = rng.uniform(0.05, 1.0, n)
    intensity = rng.normal(p * np.nan_to_num(reference), 300.0)
    observations = Observations(q, q_sq, np.array([0.0, 0.0, -1.0]), intensity, np.ones(n), reference)
    fit = LatticeFit(x, np.zeros((N_PARAMETERS, N_PARAMETERS)), p)
    used = np.isfinite(reference)
    recorded = (p * scale_factor(x, q_sq))[used]
    design = np.column_stack([np.ones(used.sum()), np.sqrt(recorded), np.sqrt(recorded) * q_sq[used]])
    both = np.column_stack([signed_root(intensity[used]), np.sqrt(recorded * reference[used])])
    rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
    limit = 2.5 * np.mean(np.abs(rest), axis=0)
    assert (np.abs(rest) > limit).any()
    rest = np.clip(rest, -limit, limit)
    assert relation_to_reference(observations, fit) == pytest.approx(np.corrcoef(rest.T)[0, 1], abs=1e-9)


def make_fits(n: int = 60, seed: int = 0) -> list[LatticeFit]:
    """Accepted fits of normal parameters, each known to a third of the spread, and all related to the reference."""
    rng = np.random.default_rng(seed)
    width = np.zeros(N_PARAMETERS)
    width[[LN_SCALE, B_FACTOR, THETA_X, THETA_Y, LN_RADIUS, LN_MOSAICITY, CELL_SCALE]] = (
        0.5,
        2.0,
        5e-4,
        5e-4,
        0.2,
        0.3,
        1e-3,
    )
    centre = np.zeros(N_PARAMETERS)
    centre[[LN_SCALE, B_FACTOR, LN_RADIUS, LN_MOSAICITY]] = 1.0, 5.0, -8.0, -6.0
    return [
        LatticeFit(
            centre + width * np.clip(rng.standard_normal(N_PARAMETERS), -2.5, 2.5),
            np.diag((width / 3.0) ** 2),
            np.ones(10),
            refined=True,
            n_matched=200,
            partial_correlation=rng.uniform(0.7, 0.95),
        )
        for _ in range(n)
    ]


def reasons(fits, **settings) -> dict[int, Reason]:
    reject_lattices(fits, LatticeFilters(**settings))
    return {k: fit.reason for k, fit in enumerate(fits) if fit.reason is not None}


def test_each_outlier_gets_its_own_reason_and_the_first_that_applies():
    fits = make_fits()
    fits[3].x[LN_SCALE] += 5.0
    fits[8].x[B_FACTOR] -= 20.0
    fits[13].x[LN_RADIUS] += 2.0
    fits[18].x[LN_MOSAICITY] -= 3.0
    fits[23].x[[THETA_X, THETA_Y]] = 2.8e-3, -2.8e-3
    fits[28].x[[LN_SCALE, B_FACTOR]] += 5.0, 20.0
    fits[33].partial_correlation, fits[33].x[LN_SCALE] = 0.1, -4.0
    fits[36].x[CELL_SCALE] -= 0.01
    fits[38].reason = Reason.AT_BOUND
    fits[38].x[LN_SCALE] += 5.0
    assert reasons(fits) == {
        3: Reason.SCALE_OUTLIER,
        8: Reason.B_OUTLIER,
        13: Reason.RADIUS_OUTLIER,
        18: Reason.RADIUS_OUTLIER,
        23: Reason.MISORIENTATION_OUTLIER,
        28: Reason.SCALE_OUTLIER,
        33: Reason.UNRELATED,
        36: Reason.CELL_OUTLIER,
        38: Reason.AT_BOUND,
    }


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_outliers_are_counted_in_widths_of_their_side_of_the_population_and_of_the_lattice(sign):
    """4.5 and 5.5 times sqrt(w^2 + esd^2), w the robust width of what is above or below the median."""
    for times, expected in ((4.5, {}), (5.5, {7: Reason.B_OUTLIER})):
        fits = make_fits(201)
        for fit in fits:
            fit.x[B_FACTOR] += 2.0 * max(fit.x[B_FACTOR] - 5.0, 0.0)  # skew: three times as wide above
        others = np.array([fit.x[B_FACTOR] for k, fit in enumerate(fits) if k != 7])
        median = np.median(others)
        off = sign * (others - median)
        width = 1.4826 * np.median(off[off > 0.0])
        fits[7].x[B_FACTOR] = median + sign * times * np.hypot(width, 2.0 / 3.0)
        assert reasons(fits) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda fit: setattr(fit, "refined", False),
        lambda fit: fit.covariance.__setitem__((B_FACTOR, B_FACTOR), 16.0),
        lambda fit: fit.covariance.__setitem__((B_FACTOR, B_FACTOR), 0.0),
        lambda fit: fit.covariance.__setitem__((B_FACTOR, B_FACTOR), np.inf),
    ],
    ids=["not refined", "hardly known", "fixed", "not known"],
)
def test_a_parameter_that_the_data_do_not_tell_is_no_outlier(change):
    fits = make_fits()
    fits[3].x[B_FACTOR] -= 18.0
    change(fits[3])
    assert reasons(fits) == {}


def test_a_lattice_that_was_not_refined_need_not_be_related_to_the_reference():
    fits = make_fits()
    fits[3].partial_correlation, fits[3].refined = 0.0, False
    assert reasons(fits) == {}


def test_few_lattices_are_no_population_and_many_outliers_are_one_of_their_own():
    few = make_fits(MIN_POPULATION - 1)
    few[3].x[LN_SCALE] += 9.0
    assert reasons(few) == {}
    for n, count in ((3, 3), (4, 0)):  # of 60 lattices, 5 % are three
        fits = make_fits()
        for k in range(n):
            fits[k].x[LN_SCALE] += 9.0
        assert list(reasons(fits).values()) == [Reason.SCALE_OUTLIER] * count


def test_a_data_set_that_is_weak_as_a_whole_is_not_held_against_its_lattices():
    fits = make_fits()
    for k, fit in enumerate(fits):
        fit.partial_correlation = 0.1 + 0.001 * k
    assert reasons(fits) == {}


def test_few_reflections_make_a_higher_correlation_one_of_chance():
    """Z(0.35) = 0.37 is within three standard deviations of zero for 50 reflections, 0.45, and above both for 200."""
    for n, expected in ((50, {3: Reason.UNRELATED}), (200, {})):
        fits = make_fits()
        fits[3].partial_correlation, fits[3].n_matched = 0.35, n
        assert reasons(fits) == expected


def test_few_reflections_do_not_tell_that_a_lattice_is_unrelated():
    """Z of the median 0.8 and of 0.1 differ by 0.998: by three standard deviations of 15 reflections, not of 14."""
    for n, expected in ((14, {}), (15, {3: Reason.UNRELATED})):
        fits = make_fits()
        for fit in fits:
            fit.partial_correlation = 0.8
        fits[3].partial_correlation, fits[3].n_matched = 0.1, n
        assert reasons(fits) == expected


def test_the_order_of_the_lattices_does_not_matter_and_a_test_can_be_left_out():
    def with_outliers():
        fits = make_fits()
        fits[3].x[LN_SCALE] += 5.0
        fits[9].partial_correlation = 0.0
        return fits

    assert reasons(with_outliers()[::-1]) == {56: Reason.SCALE_OUTLIER, 50: Reason.UNRELATED}
    assert reasons(with_outliers(), parameter_z=np.inf) == {9: Reason.UNRELATED}
    assert reasons(with_outliers(), min_partial_correlation=-1.0) == {3: Reason.SCALE_OUTLIER}


@pytest.mark.parametrize(("profile", "radius"), [("gaussian", "mosaic"), ("lorentzian", "constant")])
def test_useless_lattices_go_and_good_ones_stay(as_stills, profile, radius):
    """At least 95 % and not more than 2 %, on stills that no model describes."""
    options = replace(StillsOptions.unlike_model(100, seed=12), useless_fraction=0.2, n_samples=100)
    sim = simulate_stills(options)
    settings = DatasetSettings(fit=FitSettings(profile=profile, radius=radius), n_cycles=3)
    assert sim.useless.sum() >= 15
    result = postrefine(as_stills(sim), settings)
    assert np.mean(~result.accepted[sim.useless]) >= 0.95
    assert np.mean(~result.accepted[~sim.useless]) <= 0.02
    without = postrefine(as_stills(sim), replace(settings, filters=LatticeFilters(-1.0, np.inf)))
    assert np.mean(~without.accepted[sim.useless]) < 0.95
