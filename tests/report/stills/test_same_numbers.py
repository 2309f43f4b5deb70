"""What log, JSON and page of one run of dials.postrefine have in common is the same number."""

from __future__ import annotations

import re
from html import unescape

import pytest

from dials_postrefine.report.stills.text import outcome

NUMBER = r"-?\d+(?:\.\d+)?"


@pytest.fixture(scope="module")
def log(run) -> str:
    return (run.folder / "dials.postrefine.log").read_text(encoding="utf-8")


def log_rows(log: str, header: str) -> list[list[list[str]]]:
    """The cells of each table of the log whose header begins so."""
    tables, lines = [], log.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(f"| {header} "):
            rows = []
            for row in lines[i + 2 :]:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            tables.append(rows)
    return tables


def page_rows(html: str, caption: str) -> list[list[str]]:
    (table,) = re.findall(rf"<caption>{caption}.*?</table>", html, re.DOTALL)
    body = table[table.index("<tbody>") :]
    return [
        [unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body)
    ]


def same(text: str, value: float | None) -> None:
    """The text is the value, to half of its last digit; a dash is none."""
    if value is None:
        assert text in ("-", "–")
        return
    digits = len(re.search(NUMBER, text).group().partition(".")[2])
    shown = float(re.search(NUMBER, text).group()) / (100.0 if "%" in text else 1.0)
    assert shown == pytest.approx(value, abs=0.5001 * 10.0**-digits / (100.0 if "%" in text else 1.0)), text


SHELL = ["n_observations", "n_unique", "completeness", "multiplicity", "i_over_sigma", "cc_half", "r_split"]


def test_the_shells(run, log):
    everything = log_rows(outcome(run.summary, wide=True), "d range (A)")
    for in_log, whole in zip(log_rows(log, "d range (A)"), everything, strict=True):  # some columns, to fit the log
        assert all(set(row) <= set(other) and row[0] == other[0] for row, other in zip(in_log, whole, strict=True))
    for when, caption, rows in zip(("before", "after"), ("Scaled only", "Postrefined"), everything):
        shown = page_rows(run.html, caption)
        assert len(rows) == len(shown) == len(run.summary[when]) == 11
        for in_log, on_page, shell in zip(rows, shown, run.summary[when]):
            for i, key in enumerate(SHELL, start=1):
                same(in_log[i], shell[key])
                same(on_page[i], shell[key])
                assert in_log[i].replace(" ", "") == on_page[i].replace(" ", "").replace("–", "-")


def test_the_parameters(run, log):
    (in_log,), on_page = log_rows(log, "parameter"), page_rows(run.html, "Of the accepted and refined lattices")
    histograms = [data for data in run.summary["histograms"].values() if data is not None]
    assert len(in_log) == len(on_page) == len(histograms) == 5
    for one, other, data in zip(in_log, on_page, histograms):
        assert one[1:] == other[1:]
        factor = 1000.0 if "r_s" in one[0] else 1.0
        for text, key in zip(one[1:], ("median", "spread", "median_esd")):
            same(text, factor * data[key])


def test_the_partialities(run, log):
    (in_log,), on_page = log_rows(log, "r_h/r_s"), page_rows(run.html, "Partiality by r_h/r_s before and after")
    rows = run.summary["partiality"]["rows"]
    assert len(in_log) == len(on_page) == len(rows) == 8
    assert in_log == on_page
    for shown, one in zip(in_log, rows):
        limits = [one[key] for key in ("low", "high") if one[key] is not None]
        for text, limit in zip(re.findall(NUMBER, shown[0]), limits, strict=True):
            same(text, limit)
        for cells, part in ((shown[1:4], one["before"]), (shown[4:], one["after"])):
            assert cells[0] == str(part["n"])
            for text, key in zip([*cells[1].split(" +- "), cells[2]], ("observed", "observed_esd", "predicted")):
                same(text, part[key])


