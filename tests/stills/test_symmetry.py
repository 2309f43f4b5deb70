"""What the observations say of operations: right groups pass, wrong ones do not, and nothing by chance."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.stills.symmetry import Operation, correlate_operations, judge_operations

FOUR = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
TWO_B = np.array([[-1, 0, 0], [0, 1, 0], [0, 0, -1]])
TRUE = [np.eye(3), FOUR, FOUR @ FOUR, FOUR @ FOUR @ FOUR]
WRONG = [TWO_B @ rotation for rotation in TRUE]


@pytest.fixture(scope="module")
def observed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, values of the true group 4 with noise of their own size, and half sets, of 20000 observations."""
    rng = np.random.default_rng(3)
    h = rng.integers(-7, 8, (20000, 3)).astype(np.int32)
    h = h[(h != 0).any(axis=1)]
    orbit = np.concatenate([np.rint(h @ rotation) * sign for rotation in TRUE for sign in (1, -1)]).reshape(8, -1, 3)
    name = np.sort(orbit @ [10000.0, 100.0, 1.0], axis=0)[0].astype(int)
    _, number = np.unique(name, return_inverse=True)
    value = rng.normal(size=number.max() + 1)[number] + rng.normal(size=len(h))
    return h, value, rng.random(len(h)) < 0.5


def test_operations_of_the_true_group_agree_as_reflections_do_with_themselves(observed):
    pairs = correlate_operations(*observed, np.array(TRUE + WRONG))
    cc = np.array([value for value, _ in pairs])
    # the halves have three observations of an index or so: 1/(1 + 1/n) with n about 6
    assert np.ptp(cc[:4]) < 0.05 and cc[:4].min() > 0.7
    chance = np.array([n for _, n in pairs[4:]]) ** -0.5
    assert np.all(np.abs(cc[4:]) < 4.0 * chance)
    judged = judge_operations(["?"] * 8, np.ones(8, dtype=bool), pairs)
    assert [operation.supported for operation in judged] == [True] * 4 + [False] * 4


def test_the_correlation_is_that_of_the_pairs(observed):
    """An independent count, index by index."""
    h, value, second = (values[:1500] for values in observed)
    found = correlate_operations(h, value, second, np.array([np.eye(3), TWO_B]))
    means = ({}, {})
    for index, amplitude, half in zip(h.tolist(), value, second):
        means[int(half)].setdefault(max(tuple(index), tuple(-i for i in index)), []).append(amplitude)
    for rotation, (cc, n) in zip((np.eye(3), TWO_B), found):
        pairs = []
        for index, values in means[0].items():
            turned = tuple(np.rint(np.array(index) @ rotation).astype(int).tolist())
            turned = max(turned, tuple(-i for i in turned))
            if turned in means[1] and not (index[0] == index[2] == 0 or index[1] == 0):  # what TWO_B leaves as it is
                pairs.append((np.mean(values), np.mean(means[1][turned])))
        assert n == len(pairs)
        assert cc == pytest.approx(np.corrcoef(np.transpose(pairs))[0, 1])


def test_nothing_is_said_of_noise():
    """Where not even reflections agree with themselves, no operation is found wrong."""
    rng = np.random.default_rng(0)
    h = rng.integers(-9, 10, (5000, 3)).astype(np.int32)
    pairs = correlate_operations(h, rng.normal(size=5000), rng.random(5000) < 0.5, np.array(TRUE + WRONG))
    assert {operation.supported for operation in judge_operations(["?"] * 8, np.zeros(8), pairs)} == {None}
    few = judge_operations(["h,k,l"], np.ones(1), [(np.nan, 2)])
    assert few[0] == Operation("h,k,l", True, pytest.approx(np.nan, nan_ok=True), 2, pytest.approx(2**-0.5), None)
