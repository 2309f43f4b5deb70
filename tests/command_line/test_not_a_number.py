"""nan as the value of a parameter: it passes every limit that PHIL or a program sets, and is refused at once."""

from __future__ import annotations

import importlib

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the programs are those of DIALS")

from dials_postrefine.settings.scope import load

pytestmark = pytest.mark.dials

PROGRAMS = ("postrefine", "diffuse_map", "reference_intensities", "image_spread", "intensity_model")
PARAMETERS = [
    (program, one.path, one.object.type.phil_type)
    for program in PROGRAMS
    for one in load(program).all_definitions()
    if one.object.type.phil_type in ("float", "floats")
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_number_of_every_program_must_be_one(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = importlib.import_module(f"dials_postrefine.command_line.{program}").run
    tried = [one for one in PARAMETERS if one[0] == program]
    assert len(tried) >= 5
    for _, path, kind in tried:
        with pytest.raises(SystemExit) as stop:
            run(["some.expt", f"{path}={'1,nan' if kind == 'floats' else 'nan'}"])
        message = str(stop.value.code)
        assert message.startswith("Sorry: ") and "nan" in message and "\n" not in message, (path, message)
