"""Who imports whom on the way from the command line to the algorithms, and how long its modules and functions are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dials_postrefine"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
MODULES = [path for room in ("command_line", "programs", "settings") for path in sorted((PACKAGE / room).rglob("*.py"))]
MOST_LINES, MOST_ARGUMENTS = 60, 7


def rooms_imported(path: Path) -> set[str]:
    """The rooms of this package that a module imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("dials_postrefine.")}
    return found & ROOMS


def of_room(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_settings_imports_no_other_room():
    for path in of_room("settings"):
        assert rooms_imported(path) <= {"settings"}, path.name


def test_a_program_on_the_command_line_calls_its_program_and_nothing_else():
    for path in of_room("command_line"):
        if not path.name.startswith("_"):
            assert rooms_imported(path) <= {"command_line", "programs", "settings"}, path.name


def test_nobody_but_the_command_line_imports_programs():
    for room in ROOMS - {"command_line", "programs"}:
        for path in of_room(room):
            if path.name != "intensity_model.py":  # tests/test_house.py, IMPORT_EXCEPTIONS
                assert not rooms_imported(path) & {"programs", "command_line"}, path


def test_phil_is_known_to_settings_and_the_command_line_alone():
    for room in ROOMS - {"command_line", "settings"}:
        for path in of_room(room):
            assert "settings" not in rooms_imported(path) or room == "programs", path
            source = path.read_text(encoding="utf-8")
            assert "libtbx.phil" not in source and "iotbx.phil" not in source and "import Auto" not in source, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_function_is_long_or_has_many_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MOST_LINES, node.name
            arguments = node.args
            n = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            assert n <= MOST_ARGUMENTS, node.name


def test_the_programs_on_the_command_line_are_short():
    for path in of_room("command_line"):
        if not path.name.startswith("_"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES, path.name
