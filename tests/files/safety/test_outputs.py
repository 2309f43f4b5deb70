"""Output files: all or none, earlier ones as they were, nothing left behind but what a live process still needs."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.util", reason="Sorry is of DIALS")

from dials.util import Sorry

from dials_postrefine.files.safety.outputs import Outputs

pytestmark = pytest.mark.dials

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names: str, text: str = "new") -> None:
    with Outputs() as outputs:
        for name in names:
            Path(outputs.temporary(name)).write_text(text)
            assert not Path(name).exists() or Path(name).read_text() != text


def listing() -> list[str]:
    return sorted(os.listdir())


def test_files_appear_at_the_end():
    Path("a.refl").write_text("old")
    write("a.refl", "b.expt")
    assert listing() == ["a.refl", "b.expt"]
    assert Path("a.refl").read_text() == Path("b.expt").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, Sorry])
def test_an_exception_leaves_all_as_it_was(error):
    Path("a.refl").write_text("old")
    with pytest.raises(error):
        with Outputs() as outputs:
            Path(outputs.temporary("a.refl")).write_text("new")
            outputs.temporary("never_written.expt")
            raise error
    assert listing() == ["a.refl"] and Path("a.refl").read_text() == "old"


def test_a_file_that_was_never_written_is_an_error_and_no_other_is_renamed():
    Path("a.refl").write_text("old")
    with pytest.raises(Sorry, match="b.expt could not be written .no such file"):
        with Outputs() as outputs:
            Path(outputs.temporary("a.refl")).write_text("new")
            outputs.temporary("b.expt")
    assert listing() == ["a.refl"] and Path("a.refl").read_text() == "old"


def test_a_folder_made_in_the_place_of_a_file_during_the_run():
    with pytest.raises(Sorry, match="b.expt could not be written .is a directory"):
        with Outputs() as outputs:
            for name in ("a.refl", "b.expt"):
                Path(outputs.temporary(name)).write_text("new")
            os.mkdir("b.expt")
    assert listing() == ["b.expt"]


def test_an_error_of_the_system_is_a_sentence():
    with pytest.raises(Sorry, match="The run ended because the system reported 'no such file.*' for gone.refl"):
        with Outputs():
            open("gone.refl")


def test_the_file_behind_a_link_is_replaced():
    os.mkdir("store")
    Path("store/0001").write_text("old")
    os.symlink("store/0001", "a.refl")
    write("a.refl")
    assert os.readlink("a.refl") == "store/0001" and Path("store/0001").read_text() == "new"
    assert os.listdir("store") == ["0001"]


def test_a_link_to_nothing_gets_its_file():
    os.symlink("there", "a.refl")
    write("a.refl")
    assert listing() == ["a.refl", "there"] and Path("there").read_text() == "new"


def test_one_file_by_two_names_is_refused():
    os.symlink("a.refl", "b.refl")
    with pytest.raises(Sorry, match="Two output files have the name"):
        write("a.refl", "b.refl")


def test_a_device_is_written_to_and_stays_one():
    with Outputs() as outputs:
        assert outputs.temporary("/dev/null") == outputs.temporary("/dev/null") == "/dev/null"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_keeps_its_own(umask, mode):
    Path("old.refl").write_text("old")
    os.chmod("old.refl", 0o640)
    before = os.umask(umask)
    try:
        write("new.refl", "old.refl")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("new.refl").st_mode) == mode
    assert stat.S_IMODE(os.stat("old.refl").st_mode) == 0o640


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_run_has_left_is_removed():
    Path(f".part-{HOST}-{dead_process()}-a.refl").write_text("half")
    write("a.refl")
    assert listing() == ["a.refl"]


def test_what_may_still_be_needed_is_kept():
    dead = dead_process()
    kept = sorted(
        [
            f".part-{HOST}-{os.getppid()}-a.refl",  # of a live process
            f".part-{HOST}x-{dead}-a.refl",  # of another host
            f".part-{HOST}-{dead}-b.refl",  # another file: whoever writes it will find it
            f".part-{HOST}-a.refl",
            f"part-{HOST}-{dead}-a.refl",
        ]
    )
    for name in kept:
        Path(name).write_text("half")
    write("a.refl")
    assert listing() == sorted([*kept, "a.refl"])


def test_a_read_only_file_or_folder_is_refused(folder):
    os.mkdir("locked")
    Path("a.refl").write_text("old")
    os.chmod("a.refl", 0o444)
    os.chmod("locked", 0o555)
    for name in (folder, *folder.parents):  # for nobody to get here
        if os.stat(name).st_uid == os.geteuid() and name != Path("/"):
            os.chmod(name, os.stat(name).st_mode | 0o711)
    for name, words in (("a.refl", "it is read-only"), ("locked/b.refl", "read-only")):
        read, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:  # nothing is read-only for root
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                Outputs().temporary(name)
            except Sorry as sorry:
                os.write(write_end, str(sorry).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        message = os.read(read, 10000).decode()
        os.close(read)
        os.waitpid(pid, 0)
        assert name in message and words in message
