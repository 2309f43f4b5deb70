"""Simulated lattices as the arrays that the rooms of stills/ take, without a file in between."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.simulate import SimulatedStills
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.model import LN_NOTHING


@pytest.fixture(scope="session")
def as_stills():
    """A function that turns a simulation into Stills, the polarisation taken off."""

    def convert(sim: SimulatedStills) -> Stills:
        n = len(sim.identifiers)
        return Stills(
            a_matrix=sim.a_indexed,
            s0=sim.s0,
            offsets=np.searchsorted(sim.lattice, np.arange(n + 1)),
            h=sim.h,
            unique=sim.asu,
            intensity=sim.intensity / sim.polarisation,
            variance=sim.variance / sim.polarisation**2,
            half=np.arange(n) % 2 == 1,
            absent=np.zeros(len(sim.reference_h), dtype=bool),
        )

    return convert


@pytest.fixture(scope="session")
def truth_of():
    """A function that gives the true parameters (n, 6) of a simulation's lattices in the order of model.py."""

    def truth(sim: SimulatedStills) -> np.ndarray:
        nothing = np.full(len(sim.scale), LN_NOTHING)
        return np.column_stack([np.log(sim.scale), sim.b_factor, sim.theta_x, sim.theta_y, np.log(sim.radius), nothing])

    return truth
