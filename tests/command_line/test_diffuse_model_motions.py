"""dials.diffuse_model's tensors, selections, networks, trajectories and inferred covariances, from files."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("numba", reason="structure factors are sampled by compiled loops")
pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

import rigid_maps
from pair_sums import P1, P212121
from rigid_maps import CELL, N_ATOMS, rigid_intensity, simulate_atoms, write_map, write_pdb

pytestmark = pytest.mark.dials
HALVES = ("rigid_body.selection=resseq 1:5", "rigid_body.selection=resseq 6:10")


@pytest.fixture(scope="module")
def rigid_map(tmp_path_factory):
    """Four molecules that move as a whole by 0.3 A, in P 21 21 21."""
    path = tmp_path_factory.mktemp("map") / "diffuse.nxs"
    return write_map(path, lambda h: rigid_intensity(h, P212121, 0.3))


@pytest.fixture
def run(rigid_map, tmp_path, monkeypatch):
    """Run the program on the map of a rigid molecule; the JSON."""
    from dials_postrefine.command_line.diffuse_model import run as run_here

    monkeypatch.chdir(tmp_path)
    write_pdb(tmp_path / "model.pdb", "P 21 21 21")

    def run_with(*args):
        run_here([str(rigid_map), "model.pdb", *args])
        return json.loads((tmp_path / "dials.diffuse_model.json").read_text())

    return run_with


def test_tensors_of_a_body_that_only_shifts(run, tmp_path):
    """T is sigma^2 in all directions, and L and S are 0 within their standard deviations."""
    words = (
        "model=rigid_body rigid_body.unit=molecule rigid_body.tls=True displacements=file background.functions=radial"
    )
    found = run(*words.split(), "background.n=80", "scale=free", "d_min=3")["models"]["rigid_body"]
    parameters = found["parameters"]
    assert len(parameters) == 20 and found["n_parameters"] == 21 and found["variant"]["motion"] == "TLS"
    assert found["chi2_reduced"] == pytest.approx(1.0, abs=0.05)
    for name in ("t11", "t22", "t33"):
        assert abs(parameters[name]["value"] - 0.09) < 4.0 * parameters[name]["esd"] < 0.1, name
    for name in ("t12", "l12", "l13", "l23", "s11", "s12", "s31"):
        assert abs(parameters[name]["value"]) < 4.5 * parameters[name]["esd"], name
    assert "\ns32 = " in (tmp_path / "dials.diffuse_model.log").read_text()
    lines = (tmp_path / "model_fluctuations.pdb").read_text().splitlines()
    assert sum(line.startswith("ANISOU") for line in lines) == N_ATOMS
    u = np.load(tmp_path / "model_covariance.npz")["U"]
    assert u.shape == (N_ATOMS, 3, 3) and np.abs(u - 0.09 * np.eye(3)).max() < 0.05


def test_bodies_that_are_selections(run):
    """One map cannot tell halves that move alike from a whole without V between them: it fits worse, and says so."""
    words = ("model=rigid_body", "displacements=file", "d_min=3")
    halves = run(*words, *HALVES, "rigid_body.per_body=True")["models"]["rigid_body"]
    assert list(halves["parameters"]) == ["sigma_1", "sigma_2"] and halves["variant"]["unit"] == "selection"
    whole = run(*words, "rigid_body.selection=chain A")["models"]["rigid_body"]
    one = whole["parameters"]["sigma"]
    assert abs(one["value"] - 0.3) < 4.0 * one["esd"] and whole["chi2_reduced"] < halves["chi2_reduced"] - 0.1


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("elastic.network=anisotropic elastic.force_constants=2 scale=absolute background.functions=radial", "elastic"),
        ("elastic.network=gaussian elastic.across=crystal elastic.width=None bulk_solvent=True robust=True", "elastic"),
        (
            "covariance.groups=domains covariance.n_domains=3 bulk_solvent=True background.functions=constant",
            "covariance",
        ),
        ("rigid_body.tls=True rigid_body.unit=cell bulk_solvent=True displacements=refined", "rigid_body"),
        ("liquid_like.order=2 liquid_like.across=molecule displacements=refined scale=absolute", "liquid_like"),
    ],
)
def test_options_meet(run, words, name):
    found = run(*words.split(), f"model={name}", "d_min=4", "held_out.by=regions")
    one = found["models"][name]
    assert all(np.isfinite(each["esd"]) for each in one["parameters"].values())
    assert one["chi2_reduced"] < found["models"]["background"]["chi2_reduced"] and one["cc_anisotropic"] > 0.5


def test_a_covariance_of_selections_is_inferred_with_standard_deviations(run, tmp_path):
    words = ("model=covariance", "covariance.selection=resseq 1:5", "covariance.selection=resseq 6:8", "d_min=3")
    found = run(*words)["models"]["covariance"]
    assert found["covariance"]["groups"] == ["resseq 1:5", "resseq 6:8"] and found["variant"]["groups"] == "2 groups"
    v, esd = np.array(found["covariance"]["v"]), np.array(found["covariance"]["esd"])
    for name in ("dials.diffuse_model.log", "dials.diffuse_model.html"):
        assert "resseq 6:8" in (tmp_path / name).read_text() and f"{esd[0, 1]:.4f}" in (tmp_path / name).read_text()
    assert v.shape == esd.shape == (2, 2) and (esd > 0.0).all()
    file = np.load(tmp_path / "model_covariance.npz")
    np.testing.assert_allclose(file["V_group"], v)
    np.testing.assert_allclose(file["V_group_esd"], esd)
    assert file["group"].tolist() == [0] * 20 + [1] * 12 + [-1] * 8 and file["names"].tolist() == [
        "resseq 1:5",
        "resseq 6:8",
    ]
    assert not file["V"][:32, 32:].any() and file["V"][0, 1] == pytest.approx(v[0, 0], rel=1e-5)


def test_the_rank_is_that_of_the_motion(run):
    """A rigid molecule has one motion, by which all groups have the same covariance sigma^2."""
    found = run("model=covariance", "covariance.groups=residues", "covariance.residues=2", "d_min=3")
    one = found["models"]["covariance"]
    assert one["variant"]["rank"] == "1" and one["chi2_reduced"] < 1.1
    tried = [each["variant"]["rank"] for each in found["variants"] if each["model"] == "covariance"]
    assert tried == ["1", "2"]
    v, esd = np.array(one["covariance"]["v"]), np.array(one["covariance"]["esd"])
    assert np.abs(v - 0.09).max() < 0.03 and np.median(np.abs(v - 0.09) / esd) < 3.0


def write_trajectory(path, n_frames=120, turned=False, names="A"):
    """Frames of the molecule that is shifted by 0.3 A as a whole, with the atoms' own motion."""
    xyz, elements, b = simulate_atoms()
    random = np.random.default_rng(2)
    own = np.sqrt(b / (8.0 * np.pi**2) - 0.09)
    lines = []
    for number in range(n_frames):
        moved = xyz + 0.3 * random.normal(size=3) + own[:, None] * random.normal(size=xyz.shape)
        lines.append(f"MODEL {number + 1:8d}")
        for k, (place, element) in enumerate(zip(moved, elements)):
            x, y, z = place
            lines.append(
                f"ATOM  {k + 1:5d}  {element}   GLY {names}{k // 4 + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
                f"           {element}"
            )
        lines.append("ENDMDL")
    path.write_text("\n".join([*lines, "END", ""]))


