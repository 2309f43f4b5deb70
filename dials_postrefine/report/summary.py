"""
The JSON summary: the numbers of the log, and each lattice with its parameters or the reason of its rejection.

Lengths in Angstrom, angles in degrees, B in A^2 as it enters exp(-2 B d*^2); a number that does not exist is null.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from dials_postrefine.stills.cycles import PostrefinedStills
from dials_postrefine.stills.statistics import Statistics


def make_summary(
    identifiers: Sequence[str],
    result: PostrefinedStills,
    statistics: Statistics,
    parameters: Sequence[dict[str, float]],
    merge_command: str,
) -> dict:
    """The summary as plain numbers and text; parameters (L) as files.stills.lattice_parameters gives them."""
    lattices, free = [], result.free
    for k, (identifier, reason, fit, values) in enumerate(zip(identifiers, result.reasons, result.fits, parameters)):
        lattices.append(
            {
                "identifier": identifier,
                "accepted": reason is None,
                "reason": None if reason is None else reason.value,
                "n_matched": fit.n_matched,
                "n_kept": fit.n_kept,
                "n_iterations": fit.n_iterations,
                "n_free": free.n[k],
                "cc_free_before": free.cc_before[k],
                "cc_free_after": free.cc_after[k],
                "r_free_before": free.r_before[k],
                "r_free_after": free.r_after[k],
                "reverted": free.reverted[k],
                **values,
            }
        )
    return _finite(
        {
            "model": result.model,
            "profile": result.profile,
            "radius": result.radius,
            "unit_cell": result.unit_cell,
            "error_model": None if result.error_model is None else asdict(result.error_model),
            "before": [asdict(shell) for shell in statistics.before],
            "after": [asdict(shell) for shell in statistics.after],
            "cycles": [asdict(cycle) for cycle in result.cycles],
            "lattices": lattices,
            "merge_command": merge_command,
        }
    )


def write_summary(summary: dict, path: str) -> None:
    """Write the summary as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1, allow_nan=False)


def _finite(value):
    """The same with plain Python numbers, and None in place of what is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
