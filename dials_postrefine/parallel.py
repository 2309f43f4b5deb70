"""
One map function over processes: results in the order of the input, serial when nproc is 1.

What a worker computes depends on its item alone, so that the result is the same whatever nproc is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator


def map_in_order(function: Callable, items: Iterable, nproc: int = 1) -> Iterator:
    """Yield function(item) of each item in order, from nproc forked processes; function must be importable by name."""
    if nproc <= 1:
        yield from map(function, items)
        return
    with multiprocessing.get_context("fork").Pool(nproc) as pool:
        yield from pool.imap(function, items)
