"""
Damaged input: a sentence or a correct run, whatever is in a file; never a traceback, a crash, a hang.

First the smallest damage of each kind that once did something else, then random damage for a bounded time, by the
means of benchmarks/fuzz_files.py, which goes on for as long as one likes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")
pytest.importorskip("hypothesis", reason="random damage is drawn, and made smaller, by hypothesis")

import hypothesis
from hypothesis import strategies as st

from cctbx import sgtbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.safety.guarded import ChildFailed, call_in_child
from dials_postrefine.files.safety.msgpack_structure import check_table

pytestmark = [pytest.mark.dials, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = 20  # of each kind of file; a third of a second each


def load_fuzz_files():
    spec = importlib.util.spec_from_file_location("fuzz_files", ROOT / "benchmarks" / "fuzz_files.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


fuzz_files = load_fuzz_files()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return fuzz_files.simulated_sample(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def real_sample(tmp_path_factory):
    shared = ROOT.parent / "shared" / "data"
    if not shared.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return fuzz_files.real_samples(shared, tmp_path_factory.mktemp("real"))[0]


@pytest.fixture
def run(sample):
    """A function: the outcome and message of a run with a file's content changed."""

    def run_changed(target: str, change) -> tuple[str, str]:
        path = sample.folder / target
        before = {found.name: found.read_bytes() for found in sample.folder.iterdir()}
        path.write_bytes(change(before[target]))
        try:
            return fuzz_files.run_limited(sample.folder, sample.arguments)
        finally:
            for name, content in before.items():
                (sample.folder / name).write_bytes(content)

    return run_changed


@pytest.fixture
def content(sample) -> bytes:
    return (sample.folder / "stills.refl").read_bytes()


def test_the_undamaged_files_run(sample, run):
    assert run("stills.refl", lambda content: content) == ("done", "")


# Reflection tables


def small_table() -> bytes:
    table = flex.reflection_table()
    table["d"] = flex.double(3, 1.0)
    table["id"] = flex.int(3, 0)
    table.experiment_identifiers()[0] = "still"
    return table.as_msgpack()


def test_a_table_of_dials_is_accepted(content):
    check_table(content)
    check_table(small_table())
    check_table(flex.reflection_table().as_msgpack())


def test_no_cut_table_is_accepted():
    table = small_table()
    for n in range(len(table)):
        with pytest.raises(ValueError):
            check_table(table[:n])
    with pytest.raises(ValueError, match="after the end"):
        check_table(table + b"\0")


