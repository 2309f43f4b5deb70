"""Long work shows how far it is on a terminal, and is quiet in a log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

N_LATTICES = 150  # several chunks, and more than a tenth of a second


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("progress")
    write_stills(simulate_stills(StillsOptions(n_lattices=N_LATTICES, seed=6, d_min=3.0)), folder / "stills")
    files = [str(folder / name) for name in ("stills.expt", "stills.refl")]
    arguments = [*files, "nproc=1", "n_cycles=2", "output.html=None"]
    return [sys.executable, "-m", "dials_postrefine.command_line.postrefine", *arguments]


def test_a_terminal_shows_cycles_and_lattices_done(command, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # nothing is drawn where there is no room
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                some = os.read(ours, 4096)
            except OSError:  # how Linux tells that nobody holds the other end any more
                break
            if not some:
                break
            shown += some
        process.communicate()
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    # drawn ten times a second at most, so that not every step is seen
    done = [int(n) for n in re.findall(rf"\rcycle \d: +\d+%\|[^|]*\| (\d+)/{N_LATTICES} ", text)]
    assert done and all(0 < n <= N_LATTICES for n in done), text
    assert "half set" in text, text


def test_without_a_terminal_nothing_is_drawn(command, tmp_path):
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0
    assert done.stderr == ""
    for text in (done.stdout, (tmp_path / "dials.postrefine.log").read_text()):
        assert (
            "half set" not in text.lower().replace("honest half sets", "").replace("independent half sets", "")
            and "\r" not in text
        )
