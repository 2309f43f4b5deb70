"""dials.dynamical as its user runs it: what can't be used, in a sentence each, and what it writes of what can."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from iotbx import cif

from dials_postrefine.command_line import dynamical, image_spread
from dials_postrefine.files.dials import tables

pytestmark = pytest.mark.dials

# what makes a run short: low resolution, one hand, one thickness to begin with, coarse curves
SHORT = ("d_min=1.2", "hand=as_given", "thickness.start=650", "beams.step=0.1", "refine=None")
OUTPUTS = ("dynamical.expt", "dynamical.refl", "dynamical.cif", "dynamical.csv", "dials.dynamical.json")


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A function: arguments -> the sentence by which the program refuses them; nothing but the log is written."""
    monkeypatch.chdir(tmp_path)

    def run(*args) -> str:
        before = {path.name for path in tmp_path.iterdir()}
        with pytest.raises(SystemExit) as ended:
            dynamical.run([str(arg) for arg in args])
        sentence = str(ended.value)
        assert sentence.startswith("Sorry: ") and "\n" not in sentence
        assert {path.name for path in tmp_path.iterdir()} - before <= {"dials.dynamical.log"}
        return sentence

    return run


@pytest.fixture(scope="session")
def quartz(shared_data):
    """The files of the scaled quartz set: experiments, reflections, structure."""
    folder = shared_data / "ed_quartz_scaled"
    return folder / "scaled.expt", folder / "scaled.refl", folder / "quartz_enantiomer_1.cif"


def test_xrays_are_refused(refused, shared_data, quartz):
    folder = shared_data / "l_cysteine_4_sweeps_scaled"
    pair = sorted(folder.glob("scaled*.expt"))[0], sorted(folder.glob("scaled*.refl"))[0]
    assert "are of X-rays: dynamical scattering is calculated for electrons" in refused(*pair, quartz[2])


def test_a_structure_of_another_cell_is_refused(refused, shared_data, quartz):
    sentence = refused(*quartz[:2], shared_data / "ed_cif_pets" / "abiraterone.cif")
    assert "is not that of the data, 4.9249 4.9249 5.4014 90 90 120" in sentence
    frames = shared_data / "ed_cif_pets" / "quartz_exp.cif_pets"
    assert "does not fit the space group" in refused(frames, shared_data / "ed_cif_pets" / "abiraterone.cif")


def test_what_is_missing_is_said(refused, quartz):
    assert "A structure is needed" in refused(*quartz[:2])
    assert "Data are needed" in refused(quartz[2])
    assert "give one of them" in refused(*quartz, "data=frames.cif_pets")
    assert "compare=order needs" in refused(quartz[2], "data=frames.cif_pets", "compare=order")


def test_too_many_beams_are_refused(refused, quartz):
    assert "memory: take beams of smaller |g|" in refused(*quartz, *SHORT, "beams.g_max=40")


def test_merged_friedel_mates_are_refused(refused, quartz, tmp_path):
    """All indices in one half of reciprocal space, as merging and mapping to an asymmetric unit leave them."""
    table = tables.read_table(str(quartz[1]))
    h = np.array(list(table["miller_index"]))
    from dials_postrefine.files.electron.moving import read_frames
    from dials_postrefine.programs.dynamical_input import _first_by_rotation

    laue = read_frames([str(quartz[0])], [str(quartz[1])])[1].laue
    plus, minus = _first_by_rotation(h, laue), _first_by_rotation(-h, laue)
    first = [max(tuple(a), tuple(b)) for a, b in zip(plus.tolist(), minus.tolist())]
    table["miller_index"] = flex.miller_index(first)
    tables.write_table(table, str(tmp_path / "merged.refl"))
    assert "No index has its Friedel mate" in refused(quartz[0], tmp_path / "merged.refl", quartz[2])