def test_what_the_check_accepts_dials_reads_or_does_not_know():
    """Every bit of a small table flipped: what is accepted has columns of the same length, or a version or a type that
    DIALS does not know, and says so.
    """
    table, n_read = small_table(), 0
    for place in range(8 * len(table)):
        damaged = bytearray(table)
        damaged[place // 8] ^= 1 << place % 8
        try:
            check_table(bytes(damaged))
        except ValueError:
            continue
        try:
            assert flex.reflection_table.from_msgpack(bytes(damaged)).is_consistent()
            n_read += 1
        except RuntimeError as error:
            assert "version" in str(error) or "column" in str(error) or "type" in str(error), error
    assert n_read > 8 * 3 * 12  # at least all of the payload


def packed_table(version: int, kind: str, n: int, payload: bytes) -> bytes:
    """A table of one column, written here byte by byte."""

    def text(word: str) -> bytes:
        return b"\xd9" + bytes([len(word)]) + word.encode()

    column = b"\x92" + text(kind) + b"\x92" + bytes([n]) + b"\xc5" + len(payload).to_bytes(2, "big") + payload
    parts = text("identifiers") + b"\x80" + text("nrows") + bytes([n]) + text("data") + b"\x81" + text("a") + column
    return b"\x93" + text("dials::af::reflection_table") + bytes([version]) + b"\x83" + parts


def test_tables_of_the_newest_dials_are_accepted():
    """Version 2: a shoebox with data takes 4 + 1 + 4 bytes a pixel and says 2, and there are types of its own."""
    box = struct.pack("<I6iB", 0, 0, 3, 0, 4, 0, 1, 2) + bytes(9 * 12)
    check_table(packed_table(2, "Shoebox<>", 2, 2 * box))
    for wrong in (box[:-1], box + b"\0"):
        with pytest.raises(ValueError, match="shoebox"):
            check_table(packed_table(2, "Shoebox<>", 1, wrong))
    check_table(packed_table(2, "FrameSlicedShoebox<>", 3, bytes(50)))
    with pytest.raises(ValueError, match="FrameSlicedShoebox"):
        check_table(packed_table(2, "FrameSlicedShoebox<>", 60, bytes(50)))
    assert flex.reflection_table.from_msgpack(packed_table(1, "int", 2, bytes(8))).is_consistent()


def test_a_column_that_says_it_is_huge_costs_no_memory(content, run):
    """DIALS would allocate 8 TB, or with luck in the length all there is, before it looks for the numbers."""
    place = content.index(b"\xa6double\x92") + len(b"\xa6double\x92")
    assert content[place] == 0xCD  # two bytes of length follow
    huge = content[:place] + b"\xcf" + (1 << 40).to_bytes(8, "big") + content[place + 3 :]
    with pytest.raises(ValueError):
        check_table(huge)
    outcome, message = run("stills.refl", lambda _: huge)
    assert outcome == "sorry" and "can't be read as a reflection table" in message


def test_a_column_of_text_is_refused():
    """DIALS writes the memory of its strings, pointers and all, and follows them when it reads."""
    table = flex.reflection_table()
    table["name"] = flex.std_string(["x" * 100] * 3)
    with pytest.raises(ValueError, match="std::string"):
        check_table(table.as_msgpack())


def shoeboxes(n: int) -> flex.reflection_table:
    table = flex.reflection_table()
    table["shoebox"] = flex.shoebox(flex.size_t(n, 0), flex.int6(n, (0, 3, 0, 4, 0, 1)), allocate=True)
    return table


def test_shoeboxes_are_walked_through():
    whole = shoeboxes(5).as_msgpack()
    check_table(whole)
    bounds = struct.pack("<6i", 0, 3, 0, 4, 0, 1)
    assert whole.count(bounds) == 5
    for wrong in ((0, 2**31 - 1, 0, 2**31 - 1, 0, 1), (3, 0, 0, 4, 0, 1), (0, 2, 0, 4, 0, 1)):
        with pytest.raises(ValueError, match="shoebox"):
            check_table(whole.replace(bounds, struct.pack("<6i", *wrong), 1))
    empty = flex.reflection_table()
    empty["shoebox"] = flex.shoebox(flex.size_t(5, 0), flex.int6(5, (0, 3, 0, 4, 0, 1)))
    check_table(empty.as_msgpack())


def test_the_check_takes_no_time():
    """Milliseconds for a table of 100 MB: payloads are skipped."""
    table = flex.reflection_table()
    for i in range(12):
        table[f"d{i}"] = flex.double(1_000_000, 1.0)
    content = table.as_msgpack()
    start = time.perf_counter()
    check_table(content)
    assert time.perf_counter() - start < 0.05  # it was 0.3 ms


def test_a_pickled_table_is_read_and_a_damaged_one_named(sample, content, tmp_path):
    path = str(tmp_path / "pickled.refl")
    table = flex.reflection_table.from_msgpack(content)
    table.as_pickle(path)
    found = tables.read_table(path)
    assert sorted(found.keys()) == sorted(table.keys()) and (found["d"] == table["d"]).all_eq(True)
    assert dict(found.experiment_identifiers()) == dict(table.experiment_identifiers())
    whole = Path(path).read_bytes()
    for damaged in (whole[:-100], whole[:50], pickle.dumps([1]), pickle.dumps(Crash())):
        Path(path).write_bytes(damaged)
        with pytest.raises(Sorry, match="can't be read as a reflection table"):
            tables.read_table(path)


class Crash:
    """What kills the process that reads its pickle."""

    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("column", ["lp", "qe"])
@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e300, -1.0, np.inf])
def test_corrections_beyond_arithmetic_are_left_out(run, content, column, value):
    """They overflowed in the intensity, its variance or the weights."""

    def change(content):
        table = flex.reflection_table.from_msgpack(content)
        values = np.ones(len(table))
        values[::10] = value
        table[column] = flumpy.from_numpy(values)
        return table.as_msgpack()

    assert run("stills.refl", change) == ("done", "")


@pytest.mark.parametrize("reference", [True, False])
def test_intensities_of_next_to_nothing_are_left_out(sample, content, reference, monkeypatch):
    """The squares of their lattices' scales overflowed."""

    def change(content):
        table = flex.reflection_table.from_msgpack(content)
        values = flumpy.to_numpy(table["intensity.sum.value"])
        values[flumpy.to_numpy(table["id"]) < 2] *= 1e-300
        return table.as_msgpack()

    monkeypatch.setattr(sample, "arguments", [x for x in sample.arguments if reference or "reference=" not in x])
    (sample.folder / "stills.refl").write_bytes(change(content))
    try:
        assert fuzz_files.run_limited(sample.folder, sample.arguments) == ("done", "")
    finally:
        (sample.folder / "stills.refl").write_bytes(content)


