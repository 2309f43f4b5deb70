"""Tables, numbers and sentences of the log that several programs have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tabulate

from dials_postrefine.log import WIDTH


def table(
    rows: Sequence[Sequence],
    headers: Sequence[str],
    formats: Sequence[str] = (),
    optional: Sequence[str] = (),
    wide: bool = False,
) -> str:
    """
    A table of text, or with formats of numbers, as DIALS' logs have them but with no room beside the headers.

    Columns that are optional, the least important first, are left out one by one until it fits the log; not if wide.
    """
    headers, rows = list(headers), [list(row) for row in rows]
    text = _tabulate(rows, headers, formats)
    for name in optional:
        if wide or len(text.partition("\n")[0]) <= WIDTH:
            break
        place = headers.index(name)
        for row in (headers, *rows):
            del row[place]
        formats = [one for k, one in enumerate(formats) if k != place]
        text = _tabulate(rows, headers, formats)
    return text


def _tabulate(rows: Sequence[Sequence], headers: Sequence[str], formats: Sequence[str]) -> str:
    padding, tabulate.MIN_PADDING = tabulate.MIN_PADDING, 0
    try:
        return tabulate.tabulate(
            rows, headers, tablefmt="psql", floatfmt=formats or "g", missingval="-", disable_numparse=not formats
        )
    finally:
        tabulate.MIN_PADDING = padding


def number(value: float | None, pattern: str, factor: float = 1.0, missing: str = "-") -> str:
    """A number, times a factor, as text, a dash for one that does not exist."""
    return pattern.format(factor * value) if value is not None and np.isfinite(value) else missing


def positive_zero(text: str) -> str:
    """No minus nothing."""
    return text.lstrip("-") if not text.strip("-0.%") and text.strip("-") else text


def absences_line(absences: dict, used: bool = False) -> str:
    """How strong what should be absent is, and whether it is used all the same."""
    if not absences["n"]:
        return "No systematically absent reflection was observed."
    treated = "and used like the others" if used else "and not used"
    text = f"{absences['n']} observations are systematically absent {treated}"
    if absences["ratio"] is None:
        return f"{text}: too few to tell how strong they are."
    return (
        f"{text}: I/sigma {absences['i_over_sigma']:.2f} on average, that of the others at their resolution "
        f"{absences['i_over_sigma_others']:.2f}, the ratio {absences['ratio']:.3f} +- {absences['ratio_esd']:.3f}."
    )
