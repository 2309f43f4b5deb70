"""A run of dials.postrefine on simulated stills, for the tests of what it reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

NAMED = "still-1-00007"


@dataclass
class Run:
    """The folder of a run, the names of its input files and the report."""

    folder: Path
    files: list[str]

    @cached_property
    def summary(self) -> dict:
        return json.loads((self.folder / "dials.postrefine.json").read_text(encoding="utf-8"))

    @cached_property
    def html(self) -> str:
        return self.page.read_text(encoding="utf-8")

    @property
    def page(self) -> Path:
        return self.folder / "dials.postrefine.html"


@pytest.fixture(scope="session")
def run(run_program, tmp_path_factory) -> Run:
    """40 lattices, four of them useless and some intensities wild, against themselves; one lattice is named."""
    import dials_postrefine  # noqa: F401  (makes cctbx findable)

    pytest.importorskip("dials.array_family.flex", reason="the input files are those of DIALS")
    from dials_postrefine.files.simulated import write_stills
    from dials_postrefine.simulate import StillsOptions, simulate_stills

    folder = tmp_path_factory.mktemp("report")
    options = StillsOptions(
        n_lattices=40, d_min=2.5, seed=1, useless_fraction=0.1, wild_fraction=0.01, background=400.0
    )
    files = write_stills(simulate_stills(options), folder / "stills")[:2]
    done = run_program("dials.postrefine", *files, f"lattice_plots={NAMED}", "nproc=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Run(folder, files)
