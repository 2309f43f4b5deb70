"""
Integrated intensities scaled by dials.scale, from within a program: its own defaults, nothing written.

Scaling models and scaled columns that are there already are left aside, so that it begins anew.  What dials.scale says
is not put into our log; where it fails, its reason is one Sorry.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

from dials.array_family import flex
from dials.util import Sorry

SCALED = (
    "inverse_scale_factor",
    "inverse_scale_factor_variance",
    "intensity.scale.value",
    "intensity.scale.variance",
)
ROW = "row_before_scaling"


def scale_anew(experiments, table) -> tuple[Any, Any]:
    """
    The experiments and the table as dials.scale makes them of integrated intensities, in copies.

    The column ROW of the table numbers the rows as they were.
    """
    from dials.command_line.scale import phil_scope, run_scaling

    experiments, table = copy.deepcopy(experiments), table.select(flex.bool(len(table), True))
    for experiment in experiments:
        experiment.scaling_model = None
    for name in SCALED:
        if name in table:
            del table[name]
    names = table.flags
    for flag in (names.scaled, names.outlier_in_scaling, names.excluded_for_scaling, names.user_excluded_in_scaling):
        table.unset_flags(flex.bool(len(table), True), flag)
    table[ROW] = flex.int(range(len(table)))
    params = phil_scope.fetch().extract()
    params.model = "physical"  # as for all sweeps
    theirs = logging.getLogger("dials.algorithms")
    level = theirs.level
    theirs.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run_scaling(params, experiments, _one_a_data_set(table, len(experiments)))
    except Exception as error:  # it raises anything at all
        raise Sorry(f"dials.scale can't scale the corrected intensities: {' '.join(str(error).split())}") from error
    finally:
        theirs.setLevel(level)


def _one_a_data_set(table, n: int) -> list:
    """A table for each experiment."""
    if n == 1:
        return [table]
    return [table.select(table["id"] == k) for k in range(n)]
