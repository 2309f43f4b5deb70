"""Whatever is wrong with the input of dials.diffuse_map is one sentence, a status and no file."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from comparison import refusal, results

pytestmark = [pytest.mark.dials]

SMALL = ("d_min=2.5", "grid.subdivide=1,1,1")


@pytest.fixture()
def copy(sweep, tmp_path):
    """The sweep in a folder of its own, its images beside it."""
    for path in sweep.parent.iterdir():
        shutil.copy(path, tmp_path)
    content = (tmp_path / sweep.name).read_text().replace(str(sweep.parent), str(tmp_path))
    (tmp_path / sweep.name).write_text(content)
    return tmp_path / sweep.name


def edit(path, change):
    """Change an .expt as JSON."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture()
def refused(tmp_path, monkeypatch):
    """A function: run with arguments, in this process; the one sentence, and no file but those that were there."""
    from dials_postrefine.command_line.diffuse_map import run

    monkeypatch.chdir(tmp_path)

    return lambda *args: refusal(run, tmp_path, [*SMALL, *args])


def test_the_sentence_is_on_stderr_alone_and_the_status_is_1(run_program, tmp_path):
    result = run_program("dials.diffuse_map", "missing.expt", cwd=tmp_path)
    assert result.returncode == 1 and not results(tmp_path)
    assert result.stderr.strip() == "Sorry: The file missing.expt does not exist: check the name."


def test_no_crystal(copy, refused):
    def change(content):
        content["crystal"] = []
        for experiment in content["experiment"]:
            experiment.pop("crystal")

    edit(copy, change)
    assert "have no crystal: index and refine" in refused(copy)


def test_no_images_behind_the_experiments(copy, refused):
    for path in copy.parent.glob("*.cbf"):
        path.unlink()
    assert "None of the images of" in refused(copy)


@pytest.mark.parametrize("missing", [(1,), (5,), (8,), (1, 2, 7)])
def test_images_that_are_not_there_are_skipped_and_listed(copy, run_program, refused, tmp_path, missing):
    images = sorted(tmp_path.glob("*.cbf"))
    for number in missing:
        images[number - 1].unlink()
    sentence = refused(copy, "allow_bad_images=False")
    assert f"image {missing[0]} of" in sentence and "does not exist" in sentence
    result = run_program("dials.diffuse_map", copy, *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "dials.diffuse_map.json").read_text())
    errors = {image["number"]: image["error"] for image in found["images"] if image["error"]}
    assert tuple(errors) == missing and all("does not exist" in error for error in errors.values())
    assert found["n_images_used"] == 8 - len(missing)


def set_times(path, time):
    def change(content):
        for scan in content["scan"]:
            times = scan["properties"] if "properties" in scan else scan
            times["exposure_time"] = [time] * len(times["exposure_time"])

    edit(path, change)


def test_unknown_exposure_times(copy, run_program, refused, write_images, tmp_path):
    empty = write_images(empty=True, n_images=2, name="empty")
    set_times(copy, 0.0)
    assert "give exposure_time=" in refused(copy, f"background.experiments={empty}")
    result = run_program("dials.diffuse_map", copy, *SMALL, "scale.model=none", cwd=tmp_path)
    assert result.returncode == 0 and "taken for 1 s" in result.stdout


def test_nothing_inside_of_the_limits_names_them(copy, refused):
    sentence = refused(copy, "d_min=0.5", "d_max=0.52")
    assert "d_min=0.5 " in sentence and "the detector sees" in sentence


def test_a_sweep_without_a_goniometer(copy, refused):
    def change(content):
        content["goniometer"] = []
        for experiment in content["experiment"]:
            experiment.pop("goniometer")

    edit(copy, change)
    assert "goniometer" in refused(copy) or "can't be" in refused(copy)


def test_unit_cells_that_differ(copy, sweep, refused, write_images):
    other = write_images(name="other", n_images=2, unit_cell=(18.6, 22.0, 27.0, 90.0, 90.0, 90.0))
    assert "differ by more than 2%" in refused(copy, other)


def test_a_grid_larger_than_memory(copy, refused):
    assert "voxels" in refused(copy, "grid.subdivide=99,99,99", "d_min=0.3")
    assert "GB are free" in refused(copy, "grid.subdivide=20,20,20", "d_min=0.8")


