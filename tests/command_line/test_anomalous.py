"""dials.postrefine anomalous=True: from files to the MTZ that dials.merge makes, and its numbers on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

import iotbx.pdb
from cctbx import crystal, miller, sgtbx, xray
from dials.array_family import flex
from iotbx import mtz

from dials_postrefine.files.dials.symmetry import map_to_asymmetric_unit
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.programs.merged_data import take_reference
from dials_postrefine.programs.reference_model import ReferenceSettings
from dials_postrefine.programs.stills_input import StillsChoice, read_stills
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

# 77 reflections a lattice
OPTIONS = StillsOptions(
    n_lattices=80,
    seed=1,
    d_min=3.0,
    unit_cell=(50.0, 50.0, 38.0, 90.0, 90.0, 90.0),
    profile="gaussian",
    window=0.0012,
    misorientation=0.03,
    background=1.0,
    bijvoet_ratio=0.1,
)
GROUP = sgtbx.space_group_info(OPTIONS.space_group).group()


@pytest.fixture(scope="module")
def folder(run_program, tmp_path_factory) -> Path:
    """Simulated stills that dials.postrefine has refined with Friedel pairs apart."""
    folder = tmp_path_factory.mktemp("anomalous")
    write_stills(simulate_stills(OPTIONS), folder / "stills")
    args = ("anomalous=True", "profile=gaussian", "n_shells=3", "output.mtz=kept.mtz", "output.xfel_merge=xfel")
    done = run_program("dials.postrefine", "stills.expt", "stills.refl", *args, "nproc=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def summary(folder) -> dict:
    return json.loads((folder / "dials.postrefine.json").read_text())


def merged_by_hand(folder: Path) -> dict:
    """Weighted means and sigmas by index of the asymmetric unit and hand, from the written table."""
    table = flex.reflection_table.from_file(str(folder / "postrefined.refl"))
    table = table.select(table.get_flags(table.flags.scaled))
    factor = np.array(table["inverse_scale_factor"])
    value = np.array(table["intensity.scale.value"]) / factor
    weight = factor**2 / np.array(table["intensity.scale.variance"])
    h = map_to_asymmetric_unit(miller_indices_to_numpy(table["miller_index"]), GROUP, anomalous=True)
    index, unique = np.unique(h, axis=0, return_inverse=True)
    total = np.bincount(unique.ravel(), weight)
    mean = np.bincount(unique.ravel(), weight * value) / total
    return {tuple(row): (i, w**-0.5) for row, i, w in zip(index.tolist(), mean, total)}


def array_of(path: Path, label: str):
    (found,) = [a for a in mtz.object(str(path)).as_miller_arrays() if a.info().labels[0] == label]
    return found


def pairs_of(merged: dict) -> dict:
    """I+, I- and the sigma of their difference, by the index of I+."""
    found = {}
    for h, (plus, sigma) in merged.items():
        mate = tuple(-i for i in h)
        is_plus = tuple(map_to_asymmetric_unit(np.array([h], dtype=np.int32), GROUP)[0].tolist()) == h
        if is_plus and mate in merged:
            found[h] = plus, merged[mate][0], np.hypot(sigma, merged[mate][1])
    return found


def test_the_mtz_has_the_differences_of_the_table(folder):
    merged = merged_by_hand(folder)
    intensity = array_of(folder / "kept.mtz", "I(+)").map_to_asu()
    theirs = dict(zip(intensity.indices(), zip(intensity.data(), intensity.sigmas())))
    assert set(theirs) == set(merged)
    for h, (value, sigma) in merged.items():
        assert theirs[h] == pytest.approx((value, sigma), rel=1e-4, abs=1e-3)


def test_dano_of_the_mtz_is_that_of_the_table(folder):
    """DANO is of the amplitudes F of French and Wilson: I(+) - I(-) = DANO (F(+) + F(-)) where I is strong."""
    arrays = [array_of(folder / "kept.mtz", label).map_to_asu() for label in ("DANO", "F(+)")]
    dano, f = (dict(zip(array.indices(), array.data())) for array in arrays)
    pairs = {h: pair for h, pair in pairs_of(merged_by_hand(folder)).items() if min(pair[:2]) > 12.0 * pair[2]}
    assert len(pairs) > 100
    minus = {h: tuple(-i for i in h) for h in pairs}
    assert all(dano[h] == pytest.approx(f[h] - f[minus[h]], abs=1e-3) for h in pairs)
    theirs = np.array([dano[h] * (f[h] + f[minus[h]]) for h in pairs])
    ours = np.array([pair[0] - pair[1] for pair in pairs.values()])
    assert theirs @ ours / (ours @ ours) == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(theirs, ours)[0, 1] > 0.995


def test_the_statistics_are_those_of_the_table(folder, summary):
    pairs, overall = pairs_of(merged_by_hand(folder)), summary["after"][-1]
    assert summary["dataset"]["anomalous"] is True
    assert overall["n_pairs"] == len(pairs)
    d = np.array([abs(plus - minus) / sigma for plus, minus, sigma in pairs.values()])
    assert overall["dano_over_sigma"] == pytest.approx(d.mean(), rel=1e-3)
    assert overall["n_unique"] == len(merged_by_hand(folder))
    # all that is possible, by cctbx
    truth = array_of(folder / "stills_truth.mtz", "I(+)")
    complete = truth.complete_set(d_min=summary["dataset"]["merged_d_min"], d_max=summary["dataset"]["merged_d_max"])
    assert overall["n_possible"] == pytest.approx(complete.size(), abs=4)
    n_acentric = complete.select(~complete.centric_flags().data()).size() // 2
    assert overall["anom_completeness"] == pytest.approx(len(pairs) / n_acentric, abs=0.005)
    assert 0.5 < overall["cc_anom_honest"] < 0.95 and 0.5 < overall["cc_anom"] < 0.95


def test_log_and_page_show_the_numbers_of_the_json(folder, summary):
    log, page = ((folder / f"dials.postrefine.{ending}").read_text() for ending in ("log", "html"))
    overall = summary["after"][-1]
    rows = [line for line in log.splitlines() if line.startswith("| CC_anom, honest half sets")]
    assert len(rows) == 1 and f"{overall['cc_anom_honest']:.3f}" in rows[0]
    assert "Anomalous differences I(+) - I(-), by resolution" in log
    for key in ("cc_anom", "cc_anom_honest"):
        assert f"{overall[key]:.3f}" in page
    assert "CC_anom by resolution" in page


def slope_and_cc(run: Path, simulated: Path) -> tuple[float, float, float]:
    """Of the differences that a run has written on the true ones, after one scale: slope, its esd, correlation."""
    pairs = pairs_of(merged_by_hand(run))
    truth = array_of(simulated / "stills_truth.mtz", "I(+)").map_to_asu()
    true = dict(zip(truth.indices(), truth.data()))
    plus, minus, _ = np.transpose(list(pairs.values()))
    true_plus, true_minus = np.transpose([(true[h], true[tuple(-i for i in h)]) for h in pairs])
    found, expected, scale = plus - minus, true_plus - true_minus, (plus + minus).sum() / (true_plus + true_minus).sum()
    found = found / scale
    slope = found @ expected / (expected @ expected)
    esd = np.sqrt(np.sum(((found - slope * expected) * expected) ** 2)) / (expected @ expected)
    return slope, esd, np.corrcoef(found, expected)[0, 1]


def test_the_differences_are_the_true_ones(folder):
    slope, esd, cc = slope_and_cc(folder, folder)
    assert cc > 0.8 and esd < 0.05
    assert slope == pytest.approx(1.0, abs=3.0 * esd)


def test_both_merge_commands_keep_pairs_apart(folder, summary):
    assert "merging.merge_anomalous=False" in summary["xfel_merge_command"]
    assert "anomalous=False" not in summary["merge_command"]
    table = flex.reflection_table.from_file(str(folder / "xfel.refl"))
    h = miller_indices_to_numpy(table["miller_index_asymmetric"])
    assert {tuple(row) for row in h.tolist()} == set(merged_by_hand(folder))


@pytest.mark.slow
@pytest.mark.parametrize("mean", [False, True])
def test_a_reference_with_pairs_apart_or_merged(folder, mean, run_program, tmp_path):
    truth = array_of(folder / "stills_truth.mtz", "I(+)")
    if mean:
        truth = truth.average_bijvoet_mates()
    truth.as_mtz_dataset(column_root_label="I").mtz_object().write(str(tmp_path / "reference.mtz"))
    args = ("anomalous=True", "profile=gaussian", "reference=reference.mtz", "nproc=1")
    pair = (folder / "stills.expt", folder / "stills.refl")
    done = run_program("dials.postrefine", *pair, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "dials.postrefine.json").read_text())
    assert len(summary["cycles"]) == (3 if mean else 2)
    assert summary["after"][-1]["cc_reference"] > 0.99
    slope, esd, cc = slope_and_cc(tmp_path, folder)
    assert cc > 0.8 and esd < 0.05
    assert slope == pytest.approx(1.0, abs=3.0 * esd)


def test_an_atomic_model_gives_both_hands_with_its_f_double_prime(folder, tmp_path):
    """Against cctbx: the differences that dials.postrefine fits to, of a model with three atoms of mercury."""
    rng = np.random.default_rng(0)
    symmetry = crystal.symmetry(unit_cell=OPTIONS.unit_cell, space_group=GROUP)
    structure = xray.structure(crystal_symmetry=symmetry)
    for i in range(120):
        element = "Hg" if i < 3 else "CNO"[i % 3]
        structure.add_scatterer(
            xray.scatterer(f"{element}{i}", site=tuple(rng.random(3)), u=0.2, scattering_type=element)
        )
    path = tmp_path / "model.pdb"
    path.write_text(structure.as_pdb_file())
    structure = iotbx.pdb.input(str(path)).xray_structure_simple()
    structure.set_inelastic_form_factors(OPTIONS.wavelength, "sasaki")
    structure.scattering_type_registry(table="wk1995")  # as the program takes it
    files = read_stills([folder / "stills.expt"], [folder / "stills.refl"], StillsChoice(anomalous=True))
    settings = ReferenceSettings(bulk_solvent=False, algorithm="direct")
    files, intensity, _ = take_reference(files, str(path), settings, reindex=False)
    assert not files.friedel_merged
    indices = miller.set(structure, to_flex_miller(files.h_unique), anomalous_flag=True)
    expected = indices.structure_factors_from_scatterers(structure, algorithm="direct").f_calc()
    expected = np.abs(np.array(expected.data())) ** 2
    plus, minus = files.stills.friedel.pairs()
    ratio, true = ((i[plus] - i[minus]) / (i[plus] + i[minus]) for i in (intensity, expected))
    assert np.abs(true).mean() > 0.05
    np.testing.assert_allclose(ratio, true, atol=1e-4)
    # the same for both without f''
    files, intensity, _ = take_reference(files, str(path), replace(settings, anomalous="none"), reindex=False)
    assert files.friedel_merged
    assert intensity[plus] == pytest.approx(intensity[minus], rel=1e-9)
