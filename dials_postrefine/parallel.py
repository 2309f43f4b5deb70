"""
One map function over processes: results in the order of the input, serial when nproc is 1.

    with ordered_map(nproc) as mapped:
        results = list(mapped(function, items))

What a worker computes depends on its item alone, so that the result is the same whatever nproc is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def ordered_map(nproc: int = 1) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """A map function over nproc forked processes that live as long as the block; functions must be importable by name.

    One pool for a whole run: while a pool is made or ended, Ctrl-C can get lost in a callback, or leave workers behind.
    """
    if nproc <= 1:
        yield map
        return
    ctrl_c = {signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ctrl_c)  # the workers inherit it: Ctrl-C is for the parent, who ends them
    with multiprocessing.get_context("fork").Pool(nproc) as pool:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ctrl_c)
        yield pool.imap
