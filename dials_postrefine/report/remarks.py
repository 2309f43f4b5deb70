"""
What somebody who knows would point at: the remarks of a run and its verdict, the same for all programs, last in the
log, first on the page, and in JSON.

A remark is a sentence with what to do, its reason in a few words, and a grade:

    note      worth knowing; the result stands
    care      part of the result is weaker than it looks, or could be better
    distrust  the result as a whole is not what it seems

The verdict is that of the worst remark - trust, with care, do not trust - and why is what those of its grade say in a
few words.  What the remarks of a program are is the program's; here is how they are graded, told and kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

NOTE, CARE, DISTRUST = GRADES = ("note", "care", "distrust")
VERDICTS = {NOTE: "trust", CARE: "trust with care", DISTRUST: "do not trust"}


@dataclass(frozen=True)
class Remark:
    """A remark (module docstring)."""

    grade: str
    reason: str
    text: str


def note(text: str) -> Remark:
    """What is worth knowing."""
    return Remark(NOTE, "", text)


def care(reason: str, text: str) -> Remark:
    """What makes a part of the result weaker."""
    return Remark(CARE, reason, text)


def distrust(reason: str, text: str) -> Remark:
    """What makes the result another one than it seems."""
    return Remark(DISTRUST, reason, text)


def conclude(found: Iterable[Remark | str]) -> dict:
    """
    The verdict and the remarks, worst first and each once, as the summaries have them:

        verdict  grade, text (trust, trust with care, do not trust) and reasons, those of the remarks of this grade
        remarks  grade, reason and text of each

    A bare text is a note.
    """
    remarks = dict.fromkeys(note(one) if isinstance(one, str) else one for one in found)
    ranked = sorted(remarks, key=lambda one: -GRADES.index(one.grade))
    grade = ranked[0].grade if ranked else NOTE
    reasons = [one.reason for one in ranked if one.grade == grade and one.reason]
    verdict = {"grade": grade, "text": VERDICTS[grade], "reasons": list(dict.fromkeys(reasons))}
    return {"verdict": verdict, "remarks": [asdict(one) for one in ranked]}


def verdict_line(summary: dict) -> str:
    """The verdict and why, in a line."""
    verdict = summary["verdict"]
    why = "; ".join(verdict["reasons"]) or "nothing that this program looks at speaks against it"
    return f"{verdict['text'].capitalize()}: {why}."


def remark_lines(summary: dict) -> str:
    """The end of a log: the remarks, and the verdict."""
    lines = [f"- {one['text']}" for one in summary["remarks"]]
    return "\n".join([*(["Remarks:", *lines] if lines else ["No remarks."]), "", verdict_line(summary)])
