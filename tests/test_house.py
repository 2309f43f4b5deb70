"""
The house: which room may import which, and how long and how named things are, read from the source.

Imports inside functions count like those on top.  What files need of algorithms is listed, and must still occur: who
mends one takes it off the list, and nobody adds one without being seen.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

PACKAGE = "dials_postrefine"
ROOT = Path(__file__).parent.parent / PACKAGE
ALGORITHMS = ("stills", "diffuse", "electron")
ABOVE = ("command_line", "programs", "settings", "scopes", "effects")
MOST_LINES = 60
ROOMS_OF_SHORT_FUNCTIONS = ("numerics", "scattering", *ALGORITHMS, "files", "report")

# room -> the rooms that it may import besides itself; a module at the top of the package is a room of its own
MAY_IMPORT = {
    "numerics": (),
    "scattering": ("numerics",),
    **dict.fromkeys(ALGORITHMS, ("numerics", "scattering")),
}
# room -> rooms that it must not import
MUST_NOT_IMPORT = {
    "report": ("files", *ABOVE),
    "files": ("report", *ABOVE),
}
# What files need of algorithms when they run, module by module: records of an algorithm, which files fill, write and
# read back, and the error that a reader raises.  Classes of what files are handed over may be named in annotations.
FILES_NEED = {
    ("files.images.pixels", "diffuse"),  # BadImage
    ("files.images.bragg_peaks", "diffuse.map.series"),  # Peaks
    ("files.maps.sums", "diffuse.map.columns"),
    ("files.maps.sums", "diffuse.map.grid"),  # a grid is read from its parameters
    ("files.maps.sums", "diffuse.map.records"),
    # which atoms scatter is for scattering to say, which of a file's don't for its reader
    ("files.reference.atomic_models", "scattering.form_factors"),
}
MOST_ARGUMENTS = 7
LONGEST_MODULE = 500
MOST_SHARED_LINES = 8
ARRAYS = {"ndarray", "NDArray", "ArrayLike"}


def text_of(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def modules() -> dict[str, ast.Module]:
    """The modules by dotted name within the package; of a folder the name is that of its __init__.py."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(tree: ast.Module, known: set[str], for_types: bool) -> set[str]:
    """The modules of the package that a module imports, anywhere in it; for_types: also those for annotations alone."""
    found, skipped = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            skipped |= {id(one) for statement in node.body for one in ast.walk(statement)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package, and none is relative"
            # what is imported from a folder may be a module, or something in its __init__.py
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix(f"{PACKAGE}.") in known else node.module for name in names]
        else:
            continue
        found |= {
            name.removeprefix(PACKAGE).removeprefix(".") for name in names if f"{name}.".startswith(f"{PACKAGE}.")
        }
    return found


@lru_cache
def graph(for_types: bool = True) -> dict[str, set[str]]:
    trees = modules()
    return {name: imports_of(tree, set(trees), for_types) - {name} for name, tree in trees.items()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def is_forbidden(module: str, imported: str) -> bool:
    room, other = room_of(module), room_of(imported)
    if room == other or not imported:
        return False
    return other in MUST_NOT_IMPORT.get(room, ()) or (room in MAY_IMPORT and other not in MAY_IMPORT[room])


def forbidden_imports() -> set[tuple[str, str]]:
    return {(name, other) for name, imported in graph().items() for other in imported if is_forbidden(name, other)}


def functions() -> dict[tuple[str, str], int]:
    """The lines of each function but for its docstring, by module and name, of several of one name the most."""
    found: dict[tuple[str, str], int] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree) if room_of(name) in ROOMS_OF_SHORT_FUNCTIONS else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                n = node.end_lineno - node.lineno + 1 - _lines_of_docstring(node)
                found[name, node.name] = max(n, found.get((name, node.name), 0))
    return found


def _lines_of_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return 0 if ast.get_docstring(node) is None else first.end_lineno - first.lineno + 1


def test_the_source_is_read_as_it_is():
    """The test itself: it sees what is certainly there."""
    found = graph()
    assert "numerics.robust" in found["numerics.sandwich"]  # on top
    assert "files.dials.symmetry" in found["files.maps.writing"]  # inside a function
    assert {"diffuse", "diffuse.map.rejection"} <= set(found["diffuse.map.mapping"])  # from a folder
    assert "diffuse.map.merging" in found["files.maps.nexus"]  # for annotations
    assert "diffuse.map.merging" not in graph(for_types=False)["files.maps.nexus"]
    assert is_forbidden("stills.x", "electron.y") and is_forbidden("numerics.x", "log")
    assert not is_forbidden("stills.x", "numerics.y") and not is_forbidden("command_line.x", "files.y")
    assert functions()[("numerics.shells", "resolution_range")] == 2


