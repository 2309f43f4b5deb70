"""dials.fine_refine: known parameters come back, with esds that hold; what is wrong with its input is one sentence."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the structure is read by cctbx")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")

from dials.util import Sorry

from dials_postrefine.command_line.fine_refine import run
from dials_postrefine.programs.fine_refine import run as run_request
from dials_postrefine.programs.fine_refine_input import prepare
from dials_postrefine.settings.fine_refine import FineRefineRequest
from dials_postrefine.simulate.disks import CIF, TRUTH, add_counts, silicon_pattern, true_intensity, write_pattern

pytestmark = pytest.mark.dials


@pytest.fixture(scope="module")
def intensity():
    """The intensities of the small pattern."""
    return true_intensity()


@pytest.fixture(scope="module")
def arrays(intensity):
    return add_counts(silicon_pattern(), intensity, 7)


@pytest.fixture(scope="module")
def refined(arrays, tmp_path_factory):
    """The summary of the plain command, and its folder."""
    folder = tmp_path_factory.mktemp("refined")
    files, here = write_pattern(folder, arrays), os.getcwd()
    os.chdir(folder)
    try:
        run(list(files))
    finally:
        os.chdir(here)
    return json.loads((folder / "dials.fine_refine.json").read_text()), folder


def test_the_truth_comes_back_from_the_independent_atoms(refined):
    found = refined[0]
    assert found["n"] == 576 and found["n_parameters"] == 12
    assert abs(found["chi2_reduced"] - 1.0) < 3.0 * np.sqrt(2.0 / found["n"])
    for name, value in TRUTH.items():
        one = found["parameters"][name]
        assert abs(one["value"] - value) < 3.5 * one["esd"], name
    assert found["parameters"]["U111"]["esd"] < 2e-4
    assert found["method"] == "gauss_newton" and found["n_evaluations"] < 30 and not found["displaced"]


def test_all_files_say_the_same(refined):
    found, folder = refined
    factor = found["factors"][0]
    cif = (folder / "fine_refine.cif").read_text()
    assert f"{factor['f_xray']:.7g}" in cif and "_refln_F_electron" in cif
    text = (folder / "dials.fine_refine.log").read_text()
    assert f"{found['parameters']['U111']['value']:.7g}" in text
    page = (folder / "dials.fine_refine.html").read_text()
    assert f"{found['parameters']['thickness']['value']:.7g}" in page and page.count("<svg") >= 6


@pytest.mark.slow
def test_pulls_are_those_of_a_normal_distribution(arrays, intensity, tmp_path):
    pulls = []
    for seed in range(25):
        files = write_pattern(tmp_path, add_counts(silicon_pattern(), intensity, 100 + seed))
        request = FineRefineRequest(pattern=files[0], structure=files[1])
        from dials_postrefine.programs.fine_refine_fits import refine

        fit = refine(request, prepare(request), lambda *_: None).fit
        esds = fit.esds()
        pulls.append([(fit.parameters.values[name] - value) / esds[name] for name, value in TRUTH.items()])
    assert 0.85 < np.sqrt(np.mean(np.square(pulls))) < 1.15


def refuse(arrays, folder, *given, structure=CIF, **changes):
    write_pattern(folder, {**arrays, **changes})
    (folder / "silicon.cif").write_text(structure)
    request = FineRefineRequest(
        pattern=str(folder / "pattern.npz"), structure=str(folder / "silicon.cif"), **dict(given)
    )
    with pytest.raises(Sorry) as error:
        run_request(request)
    left = [one.name for one in folder.iterdir() if one.name not in ("pattern.npz", "silicon.cif")]
    assert left in ([], ["dials.fine_refine.log"])
    return str(error.value)


NOTHING = np.zeros((4, 12, 12), dtype=bool)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": NOTHING}, "mask leaves no pixel"),
        ({"mask": NOTHING | (np.arange(12) == 5) & (np.arange(12)[:, None] < 3)}, "fewer pixels than parameters"),
        ({"data": np.full((4, 12, 12), 9.0)}, "no signal"),
        ({"structure": CIF.replace("5.4307", "5.6578")}, "not of this crystal"),
        ({"energy_V": np.array(200.0)}, "in volts"),
        ({"energy_V": np.array(1e3), "kx": np.full((12, 12), 20.0)}, "larger than the electrons'"),
        ({"variance": np.zeros((4, 12, 12))}, "not above zero"),
        ({"disks": np.zeros((2, 3), dtype=int)}, "three indices a disk"),
        ({"start": np.array("{")}, "start that can't be read"),
    ],
)
def test_bad_input_is_one_sentence(arrays, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    assert words in refuse(arrays, tmp_path, **changes)


def test_noise_alone_is_no_signal(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(2).normal(100.0, 10.0, (4, 12, 12))
    assert "no signal" in refuse(arrays, tmp_path, data=noise, variance=np.full((4, 12, 12), 100.0))


def test_a_disk_that_overlaps_the_edge_is_named(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = {name: value for name, value in arrays.items() if name not in ("data", "kx", "ky", "variance")}
    image = {"image": np.ones((60, 60)), "centres": [[20, 20], [40, 40], [3, 30]], "radius": 8.0}
    path = tmp_path / "image.npz"
    np.savez(path, **raw, **image)
    (tmp_path / "silicon.cif").write_text(CIF)
    with pytest.raises(Sorry, match="Disk 3 .* overlaps the edge"):
        run_request(FineRefineRequest(pattern=str(path), structure=str(tmp_path / "silicon.cif")))
