"""What log, JSON, page and tables of one run have in common is the same number, in every program but dials.postrefine
(test_same_numbers.py)."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the input files are those of DIALS")
pytest.importorskip("jinja2", reason="the page is a jinja2 template")
pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib")

NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"

pytestmark = pytest.mark.dials


@dataclass
class Said:
    """What a run said: the folder, and the names of its log, JSON and page."""

    folder: Path
    program: str
    json_name: str

    @cached_property
    def summary(self) -> dict:
        return json.loads((self.folder / self.json_name).read_text(encoding="utf-8"))

    @cached_property
    def log(self) -> str:
        """Without the seconds and the indentation of -v."""
        text = (self.folder / f"dials.{self.program}.log").read_text(encoding="utf-8")
        return re.sub(r"^(?: *\d+\.\d: | {8})", "", text, flags=re.MULTILINE)

    @cached_property
    def words(self) -> str:
        """The log as one line: its sentences are broken."""
        return " ".join(self.log.split())

    @cached_property
    def html(self) -> str:
        return (self.folder / f"dials.{self.program}.html").read_text(encoding="utf-8")

    def log_rows(self, *header: str) -> list[list[str]]:
        """The cells of the table of the log whose header begins so."""
        lines = self.log.splitlines()
        (start,) = [
            i
            for i, line in enumerate(lines)
            if _cells(line)[: len(header)] == list(header) and lines[i + 1].startswith("|-")
        ]
        rows = []
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                return rows
            rows.append(_cells(line))
        return rows

    def page_rows(self, caption: str) -> list[list[str]]:
        """The cells of the table of the page whose caption begins so."""
        tables = re.findall(r"<caption>(.*?)</caption>(.*?)</table>", self.html, re.DOTALL)
        (body,) = [body for title, body in tables if unescape(title).startswith(caption)]
        rows = re.findall(r"<tr.*?</tr>", body[body.index("<tbody") :], re.DOTALL)
        found = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
        return [[unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in found]

    @cached_property
    def facts(self) -> dict[str, str]:
        """What comes first on the page, by name, with its note."""
        found = re.findall(r"<dt>(.*?)</dt>\s*<dd class=\"value\">(.*?)</dd>(.*?)</div>", self.html, re.DOTALL)
        return {unescape(name): unescape(re.sub("<.*?>", "", f"{value} {note}")) for name, value, note in found}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<= )\|(?= )", line[1:-1])] if line.startswith("| ") else []


def same(text: str, *values: float | None) -> None:
    """The numbers in the text are these, each to half of its last digit; a dash is none."""
    text = text.replace("+-", " ").replace("±", " ")
    shown = re.findall(rf"{NUMBER}(?: ?%)?|(?<![\w.])[-–](?![\w.])", text)
    assert len(shown) == len(values), (text, values)
    for one, value in zip(shown, values):
        if value is None:
            assert one in ("-", "–"), (text, values)
            continue
        factor = 100.0 if "%" in one else 1.0
        mantissa, _, power = one.rstrip("% ").partition("e")
        last = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
        assert float(one.rstrip("% ")) == pytest.approx(factor * value, abs=0.5001 * last), (text, values)


def as_log(cells: list[str]) -> list[str]:
    """Cells of the page as the log has them."""
    pairs = (("–", "-"), ("±", "+-"), (" to ", " - "), ("τ", "tau"), ("σ", "sigma"))
    found = []
    for cell in cells:
        for theirs, ours in pairs:
            cell = cell.replace(theirs, ours)
        found.append(cell)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A function: program, name of its JSON, arguments -> Said, of a run in this process."""

    def run(program: str, json_name: str, *args) -> Said:
        folder, before = tmp_path_factory.mktemp(program), os.getcwd()
        os.chdir(folder)
        try:
            importlib.import_module(f"dials_postrefine.command_line.{program}").run(["-v", *(str(arg) for arg in args)])
        finally:
            os.chdir(before)
        return Said(folder, program, json_name)

    return run


# dials.diffuse_map


