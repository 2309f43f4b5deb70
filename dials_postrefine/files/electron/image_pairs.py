"""Pairs of images as a table, image_pairs.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

import numpy as np


def write_pairs(path: str, columns: Mapping[str, Sequence]) -> None:
    """One row a pair, columns by name: texts and whole numbers as they are, others to six digits, empty: no number."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(map(_text, row) for row in zip(*columns.values()))


def _text(value) -> str:
    if isinstance(value, (str, int, np.integer)):
        return str(value)
    return f"{value:.6g}" if np.isfinite(value) else ""
