"""dials.diffuse_map as its user runs it: files, exactness, real data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from comparison import content

pytestmark = [pytest.mark.dials]

MAPS = ("diffuse.ccp4", "diffuse_anisotropic.ccp4", "diffuse.mtz", "radial.csv")
VOLUMES = ("intensity", "sigma", "anisotropic", "counts", "exposure", "pixels", "half_1", "half_2")
SMALL = ("d_min=2.2", "grid.subdivide=2,2,2")


def volumes(path) -> dict:
    """The arrays of a .nxs, and its sums."""
    import h5py

    found = {}
    with h5py.File(path, "r") as file:

        def collect(name, item):
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and item.size > 1:
                found[name] = item[()]

        file.visititems(collect)
    return found


def assert_same(first, second, but=()):
    """Every array of two .nxs is the same, bit for bit."""
    ours, theirs = volumes(first), volumes(second)
    assert set(ours) == set(theirs) and any("intensity" in name for name in ours)
    for name in ours:
        if not any(part in name for part in but):
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_help_says_what_it_does_and_how(run_program, tmp_path):
    result = run_program("dials.diffuse_map", "-h", cwd=tmp_path)
    assert result.returncode == 0
    for text in ("dials.diffuse_map refined.expt d_min=1.8", "add=first.nxs,second.nxs", "reciprocal space"):
        assert text in result.stdout


def test_all_files_are_written_and_say_the_same(run_program, sweep, tmp_path):
    result = run_program("dials.diffuse_map", sweep, *SMALL, cwd=tmp_path, check=True)
    for name in ("diffuse.nxs", *MAPS, "dials.diffuse_map.html", "dials.diffuse_map.json", "dials.diffuse_map.log"):
        assert (tmp_path / name).stat().st_size > 100
    assert not list(tmp_path.glob(".part*"))
    log = (tmp_path / "dials.diffuse_map.log").read_text()
    assert "Mapping 8 images" in log and "CC_Laue" in log and "CC_Laue" in result.stdout
    found = json.loads((tmp_path / "dials.diffuse_map.json").read_text())
    assert found["n_images_used"] == 8 and found["dataset"]["laue_class"] == "m m m"

    import gemmi
    import h5py

    reflections = gemmi.read_mtz_file(str(tmp_path / "diffuse.mtz"))
    with h5py.File(tmp_path / "diffuse.nxs", "r") as file:
        data = next(item for name, item in file["entry"].items() if "intensity" in item)
        axes = [data[axis][()] for axis in "hkl"]
        intensity = data["intensity"][()]
    rows = np.array(reflections, copy=False)
    place = [np.rint((rows[:, a] / 2 - axes[a][0]) * 2).astype(int) for a in range(3)]
    np.testing.assert_allclose(rows[:, 3], intensity[tuple(place)], rtol=1e-6)
    assert len(rows) > 300


def test_two_halves_added_are_one_run_on_all(sweep, mapped, tmp_path):
    mapped("all", sweep, *SMALL)
    mapped("first", sweep, *SMALL, "image_range=1,3")
    mapped("second", sweep, *SMALL, "image_range=4,8")
    total = mapped("sum", f"add={tmp_path / 'second' / 'diffuse.nxs'},{tmp_path / 'first' / 'diffuse.nxs'}")
    assert total["n_images_used"] == 8
    assert_same(tmp_path / "all" / "diffuse.nxs", tmp_path / "sum" / "diffuse.nxs")
    for name in ("diffuse.ccp4", "diffuse_anisotropic.ccp4", "radial.csv"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "sum" / name).read_bytes()
    one, other = (json.loads((tmp_path / name / "dials.diffuse_map.json").read_text()) for name in ("all", "sum"))
    for key in ("shells", "radial", "images", "index_offset", "level"):
        assert one[key] == other[key]


def test_a_sum_of_maps_of_different_symmetry_or_with_the_same_image_is_refused(sweep, mapped, tmp_path):
    mapped("first", sweep, *SMALL, "image_range=1,3")
    mapped("second", sweep, *SMALL, "image_range=3,8")
    with pytest.raises(SystemExit, match="Image 3 of sweep is in both"):
        mapped("sum", f"add={tmp_path / 'second' / 'diffuse.nxs'},{tmp_path / 'first' / 'diffuse.nxs'}")


def test_the_number_of_processes_changes_no_bit(sweep, mapped, tmp_path):
    for nproc in (1, 2, 3):
        mapped(str(nproc), sweep, *SMALL, f"nproc={nproc}")
    for nproc in ("2", "3"):
        assert_same(tmp_path / "1" / "diffuse.nxs", tmp_path / nproc / "diffuse.nxs")
        for name in (*MAPS[:2], "radial.csv", "dials.diffuse_map.json"):
            assert content(tmp_path / "1" / name) == content(tmp_path / nproc / name)


def test_symmetries_average_what_they_should(sweep, mapped):
    observed, agreement = {}, {}
    for symmetry in ("laue", "friedel", "p1"):
        found = mapped(symmetry, sweep, *SMALL, f"symmetry={symmetry}")
        shell = found["shells"][-1]
        observed[symmetry] = shell["n"]
        assert found["grid"]["n_operations"] == {"laue": 8, "friedel": 2, "p1": 1}[symmetry]
        agreement[symmetry] = shell["cc_laue"]
    assert observed["laue"] < observed["friedel"] < observed["p1"]
    assert len(set(agreement.values())) == 1  # is that of the Laue class, whatever was averaged


def test_half_sets(sweep, mapped):
    halves = [mapped(kind, sweep, *SMALL, f"half_sets={kind}")["shells"][-1]["cc_half"] for kind in
              ("images", "random", "friedel")]  # fmt: skip
    assert len(set(halves)) == 3 and all(0.1 < value < 1.0 for value in halves if value is not None)


def test_a_cartesian_grid_and_planes_that_are_asked_for(sweep, mapped, tmp_path):
    found = mapped("cartesian", sweep, "d_min=2.2", "grid.frame=cartesian", "planes=xy0,x0.1z")
    assert found["grid"]["frame"] == "cartesian" and "No MTZ is written" in " ".join(found["remarks"])
    assert not (tmp_path / "cartesian" / "diffuse.mtz").exists()
    mapped("hkl", sweep, *SMALL, "planes=hk1,hk0.5,3kl")
    page = (tmp_path / "hkl" / "dials.diffuse_map.html").read_text()
    assert all(text in page for text in ("hk1", "hk0.5", "3kl"))


def test_several_panels_and_several_sweeps_make_one_map(write_images, mapped):
    first = write_images(detector="tiles", modules=(1, 2), pixel_size=0.172, distance=100.0, n_images=3, name="a")
    second = write_images(
        detector="tiles", modules=(1, 2), pixel_size=0.172, distance=100.0, n_images=3, name="b", start=40.0, seed=1
    )
    alone = mapped("alone", first, "d_min=2.5", "grid.subdivide=1,1,1")
    found = mapped("both", first, second, "d_min=2.5", "grid.subdivide=1,1,1")
    assert found["series"] == ["a", "b"] and found["n_images_used"] == 6
    assert found["shells"][-1]["n"] > alone["shells"][-1]["n"]
    # they have the same intensity, so they agree
    assert found["shells"][-1]["chi_sq"] < 1.5


def test_stills_make_a_map(write_images, mapped):
    found = mapped("stills", write_images(goniometer="none", n_images=5), *SMALL)
    assert found["n_images_used"] == 5 and len(found["series"]) == 5
    assert found["dataset"]["oscillation"] == 0.0
    assert found["shells"][-1]["chi_sq"] == pytest.approx(1.0, abs=0.1)


def test_outliers_are_listed_as_rejected(sweep, mapped):
    found = mapped("rejected", sweep, *SMALL, "reject.n_sigma=4", "mask.bragg=none")
    assert found["rejected"] > 1e-3  # of the Bragg peaks, above all


def test_wide_slices_are_followed_unless_steps_are_given(write_images, mapped):
    wide = write_images(oscillation=2.0, n_images=4, name="wide")
    found = mapped("followed", wide, *SMALL, "grid.subdivide=3,3,3")
    steps = found["dataset"]["phi_steps"]
    assert steps > 1 and found["sweep"] <= 1.1 < found["sweep"] * steps / (steps - 1)
    assert not [text for text in found["remarks"] if "sampling.phi_steps" in text]
    given = mapped("given", wide, *SMALL, "grid.subdivide=3,3,3", "sampling.phi_steps=1")
    assert given["dataset"]["phi_steps"] == 1
    assert [text for text in given["remarks"] if f"sampling.phi_steps={steps}" in text]


def test_a_background_is_taken_off(write_images, mapped):
    def air(s):
        return 2e5 * np.exp(-20.0 * np.linalg.norm(s, axis=-1) ** 2)

    data = write_images(background=air, exposure=1.0, name="data")
    empty = write_images(empty=True, background=air, exposure=2.0, n_images=4, name="empty", seed=5)
    clean = mapped("clean", write_images(exposure=1.0, name="data"), *SMALL, "scale.model=none")
    off = mapped("off", data, *SMALL, f"background.experiments={empty}", "scale.model=none")
    left = mapped("left", data, *SMALL, "scale.model=none")

    def means(found):
        return np.array([shell["mean"] for shell in found["shells"][1:]])

    assert np.abs(means(left) / means(clean) - 1.0).max() > 0.1
    np.testing.assert_allclose(means(off), means(clean), rtol=0.02)


@pytest.fixture(scope="module")
def nuclease(shared_data):
    path = shared_data / "snase_images_24" / "rotation.expt"
    if not path.exists():
        pytest.skip("snase_images_24 is not there")
    return path


NUCLEASE = (
    "d_min=1.6", "grid.subdivide=1,1,1", "mask.bragg=box", "mask.box=0.25", "image_range=1,10", "scale.model=per_image",
)  # fmt: skip


@pytest.mark.data
def test_nuclease_agrees_with_an_independent_reduction(nuclease, mapped):
    """Its figures are in the notes that came with the data; scales are the other way round there."""
    found = mapped("all", nuclease, *NUCLEASE)
    total = found["shells"][-1]
    assert np.abs(found["index_offset"]["mean"]).max() < 0.01
    assert abs(total["cos_2phi"]) < 0.02 and abs(total["sin_2phi"]) < 0.02
    assert total["completeness"] == pytest.approx(0.327, abs=0.01)
    scales = np.array([image["scale"] for image in found["images"]])
    theirs = [1.000, 1.014, 1.094, 1.111, 1.135, 1.142, 1.168, 1.151, 1.152, 1.173]
    np.testing.assert_allclose(scales[0] / scales, theirs, rtol=0.02)
    beyond = mapped("beyond", nuclease, *NUCLEASE, "d_max=3")
    assert beyond["shells"][-1]["cc_laue"] > 0.9
    assert min(shell["cc_laue"] for shell in beyond["shells"]) > 0.9
    raw = mapped("raw", nuclease, *NUCLEASE, "corrections.polarization=False")["shells"][-1]
    assert raw["cos_2phi"] < -0.05


@pytest.mark.data
def test_sweeps_of_a_pilatus_on_a_multi_axis_goniometer(shared_data, mapped):
    path = shared_data / "l_cysteine_images_60" / "integrated.expt"
    if not path.exists():
        pytest.skip("l_cysteine_images_60 is not there")
    found = mapped("cysteine", path, "d_min=1.2", "grid.subdivide=3,3,3", "nproc=2")
    assert found["n_images_used"] == 60 and len(found["series"]) == 4
    assert np.abs(found["index_offset"]["mean"]).max() < 0.01
    assert found["shells"][-1]["chi_sq"] == pytest.approx(1.0, abs=0.1)
    folder = path.parent
    found = mapped(
        "scaled", folder / "scaled.expt", folder / "scaled.refl", "d_min=1.2", "grid.subdivide=1,1,1",
        "scale.model=from_refl", "mask.bragg=refl",
    )  # fmt: skip
    assert found["n_images_used"] == 60