def test_a_mask_over_half_of_the_pixels(copy, refused, tmp_path):
    from dials.array_family import flex

    mask = flex.bool(flex.grid(240, 200), True)
    mask[0:150, :] = flex.bool(flex.grid(150, 200), False)
    with open(tmp_path / "pixels.mask", "wb") as file:
        pickle.dump((mask,), file)
    assert "take away 6" in refused(copy, "mask.file=pixels.mask")


@pytest.mark.parametrize("content", [None, b"no pickle", pickle.dumps([1, 2])])
def test_a_mask_that_is_none(copy, refused, tmp_path, content):
    if content is not None:
        (tmp_path / "pixels.mask").write_bytes(content)
    assert "mask.file=pixels.mask" in refused(copy, "mask.file=pixels.mask")


def test_a_background_of_another_detector(copy, refused, write_images):
    other = write_images(empty=True, n_images=2, name="empty", distance=95.0)
    assert "another detector, or of another place" in refused(copy, f"background.experiments={other}")


def test_an_image_is_never_written_over(copy, refused, tmp_path):
    image = sorted(tmp_path.glob("*.cbf"))[2]
    for output in ("nxs", "radial"):
        assert f"{image} is read by this run" in refused(copy, f"output.{output}={image}")


def test_a_background_that_is_not_there(copy, refused):
    assert "does not exist" in refused(copy, "background.experiments=empty.expt")


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: content[:300] + bytes(range(256)) * 40,
    "header only": lambda content: content[: content.index(b"\x0c\x1a\x04\xd5")],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupted_image_in_the_middle_is_skipped_and_listed(copy, run_program, refused, tmp_path, damage):
    image = sorted(tmp_path.glob("*.cbf"))[4]
    image.write_bytes(DAMAGES[damage](image.read_bytes()))
    sentence = refused(copy, "allow_bad_images=False")
    assert "image 5" in sentence
    result = run_program("dials.diffuse_map", copy, *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "dials.diffuse_map.json").read_text())
    assert [image["number"] for image in found["images"] if image["error"]] == [5]
    assert found["n_images_used"] == 7 and "1 of 8 images" in " ".join(found["remarks"])
    assert "can't be" in (tmp_path / "dials.diffuse_map.log").read_text()


def test_no_image_can_be_used(copy, refused, tmp_path):
    for image in sorted(tmp_path.glob("*.cbf"))[1:]:
        image.write_bytes(DAMAGES["truncated"](image.read_bytes()))
    assert "image_range" not in refused(copy, "image_range=2,8")


def test_parameters_that_make_no_sense(copy, refused):
    assert "Plane" in refused(copy, "planes=hk99") and "beyond d_min" in refused(copy, "planes=hk99")
    assert "hkk" in refused(copy, "planes=hkk")
    assert "xy0" in refused(copy, "grid.frame=cartesian", "planes=hk0")
    assert "d_min=2.5 is not below d_max=2" in refused(copy, "d_max=2")
    assert "ends before it begins" in refused(copy, "image_range=5,2")
    assert "which has 1 to 8" in refused(copy, "image_range=20,30")
    assert "from_refl needs the reflections" in refused(copy, "scale.model=from_refl")
    assert "mask.bragg=refl needs" in refused(copy, "mask.bragg=refl")
    assert "no profile model" in refused(copy, "mask.bragg=profile")
    assert "does not fit the space group" in refused(copy, "space_group=P4")
    assert "folder does not exist" in refused(copy, "output.nxs=nowhere/diffuse.nxs")
    assert "-c lists all parameters" in refused(copy, "d_minn=2")


def test_neither_experiments_nor_maps_or_both(copy, refused, tmp_path):
    assert "Either experiments or maps" in refused("d_min=2")
    assert "Either experiments or maps" in refused(copy, "add=a.nxs")


def test_maps_that_can_not_be_added(refused, tmp_path):
    (tmp_path / "a.nxs").write_bytes(b"no map")
    assert "a.nxs" in refused("add=a.nxs,b.nxs")
    assert "c.nxs" in refused("add=c.nxs")


def test_an_expt_that_is_none(refused, tmp_path):
    (tmp_path / "text.expt").write_text("this is not JSON")
    assert "text.expt can't be read" in refused("text.expt")
    assert "missing.expt does not exist" in refused("missing.expt")
