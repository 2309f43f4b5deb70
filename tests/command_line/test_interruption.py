"""
A run that is stopped, at any moment and in any way: earlier output files are whole, and a re-run succeeds.

Stopped by a signal that can be caught, it leaves nothing else behind; by one that can't, the next run clears it away.
A full disk, a folder that goes, input that goes: one sentence, and every file as it was.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison import content, results

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line import postrefine
from dials_postrefine.programs import postrefine as program
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = [pytest.mark.dials, pytest.mark.slow]

PAIR = ["stills.expt", "stills.refl"]
LOG, JSON = "dials.postrefine.log", "dials.postrefine.json"
TABLES = ("postrefined.refl", "postrefined.expt")
RESULTS = (JSON, *TABLES)
OUTPUTS = (LOG, *RESULTS)
# to draw the report takes longer than all the rest
ARGUMENTS = [*PAIR, "n_cycles=2", "output.html=None"]
ENDLESS = [*PAIR, "n_cycles=1000000", "convergence=0", "output.html=None"]
WORDS = {signal.SIGINT: "Interrupted.\n", signal.SIGTERM: "Terminated.\n", signal.SIGHUP: "Hung up.\n"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interruption")
    write_stills(simulate_stills(StillsOptions(n_lattices=8, seed=1, d_min=3.0)), str(folder / "stills"))
    for name in OUTPUTS:
        (folder / name).write_text(f"{name} of an earlier run\n")
    return folder


@pytest.fixture
def folder(simulated, tmp_path, monkeypatch) -> Path:
    shutil.copytree(simulated, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def uninterrupted(simulated, tmp_path_factory) -> tuple[dict[str, bytes], float]:
    """The tables that a whole run writes, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    shutil.copytree(simulated, folder)
    start = time.monotonic()
    program = begin(ARGUMENTS, folder)
    assert program.communicate()[1] == "" and program.returncode == 0
    return {name: content(folder / name) for name in TABLES}, time.monotonic() - start


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: content_if_whole(path) for path in folder.iterdir()}


def content_if_whole(path: Path) -> bytes:
    try:
        return content(path)
    except ValueError:  # the text of an earlier run, or a file that was cut off
        return path.read_bytes()


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".part-*"))


def begin(arguments, folder: Path, ignored=(), limit=lambda: None, **options) -> subprocess.Popen:
    """The program as a process, in a session (and process group) of its own, that ignores some signals."""

    def prepare():
        limit()
        for number in WORDS:  # a shell that runs the tests in the background lets them, and the program, ignore Ctrl-C
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "dials_postrefine.command_line.postrefine", *arguments],
        cwd=folder,
        stdout=options.pop("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


@contextlib.contextmanager
def ended(program: subprocess.Popen):
    """Whatever goes wrong in the block, no process of the program stays."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        program.stderr.close()


def wait_until(condition, program: subprocess.Popen, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and program.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def no_process_is_left(group: int) -> bool:
    """Wait for it; the workers of a process that was killed end by themselves."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def is_refining(folder: Path) -> bool:
    return "usable observations" in (folder / LOG).read_text()  # live, under its own name


# Signals


@pytest.mark.parametrize("nproc", [1, 2])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "parent"])  # as terminals and SLURM do, or `kill`
@pytest.mark.parametrize("number", WORDS)
def test_a_signal_leaves_all_files_alone_and_no_process(folder, number, to_all, nproc):
    before = results(folder)
    program = begin([*ENDLESS, f"nproc={nproc}"], folder)
    with ended(program):
        wait_until(lambda: is_refining(folder), program)
        time.sleep(0.3)
        (os.killpg if to_all else os.kill)(program.pid, number)
        _, errors = program.communicate(timeout=30)
        assert no_process_is_left(program.pid)
    assert errors == WORDS[number]
    assert program.returncode == 128 + number
    assert results(folder) == before


