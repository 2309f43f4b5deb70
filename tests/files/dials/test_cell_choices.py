"""Lattices that were indexed with several choices of the unit cell: found, and taken to one by the right operation."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the operations are those of cctbx")
pytest.importorskip("dials.array_family.flex", reason="the experiments are those of DIALS")

from cctbx import sgtbx, uctbx
from dials.util import Sorry
from dxtbx.model import Crystal, Experiment, ExperimentList

from dials_postrefine.files.dials.cell_choices import common_cell, find_cell_choices

pytestmark = pytest.mark.dials

TOLERANCE = 0.03, 2.0
MONOCLINIC = (50.0, 60.0, 70.0, 90.0, 100.0, 90.0)
TRICLINIC = (40.0, 50.0, 61.0, 82.0, 76.0, 71.0)
ORTHORHOMBIC = (50.0, 60.0, 75.0, 90.0, 90.0, 90.0)


def make_experiments(symbol: str, cells) -> ExperimentList:
    """Crystals with axes along x and in the plane of x and y, as cctbx puts them."""
    experiments = ExperimentList()
    for i, cell in enumerate(cells):
        axes = np.array(uctbx.unit_cell(tuple(map(float, cell))).orthogonalization_matrix()).reshape(3, 3).T
        crystal = Crystal(*(tuple(axis) for axis in axes), space_group=sgtbx.space_group_info(symbol).group())
        experiments.append(Experiment(identifier=str(i), crystal=crystal))
    return experiments


def noisy(experiments, spread: float, seed: int = 0) -> ExperimentList:
    """The same with axes that are wrong by the relative spread, each component by itself."""
    rng = np.random.default_rng(seed)
    for experiment in experiments:
        real = np.linalg.inv(np.array(experiment.crystal.get_A()).reshape(3, 3))
        real += spread * np.linalg.norm(real, axis=1)[:, None] * rng.standard_normal((3, 3))
        experiment.crystal.set_A(tuple(np.linalg.inv(real).ravel()))
    return experiments


def reindexed(experiments, some, operation: str) -> None:
    """Change the basis of some, by cctbx itself, as if they had been indexed so."""
    change = sgtbx.change_of_basis_op(operation)
    for k in some:
        crystal = experiments[int(k)].crystal
        group = crystal.get_space_group()
        crystal.set_space_group(sgtbx.space_group("P 1"))
        experiments[int(k)].crystal = crystal.change_basis(change)
        try:
            group = group.change_basis(change)
        except RuntimeError:
            pass
        experiments[int(k)].crystal.set_space_group(group)


CASES = [
    ("P 1 2 1", MONOCLINIC, "-a-c,b,a"),
    ("P 1 21 1", MONOCLINIC, "c,-b,a"),
    ("P 1 2 1", MONOCLINIC, "b,c,a"),
    ("C 1 2 1", MONOCLINIC, "-a-c,b,a"),
    ("P 1", TRICLINIC, "a+b,b,c"),
    ("P 1", TRICLINIC, "a-b,b-c,c+2*a"),
    ("P 2 2 2", ORTHORHOMBIC, "c,a,b"),
    ("P 21 21 21", (50.0, 51.0, 75.0, 90.0, 90.0, 90.0), "b,-a,c"),
    ("C 2 2 2", ORTHORHOMBIC, "c,a,b"),
    ("P 4", (60.0, 60.0, 75.0, 90.0, 90.0, 90.0), "b,c,a"),
    ("F 2 2 2", (60.0, 80.0, 95.0, 90.0, 90.0, 90.0), "1/2*b+1/2*c,1/2*a+1/2*c,1/2*a+1/2*b"),
]


@pytest.mark.parametrize("symbol, cell, operation", CASES)
@pytest.mark.parametrize("n_other", [20, 8])
def test_two_choices_of_one_cell_become_one_and_it_is_that_of_real_lattices(symbol, cell, operation, n_other):
    experiments = noisy(make_experiments(symbol, [cell] * 40), 0.0005)
    truth = [np.array(e.crystal.get_A()).reshape(3, 3) for e in experiments]
    other = np.arange(40)[-n_other:]
    reindexed(experiments, other, operation)
    group = sgtbx.space_group_info(symbol).group()
    choices = find_cell_choices(experiments, group, *TOLERANCE)
    assert choices.main.all() and not choices.others
    assert list(np.flatnonzero(choices.chosen)) == list(other)
    assert len(choices.counts()) == 1 and choices.counts()[0][1] == n_other
    assert choices.cell == pytest.approx(cell, rel=2e-3)
    # reindexed, A is that of the truth but for a rotation of the Laue group
    rotations = [
        np.array(r.r().as_double()).reshape(3, 3) for r in group.build_derived_point_group().build_derived_laue_group()
    ]
    for k in other:
        p = np.array(choices.operations[choices.chosen[k]].c_inv().r().as_double()).reshape(3, 3)
        ours = np.array(experiments[int(k)].crystal.get_A()).reshape(3, 3) @ np.linalg.inv(p).T
        assert min(np.abs(ours - truth[k] @ r).max() for r in rotations) < 1e-10


def test_three_choices_become_that_of_most():
    experiments = noisy(make_experiments("P 1 2 1", [MONOCLINIC] * 30), 0.0005)
    reindexed(experiments, range(12, 21), "-a-c,b,a")
    reindexed(experiments, range(21, 30), "c,-b,a")
    choices = find_cell_choices(experiments, sgtbx.space_group_info("P 1 2 1").group(), *TOLERANCE)
    assert choices.main.all() and [n for _, n in choices.counts()] == [9, 9]
    assert not choices.chosen[:12].any() and choices.chosen[12:].all()
    assert choices.cell == pytest.approx(MONOCLINIC, rel=2e-3)


def test_another_form_of_the_crystal_is_none_of_the_choices_and_is_counted():
    cells = [ORTHORHOMBIC] * 11 + [(50.0, 60.0, 90.0, 90.0, 90.0, 90.0)] * 11
    experiments = noisy(make_experiments("P 2 2 2", cells), 0.0005)
    choices = find_cell_choices(experiments, sgtbx.space_group_info("P 2 2 2").group(), *TOLERANCE)
    assert list(choices.main) == [True] * 11 + [False] * 11 and not choices.chosen.any()
    ((cell, n),) = choices.others
    assert n == 11 and cell == pytest.approx(cells[-1], rel=2e-3)


def test_axes_whose_difference_is_within_their_errors_stay_for_the_intensities_to_tell():
    experiments = noisy(make_experiments("P 2 2 2", [(50.0, 50.03, 75.0, 90.0, 90.0, 90.0)] * 200), 0.001)
    choices = find_cell_choices(experiments, sgtbx.space_group_info("P 2 2 2").group(), *TOLERANCE)
    assert choices.main.all() and not choices.chosen.any()


@pytest.mark.parametrize("spread", [0.0, 1e-5])
@pytest.mark.parametrize("n", [2, 4, 40])
@pytest.mark.parametrize(
    ("symbol", "cell", "operation"),
    [
        ("P 1 2 1", (50.0, 60.0, 70.0, 90.0, 90.8, 90.0), "a,-b,-c"),
        ("P 2 2 2", (50.0, 51.0, 75.0, 90.0, 90.0, 90.0), "b,a,-c"),
    ],
)
def test_halves_of_two_choices_within_the_tolerance_have_no_cell_between_them(symbol, cell, operation, n, spread):
    """The median of equal halves is of neither: beta 90, a = b."""
    group = sgtbx.space_group_info(symbol).group()
    experiments = noisy(make_experiments(symbol, [cell] * n), spread)
    reindexed(experiments, range(1, n, 2), operation)
    choices = find_cell_choices(experiments, group, *TOLERANCE)
    chosen = choices.chosen > 0
    assert chosen.sum() == n // 2 and len(set(chosen[::2])) == len(set(chosen[1::2])) == 1
    assert choices.main.all()
    other = tuple(180.0 - x if x > 90.0 else x for x in (cell[1], cell[0], *cell[2:]))
    other = cell[:4] + other[4:] if symbol == "P 1 2 1" else other
    assert any(choices.cell == pytest.approx(one, rel=1e-4) for one in (cell, other))


def test_a_common_cell_is_refused_with_the_operation_where_there_are_two_choices():
    group = sgtbx.space_group_info("P 1 2 1").group()
    experiments = make_experiments("P 1 2 1", [MONOCLINIC] * 4)
    assert common_cell(experiments, group, *TOLERANCE) == pytest.approx(MONOCLINIC)
    reindexed(experiments, [2, 3], "-a-c,b,a")
    with pytest.raises(Sorry, match="reindex 2 by dials.reindex change_of_basis_op=") as refused:
        common_cell(experiments, group, *TOLERANCE)
    operation = str(refused.value).split("change_of_basis_op=")[1].rstrip(".")
    reindexed(experiments, [2, 3], operation)
    assert common_cell(experiments, group, *TOLERANCE) == pytest.approx(MONOCLINIC)
