"""
numba's compiler, with a cache on disk that does not outlive the sources.

numba keeps what it compiled beside the module of a function, until that file changes.  But a compiled loop also has in
it what its module imports: constants, the functions that it calls, and the order of the fields of a NamedTuple; and a
NamedTuple that is called otherwise by now makes numba fail when it looks into the old cache.  So here a module with
loops names the modules that its loops depend on, a package standing for all modules in its folder,

    jit = compiler("dials_postrefine.stills.model", "dials_postrefine.numerics")

and the cache of its functions is valid as long as none of them changes; one that can't be read is begun anew.  All
processes share the cache.  tests/numerics/test_compiled.py looks whether a module names all that it imports.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

# For functions that are part of those which call them.
inlined = numba.njit(nogil=True, inline="always")
# Options of numba.njit for functions that only compiled ones call: half of the time to compile them.
PART = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiler(*modules: str, **options) -> Callable:
    """
    What makes a compiled function of one in Python, without Python's lock.

    Parameters
    ----------
    modules : str
        Names of modules and packages whose changes make the cache useless, besides the function's own module.
    options
        As numba.njit takes them.

    Returns
    -------
    callable
        A decorator that gives numba's dispatcher: it compiles when it is first called with arguments of a kind, or
        takes what is in the cache.
    """
    stamp = stamp_of_sources(modules)

    def jit(function):
        compiled = numba.njit(nogil=True, **options)(function)
        compiled._cache = SourcesCache(function, stamp)  # as Dispatcher.enable_caching has it
        return compiled

    return jit


def stamp_of_sources(modules: tuple[str, ...]) -> tuple:
    """
    What changes with any of the modules.

    Parameters
    ----------
    modules : tuple of str
        Their names; a package stands for all modules in its folder.

    Returns
    -------
    tuple
        Name, time (ns) and size (bytes) of each file, this one among them.
    """
    paths = {Path(__file__)}
    for name in modules:
        spec = importlib.util.find_spec(name)
        folders = spec.submodule_search_locations
        paths |= {Path(spec.origin)} if folders is None else {p for f in folders for p in Path(f).glob("*.py")}
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(paths))


class SourcesCache(FunctionCache):
    """The cache of a function that is valid as long as neither its module nor what the stamp is of changes."""

    def __init__(self, function, stamp: tuple) -> None:
        super().__init__(function)
        stamp = (self._impl.locator.get_source_stamp(), stamp)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig, target_context):
        """What was compiled for the signature, None where there is nothing."""
        try:
            return super().load_overload(sig, target_context)
        except (AttributeError, ImportError, pickle.UnpicklingError):
            self.flush()
            return None