@pytest.mark.parametrize("room", [*MAY_IMPORT, *MUST_NOT_IMPORT])
def test_rooms_import_only_what_they_may(room):
    wrong = {pair for pair in forbidden_imports() if room_of(pair[0]) == room}
    assert not wrong, "\n".join(f"{module} must not import {other}" for module, other in sorted(wrong))


def test_the_report_of_a_program_needs_no_other_one():
    """But what several share, in report.common."""
    found = {
        (name, other)
        for name, imported in graph().items()
        for other in imported
        if name.startswith("report.") and other.startswith("report.")
        if other.split(".")[1] not in (name.split(".")[1], "common")
    }
    assert not found
    of_algorithms = {
        other for name, imported in graph().items() if name.startswith("report.common") for other in imported
    }
    assert not {room_of(other) for other in of_algorithms} & {*ALGORITHMS, "scattering", "files"}


def test_files_run_no_algorithm():
    """But for what is listed, and still occurs."""
    found = {
        (name, other)
        for name, imported in graph(for_types=False).items()
        for other in imported
        if room_of(name) == "files" and room_of(other) in (*ALGORITHMS, "scattering")
    }
    wrong = found - FILES_NEED
    assert not wrong, "\n".join(f"{module} must not import {other}" for module, other in sorted(wrong))
    assert not FILES_NEED - found, "mended: take it off the list"


def test_no_module_is_too_long():
    long = {}
    for name in modules():
        n = len(text_of(name).splitlines())
        if n > LONGEST_MODULE:
            long[name] = n
    assert not long, f"more than {LONGEST_MODULE} lines: {long}"


