"""
What dials.diffuse_map reports: the page and the log say what the summary says, and pictures show the map.

Rows of tables and pixels of pictures are read back from the HTML.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from html import unescape

import numpy as np
import pytest
from comparison import with_value
from map_sections import collect_sections

pytest.importorskip("numba", reason="the loops over voxels are compiled by numba")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")
pytest.importorskip("tabulate", reason="the log has tables")

from dials_postrefine.diffuse.map.records import Description
from dials_postrefine.diffuse.map.sections import parse_plane
from dials_postrefine.report.common import pictures
from dials_postrefine.report.common.page import render
from dials_postrefine.report.common.provenance import record_run
from dials_postrefine.report.common.remarks import conclude
from dials_postrefine.report.diffuse import page as diffuse
from dials_postrefine.report.diffuse import remarks as diffuse_remarks
from dials_postrefine.report.diffuse import summary as diffuse_summary
from dials_postrefine.report.diffuse import text as diffuse_text

PLANES = ("hk0", "h0l", "0kl", "hk3")
PROVENANCE = record_run(["dials.diffuse_map", "refined.expt"], ["refined.expt"], "").as_dict()
UNIT = "photons s⁻¹ sr⁻¹"
GREY = (*pictures.UNOBSERVED, 255)
DATASET = diffuse_summary.describe_dataset(
    Description(
        input_files=("refined.expt", "<b>.refl"),
        space_group="P 43 21 2",
        symmetry="laue",
        unit_cell=(48.4, 48.4, 63.3, 90.0, 90.0, 90.0),
        ub=np.eye(3) / 48.4,
        wavelength=1.0,
        version="",
        parameters="",
        identifiers=("sweep/1",),
        oscillation=1.0,
        mask="profile model, 4 sigma",
        polarization_fraction=0.99,
    ),
    laue_class="4/m m m",
)


def sections_of(one, names=PLANES):
    return collect_sections(one.map, [parse_plane(name) for name in names])


@pytest.fixture(scope="module")
def summary(synthetic) -> dict:
    not_used = {"no crystal": ["experiment 2"]}
    found = diffuse_summary.make_summary(synthetic.map, synthetic.images, ["sweep/1"], not_used, DATASET)
    return {"provenance": PROVENANCE, **found, **conclude(diffuse_remarks.remarks(found))}


@pytest.fixture(scope="module")
def html(synthetic, summary) -> str:
    return render(diffuse.make_page(summary, sections_of(synthetic)))


def rows_of(html: str, caption: str) -> list[list[str]]:
    """The body of the table whose caption begins so."""
    (table,) = re.findall(rf"<caption>{caption}.*?</table>", html, re.DOTALL)
    body = table[table.index("<tbody>") :]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body)]
    return [[unescape(cell) for cell in row] for row in rows]


def assert_shown(text: str, value: float | None, factor: float = 1.0) -> None:
    """The text is the number times factor, to half of its last digit."""
    if value is None:
        assert text in ("–", "-")
        return
    shown = text.split(" ")[0].rstrip("%")
    factor *= 100.0 if "%" in text else 1.0
    mantissa, _, power = shown.partition("e")
    digits = len(mantissa.partition(".")[2]) - int(power or 0)
    assert float(shown) == pytest.approx(factor * value, abs=0.5001 * 10.0**-digits), (text, value)


def figure(html: str, title: str) -> str:
    (svg,) = re.findall(rf'<svg role="img" aria-label="{re.escape(title)}".*?</svg>', html, re.DOTALL)
    return svg


def pngs(svg: str) -> list[np.ndarray]:
    """The pictures inside of an SVG as arrays (rows, columns, 4) of bytes."""
    from matplotlib.image import imread

    found = re.findall(r'href="data:image/png;base64,\s*([^"]*)"', svg)
    return [np.rint(255.0 * imread(io.BytesIO(base64.b64decode(text)))).astype(np.uint8) for text in found]


def transform(svg: str, n: int = 0) -> np.ndarray:
    """The linear part (2, 2) of the transformation of the n-th picture: columns are one of its columns, one row."""
    a, b, c, d, *_ = map(float, re.findall(r'<image[^>]*transform="matrix\(([^)]*)\)"', svg)[n].split())
    return np.array([[a, c], [b, d]])


# Numbers


def test_the_summary_is_plain_and_says_what_the_map_says(synthetic, summary):
    read_back = json.loads(json.dumps(summary, allow_nan=False))
    assert read_back == {**summary, "grid": {**summary["grid"], "shape": list(summary["grid"]["shape"])}}
    for shown, shell in zip(summary["shells"], synthetic.map.shells):
        for key, value in shown.items():
            assert value == vars(shell)[key]
    assert len(summary["shells"]) == len(synthetic.map.shells) == 11
    assert summary["radial"]["intensity"] == synthetic.map.radial.intensity.tolist()
    assert summary["grid"]["memory"] == synthetic.map.sums.nbytes
    assert (summary["n_images"], summary["n_images_used"]) == (12, 11)
    used = [image for image in summary["images"] if image["error"] is None]
    assert np.mean([image["scale"] for image in used]) == pytest.approx(1.0)
    assert summary["images"][4]["error"] == synthetic.error and summary["images"][4]["scale"] is None
    spots = [image for image in synthetic.images if image.error is None]
    assert summary["index_offset"]["n_spots"] == 150 * len(spots)
    assert summary["index_offset"]["mean"] == pytest.approx(sum(i.offset for i in spots) / 150 / len(spots))


def test_numbers_in_the_page_are_those_of_the_summary(summary, html):
    rows = rows_of(html, "Statistics by shell")
    assert len(rows) == len(summary["shells"])
    for row, shell in zip(rows, summary["shells"]):
        assert row[1] == str(shell["n"])
        for text, (key, _, _) in zip(row[2:], diffuse.COLUMNS):
            assert_shown(text, shell[key], 1e-6 if key in ("mean", "sigma") else 1.0)
        assert len(row) == 2 + len(diffuse.COLUMNS)
    assert "mean and sigma in 10⁶ photons" in html
    rows = rows_of(html, "Mean fractional index of 1650 strong spots")
    for row, mean, esd in zip(rows, summary["index_offset"]["mean"], summary["index_offset"]["esd"]):
        assert_shown(row[1], mean)
        assert_shown(row[2], esd)
        assert_shown(row[3], mean / esd)
    rows = rows_of(html, "All images")
    assert len(rows) == 12
    for row, image in zip(rows, summary["images"]):
        assert row[:2] == ["sweep/1", str(image["number"])]
        for text, key in zip(row[2:], ("scale", "level", "n_pixels", "masked", "n_rejected", "n_spots")):
            assert_shown(text, image[key])
    assert rows_of(html, "Images that were not used") == [["sweep/1", "5", "it can't be read: the file ends too early"]]
    assert rows_of(html, "What was not used") == [["no crystal", "experiment 2"]]
    values = re.findall(r'<dd class="value">(.*?)</dd>', html)
    total = summary["shells"][-1]
    for text, key in zip(values[:4], ("completeness", "cc_half", "cc_laue", "chi_sq")):
        assert_shown(text, total[key])
    assert_shown(values[4], max(summary["index_offset"]["mean"], key=abs))
    assert_shown(values[5], total["cos_2phi"])
    assert_shown(values[6], summary["masked"])
    rows = dict(rows_of(html, "What was read"))
    assert rows["voxels"].startswith(f"{summary['grid']['n_voxels']} of 1/1 × 1/1 × 1/1 of an index")
    assert rows["files"] == "refined.expt, <b>.refl"
    assert PROVENANCE["version"] in html


def test_numbers_in_the_log_are_those_of_the_summary(summary):
    text = diffuse_text.summary_text(summary, wide=True)
    rows = [line.strip("| ").split("|") for line in text.splitlines() if re.match(r"\| [\d.-]+ - \d", line)]
    assert len(rows) == len(summary["shells"])
    for row, shell in zip(rows, summary["shells"]):
        assert len(row) == 2 + len(diffuse_text.COLUMNS)
        for cell, (key, *_) in zip(row[2:], diffuse_text.COLUMNS):
            assert_shown(cell.strip().replace(" %", "%"), shell[key])
    h, k, l = summary["index_offset"]["mean"]  # noqa: E741
    assert re.search(rf"1650 strong spots: h \{h:+.4f} \+- .*k \{k:+.4f} .*l \{l:+.4f} ", text)
    assert "it can't be read: the file ends too early" in text


def test_a_summary_without_numbers_is_still_reported(summary):
    bare = copy.deepcopy(summary)
    for shell in bare["shells"]:
        for key in shell:
            shell[key] = shell[key] if key in ("d_min", "n", "n_possible") else None
    for image in bare["images"]:
        image.update(scale=None, level=None, masked=None, error="it is gone")
    bare["index_offset"] = {"n_spots": 0, "mean": [None] * 3, "esd": [None] * 3}
    bare.update(masked=None, rejected=None, radial={key: [] for key in bare["radial"]}, n_images_used=0)
    bare |= conclude(diffuse_remarks.remarks(bare))
    assert any("No image has a strong spot" in remark for remark in bare["remarks"])
    page = render(diffuse.make_page(bare, []))
    assert "No plane was asked for" in page and "There are no data." in page
    assert "there are no strong spots" in diffuse_text.summary_text(bare)


# Remarks


def test_a_good_map_has_no_remark(summary):
    assert diffuse_remarks.remarks(good(summary)) == []


def good(summary: dict) -> dict:
    fine = copy.deepcopy(summary)
    for image in fine["images"]:
        level = 0.94 + 0.01 * image["number"]
        image.update(error=None, scale=level, level=level)
    fine.update(n_images_used=12, not_used={}, sweep=0.5)
    fine["shells"][-1].update(completeness=0.95, cos_2phi=0.001, sin_2phi=-0.002)
    return fine


def change(summary: dict, path: str, value) -> dict:
    return with_value(good(summary), path, value)


@pytest.mark.parametrize(
    ("path", "value", "grade", "words"),
    [
        ("images.2.scale", 1.3, "care", "The scale of the images jumps at images 3, 4: look"),
        ("index_offset.mean", [0.0, 0.03, 0.0], "care", r"off the integer .* \(k \+0.0300 ± 0.00\d+\).*refine"),
        ("index_offset.mean", [-0.009, 0.0, 0.0], "note", r"more than 3 esds but less than 0.01 \(h -0.0090 ±"),
        ("sweep", 2.4, "care", "sweeps up to 2.4 voxels .*sampling.phi_steps=3 "),
        ("shells.-1.cos_2phi", -0.08, "care", r"cos 2φ -0.080, .*check polarization_fraction"),
        ("shells.-1.chi_sq", 1.7, "care", "χ² against Poisson's law is 1.70: .*gain"),
        ("shells.-1.chi_sq", 29.0, "distrust", "χ² against Poisson's law is 29.00: .*gain"),
        ("shells.-1.chi_sq", 0.5, "care", "χ² against Poisson's law is 0.50: .*set gain="),
        ("shells.-1.cc_laue", 0.1, "care", "CC_Laue is 0.10 where CC1/2 of 0.* lets expect 0.*symmetry=friedel"),
        ("shells.-1.cc_laue", -0.4, "distrust", "CC_Laue is -0.40: symmetry equivalents contradict one another"),
        ("shells.2.cc_laue", -0.9, "care", "CC_Laue is negative in the shells to .*set d_max="),
        ("shells.-1.cc_half", -0.1, "distrust", "CC1/2 of the anisotropic part is -0.10: nothing of it"),
        ("shells.-1.anisotropy", 0.03, "note", "0.03 of the noise of a voxel: larger voxels"),
        ("shells.-1.completeness", 0.3, "care", "30% of the map was observed"),
        ("masked", 0.7, "note", "70% of the pixels are masked .*mask.n_sigma"),
        ("rejected", 0.05, "care", "5.0% of the pixels were rejected.*reject.n_sigma"),
        ("rejected", 0.46, "distrust", "46.0% of the pixels were rejected.*reject.n_sigma"),
        ("n_images_used", 11, "care", "1 of 12 images could not be used"),
        ("not_used", {"no crystal": ["a", "b"]}, "note", r"no crystal \(2\)"),
    ],
)
def test_what_is_wrong_is_remarked_once(summary, path, value, grade, words):
    (remark,) = diffuse_remarks.remarks(change(summary, path, value))
    assert re.search(words, remark.text) and remark.text.endswith(".") and remark.grade == grade


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("index_offset.mean", [0.003, 0.0, 0.0]),
        ("index_offset.esd", [0.02, 0.02, 0.02]),
        ("shells.-1.cos_2phi", 0.019),
        ("shells.-1.cc_laue", 0.99),
        ("shells.-1.anisotropy", 0.5),
    ],
)
def test_what_is_within_its_limits_is_not_remarked(summary, path, value):
    assert diffuse_remarks.remarks(change(summary, path, value)) == []


def test_levels_jump_where_images_were_not_scaled(summary):
    changed = change(summary, "images.11.level", 2.0)
    assert diffuse_remarks.remarks(changed) == []
    changed["settings"]["scale"] = "none"
    (remark,) = diffuse_remarks.remarks(changed)
    assert "The level of the images jumps at image 12: use scale.model=per_image" in remark.text


def test_the_jump_that_was_put_in_is_found(summary):
    assert diffuse_remarks.scale_jumps(summary["images"], "scale") == ["9"]


def test_cc_laue_of_noise_alone_is_what_is_expected(summary):
    for shell in summary["shells"][3:]:
        expected = diffuse_remarks.expected_cc_laue(shell["cc_half"], shell["equivalents"])
        assert shell["cc_laue"] == pytest.approx(expected, abs=0.08)


def test_voxels_swept_are_those_of_the_outermost_pixel(synthetic):
    found = synthetic.map.grid.voxels_swept(0.5)
    assert found == pytest.approx(np.radians(1.0) / 2 / synthetic.d_min * 63.3)


# Pictures


def test_unobserved_voxels_are_grey_and_others_have_the_colour_of_their_value(make_synthetic):
    from matplotlib import colormaps

    one = make_synthetic(symmetry="p1")  # so that nothing is like its mirror image
    for section in sections_of(one):
        for kind, title, name in (("intensity", "total", "viridis"), ("anisotropic", "anisotropic part", "RdBu_r")):
            svg = diffuse.show_plane(section, kind, UNIT).svg
            assert f"<title>{section.name}, {title}</title>" in svg
            pixels = pngs(svg)[0]
            right, up = transform(svg).T
            assert right[0] > 0.0 > up[1]  # the first row is the lowest: y grows downwards in SVG
            values, inside = section.values[kind].T, section.inside().T
            assert pixels.shape == (*values.shape, 4)
            known = np.isfinite(values)
            assert 10 < known.sum() < inside.sum() - 30
            assert (pixels[inside & ~known] == GREY).all()
            assert (pixels[~inside & ~known, 3] == 0).all() and (~inside).any()
            assert not (pixels[known] == GREY).all(axis=1).any()
            colours = (pictures.sequential if kind == "intensity" else pictures.diverging)(values)
            place = np.clip((values[known] - colours.low) / (colours.high - colours.low), 0.0, 1.0)
            np.testing.assert_allclose(pixels[known].astype(int), colormaps[name](place, bytes=True), atol=1)


def test_a_grey_of_the_colours_is_not_taken_for_unobserved():
    from matplotlib import colormaps

    for name in ("viridis", "RdBu_r"):
        table = colormaps[name](np.arange(256), bytes=True)[:, :3].astype(int)
        assert np.abs(table - pictures.UNOBSERVED).max(axis=1).min() > 40


def test_limits_are_robust_and_those_of_the_anisotropic_part_symmetric():
    rng = np.random.default_rng(1)
    values = rng.normal(5.0, 1.0, (50, 50))
    values[:2, :5] = 1e9  # a low-resolution shell, or a Bragg peak
    values[10:20] = np.nan
    colours = pictures.sequential(values)
    assert 2.0 < colours.low < 3.5 and 6.5 < colours.high < 8.0
    colours = pictures.diverging(values - 5.0)
    assert colours.low == -colours.high and 1.5 < colours.high < 3.0
    white = colours.rgba(np.array([0.0]))[0, :3]
    assert white.min() > 240


@pytest.mark.parametrize(("plane", "angle", "ratio"), [("hk0", 60.0, 1.0), ("h0l", 90.0, 48.4 * 3**0.5 / 2 / 63.3)])
def test_a_plane_is_drawn_with_its_true_angle_and_lengths(make_synthetic, plane, angle, ratio):
    one = make_synthetic(cell="hexagonal", d_min=5.0)
    (section,) = sections_of(one, [plane])
    svg = diffuse.show_plane(section, "intensity", UNIT).svg
    right, up = transform(svg).T * (1.0, -1.0)  # y grows downwards in SVG
    assert np.degrees(np.arctan2(up[1], up[0])) == pytest.approx(angle, abs=0.01)
    assert right[1] == pytest.approx(0.0, abs=1e-6) and right[0] > 0.0
    assert np.linalg.norm(up) / np.linalg.norm(right) == pytest.approx(ratio, rel=1e-3)


def test_labels_of_an_oblique_plane_are_where_its_lines_meet_the_edges(make_synthetic):
    """A voxel's place by the transformation of the picture, and by the ticks and the lines that start there."""
    one = make_synthetic(cell="hexagonal", d_min=5.0)
    (section,) = sections_of(one, ["hk0"])
    svg = diffuse.show_plane(section, "intensity", UNIT).svg
    *linear, x_0, y_0 = map(float, re.findall(r'<image[^>]*transform="matrix\(([^)]*)\)"', svg)[0].split())
    to_page = np.array(linear).reshape(2, 2).T
    zero = 0.5 - np.array([section.u[0], section.v[0]])  # the middle of voxel 0 0, in pixels from the corner
    x, y = to_page @ zero + (x_0, y_0)
    ticks = re.findall(
        r'<g id="[^"]*([xy])tick_\d+">.*?<use [^>]*x="([^"]*)" y="([^"]*)".*?<text[^>]*>([^<]*)</text>', svg, re.DOTALL
    )
    (bottom,) = [(float(a), float(b)) for axis, a, b, text in ticks if axis == "x" and text == "0"]
    (left,) = [(float(a), float(b)) for axis, a, b, text in ticks if axis == "y" and text == "0"]
    assert left[1] == pytest.approx(y, abs=0.02)
    assert (x - bottom[0]) / (bottom[1] - y) == pytest.approx(1.0 / np.tan(np.radians(60.0)), abs=1e-3)


