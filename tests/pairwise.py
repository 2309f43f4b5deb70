"""
All pairs of a program's options: a table of few runs in which every two values of every two options occur together.

Two options that are right alone can be wrong together.  A test that runs this table on data of known truth finds that,
and as the table is made from the PHIL scope itself, a new option can't be forgotten: `factors` raises for an option
that is neither in the table nor in the list of those that change no number.  In a test module::

    from pairwise import all_pairs, factors, value_of

    # what stands in the table: choices and bools are taken from the scope with all of their values, others are given
    VARIED = {"reject.n_sigma": ("None", "6"), "grid.subdivide": ("1,1,1", "2,3,2")}
    # the default alone, and why that is enough
    CONSTANT = {"nproc": "test_the_number_of_processes_changes_no_bit", "output.*": "names of files", "input.*": "data"}
    # values of a choice that this data can't have, and why
    LEFT_OUT = {"scale.model=from_refl": "test_scales_of_reflections"}
    # refused together, and why
    FORBIDDEN = {("grid.frame=cartesian", "half_sets=friedel"): "the program says so"}

    FACTORS = factors(load("diffuse_map"), VARIED, CONSTANT, LEFT_OUT)
    ROWS = all_pairs(FACTORS, FORBIDDEN)

    @pytest.mark.parametrize("row", ROWS, ids=" ".join)
    def test_every_pair_of_options(row):
        run([path_of_the_data, *row])       # row: ["reject.n_sigma=6", "grid.subdivide=1,1,1", ...]
        ...                                 # mean, pulls, completeness against the truth

Values are text, as on the command line.  A pattern `scope.*` in CONSTANT stands for all options of that scope.  `check`
tells whether rows really have all pairs.  pyproject.toml has `pythonpath = ["tests"]`, so that tests can import this.

The table is found greedily (after Cohen, Dalal, Fredman & Patton, IEEE Trans. Softw. Eng. 1997, 23, 437): a row begins
with a pair that is missing and takes, option by option, the value that adds most of the missing pairs.  No chance is
involved; the number of rows is about the product of the two longest lists of values, times a logarithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations, product


def leaves(scope) -> dict[str, tuple[str, ...] | None]:
    """Every option of a PHIL scope by its path, with all the values of a choice or a bool, None for other types."""
    found: dict[str, tuple[str, ...] | None] = {}
    for definition in scope.all_definitions():
        kind = definition.object.type.phil_type
        values = None
        if kind == "bool":
            values = ("False", "True")
        elif kind == "choice" and not definition.object.type.multi:
            values = tuple(word.value.lstrip("*") for word in definition.object.words)
        found[definition.path] = values
    return found


def factors(
    scope,
    varied: Mapping[str, Sequence[str]] | None = None,
    constant: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """
    The options of the table and their values.

    varied: values by path, of options for which the scope has none (or in place of those it has); constant: reasons by
    path or pattern, of options that keep their default; left_out: reasons by "path=value".  Raises AssertionError for
    an option in neither or in both, for names that the scope does not have, for values of a choice that stand nowhere,
    and for a reason that is empty.
    """
    varied, constant, left_out = dict(varied or {}), dict(constant or {}), dict(left_out or {})
    known, found, used = leaves(scope), {}, set()
    for name, reason in (*constant.items(), *left_out.items()):
        assert reason.strip(), f"{name} has no reason"
    for path, values in known.items():
        patterns = [pattern for pattern in constant if fnmatchcase(path, pattern)]
        used.update(patterns)
        if path in varied:
            assert not patterns, f"{path} is both varied and constant"
            given = tuple(map(str, varied.pop(path)))
            forgotten = set(values or ()) - set(given) - {v for v in values or () if f"{path}={v}" in left_out}
            assert not forgotten, f"{path} is never {', '.join(sorted(forgotten))}"
        elif patterns:
            continue
        else:
            assert values, f"{path} is neither in the table nor among the options that change no number"
            given = tuple(value for value in values if f"{path}={value}" not in left_out)
        assert len(given) > 1 and len(set(given)) == len(given), f"{path} needs two different values: {given}"
        found[path] = given
    assert not varied, f"the scope has no {', '.join(varied)}"
    unused = set(constant) - used
    assert not unused, f"the scope has no {', '.join(sorted(unused))}"
    for name in left_out:
        path, value = name.split("=", 1)
        assert path in found and value in (known[path] or ()), f"{name} is no value of a choice in the table"
    return found


def all_pairs(factors: Mapping[str, Sequence[str]], forbidden: Iterable[tuple[str, str]] = ()) -> list[tuple[str, ...]]:
    """
    Rows ("path=value", ...) in which every two values of every two factors stand together, but for the pairs forbidden
    (a mapping from pairs to reasons will do).

    Raises AssertionError for a forbidden pair that does not exist, or where a row can't be filled.
    """
    forbidden = {frozenset(pair) for pair in forbidden}
    columns = [[f"{path}={value}" for value in values] for path, values in factors.items()]
    every = {item for column in columns for item in column}
    assert all(pair <= every and len(pair) == 2 for pair in forbidden), "a forbidden pair is not in the table"
    missing = {
        frozenset(pair): None
        for one, other in combinations(columns, 2)
        for pair in product(one, other)
        if frozenset(pair) not in forbidden
    }
    rows = []
    while missing:
        row = sorted(next(iter(missing)))
        open_columns = [column for column in columns if not set(column) & set(row)]
        while open_columns:
            # the column that has least left goes first, lest it has nothing left later
            ways = [
                [item for item in column if not any(frozenset((item, other)) in forbidden for other in row)]
                for column in open_columns
            ]
            gains = [
                [sum(frozenset((item, other)) in missing for other in row) for item in allowed] for allowed in ways
            ]
            assert all(ways), f"no value of {open_columns[[*map(bool, ways)].index(False)]} goes with {row}"
            best = max(range(len(ways)), key=lambda k: (len(ways[k]) < len(open_columns[k]), max(gains[k]), -k))
            row.append(ways[best][gains[best].index(max(gains[best]))])
            del open_columns[best]
        for pair in combinations(row, 2):
            missing.pop(frozenset(pair), None)
        order = {item: number for number, column in enumerate(columns) for item in column}
        rows.append(tuple(sorted(row, key=order.__getitem__)))
    return rows


def check(
    rows: Iterable[Sequence[str]], factors: Mapping[str, Sequence[str]], forbidden: Iterable[tuple[str, str]] = ()
) -> None:
    """Raises AssertionError unless rows have every pair that is not forbidden, and none that is."""
    forbidden = {frozenset(pair) for pair in forbidden}
    columns = [[f"{path}={value}" for value in values] for path, values in factors.items()]
    wanted = {frozenset(pair) for one, other in combinations(columns, 2) for pair in product(one, other)} - forbidden
    found = {frozenset(pair) for row in rows for pair in combinations(row, 2)}
    assert found == wanted, (
        f"missing {sorted(map(sorted, wanted - found))}, too many {sorted(map(sorted, found - wanted))}"
    )


def value_of(row: Sequence[str], path: str) -> str:
    """The value that a row gives an option."""
    return next(item.split("=", 1)[1] for item in row if item.split("=", 1)[0] == path)
