"""t of the disks and its derivatives: against finite differences, the engine's own intensities, and either way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.structurematrix import structure_matrix
from dials_postrefine.electron.fine import simulation

STEP = {"tilt_y": 5e-5, "thickness": 1e-2, "sigma": 1e-4, "gamma": 1e-4, "B_Si": 1e-4, "step": 1e-5, "rotation": 1e-5}


def test_disks_are_the_intensities_of_the_engine(prepared):
    model, values = prepared.model, prepared.parameters.values
    geometry = model.slab.geometry(model.kt(values))
    matrix = structure_matrix(geometry, model.table.potential(values), model.slab.beams)
    expected = intensities(matrix, [values["thickness"]], "expm")[:, 0, model.slab.disks].T
    assert model.simulate(values) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("displaced", [0.0, 0.25])
def test_derivatives_are_the_finite_differences(prepared, displaced):
    crystal = replace(prepared.model.table.crystal, displaced=np.full(3, displaced))
    model = replace(prepared.model, table=crystal.table(prepared.model.slab.beams))
    values = {**prepared.parameters.values, "step": 1.01, "rotation": 0.02, "sigma": 0.9, "gamma": 0.3, "B_Si": 0.45}
    names = list(values)
    simulated, derivatives = model.differentiate(values, names)
    assert simulated == pytest.approx(model.simulate(values), abs=1e-12)
    for name, found in zip(names, derivatives):
        h = STEP.get(name, 1e-6)
        up, down = (model.simulate({**values, name: values[name] + sign * h}) for sign in (1.0, -1.0))
        numerical = (up - down) / (2.0 * h)
        assert np.abs(found - numerical).max() < 1e-5 * np.abs(numerical).max(), name


def test_shifts_of_disks_have_their_derivatives_and_move_one_disk(prepared):
    values = {**prepared.parameters.values, "shift_x_2": 2e-4, "shift_y_2": -1e-4, "shift_x_3": 0.0, "shift_y_3": 0.0}
    plain = prepared.model.simulate(prepared.parameters.values)
    simulated, derivatives = prepared.model.differentiate(values, ["shift_x_2", "shift_y_3"])
    assert (
        simulated[[0, 2, 3]] == pytest.approx(plain[[0, 2, 3]], abs=1e-12)
        and np.abs(simulated[1] - plain[1]).max() > 1e-3
    )
    up, down = (prepared.model.simulate({**values, "shift_x_2": 2e-4 + sign * 1e-6}) for sign in (1.0, -1.0))
    assert derivatives[0] == pytest.approx((up - down) / 2e-6, abs=1e-5 * np.abs(derivatives[0]).max())
    assert not derivatives[1][:2].any() and derivatives[1][2].any()


def test_both_ways_to_the_derivatives_agree(prepared, monkeypatch):
    """By the gradient of each disk and by the change of each parameter."""
    names = list(prepared.parameters.free)
    _, by_gradients = prepared.model.differentiate(prepared.parameters.values, names)
    monkeypatch.setattr(simulation, "_by_gradients", simulation._by_changes)
    _, by_changes = prepared.model.differentiate(prepared.parameters.values, names)
    assert by_gradients == pytest.approx(by_changes, abs=1e-9 * np.abs(by_changes).max())
