"""dials.diffuse_model from files: what it finds in maps whose truth is known, and what it says of bad ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("numba", reason="structure factors are sampled by compiled loops")
pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

from pair_sums import P1, P212121
from rigid_maps import CELL, N_ATOMS, rigid_intensity, simulate_atoms, write_map, write_pdb

pytestmark = pytest.mark.dials


def run(run_program, folder, *args):
    done = run_program("dials.diffuse_model", *args, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "dials.diffuse_model.json").read_text())


def test_a_rigid_body_in_another_setting(run_program, tmp_path):
    """Four molecules of P 21 21 21 in a map whose h is the model's k, and so on; everything is found and written."""
    import h5py

    group, sigma = P212121, 0.3
    path = write_map(tmp_path / "diffuse.nxs", lambda h: rigid_intensity(h, group, sigma), (1, 2, 0))
    model = write_pdb(tmp_path / "model.pdb", "P 21 21 21")
    found = run(run_program, tmp_path, path, model, "model=rigid_body+liquid_like")
    assert found["chosen"] == "rigid_body" and found["reindex_operation"] == "l,h,k"
    one = found["models"]["rigid_body"]
    esd = one["parameters"]["sigma"]["esd"]
    assert abs(one["parameters"]["sigma"]["value"] - sigma) < min(3.5 * esd, 0.03 * sigma) and esd < 0.01
    assert one["variant"]["unit"] == "molecule" and one["variant"]["displacements"] == "file"
    assert one["chi2_reduced"] == pytest.approx(1.0, abs=0.03)
    assert one["cc_held_out"] == pytest.approx(one["cc_anisotropic"], abs=0.02)
    with h5py.File(tmp_path / "model.nxs") as written, h5py.File(path) as given:
        observed, calculated = given["entry/map/intensity"][()], written["entry/map/calculated"][()]
        residual = written["entry/map/residual"][()]
    np.testing.assert_array_equal(np.isfinite(observed), np.isfinite(calculated))
    np.testing.assert_allclose(residual, observed - calculated, atol=1e-2)
    covariance = np.load(tmp_path / "model_covariance.npz")
    value = one["parameters"]["sigma"]["value"]
    assert covariance["V"].shape == (N_ATOMS, N_ATOMS) and covariance["V_residue"].shape == (N_ATOMS // 4,) * 2
    np.testing.assert_allclose(covariance["V"][0, 1:], value**2, rtol=1e-5)
    np.testing.assert_allclose(np.diag(covariance["V"]), simulate_atoms()[2] / (8.0 * np.pi**2), rtol=1e-4)
    written = [line for line in (tmp_path / "model_fluctuations.pdb").read_text().splitlines() if line[:4] == "ATOM"]
    assert {float(line[60:66]) for line in written} == {round(8.0 * np.pi**2 * value**2, 2)}
    assert "Chosen: rigid_body" in (tmp_path / "dials.diffuse_model.log").read_text()
    assert "<svg" in (tmp_path / "dials.diffuse_model.html").read_text()


def test_few_counts_tell_a_motion_where_the_map_is_in_electrons(run_program, tmp_path):
    """Scale and sigma are one number nearly: a map whose scale is 1 tells sigma, one with any scale hardly."""
    sigma = 0.22
    path = write_map(tmp_path / "diffuse.nxs", lambda h: rigid_intensity(h, P212121, sigma), exposure=0.3)
    model = write_pdb(tmp_path / "model.pdb", "P 21 21 21")
    found = run(run_program, tmp_path, path, model, "model=rigid_body")
    one = found["models"]["rigid_body"]
    value, esd = one["parameters"]["sigma"]["value"], one["parameters"]["sigma"]["esd"]
    assert abs(value - sigma) < min(3.0 * esd, 0.03 * sigma) and one["variant"]["displacements"] == "file"
    assert one["scale"] == {"value": 1.0, "esd": 0.0, "held": True} and one["n_parameters"] == 1
    assert one["bic"] < found["models"]["background"]["bic"] and found["decision"].startswith("rigid_body is chosen")
    assert any("scale=free" in remark for remark in found["remarks"])
    free = run(run_program, tmp_path, path, model, "model=rigid_body", "scale=free", "displacements=file")
    other = free["models"]["rigid_body"]
    assert not other["scale"]["held"] and other["parameters"]["sigma"]["esd"] > 5.0 * esd
    assert abs(other["parameters"]["sigma"]["value"] - sigma) < 3.0 * other["parameters"]["sigma"]["esd"]
    assert any("scale and sigma" in remark for remark in free["remarks"])


def test_noise_is_no_motion(run_program, tmp_path):
    path = write_map(tmp_path / "diffuse.nxs", lambda h: np.zeros(len(h)))
    found = run(run_program, tmp_path, path, write_pdb(tmp_path / "model.pdb"), "model=Auto")
    assert found["chosen"] == "background" and found["verdict"]["grade"] == "distrust"
    assert found["models"]["background"]["chi2_reduced"] == pytest.approx(1.0, abs=0.03)
    assert {"rigid_body", "liquid_like", "elastic"} <= set(found["models"])


def test_libration_and_an_inferred_covariance(run_program, tmp_path, small_map):
    """A body that moves as a whole: it does not librate, and all residues have the covariance sigma^2."""
    words = ["model=rigid_body+covariance", "rigid_body.libration=True", "displacements=file", "covariance.rank=2"]
    found = run(run_program, tmp_path, small_map, write_pdb(tmp_path / "model.pdb"), *words)
    parameters = found["models"]["rigid_body"]["parameters"]
    libration = parameters["libration"]
    assert libration["unit"] == "deg" and libration["value"] < max(3.0 * libration["esd"], 0.5)
    assert abs(parameters["sigma"]["value"] - 0.3) < 4.0 * parameters["sigma"]["esd"]
    inferred = found["models"]["covariance"]
    assert inferred["chi2_reduced"] < 1.2 and len(inferred["parameters"]) == 2 * N_ATOMS // 4
    assert "20 elements" in (tmp_path / "dials.diffuse_model.log").read_text()
    only = run(run_program, tmp_path, small_map, tmp_path / "model.pdb", "model=covariance")
    v = np.load(tmp_path / "model_covariance.npz")["V_residue"]
    off = ~np.eye(len(v), dtype=bool)
    assert only["chosen"] == "covariance" and abs(v[off].mean() - 0.09) < 0.03 and v[off].std() < 0.03


@pytest.fixture(scope="module")
def small_map(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    return write_map(folder / "diffuse.nxs", lambda h: rigid_intensity(h, P1, 0.3))


@pytest.mark.parametrize(
    ("what", "args", "words"),
    [
        ("another crystal", [], "is not that of the map"),
        ("no symmetry", [], "has no unit cell and space group"),
        ("no model", [], "There is no atomic model"),
        ("no map", ["missing.nxs"], "does not exist"),
        ("resolution", ["d_min=200"], "No observed voxel"),
        ("few voxels", ["d_min=13"], "too few for the models' parameters"),
        ("operation", ["reindex_operation=k,k,l"], "is no operation as k,h,-l"),
        ("space group", ["space_group=P4"], "does not fit the unit cell"),
        ("not a covariance", ["model=covariance", "input.covariance=model.pdb"], "or a .npz with V"),
        ("tensor", ["rigid_body.tensor=True", "displacements=model"], "needs the file's displacements"),
        ("libration", ["rigid_body.libration=True", "displacements=model"], "needs the file's displacements"),
        ("two maps", ["other.nxs"], "one map is fitted"),
        ("no number", [], "No voxel of"),
        ("the same everywhere", [], "no anisotropic signal"),
        ("no map in it", [], "can't be read as a map"),
        ("atoms outside", [], "2 of the 40 atoms of model.pdb lie outside"),
        ("few voxels of a model", ["d_min=9.6", "rigid_body.tls=True", "model=rigid_body"], "too few to fit"),
        ("no cell", [], "is no cell"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(tmp_path, monkeypatch, small_map, what, args, words):
    from dials_postrefine.command_line.diffuse_model import run as run_here

    monkeypatch.chdir(tmp_path)
    cell = (30.0, 40.0, 50.0) if what == "another crystal" else CELL
    write_pdb(tmp_path / "model.pdb", cell=cell, cryst1=what != "no symmetry")
    if what == "atoms outside":
        text = (tmp_path / "model.pdb").read_text()
        for x in (simulate_atoms()[0][3, 0], simulate_atoms()[0][7, 0]):
            assert text.count(f"{x:8.3f}") == 1
            text = text.replace(f"{x:8.3f}", f"{x + 200.0:8.3f}")
        (tmp_path / "model.pdb").write_text(text)
    files = [] if what == "no map" else [str(spoil(small_map, tmp_path / "diffuse.nxs", what))]
    files += [] if what == "no model" else ["model.pdb"]
    with pytest.raises(SystemExit) as caught:
        run_here([*files, *args])
    assert str(caught.value).startswith("Sorry: ") and words in str(caught.value)
    assert not list(tmp_path.glob("model.nxs")) and not (tmp_path / "dials.diffuse_model.json").exists()


def spoil(source, path, what):
    """A map with NaN only, one with the same value everywhere, a file without a map, or the map as it is."""
    import h5py

    if what not in ("no number", "the same everywhere", "no map in it", "no cell"):
        return source
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        if what == "no map in it":
            del file["entry/sample"]
        elif what == "no cell":
            file["entry/sample/unit_cell"][...] = np.nan
        else:
            values = file["entry/map/intensity"][()]
            file["entry/map/intensity"][...] = (
                np.nan if what == "no number" else np.where(np.isnan(values), values, 7.0)
            )
    return path


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chosen", "truth"),
    [
        ("rigid_plus_individual_p1", "rigid_body", {"sigma": 0.30}),
        ("llm_ensemble_cell_p1", "liquid_like", {"sigma": 0.40, "gamma": 6.0}),
        ("v_gnm_p1", "elastic", {}),
    ],
)
def test_the_sets_with_truth(run_program, tmp_path, shared_data, name, chosen, truth):
    folder = shared_data / "diffuse_truth"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/diffuse_truth")
    found = run(run_program, tmp_path, folder / f"{name}.nxs", folder / f"{name}.pdb")
    assert found["chosen"] == chosen
    one = found["models"][chosen]
    assert one["chi2_reduced"] == pytest.approx(1.05 if chosen == "liquid_like" else 1.0, abs=0.02)
    for key, value in truth.items():
        parameter = one["parameters"][key]
        assert abs(parameter["value"] - value) < min(3.0 * parameter["esd"], 0.03 * value), key


@pytest.mark.data
@pytest.mark.slow
def test_a_covariance_with_truth_is_inferred(run_program, tmp_path, shared_data):
    folder = shared_data / "diffuse_truth"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/diffuse_truth")
    words = ["model=covariance", "covariance.rank=4"]
    found = run(run_program, tmp_path, folder / "v_gnm_p1.nxs", folder / "v_gnm_p1.pdb", *words)
    assert found["models"]["covariance"]["chi2_reduced"] < 1.15
    v = np.load(folder / "v_gnm_p1_truth.npz", allow_pickle=True)["V"]
    inferred, off = np.load(tmp_path / "model_covariance.npz")["V"], ~np.eye(len(v), dtype=bool)
    assert np.corrcoef(v[off], inferred[off])[0, 1] > 0.9
    assert np.polyfit(v[off], inferred[off], 1)[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.data
@pytest.mark.slow
def test_a_real_map_in_another_setting(run_program, tmp_path, shared_data):
    map_of = shared_data / "snase_diffuse_lunus" / "snc_diffuse_reference.lat"
    if not map_of.exists():
        pytest.skip("needs ../shared/data/snase_diffuse_lunus")
    model = shared_data / "models" / "1stn.pdb"
    found = run(run_program, tmp_path, map_of, model, "model=liquid_like", "liquid_like.across=crystal")
    assert found["reindex_operation"] == "k,h,-l"
    assert any("Voxels beyond 1.5" in remark for remark in found["remarks"])
    one = found["models"]["liquid_like"]
    assert one["cc_held_out"] > 0.66 and 7.0 < one["parameters"]["gamma"]["value"] < 11.0
