"""
How the cycles of dials.postrefine went, in numbers and in one sentence for log, page and JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from dials_postrefine.stills.convergence import ChosenBy, Course, Cycle, Ended
from dials_postrefine.stills.outcome import PostrefinedStills


def describe_course(result: PostrefinedStills, limit: float) -> dict:
    """How the cycles ended: ended, taken (from 1), chosen_by, damped_from (or None), limit, and all that in words."""
    course, cycles = result.course, result.cycles
    damped_from = next((i + 1 for i, cycle in enumerate(cycles) if cycle.damped), None)
    words = course_words(course, cycles, damped_from, limit)
    return {
        "ended": course.ended.name.lower(),
        "taken": course.taken,
        "chosen_by": course.chosen_by.name.lower(),
        "damped_from": damped_from,
        "limit": limit,
        "words": words,
    }


def course_words(course: Course, cycles: Sequence[Cycle], damped_from: int | None, limit: float) -> str:
    """The same in words, for log, page and JSON."""
    n, last = len(cycles), cycles[-1]
    of_cycles = f"{n} cycle" if n == 1 else f"{n} cycles"
    changes = f"the merged intensities changed by {last.change:.2%}, {last.change_esd:.2f} of their esds on average"
    text = {
        Ended.EXTERNAL: f"{of_cycles} against an external reference, which does not change.",
        Ended.CONVERGED: f"Converged in cycle {n}: {changes}; the limit is convergence={limit:g}.",
        Ended.MOST: f"Not converged in {of_cycles}, the most allowed: {changes}; the limit is convergence={limit:g}.",
        Ended.NO_LATTICE: f"Cycle {n + 1} accepted no lattice any more and was taken back.",
    }[course.ended]
    if damped_from is not None:
        text += (
            f" From cycle {damped_from} on the lattices were fitted to the average of two means, as the cycles before "
            "did not settle."
        )
    if course.chosen_by is not ChosenBy.LAST:
        text += f" Cycle {course.taken} was taken, not the last: " + {
            ChosenBy.CHANGE: "it changed least of those that accept most lattices, and nothing tells them apart better."
        }.get(
            course.chosen_by,
            f"its {course.chosen_by.value} is the largest ({cycles[course.taken - 1].agreement:.3f}, the last one's "
            f"{last.agreement:.3f}), and as the best of {n} slightly too good.",
        )
    return text
