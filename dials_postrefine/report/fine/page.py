"""The page of dials.fine_refine."""

from __future__ import annotations

from typing import Any

from dials_postrefine.numerics.disks import Pattern
from dials_postrefine.report.common.page import Fact, Page, Section, Table, number
from dials_postrefine.report.fine.text import FACTOR_HEADERS, PARAMETER_HEADERS, factor_rows, parameter_rows


def make_page(summary: dict, pattern: Pattern, outcome: Any) -> Page:
    """The page of a summary and of the pixels."""
    return Page(
        title="dials.fine_refine",
        provenance=summary["provenance"],
        facts=[Fact("reduced chi²", number(summary["chi2_reduced"], ".3f"))],
        verdict=summary["verdict"],
        sections=[
            Section("Parameters", tables=[Table("", PARAMETER_HEADERS, parameter_rows(summary))]),
            Section("Structure factors", tables=[Table("", FACTOR_HEADERS, factor_rows(summary))]),
        ],
    )
