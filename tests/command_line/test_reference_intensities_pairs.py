"""
Every two options of dials.reference_intensities together, against data with a known scale, fall-off and bulk solvent.

The data are |k exp(-B s^2) (F_calc + k_sol exp(-B_sol s^2) F_mask)|^2 with noise: R and what is refined are known.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the files")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from pairwise import all_pairs, factors, value_of

from dxtbx import flumpy
from iotbx import mtz

from dials_postrefine.command_line.reference_intensities import run
from dials_postrefine.settings import scope

pytestmark = [pytest.mark.dials, pytest.mark.slow]

K_SQUARED, B, K_SOL, B_SOL, ERROR = 2.0, 5.0, 0.35, 46.0, 0.03
MODEL = """\
CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N
ATOM      2  CA  ALA A   1       2.200   3.100   4.300  1.00 11.00           C
ATOM      3  C   ALA A   1       5.200   8.100   9.300  1.00 13.00           C
ATOM      4  O   ALA A   1       6.700  12.100  14.300  1.00 14.00           O
ATOM      5  SG  CYS A   2       9.000   6.000   7.000  1.00 12.00           S
END
"""
VARIED = {
    "space_group": ("None", "P212121"),
    "reference_model.k_sol": ("None", "0.35"),
    "reference_model.b_sol": ("None", "46"),
    "reference_model.d_min": ("None", "1.8"),
    "reference_model.model_error": ("0.2", "0.05"),
    "reference_model.n_shells": ("10", "5"),
}
CONSTANT = {
    "input.*": "names of files, and what they are",
    "output.*": "names of files",
    "reference_model.radiation": "the data are of X-rays; form factors: tests/scattering/test_structure_factors.py",
    "reference_model.mott_bethe": "of electrons: tests/scattering/test_structure_factors.py",
    "reference_model.labels": "of a reflection file as reference",
    "reference_model.block": "of a CIF",
}
LEFT_OUT = {f"reference_model.table={name}": "not of X-rays" for name in ("electron", "neutron")}
FORBIDDEN = {
    ("reference_model.bulk_solvent=off", f"reference_model.{name}"): "the value of a solvent that is not there"
    for name in ("k_sol=0.35", "b_sol=46")
}
FACTORS = factors(scope.load("reference_intensities"), VARIED, CONSTANT, LEFT_OUT)
ROWS = all_pairs(FACTORS, FORBIDDEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model and the data."""
    path = tmp_path_factory.mktemp("pairs")
    (path / "model.pdb").write_text(MODEL)
    names = {"mtz": "calculated.mtz", "reflections": None, "log": "log", "json": None}
    outputs = [f"output.{key}={name and path / name}" for key, name in names.items()]
    run([str(path / "model.pdb"), "d_min=1.6", "anomalous=none", f"k_sol={K_SOL}", f"b_sol={B_SOL}", *outputs])
    array = mtz.object(str(path / "calculated.mtz")).as_miller_arrays()[0]
    rng = np.random.default_rng(0)
    value = K_SQUARED * np.array(array.data()) * np.exp(-B * np.array(array.d_star_sq().data()) / 2.0)
    sigma = ERROR * (value + 0.1 * value.mean())
    value = value + sigma * rng.standard_normal(len(value))
    data = array.customized_copy(data=flumpy.from_numpy(value), sigmas=flumpy.from_numpy(sigma))
    data.set_observation_type_xray_intensity()
    data.as_mtz_dataset(column_root_label="IMEAN", wavelength=0.98).mtz_object().write(str(path / "data.mtz"))
    return path


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_every_pair_of_options_finds_scale_and_solvent(row, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check(row, folder)


def check(row, folder) -> None:
    run([str(folder / "model.pdb"), f"data={folder / 'data.mtz'}", *row])
    with open("dials.reference_intensities.json") as file:
        summary = json.load(file)
    fit, r = summary["fit"], summary["chosen"]["r"]

    def chosen(name):
        return value_of(row, f"reference_model.{name}")

    d_min = 1.6 if chosen("d_min") == "None" else float(chosen("d_min"))
    written = mtz.object("reference.mtz").as_miller_arrays()[0]
    assert d_min <= written.d_min() < 1.02 * d_min and written.size() == summary["n_reflections"]
    assert written.anomalous_flag() == (value_of(row, "merge_friedel_mates") == "False")
    unique = written.average_bijvoet_mates() if written.anomalous_flag() else written
    assert summary["n_data"] == unique.size()  # the data are merged
    if chosen("scale") == "none":  # the fall-off of the data can't be taken up
        assert fit["b_iso"] == 0.0 and r > 0.05
    elif chosen("bulk_solvent") == "off":
        assert fit["k_sol"]["value"] is None and r > 0.1
        assert fit["b_iso"] == pytest.approx(B, abs=0.4)
    else:  # the data have no dispersion; that of C, N, O and S is small
        loose = 1.0 if chosen("anomalous") == "none" else 4.0
        assert r < 0.018 if loose == 1.0 else r < 0.022
        assert fit["k_ov"]["value"] == pytest.approx(K_SQUARED**0.5, rel=0.005 * loose)
        assert fit["b_iso"] == pytest.approx(B, abs=0.03 * loose)
        assert fit["k_sol"]["value"] == pytest.approx(K_SOL, abs=0.002 * loose)
        assert fit["b_sol"]["value"] == pytest.approx(B_SOL, abs=0.7 * loose)


FAULTS = {  # of the data: the intensity as a function of itself and of d*^2
    "none": lambda value, d_star_sq: value,
    "amplitudes taken for intensities": lambda value, d_star_sq: np.sqrt(np.maximum(value, 0.0)),
    "B applied twice": lambda value, d_star_sq: value * np.exp(-B * d_star_sq / 2.0),
    "wrong sign of B": lambda value, d_star_sq: value * np.exp(2.0 * B * d_star_sq / 2.0),
    "scaled by 5 %": lambda value, d_star_sq: 1.05 * value,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault, folder, monkeypatch, tmp_path):
    from dials_postrefine.programs import merged_data

    monkeypatch.chdir(tmp_path)
    right = merged_data.merge_intensities

    def wrong(*args, **kwargs):
        array, tally = right(*args, **kwargs)
        value = FAULTS[fault](np.array(array.data()), np.array(array.d_star_sq().data()))
        return array.customized_copy(data=flumpy.from_numpy(value)).set_observation_type_xray_intensity(), tally

    monkeypatch.setattr(merged_data, "merge_intensities", wrong)
    row = next(
        row
        for row in ROWS
        if value_of(row, "reference_model.scale") != "none" and value_of(row, "reference_model.bulk_solvent") != "off"
    )
    if fault == "none":
        check(row, folder)
    else:
        with pytest.raises(AssertionError):
            check(row, folder)