def test_the_data_set(run, log):
    dataset = run.summary["dataset"]
    (rows,) = log_rows(log, "data set")
    shown = {row[0]: row[1:] for row in rows}
    before, after = run.summary["before"][-1], run.summary["after"][-1]
    for name, key in {"observations": "n_observations", "CC1/2": "cc_half", "R_split": "r_split"}.items():
        same(shown[name][0], before[key])
        same(shown[name][1], after[key])
    assert shown["lattices"] == [str(dataset["n_lattices"]), str(dataset["n_accepted"])]
    assert int(shown["observations"][1]) == dataset["n_merged"] == after["n_observations"]
    for i, when in enumerate(("before", "after")):
        same(shown["median CC of a lattice"][i], run.summary["median_correlation"][when])
    numbers = {row[0]: row[1] for row in page_rows(run.html, "What was read")}
    for name, key in {
        "observations": "n_input",
        "merged observations": "n_merged",
        "outliers": "n_outliers",
        "below the partiality threshold": "n_below_threshold",
        "of rejected lattices": "n_of_rejected",
    }.items():
        assert numbers[name] == str(dataset[key])
    line = re.search(r"Of \d+ usable observations.*?rejected lattices\.", " ".join(log.split())).group()
    keys = ("n_observations", "n_merged", "n_outliers", "n_below_threshold", "n_of_rejected")
    assert [int(word) for word in re.findall(r"\d+", line)] == [dataset[key] for key in keys]


def test_every_observation_is_counted_once(run):
    dataset = run.summary["dataset"]
    assert dataset["n_input"] == dataset["n_observations"] + sum(dataset["not_used"].values())
    after = ("n_merged", "n_outliers", "n_below_threshold", "n_of_rejected")
    assert dataset["n_observations"] == sum(dataset[key] for key in after)
    for one in run.summary["lattices"]:
        assert one["n_input"] == one["n_observations"] + one["n_not_used"]
        assert one["n_observations"] == sum(one[key] for key in after)
    for key in ("n_input", "n_observations", *after):
        assert sum(one[key] for one in run.summary["lattices"]) == dataset[key]


def test_what_the_residuals_say(run, log):
    (in_log,), on_page = log_rows(log, "residuals"), page_rows(run.html, "Errors that all lattices share")
    found = run.summary["systematics"]
    factors = dict.fromkeys(("panel_gain", "radial", "cell_scale", "asymmetry"), 100.0)
    assert [one["value"] is None for one in found.values()] == [one["reason"] is not None for one in found.values()]
    assert sum(one["value"] is not None for one in found.values()) >= 9
    for one, other, (name, values) in zip(in_log, on_page, found.items(), strict=True):
        assert one[1:4] == [cell.replace("–", "-") for cell in other[1:4]] and other[4].startswith(one[4])
        assert one[4] == values["verdict"] and (values["reason"] or "") in other[4]
        for text, key in zip(one[1:4], ("value", "esd", "expected")):
            same(text, None if values[key] is None else factors.get(name, 1.0) * values[key])
    gains = found["panel_gain"]["gains"]
    for row, gain in zip(page_rows(run.html, "Gain over the mean"), gains, strict=True):
        assert row[0] == gain["name"]
        same(row[1], 100.0 * gain["value"])
        same(row[2], 100.0 * gain["esd"])
    largest = max(gains, key=lambda gain: abs(gain["value"]) / gain["esd"])
    assert largest["name"] == found["panel_gain"]["where"] and largest["value"] == found["panel_gain"]["value"]


def test_the_operations_cycles_and_remarks(run, log):
    (in_log,), on_page = log_rows(log, "operation"), page_rows(run.html, "The operations of the space group")
    for one, other, found in zip(in_log, on_page, run.summary["symmetry"]["operations"], strict=True):
        assert one[:5] == [cell.replace("–", "-") for cell in other[:5]]
        same(one[2], found["cc"])
        assert int(one[3]) == found["n_pairs"]
    (in_log,), on_page = log_rows(log, "cycle"), page_rows(run.html, "The cycles")
    assert in_log == [[cell.replace("–", "-") for cell in row] for row in on_page]
    for remark in run.summary["remarks"]:
        assert f"- {remark}" in " ".join(log.split())
        assert remark in unescape(run.html)
