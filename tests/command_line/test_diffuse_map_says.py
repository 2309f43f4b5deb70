"""What the files of dials.diffuse_map say of themselves is what was done, not what was asked for."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dials]

SMALL = ("d_min=3", "grid.subdivide=1,1,1")
NO_PAGE = "output.html=None"
MADE = {"solid_angle": "all", "polarization": "all", "efficiency": "all", "air": "all"}


@pytest.fixture(scope="module")
def electrons(write_images):
    return write_images(wavelength=0.0251, distance=3200.0, n_images=3, name="electrons")


def page(folder) -> dict[str, str]:
    html = unescape((folder / "dials.diffuse_map.html").read_text(encoding="utf-8"))
    (table,) = re.findall(r"<caption>What was read.*?</table>", html, re.DOTALL)
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table)]
    return dict(row for row in rows if len(row) == 2)


def test_corrections_are_those_that_were_made(sweep, electrons, mapped, tmp_path):
    assert mapped("xray", sweep, *SMALL, NO_PAGE)["dataset"]["corrections"] == MADE
    found = mapped("electrons", electrons, *SMALL)
    assert found["settings"]["corrections"]["polarization"] is True  # was asked for, but electrons have none
    assert found["dataset"]["corrections"] == {"solid_angle": "all"}
    assert found["dataset"]["polarization_fraction"] is None
    shown = page(tmp_path / "electrons")
    assert shown["corrections"] == "solid angle" and shown["polarisation fraction"] == "–"
    found = mapped("off", sweep, *SMALL, "corrections.polarization=False", "corrections.air=False", NO_PAGE)
    assert found["dataset"]["corrections"] == {"solid_angle": "all", "efficiency": "all"}
    assert found["dataset"]["polarization_fraction"] is None


def test_corrections_of_some_series_are_said_to_be_so_by_a_sum_as_well(write_images, mapped, tmp_path):
    thick = write_images(n_images=2, name="thick")
    thin = write_images(n_images=2, name="thin", detector="ccd", start=30.0, seed=1)
    both = mapped("both", thick, thin, *SMALL)
    assert both["dataset"]["corrections"] == MADE | {"efficiency": "some"}
    assert "efficiency of the sensor of some series" in page(tmp_path / "both")["corrections"]
    for name, path in (("one", thick), ("other", thin)):
        mapped(name, path, *SMALL, NO_PAGE)
    for order in (("one", "other"), ("other", "one")):
        paths = ",".join(str(tmp_path / name / "diffuse.nxs") for name in order)
        found = mapped("-".join(order), f"add={paths}", NO_PAGE)["dataset"]
        assert found | {"files": None} == both["dataset"] | {"files": None}


def test_units_follow_what_is_known_of_exposure_times(sweep, mapped, tmp_path):
    import gemmi
    import h5py

    def said(name: str) -> set[str]:
        folder = tmp_path / name
        with h5py.File(folder / "diffuse.nxs", "r") as file:
            keys = ("intensity", "sigma", "anisotropic", "half_1", "half_2", "intensity_errors")
            units = {file["entry/map"][key].attrs["units"] for key in keys}
            units |= {file["entry/radial"][key].attrs["units"] for key in ("intensity", "intensity_errors", "offset")}
        (line,) = (x for x in gemmi.read_mtz_file(str(folder / "diffuse.mtz")).history if x.startswith("I, SIGI"))
        label = gemmi.read_ccp4_map(str(folder / "diffuse.ccp4")).header_str(57, 80)
        (log,) = re.findall(r"intensities in (.*)\.\n", (folder / "dials.diffuse_map.log").read_text())
        return units | {line.split(" in ")[1].strip(), label.split(", ")[2].split(";")[0], log}

    def on_page(name: str) -> set[str]:
        return set(
            re.findall(r"photons s⁻¹ sr⁻¹|photons sr⁻¹", (tmp_path / name / "dials.diffuse_map.html").read_text())
        )

    assert mapped("known", sweep, *SMALL)["dataset"]["unit"] == "photons/(s sr)"
    assert said("known") == {"photons/(s sr)"} and on_page("known") == {"photons s⁻¹ sr⁻¹"}
    timeless = re.sub(r'("exposure_time": \[)[^\]]*', lambda m: m[1] + ",".join(["0.0"] * 8), sweep.read_text())
    path = Path(sweep.parent) / "timeless.expt"
    path.write_text(timeless)
    assert mapped("unknown", path, *SMALL)["dataset"]["unit"] == "photons/sr"
    assert said("unknown") == {"photons/sr"} and on_page("unknown") == {"photons sr⁻¹"}
    assert mapped("given", path, *SMALL, "exposure_time=1", NO_PAGE)["dataset"]["unit"] == "photons/(s sr)"
    assert mapped("again", f"add={tmp_path / 'unknown' / 'diffuse.nxs'}", NO_PAGE)["dataset"]["unit"] == "photons/sr"


def test_stills_have_no_steps_of_rotation_and_no_file_is_called_what_it_is_not(write_images, mapped, tmp_path):
    import gemmi

    stills = write_images(goniometer="none", n_images=3)
    found = mapped("stills", stills, *SMALL, "sampling.phi_steps=3", "output.nxs=other.nxs", "output.ccp4=other.map")
    assert found["dataset"]["phi_steps"] == 1 and page(tmp_path / "stills")["rotation"] == "stills, in 1 step"
    header = gemmi.read_ccp4_map(str(tmp_path / "stills" / "other.map"))
    labels = " ".join(header.header_str(57 + 20 * k, 80).strip() for k in range(5))
    assert "diffuse.nxs" not in labels and "the .nxs file tells where" in labels
    assert "intensity" in header.header_str(57, 80) and "dials_postrefine" in header.header_str(57, 80)


def test_what_no_image_was_used_of_is_not_spoken_for(write_images, mapped):
    """A series whose images are all damaged changes neither wavelength nor rotation nor mask."""
    good = write_images(n_images=3, name="good")
    bad = write_images(n_images=2, name="bad", wavelength=1.2, oscillation=2.0)
    for image in bad.parent.glob("image*"):
        if image != bad:
            image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    found = mapped("both", good, bad, *SMALL, NO_PAGE)
    assert found["n_images"] == 5 and found["n_images_used"] == 3
    assert found["dataset"]["wavelength"] == 1.0 and found["dataset"]["oscillation"] == 0.5
