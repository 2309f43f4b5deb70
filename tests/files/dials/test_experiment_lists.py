"""Lists of one space group: the files are byte for byte those of any list, and DIALS reads the crystals back."""

from __future__ import annotations

import json

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the experiments are those of DIALS")

from cctbx import sgtbx
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials import models
from dials_postrefine.files.dials.experiment_lists import OneSpaceGroup
from dials_postrefine.files.dials.versions import scaled_history
from dials_postrefine.simulate.still_files import make_experiments
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials


@pytest.fixture
def experiments():
    experiments = make_experiments(simulate_stills(StillsOptions(n_lattices=4, seed=2, d_min=8.0)))
    models.write_scaling_model(experiments[0], 1.7, 0.1, 3.2, 0.5, {"radius": 0.0004, "profile": "gaussian"})
    experiments[3].crystal = None
    return experiments


@pytest.mark.parametrize("symbol", ["P43212", "P41212 (a,b,c+1/8)", "P1", "I23"])
def test_the_file_is_that_of_any_list(experiments, symbol, tmp_path):
    group = sgtbx.space_group_info(symbol).group()
    models.set_space_group(experiments, group)
    for name, some in (("any", experiments), ("one", OneSpaceGroup(experiments, group))):
        some.as_file(str(tmp_path / f"{name}.expt"), **scaled_history(some))
    contents = [OneSpaceGroup(experiments, group).to_dict(), experiments.to_dict()]
    for content in contents:
        content.pop("history", None)  # of the newest dxtbx: when it was written, and how often
    assert contents[0] == contents[1]
    read = ExperimentList.from_file(str(tmp_path / "one.expt"), check_format=False)
    assert [e.crystal.get_space_group() for e in read if e.crystal] == [group] * 3
    assert [e.crystal.get_space_group() for e in experiments if e.crystal] == [group] * 3
    if not hasattr(experiments, "consolidate_histories"):
        assert (tmp_path / "one.expt").read_bytes() == (tmp_path / "any.expt").read_bytes()


def test_crystals_of_other_groups_get_the_one(experiments):
    group = sgtbx.space_group_info("P41212").group()
    written = OneSpaceGroup(experiments, group).to_dict()["crystal"]
    models.set_space_group(experiments, group)
    assert written == experiments.to_dict()["crystal"]


def test_the_history_says_that_the_data_are_scaled_where_dxtbx_keeps_one(experiments, tmp_path):
    path = tmp_path / "scaled.expt"
    experiments.as_file(str(path), **scaled_history(experiments))
    history = json.loads(path.read_text()).get("history", [])
    if hasattr(experiments, "consolidate_histories"):
        assert history[-1].endswith("|scaled")
    else:
        assert not history