def test_no_module_imports_itself_in_a_circle():
    imported = graph(for_types=False)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(imported[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in imported:
        visit(name, ())


def test_a_name_means_one_class():
    """But for groups of parameters, which are called as what they are made into."""
    trees = [tree for name, tree in modules().items() if room_of(name) != "settings"]
    classes = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not [name for name, n in classes.items() if n > 1 and not name.startswith("_")]


def test_no_function_is_too_long():
    long = {name: n for name, n in functions().items() if n > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {long}"


def arguments() -> dict[tuple[str, str], int]:
    """How many arguments each function takes, self apart, by module and name, of several of one name the most."""
    found: dict[tuple[str, str], int] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                n = len([one for one in every if one.arg not in ("self", "cls")])
                found[name, node.name] = max(n, found.get((name, node.name), 0))
    return found


def test_no_function_has_many_arguments():
    found = arguments()
    assert found["numerics.shells", "resolution_range"] == 2
    many = {name: n for name, n in found.items() if n > MOST_ARGUMENTS}
    assert not many, f"more than {MOST_ARGUMENTS} arguments: {many}"


def fields_that_may_be_no_array(tree: ast.AST) -> list[str]:
    """The fields of classes that are said to be arrays or None, or said to be arrays and None by default."""
    found = []
    for kind in ast.walk(tree):
        for node in ast.walk(kind) if isinstance(kind, ast.ClassDef) else ():
            of_self = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute)
            if not (of_self or (isinstance(node, ast.AnnAssign) and node in kind.body)):
                continue
            words = set(re.findall(r"\w+", ast.unparse(node.annotation)))
            default = set(re.findall(r"\w+", ast.unparse(node.value))) if node.value is not None else set()
            if words & ARRAYS and ({"None", "Optional"} & words or "None" in default):
                found.append(f"{kind.name}.{ast.unparse(node.target)}")
    return found


def test_no_field_is_an_array_or_none():
    """What may be absent is a type of its own, which is there or not as a whole; a number that is unknown is NaN."""
    example = """
class A:
    x: np.ndarray
    y: "np.ndarray | None"
    z: Optional[NDArray] = None
    v: np.ndarray = field(default=None)
    n: int | None = None
    def __init__(self):
        self.w: np.ndarray | None = None
        local: np.ndarray | None = None
"""
    assert fields_that_may_be_no_array(ast.parse(example)) == ["A.y", "A.z", "A.v", "A.self.w"]
    found = {name: fields for name, tree in modules().items() if (fields := fields_that_may_be_no_array(tree))}
    assert not found


def lines_of_code(function: ast.FunctionDef, source: list[str]) -> list[tuple[int, str]]:
    """The lines of a function that do something, by number: no docstrings, imports, comments or brackets alone."""
    skipped: set[int] = set()
    for node in ast.walk(function):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    numbers = (k for k in range(function.body[0].lineno, function.end_lineno + 1) if k not in skipped)
    lines = ((k, source[k - 1].split("  #")[0].strip()) for k in numbers)
    return [(k, line) for k, line in lines if not line.startswith("#") and re.search(r"\w", line)]


def without_names(lines: list[str]) -> str:
    """Lines of code in which names are numbered as they come up: what is the same but for names is the same."""
    numbers: dict[str, str] = {}

    def number(found: re.Match) -> str:
        name = found[0]
        return name if keyword.iskeyword(name) else numbers.setdefault(name, f"_{len(numbers)}")

    return "\n".join(re.sub(r"(?<![.\w])[A-Za-z_]\w*", number, line) for line in lines)


def standing_twice(sources: dict[str, str]) -> list[list[str]]:
    """Where more than MOST_SHARED_LINES lines of code in a row stand that stand elsewhere, too, names apart."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for module, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = lines_of_code(node, text.splitlines())
                for k in range(len(lines) - MOST_SHARED_LINES):
                    run = without_names([line for _, line in lines[k : k + MOST_SHARED_LINES + 1]])
                    place = module, lines[k][0]  # of a function within another one the same
                    found.setdefault(run, {})[place] = f"{module}.{node.name}"
    return [list(where.values()) for where in found.values() if len(where) > 1]


def test_no_logic_stands_twice():
    steps = "    a = f(x)\n" + "".join(f"    a += {k} * y[{k}]\n" for k in range(MOST_SHARED_LINES)) + "    return a\n"
    one, other = f"def one(x, y):\n{steps}", f"def other(u, v):\n{steps}".replace("x", "u").replace("y", "v")
    assert standing_twice({"m": one, "n": other.replace("a ", "b ")}) == [["m.one", "n.other"]]
    assert not standing_twice({"m": one, "n": other.replace("a += 4", "a -= 4")})
    found = standing_twice({name: text_of(name) for name in modules()})
    assert not found


def names_in(tree: ast.Module) -> Counter:
    """How often each name is used, or is a text, but not where it is defined or imported."""
    used = (
        getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute, ast.Constant))
    )
    return Counter(name for name in used if isinstance(name, str))


ENGINES = ("electron.bloch",)  # called from Python: no program has it yet


def test_no_function_is_for_tests_alone():
    """What only tests use stands with them; benchmarks measure the package, and simulate/ is for both."""
    benchmarks = [ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.parent.glob("benchmarks/*.py")]
    used = sum((names_in(tree) for tree in [*modules().values(), *benchmarks]), Counter())
    assert used["resolution_range"] and not used["test_no_function_is_for_tests_alone"]
    unused = {
        f"{name}.{node.name}"
        for name, tree in modules().items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not used[node.name]
        and not name.startswith(("simulate", *ENGINES))
    }
    assert not unused


ROOMS_WITH_SECTIONS = ("numerics", "scattering", *ALGORITHMS)


def missing_sections(tree: ast.Module) -> list[str]:
    """The public functions whose docstrings do not list what they take, or what they give."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            text, arguments = ast.get_docstring(node) or "", node.args
            takes = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            gives = node.returns is not None and ast.unparse(node.returns) != "None"
            if takes and "Parameters\n---" not in text:
                found.append(f"{node.name}: Parameters")
            if gives and not re.search(r"(Returns|Yields)\n---", text):
                found.append(f"{node.name}: Returns")
    return found


def test_public_functions_of_algorithms_list_what_they_take_and_give():
    example = (
        'def f(x) -> int:\n    """F.\n\n    Parameters\n    ----------\n    x : int\n    """\ndef _g(x) -> int: pass\n'
    )
    assert missing_sections(ast.parse(example)) == ["f: Returns"]
    assert missing_sections(ast.parse("def h(x): pass")) == ["h: Parameters"]
    found = {
        name: functions
        for name, tree in modules().items()
        if room_of(name) in ROOMS_WITH_SECTIONS and (functions := missing_sections(tree))
    }
    assert not found
