"""What dials.postrefine's files and commands say of themselves is what was merged, not what was read."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the input files are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

LIMIT = 3.2  # Angstrom, of all lattices but the one that is rejected


@pytest.fixture(scope="module")
def folder(run_program, tmp_path_factory):
    """
    Stills of which the first is of another cell and wavelength, and rejected, and alone reaches to 2.5 A; merged with a
    threshold of nine digits.
    """
    folder = tmp_path_factory.mktemp("says")
    write_stills(simulate_stills(StillsOptions(n_lattices=30, d_min=2.5, seed=2)), folder / "stills")
    experiments = ExperimentList.from_file(str(folder / "stills.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "stills.refl"))
    ids, d = flumpy.to_numpy(table["id"]), _d(table, experiments)
    table["d"] = flumpy.from_numpy(np.full(len(d), 99.0))  # of no crystal
    table = table.select(flumpy.from_numpy((ids == 0) | (d > LIMIT)))
    experiments[0].crystal.set_B(tuple(1.12 * b for b in experiments[0].crystal.get_B()))
    experiments[0].beam = copy.deepcopy(experiments[0].beam)  # all have one
    experiments[0].beam.set_wavelength(1.1 * experiments[0].beam.get_wavelength())
    experiments.as_file(str(folder / "changed.expt"))
    table.as_file(str(folder / "changed.refl"))
    wanted = ("partiality_threshold=0.123456789", "output.mtz=kept.mtz", "output.xfel_merge=xfel")
    done = run_program(
        "dials.postrefine", "changed.expt", "changed.refl", *wanted, "cross_validation=none", "nproc=2", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def _d(table, experiments) -> np.ndarray:
    a = np.array([e.crystal.get_A() for e in experiments]).reshape(-1, 3, 3)[flumpy.to_numpy(table["id"])]
    return 1.0 / np.linalg.norm(np.einsum("nij,nj->ni", a, miller_indices_to_numpy(table["miller_index"])), axis=1)


def _read(folder):
    summary = json.loads((folder / "dials.postrefine.json").read_text())
    table = flex.reflection_table.from_file(str(folder / "postrefined.refl"))
    experiments = ExperimentList.from_file(str(folder / "postrefined.expt"), check_format=False)
    return summary, table, experiments


def test_limits_are_those_of_what_was_merged(folder):
    import gemmi

    summary, table, experiments = _read(folder)
    assert [one["accepted"] for one in summary["lattices"]].count(False) == 1 and not summary["lattices"][0]["accepted"]
    assert len({round(e.beam.get_wavelength(), 6) for e in experiments}) == 1
    assert summary["after"][-1]["d_min"] < 2.6
    mtz = gemmi.read_mtz_file(str(folder / "kept.mtz"))
    d = np.array(mtz.make_d_array())[np.isfinite(np.array(mtz.column_with_label("IMEAN")))]
    assert summary["dataset"]["merged_d_min"] == pytest.approx(d.min(), rel=5e-3)
    assert summary["dataset"]["merged_d_max"] == pytest.approx(d.max(), rel=5e-3)
    limit = float(re.search(r"merging\.d_min=(\S+)", summary["xfel_merge_command"]).group(1))
    assert 0.0 <= summary["dataset"]["merged_d_min"] - limit <= 0.001
    html = (folder / "dials.postrefine.html").read_text(encoding="utf-8")
    shown = re.search(r"unique reflections between (\S+) and (\S+) Å\.", html)
    assert shown.groups() == (f"{d.max():.1f}", f"{summary['dataset']['merged_d_min']:.2f}")


def test_the_merge_command_is_of_the_lattices_that_are_merged(folder):
    summary, table, experiments = _read(folder)
    assert "wavelength_tolerance" not in summary["merge_command"]  # that of the rejected lattice alone is another one
    assert "partiality_threshold=0.123456789" in summary["merge_command"]
    assert summary["merge_command"] in (folder / "dials.postrefine.log").read_text()


def test_d_is_that_of_the_crystals(folder):
    _, table, experiments = _read(folder)
    assert flumpy.to_numpy(table["d"]) == pytest.approx(_d(table, experiments), rel=1e-9)


def test_the_page_speaks_of_no_error_model_and_no_half_sets_where_there_are_none(folder):
    from dials_postrefine.report.stills import page as report
    from dials_postrefine.report.stills.shells import show_by_resolution

    summary, *_ = _read(folder)
    for model, words in ((summary["error_model"], "sigma by the error model"), (None, "sigma of the counts alone")):
        figures = show_by_resolution(summary | {"error_model": model}).figures
        assert words in figures[-1].caption
    model = {"shells": [], "notes": [], "share": [{"d_max": None, "d_min": 3.0, "n": 5, "share": 0.5}]}
    assert report._model(model, honest=True).text[0].endswith("; the honest half sets are refined without it.")
    assert report._model(model, honest=False).text[0].endswith("because they were fitted to it.")
    for own, words in ((None, "The reference is external"), (model, "in a fixed number of cycles")):
        unfollowed = [summary["cycles"][0] | {"change": None}]
        figure = report._convergence(summary | {"reference_model": own, "cycles": unfollowed}).figures[0]
        assert words in " ".join(re.sub("<.*?>", " ", figure.svg).split())
