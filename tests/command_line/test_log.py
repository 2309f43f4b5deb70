"""What every run leaves that a person reads at three in the morning: a log that is there from the start, its header."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comparison import content

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials", reason="the programs need DIALS")

from dials.array_family import flex

from dials_postrefine import log
from dials_postrefine.command_line import exit_with_sorry, postrefine
from dials_postrefine.report.common.provenance import record_run
from dials_postrefine.simulate.disks import add_counts, silicon_pattern, true_intensity, write_pattern
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials

PROGRAMS = ["postrefine", "diffuse_map", "fine_refine", "image_spread", "intensity_model", "reference_intensities"]
# as few as can be postrefined in a second
STILLS = ["stills.expt", "stills.refl", "n_cycles=1", "nproc=1"]


@pytest.fixture(scope="module")
def stills(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    write_stills(simulate_stills(StillsOptions(n_lattices=8, seed=1, d_min=3.5)), str(folder / "stills"))
    return folder


@pytest.fixture
def folder(stills, tmp_path, monkeypatch) -> Path:
    shutil.copytree(stills, tmp_path / "with blank")
    monkeypatch.chdir(tmp_path / "with blank")
    return tmp_path / "with blank"


# The header


@pytest.fixture(scope="module")
def runs(stills, write_images, tmp_path_factory):
    """The command lines of all programs, by name, and a folder in which they can be run."""
    folder = tmp_path_factory.mktemp("runs")
    for path in stills.iterdir():
        shutil.copy(path, folder / f"my {path.name}")
    write_sweeps(simulate_sweeps(SweepOptions(n_images=30, n_crystals=2)), folder / "scaled")
    images = write_images()
    images.rename(images.with_name("the series.expt"))
    shutil.copytree(images.parent, folder, dirs_exist_ok=True)
    pattern = write_pattern(folder, add_counts(silicon_pattern(), true_intensity(), 1))[0]
    Path(pattern).rename(folder / "my pattern.npz")
    atom = "ATOM      1  N   ALA A   1      11.104   6.134   5.504  1.00 20.00           N\n"
    cell = "CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21\n"
    (folder / "my model.pdb").write_text(cell + atom)
    lines = {
        "postrefine": ["my stills.expt", "my stills.refl", "n_cycles=1", "nproc=1"],
        "diffuse_map": ["the series.expt", "d_min=4", "nproc=1"],
        "fine_refine": ["my pattern.npz", "silicon.cif"],
        "image_spread": ["scaled.expt", "scaled.refl", "match=laue"],
        "intensity_model": ["scaled.expt", "scaled.refl", "split=experiment", "trees.max_iter=3"],
        "reference_intensities": ["my model.pdb", "reference_model.d_min=4"],
    }
    return folder, lines


@pytest.mark.parametrize("program", PROGRAMS)
def test_log_json_and_page_begin_with_how_they_were_made(runs, run_program, program):
    folder, lines = runs
    arguments = [*lines[program], f"output.json={program}.json", f"output.log={program}.log"]
    done = run_program(f"dials.{program}", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / f"{program}.json").read_text())
    found = written["provenance"]
    assert shlex.split(found["command"]) == [f"dials.{program}", *arguments]
    assert found["inputs"] == [name for name in arguments if (folder / name).is_file()]
    assert found["directory"] == str(folder) and f"dials_postrefine {dials_postrefine.__version__}" in found["version"]
    assert arguments[-1].split("=")[1] in found["parameters"]
    log_lines = (folder / f"{program}.log").read_text()
    assert done.stdout.rstrip() == log_lines.rstrip()
    page = folder / f"dials.{program}.html"
    texts = [log_lines[:2000], *([page.read_text()[:20000]] if page.is_file() else [])]
    assert page.is_file() == (program != "reference_intensities")
    for text in texts:
        for key in ("date", "version", "directory"):
            assert found[key] in text
    assert found["command"] in log_lines
    assert [line for line in log_lines.splitlines() if len(line) > log.WIDTH and not line.startswith("  ")] == []
    lines = log_lines.rstrip().splitlines()
    assert written["verdict"]["text"].capitalize() in " ".join(lines[lines.index("") :])

    # the command can be pasted, and gives the same again
    again = content(folder / f"{program}.json")
    subprocess.run(found["command"], shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=with_programs())
    assert content(folder / f"{program}.json") == again


def with_programs() -> dict[str, str]:
    """The environment, with the programs of this Python on the path."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def test_files_named_by_parameters_are_inputs_and_outputs_are_not(folder):
    shutil.copy("stills.refl", "postrefined.refl")  # of an earlier run
    postrefine.run([*STILLS, "reference=stills_truth.mtz", "output.html=None"])
    found = json.loads(Path("dials.postrefine.json").read_text())["provenance"]
    assert found["inputs"] == ["stills.expt", "stills.refl", "stills_truth.mtz"]


# Live


