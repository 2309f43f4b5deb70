"""The cache of compiled loops: it is used, and what another version of the package has left in it does no harm."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dials_postrefine
from dials_postrefine.numerics import compiled

PACKAGE = Path(dials_postrefine.__file__).parent

LOOPS = """
from typing import NamedTuple
import numpy as np
from compiled import compiler
jit = compiler("compiled")
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


@pytest.mark.parametrize("package", [False, True], ids=["module", "package"])
def test_the_cache_ends_with_any_module_that_is_named(tmp_path, package):
    """A loop takes the fields of a NamedTuple by their place, which another module may change."""
    if package:
        (tmp_path / "pairs").mkdir()
        (tmp_path / "pairs" / "__init__.py").touch()
    where, named, home = ("pairs.pair", "pairs", tmp_path / "pairs") if package else ("pair", "pair", tmp_path)
    shutil.copy(compiled.__file__, tmp_path / "compiled.py")
    (tmp_path / "loops.py").write_text(
        f"from compiled import compiler\nfrom {where} import Pair\njit = compiler({named!r})\n"
        "@jit\ndef second(pair):\n    return pair.b\n"
        "print(second(Pair(a=1.0, b=2.0)), sum(second.stats.cache_hits.values()))\n"
    )
    for fields in ("a: float\n    b: float", "b: float\n    a: float"):
        (home / "pair.py").write_text(f"from typing import NamedTuple\nclass Pair(NamedTuple):\n    {fields}\n")
        done = subprocess.run(
            [sys.executable, "-B", "-c", "import loops"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout.split() == ["2.0", "0"], done.stderr


def compiling_modules() -> list[Path]:
    """The modules of the package that call the compiler."""
    return [path for path in PACKAGE.rglob("*.py") if "= compiler(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", compiling_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_with_loops_names_all_that_it_imports(path):
    """Whatever of another module is in a compiled loop, its cache must not be used when that module changes."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {
        f"{node.module}.{alias.name}" if find_spec_or_none(f"{node.module}.{alias.name}") else node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name + ".")
        for alias in node.names
    }
    named = {
        argument.value
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "compiler"
        for argument in node.args
    }
    covered = {name for name in imported if name in named or name.rpartition(".")[0] in named}
    assert imported - covered - {"dials_postrefine.numerics.compiled"} == set()


def find_spec_or_none(name: str):
    """The spec of a module, None of what is none."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