@pytest.mark.parametrize("value", [1e300, np.inf, -1.0, np.nan])
def test_variances_of_the_partiality_beyond_arithmetic(run, value):
    def change(content):
        table = flex.reflection_table.from_msgpack(content)
        values = np.full(len(table), 0.01)
        values[::10] = value
        table["partiality.inv.variance"] = flumpy.from_numpy(values)
        return table.as_msgpack()

    assert run("stills.refl", change) == ("done", "")


def test_a_table_is_written_or_an_error_raised_wherever_the_disk_is_full(tmp_path):
    """The last kilobyte is written by a destructor in C++, which ends the process if that fails."""
    code = """
import resource, sys, dials_postrefine
from dials.array_family import flex
from dials_postrefine.files.dials.tables import write_table
table = flex.reflection_table()
table["d"] = flex.double(5000, 1.0)
whole = table.as_msgpack()
write_table(table, "a.refl")
assert open("a.refl", "rb").read() == whole
for n in [0, 1, 1000, 20000, *range(len(whole) - 1200, len(whole), 100), len(whole) - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
    try:
        write_table(table, "b.refl")
    except OSError:
        continue
    sys.exit(f"{n} bytes were enough")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_signal_waits_until_a_table_is_written(tmp_path):
    """Python's handler for it would raise in the destructor, or an earlier write whose exception C++ forgets."""
    code = """
import signal, dials_postrefine
from dials.array_family import flex
from dials_postrefine.executors.signals import signals_interrupt
from dials_postrefine.files.dials import tables
table = flex.reflection_table()
table["d"] = flex.double(300_000, 1.0)  # more than twice the buffer
write = tables._ErrorKeeper.write
for when in range(5):  # the last is the destructor's
    seen = []
    def interrupted(keeper, content):
        if len(seen) == when:
            signal.raise_signal(signal.SIGTERM)
        seen.append(len(content))
        write(keeper, content)
    tables._ErrorKeeper.write = interrupted
    try:
        with signals_interrupt():
            tables.write_table(table, "a.refl")
            print("not interrupted")
    except KeyboardInterrupt as error:
        print(len(seen), *error.args, sum(seen) == len(table.as_msgpack()) == len(open("a.refl", "rb").read()))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, encoding="utf-8")
    assert (ended.returncode, ended.stdout) == (0, "5 15 True\n" * 5)


# Experiments


def change_json(change):
    """A function for `run` that applies change to the parsed file."""

    def apply(content: bytes) -> bytes:
        whole = json.loads(content)
        change(whole)
        return json.dumps(whole).encode()

    return apply


def put(*path, value):
    def change(whole):
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = value

    return change_json(change)


NAN = float("nan")
PANEL = ("detector", 0, "panels", 0)
HIERARCHY = ("detector", 0, "hierarchy")
SCAN = {"image_range": [1, 2 * 10**9], "batch_offset": 0, "oscillation": [0, 0.1], "exposure_time": [0], "epochs": [0]}


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda _: b"[" * 100000 + b"]" * 100000, "can't be read"),
        (lambda _: b'{"a":' * 100000 + b"1" + b"}" * 100000, "can't be read"),
        (put("detector", 0, "panels", value=[]), "can't be read"),
        # can be read, and written, but not read again
        (put(*HIERARCHY, "fast_axis", value=[0.0, 0.0, 0.0]), "can't be read"),
        (put("scan", value=[SCAN]), "can't be read"),
        (put("crystal", 0, "real_space_b", value=[0.0, 0.0, 0.0]), "can't be read"),
        (put("experiment", 0, "crystal", value=10**30), "can't be read"),
        (put("experiment", 0, "identifier", value="\ud800"), "can't be read"),
        (put("beam", 0, "polarization_fraction", value=NAN), "impossible beam direction or polarisation"),
        (put("beam", 0, "polarization_fraction", value=5.0), "impossible beam direction or polarisation"),
        (put("beam", 0, "polarization_normal", value=[0.0, 0.0, 0.0]), "impossible beam direction or polarisation"),
        (put("beam", 0, "polarization_normal", value=[1e300, 1e300, 0.0]), "impossible beam direction or polarisation"),
        (put("beam", 0, "wavelength", value=1e-300), "impossible wavelength"),
        (put("beam", 0, "wavelength", value=1e-5), "impossible wavelength"),
    ],
)
def test_experiments_that_are_refused(run, change, words):
    outcome, message = run("stills.expt", change)
    assert outcome == "sorry" and words in message


@pytest.mark.parametrize(
    "change",
    [
        put(*PANEL, "pixel_size", value=[0.0, 0.0]),
        put(*PANEL, "pixel_size", value=[NAN, NAN]),
        put(*PANEL, "image_size", value=[2**31 - 1, 2**31 - 1]),
        put(*PANEL, "origin", value=[1e300] * 3),
        put("crystal", 0, "ML_half_mosaicity_deg", value=1e300),
    ],
)
def test_what_is_not_used_does_not_matter(run, change):
    assert run("stills.expt", change) == ("done", "")


def test_a_profile_model_that_can_not_be_written_is_refused(sample, tmp_path):
    whole = json.loads((sample.folder / "stills.expt").read_text())
    sigma = [[1e-7, 0.0, 0.0], [0.0, 1e-7, 0.0], [0.0, 0.0, 1e-7]]
    profile = {"__id__": "ellipsoid", "parameterisation": "angular4", "parameters": [1e-4] * 4, "sigma": sigma}
    whole["profile"] = [profile]
    whole["experiment"][0]["profile"] = 0
    path = tmp_path / "profile.expt"
    path.write_text(json.dumps(whole))
    models.read_experiments(str(path))
    profile["parameters"] = [1e-4]
    path.write_text(json.dumps(whole))
    with pytest.raises(Sorry, match="profile.expt can't be read as an experiment list"):
        models.read_experiments(str(path))


def test_a_set_of_all_indices_beyond_any_memory_is_refused():
    """One damaged index of electron diffraction stills is enough."""
    group = sgtbx.space_group_info("P1").group()
    with pytest.raises(Sorry, match="The data reach to 0.01 Angstrom"):
        models.complete_set((79.0, 79.0, 38.0, 90.0, 90.0, 90.0), group, 0.01, 40.0)


# References


def test_a_reader_that_crashes_hangs_or_eats_memory_ends_as_an_exception(tmp_path, monkeypatch):
    monkeypatch.setattr("dials_postrefine.files.safety.guarded.FREE_SECONDS", 0.2)
    path = tmp_path / "some.mtz"
    path.write_bytes(b"x")

    def refuse(path):
        raise Sorry("It is not so.")

    assert call_in_child(os.path.getsize, str(path)) == 1
    loop, sleep = (lambda _: [None for _ in iter(int, 1)]), (lambda _: time.sleep(100))
    for function in (lambda _: os.abort(), loop, sleep, lambda _: bytearray(1 << 40), lambda _: 1 / 0):
        with pytest.raises(ChildFailed):
            call_in_child(function, str(path))
    with pytest.raises(Sorry, match="It is not so."):
        call_in_child(refuse, str(path))


@pytest.mark.parametrize(
    "good, bad",
    [
        (b"SYMM X,  Y,  Z", b"SYMM X.  Y,  Z"),  # libccp4 never came back
        (b"DATASET       1 dataset", b"D[TASET       1 dataset"),  # a segmentation fault
        (b"COLUMN I ", b"COLUMN\x89I "),  # an abort
    ],
)
def test_one_byte_of_a_reference(run, monkeypatch, good, bad):
    monkeypatch.setattr("dials_postrefine.files.safety.guarded.FREE_SECONDS", 1.0)

    def change(content):
        assert good in content
        return content.replace(good, bad, 1)

    outcome, message = run("stills_truth.mtz", change)
    assert outcome == "sorry" and "stills_truth.mtz can't be read" in message


def test_a_reference_whose_reader_crashes_is_named(sample, monkeypatch):
    from dials_postrefine.files.reference import alignment as reference
    from dials_postrefine.files.reference import reflection_files

    monkeypatch.setattr(reflection_files, "_read_mtz", lambda path: os.abort())
    group = sgtbx.space_group_info("P43212").group()
    with pytest.raises(Sorry, match="stills_truth.mtz can't be read"):
        reference.read_reference(str(sample.folder / "stills_truth.mtz"), group, (79.0, 79.0, 38.0, 90.0, 90.0, 90.0))


# Random damage

FRACTIONS = st.floats(0.0, 1.0, width=32)


def damages(ending: str):
    """One to three, half of them near the beginning, where the headers are."""
    where = FRACTIONS | FRACTIONS.map(lambda x: x**6)
    one = st.builds(fuzz_files.Damage, st.sampled_from(fuzz_files.KINDS[ending]), where, FRACTIONS, st.integers(0, 999))
    return st.lists(one, min_size=1, max_size=3)


def check_random_damage(sample, target: str, n: int) -> None:
    @hypothesis.settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(damages(Path(target).suffix))
    def check(damage):
        outcome, message = fuzz_files.try_damaged(sample, target, damage)
        assert outcome != "finding", message

    check()


@pytest.mark.parametrize("target", ["stills.expt", "stills.refl", "stills_truth.mtz"])
def test_random_damage_to_simulated_stills(sample, target):
    check_random_damage(sample, target, EXAMPLES)


@pytest.mark.data
@pytest.mark.parametrize("target", ["stills.expt", "stills.refl"])
def test_random_damage_to_real_stills(real_sample, target):
    check_random_damage(real_sample, target, EXAMPLES // 2)
