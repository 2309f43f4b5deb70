"""What dials.image_spread and dials.intensity_model say of their data and files is what was read, used and written."""

from __future__ import annotations

import copy
import importlib
import json
import re
from html import unescape

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex

from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, structure, write_sweeps

pytestmark = pytest.mark.dials


@pytest.fixture()
def run(tmp_path, monkeypatch):
    """A function: program, arguments -> what its JSON says and its page, of a run in this process."""

    def make(program: str, *args) -> tuple[dict, str]:
        monkeypatch.chdir(tmp_path)
        importlib.import_module(f"dials_postrefine.command_line.{program}").run([str(arg) for arg in args])
        summary = json.loads((tmp_path / f"dials.{program}.json").read_text())
        return summary, unescape((tmp_path / f"dials.{program}.html").read_text(encoding="utf-8"))

    return make


@pytest.fixture()
def sweeps():
    """Two crystals, of which the second was measured at a wavelength that is longer by a thousandth."""
    made = simulate_sweeps(SweepOptions(tau=0.2, n_images=30, n_crystals=2))
    second = made.experiments[1]
    second.beam = copy.deepcopy(second.beam)
    second.beam.set_wavelength(1.001 * second.beam.get_wavelength())
    return made


def read(html: str) -> dict[str, str]:
    (table,) = re.findall(r"<caption>What was read.*?</table>", html, re.DOTALL)
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table)]
    return dict(row for row in rows if len(row) == 2)


def test_both_wavelengths_are_told_whichever_comes_first(run, sweeps, tmp_path):
    names = write_sweeps(sweeps, tmp_path / "scaled")
    summary, html = run("image_spread", *names, "match=laue")
    wavelengths = [experiment.beam.get_wavelength() for experiment in sweeps.experiments]
    data = summary["dataset"]
    assert [data["wavelength_min"], data["wavelength_max"]] == pytest.approx(wavelengths)
    assert f"({wavelengths[0]:.5f} to {wavelengths[1]:.5f})" in read(html)["wavelength"]


def test_a_table_of_pairs_that_is_not_written_is_not_spoken_of(run, sweeps, tmp_path):
    names = write_sweeps(sweeps, tmp_path / "scaled")
    summary, html = run("image_spread", *names, "match=laue", "output.pairs=None")
    assert summary["pairs"]["file"] is None and ".csv" not in html and not list(tmp_path.glob("*.csv"))
    summary, html = run("image_spread", *names, "match=laue", "output.pairs=every.csv")
    assert summary["pairs"]["file"] == "every.csv" and "every.csv has all that were analysed" in html
    assert (tmp_path / "every.csv").exists()


def test_a_background_of_nothing_is_no_beam_intensity(run, sweeps, tmp_path):
    sweeps.table["background.mean"] = flex.double(len(sweeps.table), 2.0)
    summary, _ = run("image_spread", *write_sweeps(sweeps, tmp_path / "some"), "match=laue")
    assert summary["dataset"]["beam_intensity"] == "background of the spots"
    sweeps.table["background.mean"] = flex.double(len(sweeps.table), 0.0)
    summary, html = run("image_spread", *write_sweeps(sweeps, tmp_path / "none"), "match=laue")
    assert summary["dataset"]["beam_intensity"].startswith("not known") == read(html)["beam intensity"].startswith(
        "not"
    )
    assert summary["dataset"]["beam_intensity"] == "not known: no background of the spots is a positive number"
    assert summary["causes"]["untested"]["beam"] == "the beam intensity of the images is not known"


def test_what_a_model_that_ends_early_predicts_is_counted(run, sweeps, tmp_path, monkeypatch):
    """Beyond the resolution of a reference that is a reflection file there is no |F_calc|, and no prediction by it."""
    from io import StringIO

    from dials_postrefine.command_line import reference_intensities

    names, cif = write_sweeps(sweeps, tmp_path / "scaled"), StringIO()
    structure().as_cif_simple(out=cif)
    (tmp_path / "quartz.cif").write_text(cif.getvalue())
    monkeypatch.chdir(tmp_path)
    reference_intensities.run(["quartz.cif", names[0], "d_min=1.1", "output.reflections=None"])
    fast = ("split=experiment", "trees.max_iter=10", "trees.permutations=2")
    summary, html = run("intensity_model", *names, "reference=reference.mtz", *fast)
    table = flex.reflection_table.from_file("intensity_model.refl")
    predicted = np.count_nonzero(np.array(table["intensity.model.value"]))
    absent = sum(h == k == 0 and l % 3 != 0 for h, k, l in table["miller_index"])  # noqa: E741
    n = summary["dataset"]["n_predicted"]
    assert 0 < absent < predicted
    assert n == predicted + absent < summary["dataset"]["n_observations"] == len(sweeps.table)
    assert read(html)["observations"].startswith(f"{n} of {len(sweeps.table)} predicted by trees with |F_calc|")


def test_whose_the_errors_are(run, sweeps, tmp_path):
    """Those that the spread is measured beyond: of the counts, of dials.scale, or of the column."""
    names = write_sweeps(sweeps, tmp_path / "scaled")
    for wanted, words in (
        ([], "the errors of their counts"),
        (["variance=scaled"], "the errors that dials.scale gives them"),
        (["intensity_choice=profile"], "the errors of their column"),
    ):
        _, html = run("image_spread", *names, "match=laue", *wanted)
        log = " ".join((tmp_path / "dials.image_spread.log").read_text().split())
        assert f"beyond what {words} say" in html and f"beyond what {words} say" in log


def test_what_f_calc_was_scaled_to(run, sweeps, tmp_path):
    from io import StringIO

    names, cif = write_sweeps(sweeps, tmp_path / "scaled"), StringIO()
    structure().as_cif_simple(out=cif)
    (tmp_path / "quartz.cif").write_text(cif.getvalue())
    fast = ("trees.max_iter=5", "trees.permutations=2", "output.reflections=None")
    split = (*names, "split=experiment")
    sets = (f"train={names[0]},{names[1]}", f"test={','.join(write_sweeps(_other(sweeps), tmp_path / 'other'))}")
    for args, scaled_to, words in (
        ((*split, "reference=quartz.cif"), "all data", "|F_calc| was scaled to the mean intensities of all data."),
        (split, None, "no prediction has seen what it predicts."),
        ((*sets, "reference=quartz.cif"), "the training data", "no prediction has seen what it predicts."),
    ):
        summary, html = run("intensity_model", *args, *fast)
        assert summary["dataset"]["scaled_to"] == scaled_to
        log = " ".join((tmp_path / "dials.intensity_model.log").read_text().split())
        assert words in html and words in log


def _other(sweeps):
    """The same sweeps under other names."""
    for k, experiment in enumerate(sweeps.experiments):
        experiment.identifier = f"other-{k}"
        sweeps.table.experiment_identifiers()[k] = experiment.identifier
    return sweeps
