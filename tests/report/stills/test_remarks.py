"""The remarks of dials.postrefine on summaries that are changed in one place, and the verdict of all programs."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from comparison import with_value

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials", reason="the summary is that of a run")

from dials_postrefine.report.common.remarks import care, conclude, distrust, grade_of, note, remark_lines
from dials_postrefine.report.stills.remarks import remarks

pytestmark = pytest.mark.dials


def test_the_worst_remark_makes_the_verdict_and_comes_first():
    found = conclude([note("One."), care("two", "Two.", "cc_half"), "Bare.", distrust("three", "Three."), note("One.")])
    assert found["remarks"] == ["Three.", "Two.", "One.", "Bare."]
    verdict = found["verdict"]
    assert [one["text"] for one in verdict["remarks"]] == found["remarks"]
    assert (verdict["grade"], verdict["text"], verdict["reasons"]) == ("distrust", "do not trust", ["three"])
    assert grade_of(found, "cc_half") == "care" and grade_of(found, "completeness") == ""
    assert remark_lines(found).endswith("- Bare.\n\nDo not trust: three.")
    assert conclude([care("a", "A."), care("b", "B.")])["verdict"]["reasons"] == ["a", "b"]
    nothing = conclude([])
    assert nothing["verdict"]["text"] == conclude(["Bare."])["verdict"]["text"] == "trust"
    assert remark_lines(nothing).startswith("No remarks.") and "Trust: nothing" in remark_lines(nothing)


def differs(**values) -> dict:
    """What a systematic error is like where it differs."""
    return {"expected": 0.0, "verdict": "differs", "reason": None, "where": "panel 3", "gains": []} | values


def good(summary: dict) -> dict:
    """The summary of a run with which nothing is wrong."""
    fine = copy.deepcopy(summary)
    dataset = fine["dataset"]
    dataset.update(n_accepted=dataset["n_lattices"], n_of_rejected=0, n_below_threshold=0, n_outliers=3, not_used={})
    dataset["reference"] = None
    fine["rejected"] = {}
    for when, r_split in (("before", 0.3), ("after", 0.1)):
        for shell in fine[when]:
            shell.update(cc_half=0.98, cc_half_honest=0.97, r_split=r_split, completeness=0.99, multiplicity=9.0)
    for group in (one for key, groups in fine["residuals"].items() if key.startswith("by_") for one in groups):
        group["width"] = 1.0
    fine["residuals"].update(n=1000, below=1, above=2)
    for one in fine["partiality"]["bins"]:
        one["observed"] = one["predicted"]
    fine["cycles"][-1]["change"] = 0.0
    for data in fine["histograms"].values():
        if data is not None:
            data.update(median=0.001, spread=1.0, median_esd=0.1)
    for operation in fine["symmetry"]["operations"]:
        operation["supported"] = True
    for one in fine["systematics"].values():
        one["verdict"] = "as expected"
    return fine


def change(summary: dict, path: str, value) -> dict:
    return with_value(good(summary), path, value)


def test_a_good_run_has_no_remark(run):
    assert remarks(good(run.summary)) == []


@pytest.mark.parametrize(
    ("path", "value", "grade", "words"),
    [
        ("dataset.n_accepted", 20, "care", None),
        ("dataset.not_used", {"with bad intensity": 10**6}, "care", r"were not used: with bad intensity"),
        ("dataset.n_outliers", 10**6, "care", r"are outliers and were not merged"),
        ("dataset.n_below_threshold", 10**3, "note", r"below partiality_threshold="),
        (
            "dataset.wavelengths",
            [{"wavelength": 1.0, "n_lattices": 20}, {"wavelength": 1.1, "n_lattices": 20}],
            "care",
            r"2 wavelengths, 1.00000 A \(20 lattices\), .*wavelength_tolerance=0.05",
        ),
        (
            "dataset.cell_choices",
            [{"operation": "-a,b,a+c", "n_lattices": 12, "reindexed": True}],
            "note",
            r"12 of 40 .*change_of_basis_op=-a,b,a\+c\): they were reindexed",
        ),
        (
            "dataset.cell_choices",
            [{"operation": "-a,b,a+c", "n_lattices": 12, "reindexed": False}],
            "care",
            "they were rejected; reindex them by dials.reindex",
        ),
        (
            "dataset.other_cells",
            [{"unit_cell": [60.0, 60.0, 38.0, 90.0, 90.0, 90.0], "n_lattices": 9}],
            "care",
            r"9 of 40 lattices have another unit cell \(60.00, 60.00, 38.00",
        ),
        (
            "symmetry.absences",
            {"strong": True, "n": 50, "ratio": 1.02, "ratio_esd": 0.08},
            "distrust",
            r"50 observations .*as strong as the others: centring or screw axis are wrong",
        ),
        ("symmetry.operations.1.supported", False, "distrust", "Operations of P 43 21 2 that the intensities do not"),
        ("cycles.-1.change", 0.3, "care", r"still changed by 30% in the last cycle \(limit 0.5%\)"),
        (
            "after.-1.cc_half_honest",
            0.6,
            "care",
            "conventional CC1/2 is 0.980, that of .* 0.600: believe the latter",
        ),
        ("after.-2.cc_half_honest", 0.2, "care", r"CC1/2 falls below 0.3 at \d.\d\d A: .*d_min="),
        ("after.-1.r_split", 0.35, "care", "R_split is 0.350 where scaling alone has 0.300"),
        ("after.-1.completeness", 0.6, "care", "The data are 60% complete"),
        ("after.-1.multiplicity", 2.0, "care", "observed 2.0 times on average"),
        (
            "histograms.theta_x",
            {"n": 40, "median": 0.2, "spread": 0.05, "median_esd": 0.01},
            "care",
            r"\+0.200 degrees",
        ),
        (
            "histograms.b_factor",
            {"n": 40, "median": 0.0, "spread": 1.0, "median_esd": 2.0},
            "note",
            "of b_factor are as",
        ),
        ("residuals.by_intensity.0.width", 2.0, "care", "between 1.00 and 2.00 wide where one is right"),
        (
            "systematics.polarization_fraction",
            differs(value=0.987, esd=0.012, expected=0.5),
            "care",
            r"models, 0.5, is not that of the data, 0.987 \+- 0.012: run again with polarization_fraction=0.99",
        ),
        ("systematics.polarization_direction", differs(value=12.0, esd=1.0), "care", r"by 12.00 \+- 1.00 degrees"),
        ("systematics.panel_gain", differs(value=0.11, esd=0.01), "care", r"panel 3 .* strong by 11.00 \+- 1.00 %"),
        ("systematics.radial", differs(value=0.11, esd=0.01), "note", r"reference by 11.00 \+- 1.00 %"),
        ("systematics.cell_scale", differs(value=0.001, esd=0.0001), "care", r"off by 0.1000 \+- 0.0100 %"),
        ("systematics.asymmetry", differs(value=-0.1, esd=0.01), "care", r"by -10.00 \+- 1.00 %"),
        ("systematics.beam_direction_y", differs(value=0.1, esd=0.01), "care", r"0.1000 \+- 0.0100 degrees .* y axis"),
        ("systematics.drift_scale", differs(value=1.0, esd=0.1), "note", r"ln G changes by 1.000 \+- 0.100:"),
        ("systematics.drift_b", differs(value=9.0, esd=1.0), "note", r"B changes by 9.00 \+- 1.00 Å²:"),
        ("systematics.drift_radius", differs(value=0.3, esd=0.1), "note", r"ln r_s changes by 0.300 \+- 0.100:"),
        ("systematics.drift_mosaicity", differs(value=0.3, esd=0.1), "note", r"ln eta changes by 0.300 \+- 0.100:"),
        ("residuals.above", 50, "care", r"51 of 1000 residuals \(5.1%\) are beyond"),
    ],
)
def test_what_is_wrong_is_remarked_once(run, path, value, grade, words):
    changed = change(run.summary, path, value)
    if path == "dataset.n_accepted":
        changed["rejected"], words = {"fit did not converge": 20}, "20 of 40 lattices .*'fit did not converge'"
    (remark,) = remarks(changed)
    assert re.search(words, remark.text) and remark.text.endswith(".") and remark.grade == grade
    assert remark.reason or grade == "note"


@pytest.mark.parametrize(("cc_half", "grade"), [(0.05, "distrust"), (0.255, "care")])
def test_little_agreement_of_half_sets_is_said_with_what_it_means(run, cc_half, grade):
    changed = good(run.summary)
    changed["after"][-1].update(cc_half=cc_half, cc_half_honest=None)
    (remark,) = remarks(changed)
    assert remark.grade == grade and remark.about == "cc_half"
    assert f"by {np.sqrt(2 * cc_half / (1 + cc_half)):.2f} at most" in remark.text


def test_a_low_correlation_with_an_external_reference(run):
    changed = good(run.summary)
    changed["after"][-1]["cc_reference"] = 0.2
    assert remarks(changed) == []  # of its own mean
    changed["dataset"]["reference"] = "model.mtz"
    (remark,) = remarks(changed)
    assert "correlate with the reference by 0.200" in remark.text


def test_nothing_refined_is_not_to_be_trusted(run):
    changed = good(run.summary)
    for one in changed["lattices"]:
        one["refined"] = False
    (remark,) = remarks(changed)
    assert remark.grade == "distrust" and "None of the 40 accepted lattices was refined" in remark.text


def test_two_kinds_of_radii_are_a_note(run):
    changed = good(run.summary)
    rng = np.random.default_rng(1)
    for k, one in enumerate(changed["lattices"]):
        one.update(accepted=True, refined=True, radius=(1e-3 if k % 2 else 4e-3) * float(np.exp(0.05 * rng.normal())))
    (remark,) = remarks(changed)
    assert remark.grade == "note" and "2 groups, 1.0" in remark.text and "(20 lattices)" in remark.text


def test_an_observed_partiality_off_the_predicted_one(run):
    changed = good(run.summary)
    for one in changed["partiality"]["bins"]:
        one.update(observed=one["predicted"] + 0.2, observed_esd=0.01)
    (remark,) = remarks(changed)
    assert "more than 0.1 off the predicted one: the profile is another one" in remark.text


def test_every_program_ends_its_log_with_the_verdict_of_its_page_and_json(run):
    log = (run.folder / "dials.postrefine.log").read_text(encoding="utf-8")
    assert " ".join(log.split()).endswith(" ".join(remark_lines(run.summary).split()))
    verdict = run.summary["verdict"]
    place = run.html.index(f'<p class="verdict {verdict["grade"]}"><strong>{verdict["text"].capitalize()}</strong>')
    assert place < run.html.index('<ul class="remarks"') < run.html.index('<dl class="facts">')


def test_scaling_alone_is_said_and_what_postrefinement_did_is_not(run):
    changed = good(run.summary)
    changed["scaled_only"] = True
    changed["gain"] = {"words": "3 observations are predicted no better."}
    changed["course"] = changed["course"] | {"ended": "no_lattice"}
    changed["after"][-1]["r_split"] = changed["before"][-1]["r_split"] + 0.1
    (remark,) = remarks(changed)
    assert remark.grade == "distrust" and "3 observations are predicted no better." in remark.text
    assert "scaling alone" in remark.reason