def test_large_sections_are_averaged_and_the_page_stays_small():
    rng = np.random.default_rng(1)
    n = 400
    axis = (np.arange(n) - n // 2) / 3.0
    values = rng.gamma(2.0, 1.0, (n, n))
    plane = pictures.PlaneAxes(axis, axis, np.diag([0.01, 0.01]), np.zeros(2), 0.66, labels=("h", "k"))
    inside = np.ones((n, n), bool)
    svg = pictures.picture("n", "t", values, inside, plane, pictures.ColourBar(pictures.sequential(values), "I"))
    assert pngs(svg)[0].shape == (n, n, 4)
    assert len(svg) < 6e6 / 7  # three planes, total and anisotropic, and the rest of the page
    large = np.full((1501, 700), np.nan)
    large[1::3, ::3] = 4.0
    large[2::3, 1::3] = 8.0
    plane = pictures.PlaneAxes(np.arange(1501) - 750.0, np.arange(700) - 350.0, np.eye(2), np.zeros(2), 700.0)
    pixels, extent = pictures.raster(large, np.ones(large.shape, bool), plane, pictures.Colours("viridis", 0.0, 12.0))
    assert pixels.shape == (234, 501, 4)
    assert extent == pytest.approx((-750.5, 752.5, -350.5, 351.5))
    assert (pixels[:233, :500] == pixels[0, 0]).all()  # the mean of what was observed
    assert (pixels[0, 0] == pictures.Colours("viridis", 0.0, 12.0).rgba(np.array([6.0]))).all()


def test_the_same_map_gives_the_same_bytes(synthetic, summary, html):
    assert render(diffuse.make_page(summary, sections_of(synthetic))) == html
    assert "://" not in html
    identifiers = re.findall(r'\bid="([^"]*)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_an_unobserved_plane_says_so(synthetic):
    (section,) = sections_of(synthetic, ["hk0"])
    for values in section.values.values():
        values[:] = np.nan
    svg = diffuse.show_plane(section, "intensity", UNIT).svg
    assert "Nothing of hk0 was observed." in svg and "<image" not in svg


def test_a_cartesian_map_has_pictures(make_synthetic):
    one = make_synthetic(frame="cartesian", symmetry="friedel", d_min=5.0)
    summary = diffuse_summary.make_summary(one.map, one.images, ["sweep/1"], {}, DATASET)
    summary |= {"provenance": PROVENANCE, **conclude(diffuse_remarks.remarks(summary))}
    page = render(diffuse.make_page(summary, sections_of(one, ["xy0", "x0z", "0yz", "xy0.1"])))
    assert "x (1/Å)" in figure(page, "xy0, total")
    assert "There are no voxels at z = 0.1 1/Å: this is the nearest plane, z = 0.098 1/Å." in page
    assert "0.007 1/Å, Cartesian" in page and "of 0.007 1/A" in diffuse_text.summary_text(summary)


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [(1 / 1.6, 0.0, [6, 3, 2.2]), (1 / 3.0, 0.0, [15, 6, 4]), (1 / 1.6, 0.4, [2.2, 2, 1.8])],
)
def test_circles_are_at_round_resolutions(high, low, expected):
    assert pictures.round_resolutions(high, low) == expected


def test_ticks_are_round_integers():
    assert pictures.integer_ticks(1, 20) == [5, 10, 15, 20]
    assert pictures.integer_ticks(1, 3) == [1, 2, 3]
    assert pictures.integer_ticks(0, 3600)[:2] == [0, 1000] and pictures.integer_ticks(7, 7) == [7]
    assert pictures.power_of(2.3e6) == (pytest.approx(1e-6), "10⁶ ") and pictures.power_of(0.0) == (1.0, "")
    assert pictures.power_of(0.02) == (pytest.approx(1e3), "10⁻³ ") and pictures.power_of(20.0) == (1.0, "")


# In a browser


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_opens_in_a_browser_without_a_network(load_browser, html, tmp_path, width):
    browser = load_browser("series", "scale", "pixels")
    sized = html.replace("</head>", f"<style>body {{ width: {width}px; margin: 0 }}</style></head>")
    visit = browser.visit(sized, tmp_path, max(width, 500))
    assert visit.console == [] and visit.found["problems"] == []
    figures = visit.found["figures"]
    assert len(figures) == 2 * len(PLANES) + 6 + 1
    for one in figures:
        assert one["width"] > 250 and 0.4 < one["height"] / one["width"] < 1.0, one
        assert one["drawn"] >= 10 and one["words"] >= 5, one
    assert max(one["x"] + one["width"] for one in figures) <= width and visit.found["body"] <= width
    column = visit.found["columns"]["scale"]
    known = [float(text) for text in column["up"] if text != "–"]
    assert known == sorted(known) and len(known) == 11


@pytest.mark.slow
def test_a_browser_shows_the_colours(load_browser, synthetic, html, tmp_path):
    """Grey in the screenshot of a picture, and the ends of both ranges of colours."""
    from matplotlib.image import imread

    browser = load_browser()
    for title, ends in (
        ("hk0, total", ((68, 1, 84), (253, 231, 37))),
        ("hk0, anisotropic part", ((5, 48, 97), (103, 0, 31))),
    ):
        page, picture = tmp_path / "page.html", tmp_path / "page.png"
        svg = figure(html, title)
        page.write_text(f'<meta charset="utf-8"><body style="margin:0"><div style="width:880px">{svg}</div>', "utf-8")
        browser.browse(page, tmp_path / "profile", "--window-size=900,800", f"--screenshot={picture}")
        image = np.rint(255.0 * imread(picture)[:, :, :3])
        in_picture = image[60:640, 110:680]  # without the bar
        for colour in (pictures.UNOBSERVED, *ends):
            share = np.mean(np.abs(in_picture - colour).max(axis=2) < 4.0)
            assert share > 0.001, (title, colour, share)
        section = sections_of(synthetic, ["hk0"])[0]
        grey = np.mean(np.abs(in_picture - pictures.UNOBSERVED).max(axis=2) < 4.0)
        inside = section.inside()
        wanted = np.mean(~np.isfinite(section.values["intensity"][inside])) * np.pi / 4.0
        assert grey == pytest.approx(wanted, rel=0.35)


def test_an_image_without_a_level_takes_it_from_no_other(synthetic):
    """As one of which all pixels are masked, where images are not scaled by their level."""
    images = [copy.copy(image) for image in synthetic.images]
    images[2].level = np.nan
    found = diffuse_summary.list_images(images, ["sweep/1"])
    assert found[2]["level"] is None or np.isnan(found[2]["level"])
    others = [image for k, image in enumerate(images) if k not in (2, 4)]
    mean = np.mean([image.level for image in others])
    shown = [image["level"] for k, image in enumerate(found) if k not in (2, 4)]
    assert shown == pytest.approx([image.level / mean for image in others])


def test_sharp_rings_are_found_and_a_broad_one_is_not():
    """Of a profile that falls off with a broad ring of water: shells at the d of two rings of ice raised by half."""
    s = np.linspace(0.02, 0.6, 240)
    smooth = 50.0 * np.exp(-4.0 * s) + 40.0 * np.exp(-0.5 * ((s - 0.31) / 0.05) ** 2)
    radial = {"s": s.tolist(), "intensity": smooth.tolist(), "sigma": np.full(240, 0.1).tolist()}
    assert diffuse_remarks.sharp_rings(radial) == []
    iced = smooth.copy()
    for d in (3.9, 2.67):
        iced[np.abs(s - 1.0 / d).argmin()] *= 1.5
    found = diffuse_remarks.sharp_rings(radial | {"intensity": iced.tolist()})
    assert sorted(found) == pytest.approx([2.67, 3.9], abs=0.03)
    noisy = radial | {"intensity": iced.tolist(), "sigma": np.full(240, 40.0).tolist()}
    assert diffuse_remarks.sharp_rings(noisy) == []


def test_each_fact_has_the_colour_of_the_remarks_on_it(synthetic, summary):
    changed = change(summary, "shells.-1.chi_sq", 29.0)
    changed |= conclude(diffuse_remarks.remarks(changed))
    page = render(diffuse.make_page(changed, []))
    assert re.search(r'<div class="distrust"><dt>χ² against Poisson</dt>', page)
    assert "<div><dt>CC1/2</dt>" in page
    assert '<p class="verdict distrust"><strong>Do not trust</strong>: χ² is 29.00.</p>' in page
    fine = good(summary)
    page = render(diffuse.make_page(fine | conclude(diffuse_remarks.remarks(fine)), []))
    assert '<p class="verdict note"><strong>Trust</strong>.</p>' in page