def test_ignored_signals_stay_ignored(folder):
    """As under nohup."""
    program = begin([*ARGUMENTS, "nproc=2"], folder, ignored=[signal.SIGHUP])
    with ended(program):
        wait_until(lambda: is_refining(folder), program)
        os.killpg(program.pid, signal.SIGHUP)
        assert program.communicate(timeout=60)[1] == ""
    assert program.returncode == 0 and not parts(folder)


def check_after_kill(folder: Path, program, number: int, errors: str, earlier, whole) -> None:
    after = snapshot(folder)
    for name in TABLES:
        assert after[name] in (earlier[name], whole[name]), f"{name} is neither old nor new"
    new = {name: after[name] != earlier[name] for name in RESULTS}
    if number != signal.SIGKILL:
        assert not parts(folder)
        assert len(set(new.values())) == 1, new
    if program.returncode == 0:
        assert errors == "" and all(new.values())
    elif program.returncode == -number:  # killed; or the program had not begun, or was over, and only Python was there
        assert number == signal.SIGKILL or len(set(new.values())) == 1
    else:
        assert program.returncode == 128 + number and errors == WORDS[number]
        if after[LOG] != earlier[LOG]:  # it stays, and says what ended the run
            assert after[LOG].decode().endswith(WORDS[number])
    assert after[JSON] == earlier[JSON] or after[JSON].endswith(b"}")
    assert not after[LOG] or after[LOG].endswith(b"\n")


def check_rerun(folder: Path, whole) -> None:
    """It succeeds, and what a killed run has left is gone."""
    program = begin([*ARGUMENTS, "nproc=1"], folder)
    assert program.communicate()[1] == "" and program.returncode == 0
    assert not parts(folder)
    assert {name: content(folder / name) for name in TABLES} == whole
    experiments = ExperimentList.from_file(str(folder / TABLES[1]), check_format=False)
    flex.reflection_table.from_file(str(folder / TABLES[0])).assert_experiment_identifiers_are_consistent(experiments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("written", RESULTS)
def test_a_signal_as_soon_as_a_file_is_being_written(folder, uninterrupted, number, written):
    earlier, (whole, _) = snapshot(folder), uninterrupted
    program = begin([*ARGUMENTS, "nproc=1"], folder)
    with ended(program):
        wait_until(lambda: any(name.endswith(f"-{written}") for name in parts(folder)), program)
        program.send_signal(number)
        _, errors = program.communicate(timeout=30)
    check_after_kill(folder, program, number, errors, earlier, whole)
    if number == signal.SIGKILL:
        check_rerun(folder, whole)


def test_signals_at_random_moments(folder, uninterrupted):
    earlier, (whole, seconds) = snapshot(folder), uninterrupted
    rng = random.Random(1)
    for i in range(12):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[i % 3]
        delay = seconds * (1.0 - (rng.random() if i % 2 else 0.5 * rng.random()))  # start-up is half of it
        program = begin([*ARGUMENTS, f"nproc={1 + i // 3 % 2}"], folder)
        with ended(program):
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if i % 4 else os.kill)(program.pid, number)
            _, errors = program.communicate(timeout=30)
            assert no_process_is_left(program.pid)
        check_after_kill(folder, program, number, errors, earlier, whole)
        for name in OUTPUTS:
            (folder / name).write_bytes(earlier[name])
    check_rerun(folder, whole)


# What the system refuses


def limit_files(n: int):
    def limit() -> None:  # Python ignores the signal SIGXFSZ, and a write beyond the limit fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))

    return limit


@pytest.mark.parametrize("which", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_full_disk_is_a_sentence(folder, uninterrupted, which):
    """The disk is full at a fraction of the table, which is the largest file."""
    before = results(folder)
    n = int(which * len(uninterrupted[0]["postrefined.refl"]))
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}  # of joblib and numba, where there are no semaphores
    program = begin([*ARGUMENTS, "nproc=1"], folder, limit=limit_files(n), env=env)
    errors = program.communicate()[1]
    assert program.returncode == 1
    assert errors.startswith("Sorry: ") and errors.count("\n") == 1
    assert errors.endswith("could not be written (no space left): no output file was changed.\n"), errors
    assert results(folder) == before