@pytest.fixture(scope="module")
def mapped(said, tmp_path_factory) -> Said:
    """A map of six images, of which one is damaged."""
    pytest.importorskip("numba", reason="dials.diffuse_map needs it")
    from dials_postrefine.simulate.diffuse import BraggPeaks, SmoothIntensity
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts

    experiments, images = make_experiments(SeriesOptions(n_images=6, oscillation=0.5)), ImageOptions(n_phi=2)
    smooth = with_mean_counts(intensity_of(SmoothIntensity, experiments[0].crystal), 5.0, experiments[0], images)
    spots = intensity_of(BraggPeaks, experiments[0].crystal, level=100.0 * smooth.level)
    folder = tmp_path_factory.mktemp("images")
    path = write_series(experiments, lambda h: smooth(h) + spots(h), folder / "image", images)
    damaged = folder / "image_00004.cbf"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    wanted = ("d_min=2.2", "grid.subdivide=2,2,2", "reject.n_sigma=6")
    return said("diffuse_map", "dials.diffuse_map.json", path, *wanted)


def test_the_shells_of_a_map(mapped):
    keys = "completeness pixels equivalents mean sigma anisotropy cc_half cc_friedel cc_laue chi_sq cos_2phi sin_2phi "
    keys += "masked"
    in_log, on_page, shells = mapped.log_rows("d range (A)"), mapped.page_rows("Statistics by shell"), []
    (power,) = re.findall(r"mean and sigma in (?:10(\S*) )?photons", unescape(mapped.html))
    power = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
    for one, other, shell in zip(in_log, on_page, mapped.summary["shells"], strict=True):
        shells.append(shell)
        same(one[0].replace(" - ", " "), shell["d_max"], shell["d_min"])
        assert one[1] == other[1] == str(shell["n"])
        for i, key in enumerate(keys.split(), start=2):
            same(one[i], shell[key])
            factor = 10.0**-power if key in ("mean", "sigma") else 1.0
            same(other[i], None if shell[key] is None else factor * shell[key])
    assert len(shells) == 11 and shells[-1]["cc_half"] is not None


def test_the_offset_the_masks_and_the_images_of_a_map(mapped):
    summary = mapped.summary
    offset, total = summary["index_offset"], summary["shells"][-1]
    (line,) = re.findall(r"Mean fractional index offset of (.*) \(should be 0\)", mapped.words)
    pairs = [x for pair in zip(offset["mean"], offset["esd"]) for x in pair]
    same(line, offset["n_spots"], *pairs)
    rows = mapped.page_rows("Mean fractional index of ")
    for row, mean, esd in zip(rows, offset["mean"], offset["esd"], strict=True):
        same(row[1], mean)
        same(row[2], esd)
    (line,) = re.findall(r"Masked as Bragg peaks: \S+ %; rejected as outliers: \S+ %", mapped.words)
    same(line, summary["masked"], summary["rejected"])
    same(mapped.facts["masked as Bragg"], summary["masked"], summary["rejected"])
    same(mapped.facts["completeness"], total["completeness"], total["pixels"])
    same(mapped.facts["CC_Laue"], total["cc_laue"], total["equivalents"])
    largest = int(np.argmax(np.abs(offset["mean"])))
    same(mapped.facts["index offset"].split(" the")[0], offset["mean"][largest], offset["esd"][largest])

    (line,) = re.findall(r"(\d+ of \d+) images, (\d+) voxels of .* \((\d+) MiB\), (\d+) operations", mapped.words)
    grid = summary["grid"]
    same(" ".join(line), summary["n_images_used"], summary["n_images"], grid["n_voxels"], grid["memory"] / 2**20,
         grid["n_operations"])  # fmt: skip
    treated = dict(mapped.page_rows("What was read"))
    assert treated["voxels"].startswith(f"{grid['n_voxels']} of ")
    same(treated["memory of the sums"].replace("MiB", ""), grid["memory"] / 2**20)
    assert treated["symmetry"].endswith(f"{grid['n_operations']} operations")
    (line,) = re.findall(r"(\d+) of (\d+) unique voxels between (\S+) and (\S+) A", mapped.words)
    assert line[:2] == (str(total["n"]), str(total["n_possible"]))
    assert f"gave {total['n']} of {total['n_possible']} unique voxels to {total['d_min']:.2f} Å" in mapped.html
    (line,) = re.findall(r"Mapping (\d+) images onto (.*) voxels, of which (\d+) within", mapped.words)
    assert line == (str(summary["n_images"]), " x ".join(map(str, grid["shape"])), str(grid["n_voxels"]))

    images, used = summary["images"], [image for image in summary["images"] if image["error"] is None]
    assert len(images) == 6 and len(used) == 5
    (line,) = re.findall(r"Scales of images, relative to their mean: (\S+ to \S+)", mapped.words)
    same(line, min(image["scale"] for image in used), max(image["scale"] for image in used))
    for row, image in zip(mapped.page_rows("All images"), images, strict=True):
        for cell, key in zip(row[1:], ("number", "scale", "level", "n_pixels", "masked", "n_rejected", "n_spots")):
            same(cell, image[key])
    assert mapped.log_rows("series", "image") == mapped.page_rows("Images that were not used")
    for remark in summary["remarks"]:
        assert remark in mapped.words and remark in unescape(mapped.html)


