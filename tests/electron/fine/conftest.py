"""A small pattern of silicon with known parameters, prepared as the program does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the structure is read by cctbx")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The small pattern without noise: what the program fits, at its truth."""
    from dials_postrefine.programs.fine_refine_input import prepare
    from dials_postrefine.settings.fine_refine import FineRefineRequest
    from dials_postrefine.simulate.disks import TRUTH, add_counts, silicon_pattern, write_pattern

    folder = tmp_path_factory.mktemp("disks")
    blank = silicon_pattern()
    rough = np.add.outer(np.arange(4), np.linspace(0.1, 0.9, 144))
    pattern, structure = write_pattern(folder, add_counts(blank, rough, 1))
    found = prepare(FineRefineRequest(pattern=pattern, structure=structure))
    values = {**found.parameters.values, **TRUTH}
    return replace(found, parameters=replace(found.parameters, values=values))
