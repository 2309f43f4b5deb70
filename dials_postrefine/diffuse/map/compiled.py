"""
numba's compiler, with a cache on disk that does not outlive the sources.

numba keeps what it compiled beside the module of a function, until that file changes.  But a compiled loop also has in
it what its module imports: columns of the sums, and the order of the fields of a NamedTuple; and a NamedTuple that is
called otherwise by now makes numba fail when it looks into the old cache.  So here the cache belongs to all modules of
this folder together, and one that can't be read is begun anew.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

# For functions that are part of those which call them.
inlined = numba.njit(nogil=True, inline="always")


def jit(function):
    """
    A compiled function, without Python's lock.

    Parameters
    ----------
    function : callable

    Returns
    -------
    numba's dispatcher
        It compiles when it is first called with arguments of a kind, or takes what is in the cache.
    """
    compiled = numba.njit(nogil=True)(function)
    compiled._cache = FolderCache(function)  # as Dispatcher.enable_caching has it
    return compiled


def stamp_of_sources() -> tuple:
    """
    What changes with any module of this folder.

    Returns
    -------
    tuple
        Name, time (ns) and size (bytes) of each.
    """
    paths = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


class FolderCache(FunctionCache):
    """The cache of a function that is valid as long as no module of this folder changes."""

    def __init__(self, function) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, STAMP)

    def load_overload(self, sig, target_context):
        """What was compiled for the signature, None where there is nothing."""
        try:
            return super().load_overload(sig, target_context)
        except (AttributeError, ImportError, pickle.UnpicklingError):
            self.flush()
            return None


STAMP = stamp_of_sources()
