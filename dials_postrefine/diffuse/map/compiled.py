"""
The compiler of this folder's loops: numba's, with a cache that is valid as long as no module of the folder changes
(numerics/compiled.py).
"""

from __future__ import annotations

from dials_postrefine.numerics.compiled import compiler, inlined

__all__ = ["inlined", "jit"]

jit = compiler("dials_postrefine.diffuse.map")
