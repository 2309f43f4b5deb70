"""Half sets of stills, several crystals on the same images, and what a file says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

SMALL = ("d_min=2.5", "grid.subdivide=1,1,1", "output.html=None", "output.ccp4=None", "output.anisotropic=None")


def volume(path, name="intensity"):
    import h5py

    with h5py.File(path, "r") as file:
        return file["entry/map"][name][()]


def split(path, folder, groups):
    """Write the experiments of an .expt as several: groups of their numbers -> paths."""
    from dxtbx.model import ExperimentList

    experiments, paths = ExperimentList.from_file(str(path), check_format=False), []
    for number, group in enumerate(groups):
        part = ExperimentList([experiments[k] for k in group])
        paths.append(folder / f"part_{number}.expt")
        part.as_file(str(paths[-1]))
    return paths


@pytest.mark.parametrize("kind", ["images", "random"])
def test_half_sets_of_stills_depend_on_neither_order_nor_adding(write_images, mapped, tmp_path, kind):
    stills = write_images(goniometer="none", n_images=12)
    halves = SMALL + (f"half_sets={kind}",)
    found = mapped("all", stills, *halves)
    assert 0.3 < found["shells"][-1]["cc_half"] < 1.0
    n_1, n_2 = (np.isfinite(volume(tmp_path / "all" / "diffuse.nxs", f"half_{k}")).sum() for k in (1, 2))
    assert 0.4 < n_1 / n_2 < 2.5
    (backwards,) = split(stills, tmp_path, [range(11, -1, -1)])
    mapped("backwards", backwards, *halves, "nproc=2")
    first, second = split(stills, tmp_path, [(0, 3, 4, 5, 8), (1, 2, 6, 7, 9, 10, 11)])
    mapped("first", first, *halves)
    mapped("second", second, *halves)
    mapped("sum", f"add={tmp_path / 'second' / 'diffuse.nxs'},{tmp_path / 'first' / 'diffuse.nxs'}", *SMALL[2:])
    for name in ("backwards", "sum"):
        for half in ("half_1", "half_2", "intensity"):
            np.testing.assert_array_equal(
                volume(tmp_path / "all" / "diffuse.nxs", half), volume(tmp_path / name / "diffuse.nxs", half)
            )


def test_halves_that_share_nothing_are_told(write_images, mapped):
    stills = write_images(goniometer="none", n_images=2)  # of which both may be in one half
    found = mapped("two", stills, *SMALL, "half_sets=images")
    told = any("no CC1/2" in text for text in found["remarks"])
    assert told == (found["shells"][-1]["cc_half"] is None)


def test_many_bad_pixels_are_told(sweep, mapped, monkeypatch):
    from dials_postrefine.diffuse.map import bad_pixels

    assert "taken for bad ones" not in " ".join(mapped("few", sweep, *SMALL)["remarks"])
    monkeypatch.setattr(bad_pixels, "bad", lambda votes, n: np.arange(votes.size).reshape(votes.shape) % 8 == 0)
    assert "12% of the detector's pixels were taken for bad ones" in " ".join(mapped("many", sweep, *SMALL)["remarks"])


def test_every_other_image_of_a_sweep_is_in_the_first_half():
    from dials_postrefine.diffuse.map.image import in_first_half

    for name in ("a", "b", "a longer name"):
        halves = [in_first_half("images", name, number) for number in range(20)]
        assert all(one != other for one, other in zip(halves, halves[1:]))
    stills = [in_first_half("images", f"still {k}", 1) for k in range(2000)]
    assert 0.46 < np.mean(stills) < 0.54


@pytest.mark.parametrize("kind", ["box", "profile", "refl"])
def test_peaks_of_all_crystals_on_an_image_are_masked(write_images, mapped, tmp_path, kind):
    """Two .expt files of the same images: the crystal these are of, and the same turned by 31 degrees."""
    from dials.algorithms.profile_model.gaussian_rs import Model
    from dials.array_family import flex
    from dxtbx.model import ExperimentList

    given = [
        f"mask.bragg={kind}",
        "mask.box=0.3",
        "mask.bad_pixels=False",
        "scale.model=none",
        "reject.n_sigma=None",
        *SMALL,
    ]
    mean, masked, remarks = {}, {}, {}
    for peaks in (True, False):
        path, files = write_images(peaks=peaks, n_images=4), []
        for number in (0, 1):
            experiments = ExperimentList.from_file(str(path), check_format=False)
            if number:
                experiments[0].identifier = "second"
                experiments[0].crystal.rotate_around_origin((0.3, 0.5, 0.81), 31.0)
            if kind != "box":
                experiments[0].profile = Model(None, 3, 0.3, 0.5, deg=True)
            name = tmp_path / f"{peaks}_{number}"
            experiments.as_file(f"{name}.expt")
            files.append([f"{name}.expt"])
            if kind == "refl":
                table = flex.reflection_table.from_predictions(experiments[0], dmin=2.4)
                table["id"] = flex.int(len(table), 0)
                table.experiment_identifiers()[0] = experiments[0].identifier
                table.compute_bbox(experiments)
                table.as_file(f"{name}.refl")
                files[-1].append(f"{name}.refl")
        for name, chosen in (("first", files[0]), ("second", files[1]), ("both", files[0] + files[1])):
            found = mapped(f"{name} {peaks}", *chosen, *given)
            mean[name, peaks], masked[name] = found["shells"][-1]["mean"], found["masked"]
            remarks[name] = " ".join(found["remarks"])
    # the second crystal alone sees the peaks of the first where it has none; together neither does
    rise = {name: mean[name, True] / mean[name, False] for name in masked}
    # boxes of reflections leave the tails of those whose middles are beyond the scan
    assert rise["first"] == pytest.approx(1.0, abs=0.06 if kind == "refl" else 0.02)
    assert rise["second"] > 1.1
    assert rise["both"] == pytest.approx(rise["first"], abs=0.015)
    # masks that know nothing of one another: what is left is the product
    left = {name: 1.0 - part for name, part in masked.items()}
    assert left["both"] == pytest.approx(left["first"] * left["second"], abs=0.03)
    assert "several crystals" in remarks["both"] and "several crystals" not in remarks["first"]


def test_a_sum_says_what_was_done_with_it(sweep, write_images, mapped, tmp_path):
    import gemmi
    import h5py

    empty = write_images(empty=True, background=lambda s: 100.0 + 0.0 * s[..., 0], n_images=3, name="empty", seed=5)
    more = ("sampling.phi_steps=2", f"background.experiments={empty}", "reject.n_sigma=8")
    mapped("first", sweep, *SMALL, *more, "image_range=1,3")
    mapped("second", sweep, *SMALL, *more, "image_range=4,8")
    every = mapped("all", sweep, *SMALL, *more)
    add = f"add={tmp_path / 'first' / 'diffuse.nxs'},{tmp_path / 'second' / 'diffuse.nxs'}"
    total = mapped("sum", add, *SMALL[2:])
    assert total["dataset"] == every["dataset"] and total["settings"] == every["settings"]
    assert total["grid"] == every["grid"] and total["sweep"] == every["sweep"]
    found = mapped("p1", add, *SMALL[2:], "space_group=P1")
    assert found["dataset"]["space_group"] == "P 1" and found["grid"]["n_operations"] == 2
    with h5py.File(tmp_path / "p1" / "diffuse.nxs", "r") as file:
        assert file["entry/sample/space_group"][()].decode() == "P 1"
        assert len(file["entry/symmetry/operations_on_voxels"]) == 2
        header = json.loads(file["entry/sums/header"][0])
    assert header["description"]["space_group"] == "P 1"
    mtz = gemmi.read_mtz_file(str(tmp_path / "p1" / "diffuse.mtz"))
    assert mtz.spacegroup.hm == "P -1" and any("crystal in P 1," in line for line in mtz.history)
    again = mapped("again", f"add={tmp_path / 'p1' / 'diffuse.nxs'}", *SMALL[2:])  # goes on from what the file says
    assert again["grid"]["n_operations"] == 2
    with pytest.raises(SystemExit, match="does not fit space_group"):
        mapped("wrong", add, *SMALL[2:], "space_group=P432")