def test_a_trajectory(run, tmp_path):
    write_trajectory(tmp_path / "frames.pdb")
    words = ("model=covariance", "input.covariance=frames.pdb", "d_min=4")
    lying = run(*words, "covariance.superpose=False")["models"]["covariance"]
    assert lying["variant"] == {"frames": "120", "motion": "isotropic"} and lying["cc_held_out"] > 0.9
    v = np.load(tmp_path / "model_covariance.npz")["V"]
    off = ~np.eye(N_ATOMS, dtype=bool)
    assert abs(v[off].mean() / lying["parameters"]["fraction"]["value"] - 0.09) < 0.02
    tensor = run(*words, "covariance.superpose=False", "covariance.tensor=True")["models"]["covariance"]
    assert tensor["variant"]["motion"] == "3 x 3" and tensor["cc_held_out"] > 0.9
    assert run(*words)["chosen"] == "background"  # what moved was the whole, which superposition takes off


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rigid_body.selection=chain A and residu 5"], "can't be read as a selection"),
        (["rigid_body.selection=chain Z"], "has no atom of model.pdb"),
        (["rigid_body.selection=resseq 1:5", "rigid_body.selection=resseq 5:9"], "atoms in common"),
        (["rigid_body.unit=selection"], "no rigid_body.selection"),
        (["covariance.groups=selection"], "no covariance.selection"),
        (["covariance.selection=chain Z"], "covariance.selection"),
        (["rigid_body.tls=True", "rigid_body.libration=True"], "leave rigid_body.libration out"),
        (["rigid_body.tls=True", "displacements=model"], "needs the file's displacements"),
        (["rigid_body.selection=chain A", "displacements=model"], "need the file's displacements"),
        (["covariance.groups=secondary_structure"], "has no helix and no strand"),
        (["input.covariance=short.pdb"], "has 2 models"),
        (["input.covariance=other.pdb"], "lacks 40 of the 40 atoms"),
        (["input.covariance=text.pdb"], "can't be read as a PDB trajectory"),
        (["input.covariance=missing.pdb"], "missing.pdb"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(run, tmp_path, args, words):
    write_trajectory(tmp_path / "short.pdb", 2)
    write_trajectory(tmp_path / "other.pdb", 4, names="Q")
    lines = (tmp_path / "other.pdb").read_text().splitlines()
    (tmp_path / "other.pdb").write_text("\n".join(line for line in lines if not line.startswith("ATOM      1 ")) + "\n")
    (tmp_path / "text.pdb").write_text("nothing\n")
    with pytest.raises(SystemExit) as caught:
        run(*args, "model=rigid_body+covariance", "d_min=5")
    assert str(caught.value).startswith("Sorry: ") and words in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "model.nxs").exists()