def test_the_log_is_live_under_its_own_name(folder, monkeypatch):
    seen = {}
    end = log.show_progress

    def look(unit):
        seen["text"] = Path("dials.postrefine.log").read_text()
        return end(unit)

    monkeypatch.setattr(log, "show_progress", look)
    postrefine.run([*STILLS, "output.html=None"])
    assert "dials.postrefine stills.expt" in seen["text"] and "usable observations" in seen["text"]
    assert Path("dials.postrefine.log").read_text().startswith(seen["text"])


def test_what_ends_a_run_is_the_last_that_the_log_says(folder):
    with pytest.raises(SystemExit) as ended:
        postrefine.run([*STILLS, "d_max=1"])
    words = Path("dials.postrefine.log").read_text().split()
    assert " ".join(words).endswith(ended.value.code)


def test_a_fault_of_ours_is_in_the_log(folder, monkeypatch):
    from dials_postrefine.programs import postrefine as program

    monkeypatch.setattr(program, "read_stills", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        postrefine.run(STILLS)
    text = Path("dials.postrefine.log").read_text()
    assert "Traceback" in text and text.endswith("ZeroDivisionError: division by zero\n")
    # and the next run of this process does not write to it
    with pytest.raises(SystemExit), exit_with_sorry():
        raise KeyboardInterrupt
    assert Path("dials.postrefine.log").read_text() == text


# Names


NAMES = {"latin": b"f\xfcnf", "greek": "λ".encode(), "blank": b"a b"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_name_of_a_file_and_any_terminal(folder, name, encoding):
    """The table under a name that may be no UTF-8, on a terminal that may not have its letters: the run is not lost."""
    name = os.fsdecode(name)
    try:
        for kind in ("expt", "refl"):
            os.rename(f"stills.{kind}", f"{name}.{kind}")
    except OSError:
        pytest.skip("this file system has no such names")
    done = subprocess.run(
        [sys.executable, "-m", "dials_postrefine.command_line.postrefine", f"{name}.expt", f"{name}.refl"]
        + ["n_cycles=1", "nproc=1", f"output.reflections={name} out.refl", f"output.experiments={name} out.expt"],
        cwd=folder,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    errors = done.stderr.decode(errors="replace")
    assert "Traceback" not in errors and "UnicodeEncodeError" not in errors
    text = Path("dials.postrefine.log").read_bytes().decode("utf-8")
    shown = f"{name}.refl".encode("utf-8", "backslashreplace").decode()
    assert shown in text
    assert done.returncode == 0, errors
    assert shown in Path("dials.postrefine.html").read_text(encoding="utf-8")
    record = json.loads(Path("dials.postrefine.json").read_text())
    assert f"{name}.refl" in record["provenance"]["inputs"]
    # the printed command can be pasted where the name can be printed
    words = shlex.split(record["merge_command"])
    assert words[0] == "dials.merge" and f"{name} out.refl" in words
    os.rename(f"{name} out.refl", "out.refl")
    assert len(flex.reflection_table.from_file("out.refl")) > 100


@pytest.mark.parametrize("program", PROGRAMS)
def test_names_of_any_bytes_in_every_program(runs, tmp_path, program):
    """Input, and what is written besides the report, under names that are no UTF-8."""
    folder, lines = runs
    for path in folder.iterdir():
        if path.suffix in (".cbf", ".expt", ".refl", ".pdb", ".npz", ".cif"):
            os.symlink(path, tmp_path / path.name)
    odd, arguments = os.fsdecode(b"f\xfcnf"), []
    for word in lines[program]:
        if (tmp_path / word).exists():
            os.rename(tmp_path / word, tmp_path / f"{odd} {word}")
            word = f"{odd} {word}"
        arguments.append(word)
    written = {
        "postrefine": ("reflections", "refl"),
        "diffuse_map": ("mtz", "mtz"),
        "fine_refine": ("cif", "cif"),
        "image_spread": ("pairs", "csv"),
        "intensity_model": ("reflections", "refl"),
        "reference_intensities": ("mtz", "mtz"),
    }
    output, kind = written[program]
    command = [sys.executable, "-m", f"dials_postrefine.command_line.{program}", *arguments]
    done = subprocess.run([*command, f"output.{output}={odd}.{kind}"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (tmp_path / f"{odd}.{kind}").stat().st_size > 100
    assert not list(tmp_path.glob(".part-*"))


def test_a_reference_under_a_name_of_any_bytes(folder):
    odd = os.fsdecode(b"f\xfcnf.mtz")
    os.link("stills_truth.mtz", odd)
    command = [sys.executable, "-m", "dials_postrefine.command_line.postrefine", *STILLS, "output.html=None"]
    results = []
    for name in ("stills_truth.mtz", odd):
        done = subprocess.run([*command, f"reference={name}"], capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        results.append(json.loads(Path("dials.postrefine.json").read_text())["lattices"])
    assert results[0] == results[1]


def test_a_log_of_many_files_names_the_first_ones():
    text = record_run(["dials.postrefine"], [f"{i}.refl" for i in range(12)], "").text()
    assert "9.refl and 2 more" in text and "10.refl" not in text