@pytest.mark.parametrize("output", ["log", "json", "reflections"])
def test_a_full_device_is_a_sentence(folder, output):
    before = results(folder)
    program = begin([*ARGUMENTS, "nproc=1", f"output.{output}=/dev/full"], folder)
    errors = program.communicate()[1]
    assert program.returncode == 1
    assert errors.startswith("Sorry: ") and errors.count("\n") == 1
    assert errors.endswith("could not be written (no space left): no output file was changed.\n"), errors
    assert results(folder) == before


def test_standard_output_on_a_full_disk_is_a_sentence(folder):
    before = results(folder)
    with open("/dev/full", "w") as full:
        program = begin([*ARGUMENTS, "nproc=1"], folder, stdout=full)
        errors = program.communicate()[1]
    assert program.returncode == 1
    assert errors == "Sorry: The output could not be written (no space left): no output file was changed.\n"
    assert results(folder) == before


def test_a_standard_output_that_nobody_reads_does_not_matter(folder, uninterrupted):
    program = begin([*ARGUMENTS, "nproc=1"], folder, stdout=subprocess.PIPE)
    program.stdout.close()
    errors = program.stderr.read()
    assert program.wait() == 0 and errors == ""
    assert {name: content(folder / name) for name in TABLES} == uninterrupted[0]


@pytest.fixture
def refused(folder, monkeypatch):
    """A function: the sentence of a run in this process, before which a function that the program calls is replaced."""

    def refuse(name: str, before, *arguments: str) -> str:
        function = getattr(program, name)

        def replacement(*args, **kwargs):
            before()
            return function(*args, **kwargs)

        monkeypatch.setattr(program, name, replacement)
        with pytest.raises(SystemExit) as stop:
            postrefine.run([*ARGUMENTS, "nproc=1", "output.log=None", *arguments])
        message = stop.value.code
        assert isinstance(message, str) and message.startswith("Sorry: ") and message.endswith(".")
        assert "\n" not in message
        return message

    return refuse


def test_an_output_folder_that_is_gone_when_the_files_are_written(folder, refused):
    os.mkdir("sub")
    before = snapshot_of_files(folder)
    message = refused("apply_result", lambda: shutil.rmtree("sub"), "output.reflections=sub/out.refl")
    assert "sub/out.refl could not be written (no such file or directory)" in message
    assert snapshot_of_files(folder) == before


def test_an_output_folder_that_is_another_one_when_the_files_are_renamed(folder, refused):
    os.mkdir("sub")

    def exchange():
        Path("sub", "gone").touch()
        shutil.rmtree("sub")
        os.mkdir("sub")

    before = snapshot_of_files(folder)
    message = refused("apply_result", exchange, "output.json=sub/out.json")
    assert "sub/out.json could not be written (no such file or directory)" in message
    assert snapshot_of_files(folder) == before and not os.listdir("sub")


def snapshot_of_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", PAIR)
def test_input_that_is_gone_before_it_is_read(folder, refused, name):
    message = refused("read_stills", lambda: os.remove(name))
    assert f"{name} does not exist" in message


def test_input_that_is_gone_after_it_was_read_is_not_needed(folder, uninterrupted, monkeypatch):
    read = program.read_stills

    def read_and_remove(*args, **kwargs):
        files = read(*args, **kwargs)
        for name in PAIR:
            os.remove(name)
        return files

    monkeypatch.setattr(program, "read_stills", read_and_remove)
    postrefine.run([*ARGUMENTS, "nproc=1", "output.log=None"])
    assert {name: content(Path(name)) for name in TABLES} == uninterrupted[0]