def network_covariance(xyz, cutoff=8.0, width=4.0, anchor=0.05):
    """G of an anisotropic network (3n, 3n), spring by spring."""
    n = len(xyz)
    k = np.zeros((n, 3, n, 3))
    for i in range(n):
        for j in range(n):
            d = xyz[j] - xyz[i]
            r = np.linalg.norm(d)
            if i != j and r < cutoff:
                block = np.exp(-((r / width) ** 2)) * np.outer(d, d) / r**2
                k[i, :, j] -= block
                k[i, :, i] += block
    return np.linalg.inv(k.reshape(3 * n, 3 * n) + anchor * np.eye(3 * n))


def network_intensity(h, group, v):
    """The sum over pairs of atoms with 3 x 3 covariances, of each copy."""
    from dials_postrefine.scattering.form_factors import choose_form_factors

    xyz, elements, _ = simulate_atoms()
    gaussians = choose_form_factors(["C", "N", "O"]).gaussians
    blocks = v.reshape(N_ATOMS, 3, N_ATOMS, 3).transpose(0, 2, 1, 3)
    found = np.zeros(len(h))
    for rotation, _ in group:
        q = 2.0 * np.pi * (h @ rotation) / CELL
        s_sq = (q**2).sum(axis=1) / (4.0 * np.pi**2)
        f = {
            name: sum(a * np.exp(-w * s_sq / 4) for a, w in zip(one.array_of_a(), one.array_of_b())) + one.c()
            for name, one in gaussians.items()
        }
        products = np.einsum("na,nb->nab", q, q).reshape(-1, 9)
        own = products @ np.array([blocks[i, i].ravel() for i in range(N_ATOMS)]).T
        e = np.array([f[name] for name in elements]).T * np.exp(-0.5 * own) * np.exp(1j * q @ xyz.T)
        for i in range(N_ATOMS):
            w = products @ blocks[i].reshape(N_ATOMS, 9).T
            found += (e[:, i, None] * e.conj() * np.expm1(w)).sum(axis=1).real
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("symbol", "group"), [("P 1", P1), ("P 21 21 21", P212121)])
def test_an_anisotropic_network_is_chosen_where_it_is(tmp_path, monkeypatch, symbol, group):
    """model=Auto, of a map of one: V is found to CC 0.99, and its displacements are those of the file."""
    from dials_postrefine.command_line.diffuse_model import run as run_here

    monkeypatch.chdir(tmp_path)
    g = network_covariance(simulate_atoms()[0])
    v = 0.25 * g / np.diag(g).mean()
    b = 8.0 * np.pi**2 * np.diag(v).reshape(-1, 3).mean(axis=1)
    monkeypatch.setattr(rigid_maps, "simulate_atoms", lambda: (*simulate_atoms()[:2], np.round(b, 2)))
    write_map(tmp_path / "diffuse.nxs", lambda h: network_intensity(h, group, v))
    write_pdb(tmp_path / "model.pdb", symbol)
    run_here(["diffuse.nxs", "model.pdb"])
    found = json.loads((tmp_path / "dials.diffuse_model.json").read_text())
    one = found["models"]["elastic"]
    assert found["chosen"] == "elastic" and one["variant"]["network"] == "anisotropic"
    assert (one["variant"]["cutoff"], one["variant"]["width"]) == ("8", "4")
    assert one["chi2_reduced"] == pytest.approx(1.0, abs=0.03)
    for name, true in (("fraction", 1.0), ("anchor", 0.05)):
        parameter = one["parameters"][name]
        assert parameter["determined"] and abs(parameter["value"] - true) < max(4.0 * parameter["esd"], 0.01 * true)
    file, off = np.load("model_covariance.npz"), ~np.eye(N_ATOMS, dtype=bool)
    true = v.reshape(N_ATOMS, 3, N_ATOMS, 3).trace(axis1=1, axis2=3) / 3.0
    assert np.corrcoef(file["V"][off], true[off])[0, 1] > 0.99
    own = v.reshape(N_ATOMS, 3, N_ATOMS, 3)[np.arange(N_ATOMS), :, np.arange(N_ATOMS)]
    assert np.abs(file["U"] - own).max() < 0.02 * np.abs(own).max()
