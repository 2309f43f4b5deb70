"""The package as it is installed: its metadata, the way it finds cctbx, and what it says without DIALS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


def test_pip_is_asked_for_numpy_and_scipy_only():
    required = [line for line in metadata.requires("dials_postrefine") if "extra ==" not in line]
    assert sorted(required) == ["numpy", "scipy"]


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


@pytest.mark.slow
def test_a_wheel_carries_the_phil_files_the_programs_and_the_template_of_the_report(tmp_path):
    # from a copy, as setuptools leaves a folder build/ where it builds and takes stale files from it the next time
    checkout = tmp_path / "checkout"
    for name in ("dials_postrefine", "phil"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
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