def test_the_files_of_a_map_have_its_statistics(mapped):
    import h5py

    with h5py.File(mapped.folder / "diffuse.nxs", "r") as file:
        statistics = file["entry/statistics"]
        for key in mapped.summary["shells"][0]:
            found = [*statistics["shells"][key][()], statistics["overall"][key][()]]
            expected = [np.nan if shell[key] is None else shell[key] for shell in mapped.summary["shells"]]
            np.testing.assert_array_equal(found, expected, err_msg=key)
        radial = {key: file["entry/radial"][name][()] for key, name in (("s", "s"), ("intensity", "intensity"))}
    rows = list(csv.DictReader((mapped.folder / "radial.csv").open()))
    for key, values in radial.items():
        assert values.tolist() == mapped.summary["radial"][key]
        assert [float(row[key]) for row in rows] == pytest.approx(values, rel=1e-5)


# dials.image_spread and dials.intensity_model


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Names of the .expt and .refl of sweeps of two crystals, and a model."""
    from io import StringIO

    from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, structure, write_sweeps

    folder, cif = tmp_path_factory.mktemp("sweeps"), StringIO()
    names = write_sweeps(simulate_sweeps(SweepOptions(tau=0.25, n_images=60, n_crystals=2)), folder / "scaled")
    structure().as_cif_simple(out=cif)
    (folder / "quartz.cif").write_text(cif.getvalue())
    return *names, folder / "quartz.cif"


@pytest.fixture(scope="module")
def spread(said, sweeps) -> Said:
    wanted = ("match=laue", "compare=profile", "random_match.permutations=99", "image_width=2")
    return said("image_spread", "dials.image_spread.json", *sweeps[:2], *wanted, "output.pairs=all.csv")


def interval(tau: dict) -> list[float | None]:
    return [tau["tau"], tau["low"], tau["high"]] if tau["tau"] is not None else [None]


def test_the_spread_of_mates(spread):
    summary = spread.summary["spread"]
    groups = [
        summary["overall"] | {"intensity": None, "relative_error": None},
        *summary["quartiles"],
        *summary["parts"],
    ]
    for one, other, group in zip(
        spread.log_rows("", "tau [95 %]"), spread.page_rows("Excess relative spread"), groups, strict=True
    ):
        for row in (one, other):
            same(row[1], *interval(group))
            assert row[2:4] == [str(group["n"]), str(group["n_unique"])]
            if group["intensity"] is not None:
                same(row[4], group["intensity"])
                same(row[5], group["relative_error"])
    for one, other, shell in zip(
        spread.log_rows("d range (A)"), spread.page_rows("By resolution."), summary["shells"], strict=True
    ):
        assert one == as_log(other)
        same(one[1], *interval(shell))
    (line,) = re.findall(r"R_meas \S+, \d+ observations without", spread.words)
    same(line.replace("R_meas", ""), summary["r_meas"], summary["n_without_equivalent"])
    same(spread.facts["R_meas"], summary["r_meas"])
    same(spread.facts["excess spread τ"].replace("95 %:", ""), summary["overall"]["tau"], *interval(summary["overall"]))
    for one, other, found in zip(
        spread.log_rows("experiment", "tau [95 %]"),
        spread.page_rows("By experiment"),
        summary["experiments"],
        strict=True,
    ):
        assert one == other and one[0] == found["name"]
        same(one[1], *interval(found))
    compared = spread.summary["compare"]["columns"]
    assert compared["scale"]["tau"] == summary["overall"] and compared["scale"]["r_meas"] == summary["r_meas"]
    assert compared["scale"]["pairs"] == spread.summary["pairs"]["whole"]
    for one, other in zip(spread.log_rows("intensity"), spread.page_rows("The same observations"), strict=True):
        found = compared[one[0]]
        assert [one[k] for k in (0, 1, 2, 4, 5)] == [other[k] for k in (0, 1, 2, 4, 5)]
        same(one[1], *interval(found["tau"]))
        same(one[3], found["pairs"]["log_spread"], found["pairs"]["log_spread_esd"])
        same(other[3], found["pairs"]["log_spread"])


def test_the_pairs_of_images(spread):
    pairs, settings = spread.summary["pairs"], spread.summary["settings"]
    keys = ("n_common", "jaccard", "misorientation", "log_spread", "expected", "r", "cc", "z_width", "llr", "p")
    in_log, on_page = spread.log_rows("image", "image"), spread.page_rows(f"The {len(pairs['best'])} pairs")
    with (spread.folder / "all.csv").open() as file:
        in_table = list(csv.DictReader(file))
    assert len(in_table) == pairs["n_analysed"] and pairs["file"] == "all.csv"
    assert "all.csv has all that were analysed" in spread.html and "image_pairs.csv" not in spread.html
    assert len(on_page) == len(pairs["best"]) and len(in_log) == min(10, len(on_page))
    columns = dict(zip(keys, "n_common jaccard misorientation_degrees log_spread log_spread_expected r cc".split()))
    columns |= {key: key for key in ("z_width", "llr", "p", "cc_log", "posterior")}
    for k, (row, found) in enumerate(zip(on_page, pairs["best"])):
        assert row[0] == f"{found['first']}, {found['second']}"
        for cell, key in zip([*row[1:8], *row[9:]], keys):
            same(cell, found[key])
        same(row[8], found["cc_log"])
        for key, column in columns.items():
            same(in_table[k][column] or "-", found[key])
        if k < len(in_log):
            assert in_log[k][:2] == [found["first"], found["second"]]
            assert in_log[k][2:] == as_log([*row[1:8], *row[9:]])
    whole = pairs["whole"]
    (line,) = re.findall(r"All (\d+) matched spots, (\d+) of them", spread.words)
    assert line == (str(whole["n"]), str(whole["n_strong"]))
    number, pair = r"(\S+)", r"(\S+ \+- \S+)"
    sentence = f"log spread {pair}, expected {number}; R {pair}, CC {number}, CC of ln I {number}, z {number}"
    (line,) = re.findall(sentence, spread.words)
    keys = ("log_spread", "log_spread_esd", "expected", "r", "r_esd", "cc", "cc_log", "z_width")
    same(" ".join(line).replace(",", ""), *(whole[key] for key in keys))
    same(spread.facts["log spread of pairs"], whole["log_spread"], whole["log_spread_esd"], whole["expected"])
    assert f"{pairs['n_found']} pairs of images" in spread.words and f"{pairs['n_found']} pairs have" in spread.html
    same(spread.facts["pairs of images"], pairs["n_found"], settings["min_common"])
    test = spread.summary["random_match"]
    (line,) = re.findall(r"AUC (\S+ \+- \S+), ", spread.words)
    same(line, test["auc"], test["auc_esd"])
    same(spread.facts["AUC"], test["auc"], test["auc_esd"])


def test_causes_and_images(spread):
    causes = spread.summary["causes"]
    in_log, on_page = spread.log_rows("cause"), spread.page_rows("Causes")
    for one, other, cause in zip(in_log, on_page, causes["ranked"]):
        assert one[0] == other[0] and one[2:] == as_log(other[2:])
        assert one[1] == as_log(other[1:2])[0]
        same(one[3], cause["gain"])
        same(one[4], cause["p"])
        if cause["tau_at"] is None:
            same(one[1].replace("[", " ").replace("]", ""), cause["value"], cause["low"], cause["high"])
        else:
            (low, high), (x, y) = cause["tau_at"], cause["x_at"]
            same(one[1], low, x, high, y)
    for name, why in causes["untested"].items():
        assert why in spread.words and why in spread.html, name
    (line,) = re.findall(r"tau without the noisiest observations, (.*?\])(?: [A-Z]|$)", spread.words)
    rows = spread.page_rows("τ without the noisiest")
    assert line == ", ".join(f"{row[0]}: {row[1]}" for row in rows)
    for row, image in zip(spread.page_rows("All images"), spread.summary["images"], strict=True):
        assert row[0] == image["image"]
        same(row[1], *interval(image))
        same(row[5], image["factor"])
        same(row[8], image["zone_angle"])
    data = spread.summary["dataset"]
    read = dict(spread.page_rows("What was read"))
    (line,) = re.findall(
        r"(\d+) images of .*, (\d+) observations of (\d+) unique indices, (\S+) to (\S+) A", spread.words
    )
    same(" ".join(line), *(data[key] for key in ("n_images", "n_observations", "n_unique", "d_max", "d_min")))
    same(read["observations"], data["n_observations"], data["n_unique"])
    same(read["resolution"], data["d_max"], data["d_min"])
    same(read["images"], data["n_images"], data["images_taken_as_one"])
    assert f"Up to {data['images_taken_as_one']} images of the detector" in spread.words


@pytest.fixture(scope="module")
def learned(said, sweeps) -> Said:
    wanted = ("split=experiment", f"reference={sweeps[2]}", "trees.max_iter=30", "trees.permutations=2")
    return said("intensity_model", "dials.intensity_model.json", *sweeps[:2], *wanted)


def test_predictions(learned):
    from dials.array_family import flex

    summary = learned.summary
    names = ("equivalents", "f_calc", "trees", "both")
    in_log, on_page = learned.log_rows("R1"), learned.page_rows("R1 = sum")
    sets = [("all", summary["overall"]), *((one["name"], one) for one in summary["experiments"])]
    for one, other, (name, found) in zip(in_log, on_page, sets, strict=True):
        assert one == as_log(other) and one[0] == name
        for cell, key in zip(one[1:], names):
            same(cell, found[key]["value"], found[key]["esd"])
        assert one[5] == str(found["trees"]["n"])
    titles = ("mean of symmetry equivalents", "|F_calc|", "trees", "trees with |F_calc|")
    for key, title in zip(names, titles):
        same(learned.facts[title].replace("R1", ""), summary["overall"][key]["value"], summary["overall"][key]["esd"])
    for one, other, found in zip(
        learned.log_rows("R1, learned from"),
        learned.page_rows("Learned from one"),
        (summary["overall"], summary["compare"]["overall"]),
        strict=True,
    ):
        assert one == as_log(other)
        for cell, key in zip(one[1:], names):
            same(cell, found[key]["value"], found[key]["esd"])
    in_log, on_page = learned.log_rows("feature"), learned.page_rows("Importances")
    for one, other, name in zip(in_log, on_page, summary["features"], strict=True):
        assert one == as_log(other)
        for cell, trees in zip(one[1:], summary["importances"]):
            found = summary["importances"][trees].get(name)
            same(cell, *((found["growth"], found["esd"]) if found else [None]))
    for sentence in summary["findings"]:
        assert sentence in learned.words and sentence.replace("+-", "±") in unescape(learned.html)
    data = summary["dataset"]
    (line,) = re.findall(
        r"(\d+) of (\d+) observations of (\d+) unique indices predicted by (.*?), split", learned.words
    )
    assert line == (*(str(data[key]) for key in ("n_predicted", "n_observations", "n_unique")), "trees with |F_calc|")
    assert dict(learned.page_rows("What was read"))["observations"].startswith(f"{line[0]} of {line[1]} predicted by ")
    # what is in the table that was written is what is counted
    table = flex.reflection_table.from_file(str(learned.folder / "intensity_model.refl"))
    assert data["predicted_by"] == "both"
    assert 0 < np.count_nonzero(np.array(table["intensity.model.value"])) <= data["n_predicted"]


# dials.reference_intensities, and what dials.postrefine says of the same


@pytest.fixture(scope="module")
def reference(said, tmp_path_factory) -> Said:
    from dxtbx import flumpy
    from iotbx import mtz

    folder = tmp_path_factory.mktemp("model")
    atoms = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 12.00           C"
        for i, (x, y, z) in enumerate(np.random.default_rng(2).uniform((0, 0, 0), (24, 28, 32), (60, 3)))
    ]
    cell = "CRYST1   24.000   28.000   32.000  90.00  90.00  90.00 P 21 21 21"
    (folder / "model.pdb").write_text("\n".join([cell, *atoms, "END", ""]))
    first = said("reference_intensities", "dials.reference_intensities.json", folder / "model.pdb", "d_min=2")
    array = mtz.object(str(first.folder / "reference.mtz")).as_miller_arrays()[0]
    rng, value = np.random.default_rng(0), np.array(array.data())
    sigma = 0.05 * (value + 0.1 * value.mean())
    value = 2.0 * value * np.exp(-4.0 * np.array(array.d_star_sq().data()) / 2.0)
    value += 2.0 * sigma * rng.standard_normal(len(value))
    data = array.customized_copy(data=flumpy.from_numpy(value), sigmas=flumpy.from_numpy(2.0 * sigma))
    data.set_observation_type_xray_intensity()
    data.as_mtz_dataset(column_root_label="IMEAN", wavelength=0.98).mtz_object().write(str(folder / "data.mtz"))
    wanted = (folder / "model.pdb", f"data={folder / 'data.mtz'}", "merge_friedel_mates=True")
    return said("reference_intensities", "dials.reference_intensities.json", *wanted)


def test_a_reference(reference):
    from dials_postrefine.report.stills.page import _model

    summary = reference.summary
    rows = reference.log_rows("d (A)", "n")
    keys = ("r", "r_strong", "cc_i", "cc_f", "i_over_sigma", "model_error")
    for row, shell in zip(rows, summary["shells"], strict=True):
        assert row[1] == str(shell["n"])
        for cell, key in zip(row[2:], keys):
            same(cell, shell[key])
    assert len(rows) > 5 and summary["shells"][-1]["n"] == summary["n_data"] == summary["fit"]["n"]
    fit = summary["fit"]
    found = {row[0].split(" ")[0]: row[1] for row in reference.log_rows("", "value (esd)")}
    for name in ("k_ov", "k_sol", "b_sol"):
        if fit[name]["value"] is not None:
            same(found[name].replace("(", " ").replace(")", ""), fit[name]["value"], fit[name]["esd"])
    for k, index in enumerate(("11", "22", "33", "12", "13", "23")):
        esd = fit["b_cart"]["esd"][k]
        values = [fit["b_cart"]["value"][k]] + ([] if esd is None else [esd])
        same(found[f"B_{index}"].replace("(", " ").replace(")", ""), *values)
    (line,) = re.findall(r"Fit to (\d+) reflections, (\d+) of them", reference.words)
    assert line == (str(fit["n"]), str(fit["n_outliers"]))
    (line,) = re.findall(r"(\d+) reference intensities to (\S+) A in", reference.words)
    same(" ".join(line), summary["n_reflections"], summary["d_min"])
    same(re.findall(r"Wavelength: (\S+) A", reference.words)[0], summary["wavelength"])
    # the page of dials.postrefine has the same
    (table,) = _model(summary | {"share": []}).tables
    for row, shell in zip(table.rows, summary["shells"], strict=True):
        assert row[1] == str(shell["n"])
        for cell, key in zip(row[2:], ("r", "cc_i", "cc_f", "model_error")):
            same(cell, shell[key])


def test_the_files_of_a_reference_are_counted_in_its_summary(reference):
    from dials.array_family import flex
    from iotbx import mtz

    table = flex.reflection_table.from_file(str(reference.folder / "reference.refl"))
    file = mtz.object(str(reference.folder / "reference.mtz"))
    assert len(table) == file.n_reflections() == reference.summary["n_reflections"]
    assert flex.min(table["d"]) == pytest.approx(reference.summary["d_min"])
    assert file.max_min_resolution()[1] == pytest.approx(reference.summary["d_min"], rel=1e-5)
    assert file.crystals()[0].unit_cell().parameters() == pytest.approx(reference.summary["unit_cell"], rel=1e-6)
    assert file.space_group_info().type().lookup_symbol() == reference.summary["space_group"]


# dials.fine_refine


@pytest.fixture(scope="module")
def disks(said, tmp_path_factory) -> Said:
    """The small pattern of silicon."""
    from dials_postrefine.simulate.disks import add_counts, silicon_pattern, true_intensity, write_pattern

    files = write_pattern(tmp_path_factory.mktemp("disks"), add_counts(silicon_pattern(), true_intensity(), 2))
    return said("fine_refine", "dials.fine_refine.json", *files)


def test_the_parameters_factors_and_disks_of_a_pattern(disks):
    summary = disks.summary
    rows = disks.log_rows("parameter", "value")
    for row, (name, one) in zip(rows, summary["parameters"].items(), strict=True):
        assert row[0] == name
        same(row[1], one["value"])
        assert one["refined"] or row[2] == "fixed"
        same(row[2], one["esd"]) if one["refined"] else None
        assert all(disks.html.count(cell) for cell in row[1:3])
    for row, one in zip(disks.log_rows("", "s (1/A)"), summary["factors"], strict=True):
        same(row[1], one["s"])
        same(row[2], one["u"], one["u_esd"])
        same(row[5], one["f_x"], one["f_x_esd"]) if one["f_x"] is not None else None
    for row, one in zip(disks.log_rows("disk", "pixels"), summary["disks"], strict=True):
        for cell, key in zip(row[1:], ("n", "scale", "background", "correlation", "chi2"), strict=True):
            same(cell, one[key])
    (line,) = re.findall(r"chi\^2 (\S+ of \d+) pixels and (\d+) parameters, reduced (\S+);", disks.words)
    same(" ".join(line), summary["chi2"], summary["n"], summary["n_parameters"], summary["chi2_reduced"])
