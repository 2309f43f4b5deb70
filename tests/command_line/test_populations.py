"""Data of several populations: two choices of the cell are merged as one, several wavelengths get a remark."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line.postrefine import run
from dials_postrefine.files.reindexing import reindex_files
from dials_postrefine.files.simulated import write_stills
from dials_postrefine.simulate import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(
    n_lattices=30, d_min=3.5, seed=4, space_group="P121", unit_cell=(40.0, 45.0, 50.0, 90.0, 100.0, 90.0)
)
SHORT = ["nproc=1", "cross_validation=none", "n_cycles=2", "output.html=None"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated stills (right) and the same with half of them indexed with -a-c, b, a (mixed)."""
    path = tmp_path_factory.mktemp("choices")
    write_stills(simulate_stills(OPTIONS), path / "right")
    experiments = ExperimentList.from_file(str(path / "right.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(path / "right.refl"))
    change = sgtbx.change_of_basis_op("-a-c,b,a")
    chosen = (np.arange(30) >= 15).astype(int)
    reindex_files(
        table, experiments, [sgtbx.change_of_basis_op(), change], chosen, experiments[0].crystal.get_space_group()
    )
    experiments.as_file(str(path / "mixed.expt"))
    table.as_file(str(path / "mixed.refl"))
    return path


def postrefine(folder, monkeypatch, name: str, *options: str):
    """The summary, and the merged intensities by index."""
    monkeypatch.chdir(folder)
    run([f"{name}.expt", f"{name}.refl", *SHORT, *options])
    table = flex.reflection_table.from_file("postrefined.refl")
    table = table.select(table.get_flags(table.flags.scaled))
    values = np.array(table["intensity.scale.value"]) / np.array(table["inverse_scale_factor"])
    group = sgtbx.space_group_info("P121").group()
    h = table["miller_index"]
    from cctbx import miller

    miller.map_to_asu(group.type(), False, h)
    sums: dict = {}
    for index, value in zip(h, values):
        sums.setdefault(index, []).append(value)
    with open("dials.postrefine.json") as file:
        return json.load(file), {index: np.mean(value) for index, value in sums.items()}


def test_two_choices_of_the_cell_give_what_one_gives(folder, monkeypatch):
    expected, right = postrefine(folder, monkeypatch, "right")
    found, mixed = postrefine(folder, monkeypatch, "mixed")
    assert found["dataset"]["unit_cell"] == pytest.approx(expected["dataset"]["unit_cell"])
    assert found["dataset"]["n_accepted"] == expected["dataset"]["n_accepted"] == 30
    assert [choice["n_lattices"] for choice in found["dataset"]["cell_choices"]] == [15]
    assert expected["dataset"]["cell_choices"] == []
    assert mixed.keys() == right.keys()
    assert [mixed[h] for h in right] == pytest.approx([right[h] for h in right], rel=1e-6)
    assert any("another choice of the unit cell" in remark for remark in found["remarks"])


def test_without_reindexing_the_other_choice_is_rejected_with_its_reason(folder, monkeypatch):
    found, _ = postrefine(folder, monkeypatch, "mixed", "reindex=none")
    assert found["rejected"] == {"indexed with another choice of the unit cell": 15}
    assert any("dials.reindex" in remark for remark in found["remarks"])
