"""
What dials.postrefine says of the polarisation of pixel-level stills whose beam models say something else.

The images were polarised along x to 0.99 +- 0.01 (../shared/data/README.md).
"""

from __future__ import annotations

import json

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the files are those of DIALS")

from dxtbx.model.experiment_list import ExperimentList

pytestmark = [pytest.mark.dials, pytest.mark.data, pytest.mark.slow]

TRUTH = 0.99
MODELS = {"default": [], "better": ["profile=gaussian", "radius=mosaic"]}


@pytest.fixture
def say(shared_data, run_program, tmp_path):
    """A function: the summary of a run, self-merged, on the stills with beams of a polarisation fraction."""

    def say(fraction: float, *options: str) -> dict:
        stem = shared_data / "nanobragg_lysozyme_20" / "integrated"
        experiments = ExperimentList.from_file(f"{stem}.expt", check_format=False)
        for beam in experiments.beams():
            beam.set_polarization_fraction(fraction)
        experiments.as_file(str(tmp_path / "in.expt"))
        quick = ("cross_validation=none", "output.html=None", "nproc=1")
        run_program("dials.postrefine", "in.expt", f"{stem}.refl", *quick, *options, cwd=tmp_path, check=True)
        return json.loads((tmp_path / "dials.postrefine.json").read_text())

    return say


@pytest.mark.parametrize(("fraction", "model"), [(0.5, "default"), (0.5, "better"), (0.0, "default"), (0.0, "better")])
def test_a_wrong_fraction_is_found(say, fraction, model):
    summary = say(fraction, *MODELS[model])
    found = summary["systematics"]["polarization_fraction"]
    assert found["expected"] == fraction and found["verdict"] == "differs"
    assert found["value"] == pytest.approx(TRUTH, abs=0.02)
    assert found["esd"] < 0.03
    advice = [text for text in summary["remarks"] if "polarization_fraction=" in text]
    assert len(advice) == 1 and f"in the models, {fraction:g}, is not that of the data" in advice[0]
    others = {name: one["verdict"] for name, one in summary["systematics"].items() if name != "polarization_fraction"}
    assert "differs" not in others.values(), others


def test_the_fraction_that_was_advised_is_right(say, tmp_path):
    summary = say(0.5, "polarization_fraction=0.99", *MODELS["better"])
    found = summary["systematics"]["polarization_fraction"]
    assert found["expected"] == pytest.approx(0.99, abs=1e-12) and found["verdict"] == "as expected"
    written = ExperimentList.from_file(str(tmp_path / "postrefined.expt"), check_format=False)
    assert {beam.get_polarization_fraction() for beam in written.beams()} == {0.99}
    assert not [text for text in summary["remarks"] if "polarization_fraction=" in text]
