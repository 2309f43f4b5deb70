"""Simulated lattices as the arrays that the rooms of stills/ take, without a file in between."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.simulate import still_files as simulated
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills
from dials_postrefine.stills.model import LN_NOTHING


@pytest.fixture(scope="session")
def as_stills():
    """The function that turns a simulation into Stills."""
    return simulated.as_stills


@pytest.fixture(scope="session")
def truth_of():
    """A function that gives the true parameters (n, 7) of a simulation's lattices in the order of model.py."""

    def truth(sim: SimulatedStills) -> np.ndarray:
        nothing = np.full(len(sim.scale), LN_NOTHING)
        known = [np.log(sim.scale), sim.b_factor, sim.theta_x, sim.theta_y, np.log(sim.radius)]
        return np.column_stack([*known, nothing, sim.cell_scale - 1.0])

    return truth


@pytest.fixture(scope="session")
def obedient(as_stills):
    """80 stills that obey the model: simulation and stills."""
    sim = simulate_stills(StillsOptions(n_lattices=80, d_min=3.0, seed=2))
    return sim, as_stills(sim)
