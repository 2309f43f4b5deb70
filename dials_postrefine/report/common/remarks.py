"""
What somebody who knows would point at: the remarks of a run and its verdict, the same for all programs, last in the
log, first on the page, and in JSON.

A remark is a sentence with what to do, its reason in a few words, and a grade:

    note      worth knowing; the result stands
    care      part of the result is weaker than it looks, or could be better
    distrust  the result as a whole is not what it seems

The verdict is that of the worst remark - trust, with care, do not trust - and why is what those of its grade say in a
few words.  Most remarks are a program's own; here is how they are graded, told and kept, and those that several have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

NOTE, CARE, DISTRUST = GRADES = ("note", "care", "distrust")
MANY_LEFT_OUT = 0.1  # of the observations, by one test
ASKED_FOR = ("outside of d_min and d_max", "excluded by the user")  # and no news
VERDICTS = {NOTE: "trust", CARE: "trust with care", DISTRUST: "do not trust"}


@dataclass(frozen=True)
class Remark:
    """A remark (module docstring)."""

    grade: str
    reason: str
    text: str
    about: str = ""


def note(text: str) -> Remark:
    """What is worth knowing."""
    return Remark(NOTE, "", text)


def care(reason: str, text: str, about: str = "") -> Remark:
    """What makes a part of the result weaker; about: the number of the summary that it is about, if there is one."""
    return Remark(CARE, reason, text, about)


def distrust(reason: str, text: str, about: str = "") -> Remark:
    """What makes the result another one than it seems."""
    return Remark(DISTRUST, reason, text, about)


def conclude(found: Iterable[Remark | str]) -> dict:
    """
    The verdict and the remarks, worst first and each once, as the summaries have them:

        verdict  grade, text (trust, trust with care, do not trust), reasons, those of the remarks of this grade, and
                 all remarks with grade, reason, text, and the number that they are about
        remarks  the texts

    A bare text is a note.
    """
    remarks = dict.fromkeys(note(one) if isinstance(one, str) else one for one in found)
    ranked = sorted(remarks, key=lambda one: -GRADES.index(one.grade))
    grade = ranked[0].grade if ranked else NOTE
    reasons = [one.reason for one in ranked if one.grade == grade and one.reason]
    verdict = {
        "grade": grade,
        "text": VERDICTS[grade],
        "reasons": list(dict.fromkeys(reasons)),
        "remarks": [asdict(one) for one in ranked],
    }
    return {"verdict": verdict, "remarks": [one.text for one in ranked]}


def verdict_line(summary: dict) -> str:
    """The verdict and why, in a line."""
    verdict = summary["verdict"]
    why = "; ".join(verdict["reasons"]) or "nothing that this program looks at speaks against it"
    return f"{verdict['text'].capitalize()}: {why}."


def remark_lines(summary: dict) -> str:
    """The end of a log: the remarks, and the verdict."""
    lines = [f"- {text}" for text in summary["remarks"]]
    return "\n".join([*(["Remarks:", *lines] if lines else ["No remarks."]), "", verdict_line(summary)])


def grade_of(summary: dict, about: str) -> str:
    """The grade of the worst remark about a number of the summary, "" where there is none."""
    return next((one["grade"] for one in summary["verdict"]["remarks"] if one["about"] == about), "")


def not_used_remarks(not_used: Mapping[str, int], n_input: int) -> list[Remark]:
    """A remark for each reason for which more than a tenth of n_input observations is left out."""
    return [
        care(f"{n / n_input:.0%} {why}", f"{n} of {n_input} observations ({n / n_input:.0%}) were not used: {why}.")
        for why, n in not_used.items()
        if n > MANY_LEFT_OUT * n_input and why not in ASKED_FOR
    ]


def absences_remarks(absences: Mapping, group: str, electrons: bool = False) -> list[Remark]:
    """What to do where what a space group has as absent is as strong as the rest (absences.Absences, as a dict)."""
    if not absences["strong"]:
        return []
    text = (
        f"{absences['n']} observations that {group} has as systematically absent are {absences['ratio']:.2f} +- "
        f"{absences['ratio_esd']:.2f} times as strong as the others: centring or screw axis are wrong; set "
        "space_group=."
    )
    reason = f"reflections that {group} forbids are strong"
    if electrons:
        return [care(reason, f"{text} Multiple scattering of electrons may do the same.")]
    return [distrust(reason, text)]


def distance_remarks(groups: Sequence[tuple[float, int]], counted: str) -> list[Remark]:
    """What to do where detector distances fall into groups, each a distance (mm) with the number of what is counted."""
    if len(groups) < 2:
        return []
    found = ", ".join(f"{value:.2f} mm ({n} {counted})" for value, n in groups)
    return [
        care(
            f"{len(groups)} detector distances",
            f"The detector stands at {len(groups)} distances, {found}: if it was not moved between them, the distances "
            "of some are wrong, and so are their cells; refine them together, with one detector "
            "(dials.combine_experiments, dials.refine).",
        )
    ]
