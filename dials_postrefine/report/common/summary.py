"""Summaries: what log and page are made of, as plain numbers and text, and as JSON."""

from __future__ import annotations

import json

import numpy as np


def write_summary(summary: dict, path: str) -> None:
    """Write a summary as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1, allow_nan=False)


def finite(value):
    """The same with plain Python numbers, and None in place of what is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
