"""Results come in the order of the input whatever the number of processes."""

from __future__ import annotations

import os

import pytest

from dials_postrefine.parallel import ordered_map


def square(x):
    return x * x, os.getpid()


@pytest.mark.parametrize("nproc", [1, 2, 3])
def test_results_are_in_order(nproc):
    with ordered_map(nproc) as mapped:
        results = list(mapped(square, iter(range(50))))
    assert [value for value, _ in results] == [x * x for x in range(50)]
    processes = {pid for _, pid in results}
    assert (processes == {os.getpid()}) == (nproc == 1)


def fail(x):
    raise ValueError(x)


def test_an_error_in_a_process_comes_through():
    with pytest.raises(ValueError, match="3"):
        with ordered_map(2) as mapped:
            list(mapped(fail, [3]))
