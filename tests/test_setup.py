"""The package as it is installed: its metadata, the way it finds cctbx, and what it says without DIALS."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import dials_postrefine

ROOT = Path(__file__).resolve().parent.parent


def run_python(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python with LIBTBX_BUILD unset, as a user's shell would, whatever this process has set by now."""
    env = {name: value for name, value in os.environ.items() if name != "LIBTBX_BUILD"}
    return subprocess.run(
        [sys.executable, *args], env={**env, **environment}, cwd=ROOT, capture_output=True, encoding="utf-8"
    )


def test_metadata_carries_the_version_of_the_package():
    assert metadata.version("dials_postrefine") == dials_postrefine.__version__


def test_every_program_has_a_console_script_and_every_script_a_program():
    scripts = {
        script.name: script.value
        for script in metadata.distribution("dials_postrefine").entry_points
        if script.group == "console_scripts"
    }
    programs = (ROOT / "dials_postrefine" / "command_line").glob("[!_]*.py")
    assert scripts == {f"dials.{path.stem}": f"dials_postrefine.command_line.{path.stem}:run" for path in programs}


def test_pip_is_asked_for_numpy_scipy_and_numba_only():
    required = [line for line in metadata.requires("dials_postrefine") if "extra ==" not in line]
    assert sorted(required) == ["coverage>=7", "numba", "numpy", "scipy"]  # coverage because of numba


@pytest.mark.cctbx
def test_cctbx_is_found_once_the_package_is_imported():
    done = run_python("-c", "import dials_postrefine; from cctbx import crystal; import dials.array_family.flex")
    assert done.returncode == 0, done.stderr


def test_a_libtbx_build_of_the_user_is_respected():
    done = run_python("-c", "import dials_postrefine, os; print(os.environ['LIBTBX_BUILD'])", LIBTBX_BUILD="/mine")
    assert done.stdout.strip() == "/mine", done.stderr


def test_importing_the_package_imports_neither_cctbx_nor_numpy():
    code = "import dials_postrefine, sys; print({'cctbx', 'libtbx', 'dials', 'dxtbx', 'numpy'} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == "set()"


@pytest.mark.parametrize("placeholder", [False, True], ids=["no dials", "placeholder of PyPI"])
def test_without_dials_the_import_names_both_ways_to_get_it(tmp_path, placeholder):
    if placeholder:
        (tmp_path / "dials").mkdir()
        (tmp_path / "dials" / "__init__.py").touch()
    # -S leaves site-packages out, and with it DIALS, be it Debian's or conda's
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import dials_postrefine"
    done = run_python("-I", "-S", "-c", code)
    assert done.returncode != 0
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("ImportError: dials_postrefine needs DIALS")
    assert "conda install -c conda-forge dials" in sentence
    assert "apt-get install dials" in sentence


@pytest.mark.dials
def test_programs_of_dials_run_beside_the_package(run_program, tmp_path):
    done = run_program("dials.version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DIALS")


def setup_constants() -> dict:
    """What setup.py assigns to names in capitals, which can't be imported without running it."""
    namespace: dict = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign):
            exec(compile(ast.Module([node], []), "setup.py", "exec"), namespace)
    return namespace


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, anywhere in it, by import statements or pytest.importorskip."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("importorskip", "import_module"):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return {name.split(".")[0] for name in found}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 has no list of its own modules")
def test_all_that_is_imported_is_declared_or_comes_with_dials():
    known = setup_constants()
    supplied = set(known["SUPPLIED_BY_DIALS"].split())

    def distributions(lines):
        names = {re.match(r"[A-Za-z0-9_.-]+", line).group().replace("-", "_") for line in lines}
        return names | ({"yaml"} if "pyyaml" in names else set())

    ours = {"dials_postrefine", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    declared = distributions(known["REQUIRED"]) | {"setuptools"}  # install_requires and build-system
    allowed = ours | declared | supplied | set(sys.stdlib_module_names)
    peers = ["abtem", "ase"]  # benchmarks/bloch.py runs them beside ours where they are installed
    with_mpi = [*known["TEST"], *known["MPI"]]
    extras = {"dials_postrefine": known["MPI"], "tests": with_mpi, "benchmarks": [*known["TEST"], *peers], "": []}
    seen = set()
    for folder, extra in extras.items():
        paths = (ROOT / folder).rglob("*.py") if folder else ROOT.glob("*.py")
        for path in paths:
            names = imported(path)
            assert names <= allowed | distributions(extra), (path, names - allowed - distributions(extra))
            seen |= names
    for name in supplied & seen - {"sklearn", "mrcfile", "xfel"}:  # which are optional
        assert importlib.util.find_spec(name), name


def test_the_licence_and_the_citation_are_complete():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License") and "the dials_postrefine authors" in text
    assert [line[:2] for line in text.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    top = dict(line.split(":", 1) for line in lines if line and not line[0].isspace())
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= set(top)
    assert top["version"].strip() == dials_postrefine.__version__ and top["license"].strip() == "BSD-3-Clause"
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed, which make test does")
    citation = yaml.safe_load("\n".join(lines))
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])


@pytest.mark.slow
def test_the_source_distribution_carries_licence_citation_and_parameters(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools, which makes the archive, is not part of this environment")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "demo"))
    code = f"import os, runpy, sys; os.chdir({str(checkout)!r}); sys.argv = ['setup.py', '-q', 'sdist']; "
    done = run_python("-c", code + "runpy.run_path('setup.py', run_name='__main__')")
    assert done.returncode == 0, done.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"LICENSE", "CITATION.cff", "README.rst", "setup.py", "doc/demo.png"}
    assert wanted | {path.relative_to(ROOT).as_posix() for path in (ROOT / "phil").glob("*.phil")} <= names


@pytest.mark.slow
def test_a_wheel_carries_the_phil_files_the_programs_and_the_template_of_the_report(tmp_path):
    # from a copy, as setuptools leaves a folder build/ where it builds and takes stale files from it the next time
    checkout = tmp_path / "checkout"
    for name in ("dials_postrefine", "phil"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    done = run_python("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout))
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    phil = {"dials_postrefine/" + path.relative_to(ROOT).as_posix() for path in ROOT.glob("phil/**/*.phil")}
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("dials_postrefine/**/*.py")}
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("dials_postrefine/**/*.html")}
    assert phil and phil <= names
    assert templates and templates <= names
    assert modules <= names