def test_corrected_intensities_are_not_corrected_again(refused, quartz, tmp_path):
    table = tables.read_table(str(quartz[1]))
    table["dynamical_factor"] = flex.double(len(table), 1.0)
    tables.write_table(table, str(tmp_path / "corrected.refl"))
    assert "corrected already" in refused(quartz[0], tmp_path / "corrected.refl", quartz[2])


def test_a_thickness_that_nothing_determines_is_refused(refused, quartz, tmp_path):
    """Atoms of which one in a million is there scatter once at most: all thicknesses are alike."""
    text = quartz[2].read_text()
    text = text.replace("_atom_site_U_iso_or_equiv\n", "_atom_site_U_iso_or_equiv\n_atom_site_occupancy\n")
    text = text.replace("0.009208 Uani", "0.009208 0.000001 Uani").replace("0.015829 Uani", "0.015829 0.000001 Uani")
    (tmp_path / "empty.cif").write_text(text)
    short = [one for one in SHORT if not one.startswith("thickness")]
    sentence = refused(*quartz[:2], tmp_path / "empty.cif", *short, "thickness.min=500", "thickness.max=700")
    assert "do not determine the thickness" in sentence


@pytest.mark.slow
def test_a_run_and_what_it_writes(quartz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dynamical.run([*map(str, quartz), *SHORT])
    assert all((tmp_path / name).is_file() for name in (*OUTPUTS, "dials.dynamical.html", "dials.dynamical.log"))
    found = json.loads((tmp_path / "dials.dynamical.json").read_text())
    assert found["r1"]["dynamical"] < 0.6 * found["r1"]["kinematical"] and found["hand"] == 1
    assert found["thickness"]["esd"] > 0.0 and 500.0 < found["thickness"]["value"] < 800.0
    assert set(found["explained"]) == {"value", "low", "high"} and found["tau"]["after"] is not None
    log = (tmp_path / "dials.dynamical.log").read_text()
    assert f"{found['r1']['dynamical']:.3f}" in log and "How much is physics" in log
    table = tables.read_table(str(tmp_path / "dynamical.refl"))
    with open(tmp_path / "dynamical.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    factor = np.array([float(row["dynamical_factor"]) for row in rows])
    assert len(table) == np.count_nonzero(factor > 0.0)
    # intensities divided by the factor are what dynamical.refl has
    rows = [row for row in rows if float(row["dynamical_factor"]) > 0.0]
    indices = [tuple(int(row[i]) for i in "hkl") for row in rows]
    value = {h: float(row["intensity"]) / float(row["dynamical_factor"]) for h, row in zip(indices, rows)}
    once = [Counter(indices)[h] == 1 for h in table["miller_index"]]
    assert sum(once) > 100
    scaled = flumpy.to_numpy(table["intensity.scale.value"]) / flumpy.to_numpy(table["inverse_scale_factor"])
    expected = np.array([value[h] for h in table["miller_index"]])
    np.testing.assert_allclose(scaled[once], expected[once], rtol=1e-4, atol=1e-4)
    block = next(iter(cif.reader(str(tmp_path / "dynamical.cif")).model().values()))
    assert block["_diffrn_radiation_probe"] == "electron" and len(block["_atom_site_label"]) == 2


@pytest.mark.slow
def test_image_spread_prints_the_same(quartz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(quartz[2], "quartz.cif")
    limits = ("d_min=0.9",)
    dynamical.run([*map(str, quartz[:2]), "quartz.cif", *limits])
    image_spread.run([*map(str, quartz[:2]), "dynamical=quartz.cif", "beam.intensity=none", *limits])
    ours = json.loads((tmp_path / "dials.dynamical.json").read_text())
    theirs = json.loads((tmp_path / "dials.image_spread.json").read_text())["dynamical"]
    for name in ("tau", "explained", "correlation", "slope", "r_meas"):
        assert theirs[name] == pytest.approx(ours[name]), name
    assert theirs["hand"] == ours["hand"] and "How much is physics" in (tmp_path / "dials.image_spread.log").read_text()
    assert "How much is physics" in (tmp_path / "dials.image_spread.html").read_text()
