"""The cache of compiled loops: it is used, and what another version of the package has left in it does no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

from dials_postrefine.diffuse.map import compiled

LOOPS = """
from typing import NamedTuple
import numpy as np
from compiled import jit
class {name}(NamedTuple):
    {fields}: float
@jit
def second(pair):
    return pair.b
print(second({name}({values})), sum(second.stats.cache_hits.values()))
"""


def printed(folder: Path, **version) -> list[str]:
    """What a version of the loops prints: b, and how often it was found in the cache."""
    (folder / "loops.py").write_text(LOOPS.format(**version))
    os.utime(folder / "loops.py", ns=(0, 0))  # numba itself looks at nothing but this file, and its size
    done = subprocess.run([sys.executable, "-c", "import loops"], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_was_compiled_is_found_again_until_a_class_is_called_otherwise(tmp_path):
    shutil.copy(compiled.__file__, tmp_path / "compiled.py")
    first = {"name": "PairA", "fields": "a: float\n    b", "values": "a=1.0, b=2.0"}
    assert printed(tmp_path, **first) == ["2.0", "0"]
    assert printed(tmp_path, **first) == ["2.0", "1"]
    assert printed(tmp_path, **{**first, "name": "PairB"}) == ["2.0", "0"]  # of a file of the same size


def test_the_cache_is_that_of_all_modules_of_the_folder(tmp_path):
    """A loop takes the fields of a NamedTuple by their place, which another module may change."""
    shutil.copy(compiled.__file__, tmp_path / "compiled.py")
    (tmp_path / "loops.py").write_text(
        "from compiled import jit\nfrom pair import Pair\n"
        "@jit\ndef second(pair):\n    return pair.b\n"
        "print(second(Pair(a=1.0, b=2.0)), sum(second.stats.cache_hits.values()))\n"
    )
    for fields in ("a: float\n    b: float", "b: float\n    a: float"):
        (tmp_path / "pair.py").write_text(f"from typing import NamedTuple\nclass Pair(NamedTuple):\n    {fields}\n")
        done = subprocess.run(
            [sys.executable, "-B", "-c", "import loops"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout.split() == ["2.0", "0"], done.stderr
