"""The contract of the scaled columns (dials-facts.md), number by number."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials import scaled_columns

pytestmark = pytest.mark.dials


def test_scaled_columns_number_by_number():
    flags = flex.reflection_table.flags
    table = flex.reflection_table()
    old = int(flags.integrated_sum) | int(flags.scaled) | int(flags.outlier_in_scaling)
    table["flags"] = flex.size_t(5, old)
    table["partial_id"] = flex.size_t(5, 1)
    columns = scaled_columns.ScaledColumns(
        row=np.array([4, 0, 2, 3]),  # row 1 is not usable
        kept=np.array([True, True, False, True]),
        outlier=np.array([False, True, False, False]),
        value=np.array([10.0, 40.0, 3e7, -16.0]),
        variance=np.array([1.0, 12.0, 3e12, 80.0]),
        partiality=np.array([0.5, 0.3, 0.0, 0.25, 1.0]),
        scale=np.array([2.0, 3.0, 4.0, 5.0, 6.0]),
        scale_variance=np.array([0.2, 0.3, 0.4, 0.5, 0.6]),
        reference=np.array([100.0, np.nan, 300.0, 400.0]),
    )
    scaled_columns.write_scaled_columns(table, columns)

    def column(name):
        return flumpy.to_numpy(table[name]).tolist()

    tiny = scaled_columns.MIN_PARTIALITY
    assert tiny > 0.0
    assert column("partiality") == [0.5, 0.3, tiny, 0.25, 1.0]
    assert column("intensity.scale.value") == [40.0, 0.0, 3e7, -16.0, 10.0]
    assert column("intensity.scale.variance") == [12.0, 1.0, 3e12, 80.0, 1.0]
    assert column("inverse_scale_factor") == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert column("inverse_scale_factor_variance") == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert column("intensity.ref.value") == [0.0, 0.0, 300.0, 400.0, 100.0]
    integrated = int(flags.integrated_sum)
    scaled, outlier = integrated | int(flags.scaled), integrated | int(flags.outlier_in_scaling)
    excluded = integrated | int(flags.excluded_for_scaling)
    assert column("flags") == [outlier, excluded, excluded, scaled, scaled]
    assert "partial_id" not in table
    # what dials.merge and dials.scale leave out
    bad = table.get_flags(table.flags.bad_for_scaling, all=False)
    assert list(bad) == [True, True, True, False, False]
