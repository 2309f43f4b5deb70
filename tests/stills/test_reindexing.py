"""
The indexing ambiguity on simulated stills whose physics is not the model's, a random part of them reindexed by a twin
operation: the choice undoes it.  Operations are written out here and not taken from files/dials/reindexing.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the simulation is of a structure made by cctbx")
pytest.importorskip("dials.array_family.flex", reason="unique indices are numbered by DIALS")

from cctbx import sgtbx

from dials_postrefine.files.dials.symmetry import number_unique
from dials_postrefine.files.reference.alignment import align
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills
from dials_postrefine.stills import reindexing
from dials_postrefine.stills.dataset import BY_OBSERVATION, Stills, select_lattices
from dials_postrefine.stills.geometry import vectors_of_lattices
from dials_postrefine.stills.reindexing import SHRINKAGE, Choice, choose_operations

pytestmark = pytest.mark.dials

# by space group: a cell, and what h, k, l become of; two operations of a table, one after the other, are a third
TETRAGONAL = (79.0, 79.0, 38.0, 90.0, 90.0, 90.0)
CELLS = {"P43": TETRAGONAL, "P213": (80.0, 80.0, 80.0, 90.0, 90.0, 90.0), "P31": (70.0, 70.0, 60.0, 90.0, 90.0, 120.0)}
IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
SWAP = [[0, 1, 0], [1, 0, 0], [0, 0, -1]]  # k, h, -l
HALF_TURN = [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]  # -h, -k, l
MATRICES = {
    "P43": [IDENTITY, SWAP],
    "P213": [IDENTITY, SWAP],
    "P31": [IDENTITY, SWAP, HALF_TURN, (np.array(SWAP) @ HALF_TURN).tolist()],
}
# 22 reflections a lattice, with a median I/sigma of 3
WEAK = {"d_min": 4.4, "window": 0.0003, "background": 20000.0, "useless_fraction": 0.0}
# row j: what operation j after each of them is
WAYS = {2: np.array([[0, 1], [1, 0]]), 4: np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])}


@dataclass
class Case:
    """Stills whose lattice k was reindexed by the operation given[k], and what choose_operations takes."""

    sim: SimulatedStills
    stills: Stills
    given: np.ndarray
    unique: np.ndarray
    h_unique: np.ndarray

    @property
    def n_operations(self) -> int:
        return len(self.unique)

    @property
    def allowed(self) -> np.ndarray:
        return np.ones((self.stills.n_lattices, self.n_operations), dtype=bool)

    @property
    def permutations(self) -> np.ndarray:
        return WAYS[self.n_operations]

    @property
    def reference(self) -> np.ndarray:
        return align(self.h_unique, self.sim.reference_h, self.sim.reference_intensity)

    def choose(self, reference=None) -> Choice:
        return choose_operations(self.stills, self.unique, self.allowed, self.permutations, reference)

    def right(self, operation: np.ndarray) -> np.ndarray:
        """Which lattices are indexed alike, (L,): as the greatest part of those that are not useless."""
        # every operation of these tables is its own inverse, so the way back is the operation itself
        useful = ~self.sim.useless
        return max(
            (self.permutations[number][self.given] == operation for number in range(self.n_operations)),
            key=lambda x: x[useful].sum(),
        )


def make_case(space_group: str, options: StillsOptions, fraction: float = 1.0, shuffled: bool = False) -> Case:
    """A fraction of the lattices gets an operation at random; shuffled: intensities in a random order."""
    sim = simulate_stills(replace(options, space_group=space_group, unit_cell=CELLS[space_group]))
    matrices = np.array(MATRICES[space_group])
    rng = np.random.default_rng(options.seed)
    n = options.n_lattices
    given = np.where(rng.random(n) < fraction, rng.integers(len(matrices), size=n), 0)
    h = np.einsum("nij,nj->ni", matrices[given][sim.lattice], sim.h)
    if shuffled:
        order = np.lexsort((rng.random(len(h)), sim.lattice))
        sim = replace(sim, intensity=sim.intensity[order], variance=sim.variance[order])
    # q = A h stays: the matrices are their own inverses
    a_matrix = sim.a_indexed @ matrices[given]
    group = sgtbx.space_group_info(space_group).group()
    unique, h_unique, absent = number_unique(np.concatenate([h @ m.T for m in matrices]), group)
    unique = unique.reshape(len(matrices), -1)
    offsets = np.searchsorted(sim.lattice, np.arange(n + 1))
    q, q_sq = vectors_of_lattices(a_matrix, h, offsets)
    stills = Stills(
        a_matrix=a_matrix,
        s0=sim.s0,
        offsets=offsets,
        h=h,
        q=q,
        q_sq=q_sq,
        unique=unique[0],
        intensity=sim.intensity / sim.polarisation,
        variance=sim.variance / sim.polarisation**2,
        half=np.arange(n) % 2 == 1,
        absent=absent,
    )
    return Case(sim, stills, given, unique, h_unique)


def options(n_lattices: int, d_min: float, seed: int = 0, **more) -> StillsOptions:
    return replace(StillsOptions.unlike_model(n_lattices, seed), d_min=d_min, **more)


@pytest.fixture(scope="module")
def sparse() -> Case:
    """200 lattices of 100 reflections, 3 % of them useless, half of them reindexed."""
    return make_case("P43", options(200, 3.3))


@pytest.mark.parametrize(
    "space_group, n, d_min, seed",
    [("P43", 200, 3.3, 0), ("P43", 200, 3.3, 1), ("P31", 120, 2.8, 0), ("P213", 100, 3.5, 0)],
)
def test_lattices_are_indexed_alike_without_a_reference(space_group, n, d_min, seed):
    case = make_case(space_group, options(n, d_min, seed))
    choice = case.choose()
    assert choice.resolved
    wrong = ~case.right(choice.operation) & ~case.sim.useless
    # a twin operation leaves some reflections where they are: a lattice or two may have too few others
    assert wrong.sum() <= 1 and (choice.probability[wrong] < 0.999).all()
    assert case.sim.useless.any()


@pytest.mark.parametrize("space_group, d_min", [("P43", 3.3), ("P31", 2.8), ("P213", 3.5)])
def test_lattices_are_indexed_like_the_reference(space_group, d_min):
    case = make_case(space_group, options(100, d_min))
    choice = case.choose(case.reference)
    assert choice.resolved
    useful = ~case.sim.useless
    np.testing.assert_array_equal(choice.operation[useful], case.given[useful])
    assert np.bincount(choice.operation).min() >= 10


def test_most_lattices_stay_as_they_are():
    """However many were reindexed: all together they may be indexed either way."""
    for fraction in (0.3, 1.7):  # 15 % and 85 % of them reindexed by the one operation
        case = make_case("P43", options(100, 3.0))
        rng = np.random.default_rng(7)
        given = (rng.random(100) < fraction / 2.0).astype(int)
        swapped = given != case.given
        matrix, of_row = np.array(SWAP), swapped[case.sim.lattice]
        stills = replace(
            case.stills,
            h=np.where(of_row[:, None], case.stills.h @ matrix.T, case.stills.h),
            a_matrix=np.where(swapped[:, None, None], case.stills.a_matrix @ matrix, case.stills.a_matrix),
        )
        unique = np.where(of_row, case.unique[::-1], case.unique)
        choice = choose_operations(stills, unique, case.allowed, case.permutations)
        minority = given if fraction < 1.0 else 1 - given
        useful = ~case.sim.useless
        assert 5 < minority.sum() < 30
        np.testing.assert_array_equal(choice.operation[useful], minority[useful])


def test_the_order_of_the_lattices_does_not_matter(sparse):
    choice = sparse.choose()
    order = np.random.default_rng(3).permutation(sparse.stills.n_lattices)
    rows = np.concatenate([np.arange(sparse.stills.offsets[k], sparse.stills.offsets[k + 1]) for k in order])
    stills = replace(
        sparse.stills,
        a_matrix=sparse.stills.a_matrix[order],
        s0=sparse.stills.s0[order],
        offsets=np.concatenate([[0], np.cumsum(np.diff(sparse.stills.offsets)[order])]),
        **{name: getattr(sparse.stills, name)[rows] for name in BY_OBSERVATION},
    )
    for reference in (None, sparse.reference):
        choice = sparse.choose(reference)
        other = choose_operations(stills, sparse.unique[:, rows], sparse.allowed, sparse.permutations, reference)
        np.testing.assert_array_equal(other.operation, choice.operation[order])
        np.testing.assert_array_equal(other.probability, choice.probability[order])


def test_intensities_that_tell_nothing_leave_all_as_they_are():
    for space_group, n, d_min in (("P43", 100, 3.5), ("P43", 20, 3.0), ("P31", 50, 3.5), ("P43", 3, 2.5)):
        choice = make_case(space_group, options(n, d_min), shuffled=True).choose()
        assert not choice.resolved and choice.mean_probability < 0.75
        assert not choice.operation.any()


def test_an_unrelated_reference_leaves_all_as_they_are(sparse):
    reference = np.random.default_rng(2).permutation(sparse.reference)
    choice = sparse.choose(reference)
    assert not choice.resolved and not choice.operation.any()


def test_a_few_reflections_move_no_lattice_where_all_are_indexed_alike():
    """The likelihood alone would: it moves the wrong ones where half of the lattices are reindexed."""
    case = make_case("P43", options(300, **WEAK), fraction=0.0)
    assert np.median(np.diff(case.stills.offsets)) < 25
    choice = case.choose()
    assert choice.resolved and not choice.operation.any()
    half = make_case("P43", options(300, **WEAK))
    wrong = ~half.right(half.choose().operation)
    assert 3 <= wrong.sum() <= 30


def test_probabilities_are_those_of_being_right():
    """By eighths of the lattices, in order of probability: fraction right and mean probability."""
    right, probability = [], []
    for seed in range(3):
        case = make_case("P43", options(300, seed=seed, **WEAK))
        choice = case.choose()
        right.append(case.right(choice.operation))
        probability.append(choice.probability)
    right, probability = np.concatenate(right), np.concatenate(probability)
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, 8)
    found, expected = (np.array([values[part].mean() for part in parts]) for values in (right, probability))
    assert expected[0] < 0.75 and expected[-1] > 0.999
    # 112 lattices each: two standard deviations are 0.09 at one half
    assert (found > expected - 0.09).all()
    assert np.mean(found - expected) < 0.05


def test_an_operation_that_is_not_open_is_not_taken(sparse):
    allowed = sparse.allowed
    closed = np.arange(0, sparse.stills.n_lattices, 5)
    allowed[closed, 1] = False
    only_second = closed[::2] + 1
    allowed[only_second, 0] = False
    allowed[closed[:3]] = False
    choice = choose_operations(sparse.stills, sparse.unique, allowed, sparse.permutations, sparse.reference)
    assert not choice.operation[closed].any()
    assert (choice.operation[only_second] == 1).all()
    assert np.isnan(choice.probability[closed[:3]]).all() and np.isfinite(choice.probability).sum() == 197
    rest = np.setdiff1d(np.flatnonzero(~sparse.sim.useless), np.concatenate([closed, only_second]))
    np.testing.assert_array_equal(choice.operation[rest], sparse.given[rest])


def test_one_lattice_or_none_is_left_as_it_is(sparse):
    for n in (0, 1):
        chosen = np.arange(sparse.stills.n_lattices) < n
        stills = select_lattices(sparse.stills, chosen)
        unique = sparse.unique[:, : len(stills.h)]
        choice = choose_operations(stills, unique, sparse.allowed[:n], sparse.permutations)
        assert not choice.resolved and not choice.operation.any() and len(choice.operation) == n


def test_lattices_without_signal_do_no_harm(sparse):
    stills = replace(sparse.stills, intensity=sparse.stills.intensity.copy())
    dead = np.arange(0, 10)
    stills.intensity[: stills.offsets[10]] = 0.0
    choice = choose_operations(stills, sparse.unique, sparse.allowed, sparse.permutations, sparse.reference)
    assert np.isfinite(choice.probability).all()
    live = ~sparse.sim.useless
    live[dead] = False
    np.testing.assert_array_equal(choice.operation[live], sparse.given[live])


def test_the_outcome_is_the_most_likely_of_all_assignments():
    """Six lattices, 32 assignments, likelihoods by a loop over dictionaries."""
    case = make_case("P213", options(6, 2.6, useless_fraction=0.0))
    used = reindexing._canonical_order(case.stills, np.ones(6, dtype=bool))
    amplitudes, _ = reindexing._amplitudes(case.stills, used, case.unique, case.allowed)

    def log_likelihood(assignment) -> list[float]:
        found = []
        for k in range(6):
            sums = {}
            for gx, gg, lattice, numbers in zip(amplitudes.gx, amplitudes.gg, amplitudes.lattice, amplitudes.unique.T):
                if lattice != k:
                    sum_gx, sum_gg = sums.get(numbers[assignment[lattice]], (0.0, 0.0))
                    sums[numbers[assignment[lattice]]] = sum_gx + gx, sum_gg + gg
            rows = amplitudes.lattice == k
            numbers = amplitudes.unique[assignment[k], rows]
            mean = np.array([sums[u][0] / (sums[u][1] + SHRINKAGE) if u in sums else 0.0 for u in numbers])
            product_sum = amplitudes.gx[rows] @ mean
            norm = np.sqrt(amplitudes.x_sq[k] * (amplitudes.gg[rows] @ mean**2))
            r = max(product_sum / norm, 0.0) if norm > 0.0 else 0.0
            found.append(-0.5 * (rows.sum() - 2) * np.log(1.0 - r**2))
        return found

    likelihoods = {rest: log_likelihood((0, *rest)) for rest in product((0, 1), repeat=5)}
    best = max(likelihoods, key=lambda rest: sum(likelihoods[rest]))
    best = np.array([0, *best])
    solved = reindexing._solve(amplitudes, case.permutations)
    operation = solved.argmax(axis=0)
    assert (operation == best).all() or (operation == 1 - best).all()
    np.testing.assert_allclose(solved[operation, np.arange(6)], likelihoods[tuple(best[1:])], rtol=1e-9)


def test_time_grows_with_the_number_of_lattices():
    """And a hundred lattices of 280 reflections take less than a second; 0.05 s where this was written."""
    case = make_case("P43", options(100, 2.0))
    start = time.process_time()
    case.choose()
    assert time.process_time() - start < 1.0
    assert len(case.stills.h) > 25000
