"""A model whose voxels are shared out is the model, and the same numbers whatever the number of processes is."""

from __future__ import annotations

import numpy as np
import pytest
from pair_sums import make_atoms, make_voxels

from dials_postrefine.diffuse.model import CannotModel, spread
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.group_covariance import GroupCovariance
from dials_postrefine.diffuse.model.groups import runs_of_residues
from dials_postrefine.diffuse.model.libration import LibratingBody
from dials_postrefine.executors.processes import make_run


def models(atoms):
    groups = runs_of_residues(atoms, 1)

    def inferred(voxels):
        return GroupCovariance(GroupPairs(atoms, groups.number, voxels), groups.places(atoms), voxels, 2)

    return inferred, lambda voxels: LibratingBody([atoms], voxels)


@pytest.mark.parametrize("number", [0, 1])
def test_it_is_the_model_whatever_nproc_is(monkeypatch, number):
    monkeypatch.setattr(spread, "BLOCK", 60)
    atoms = make_atoms()
    voxels, make = make_voxels(atoms, n=200), models(atoms)[number]
    whole = make(voxels)
    values = np.array([one.start for one in whole.parameters]) * 0.9
    wanted, found = whole.evaluate(values), []
    for nproc in (1, 3):
        with spread.spread(make_run(nproc), make, voxels) as model:
            assert model.parameters == whole.parameters and model.n_blocks == 4
            found.append((*model.evaluate(values), model.calculate(values)))
    for k in range(2):
        size = np.abs(wanted[k]).max()
        np.testing.assert_allclose(found[0][k], wanted[k], atol=1e-5 * size)
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[0][2], found[0][0], rtol=1e-5)


def test_what_a_worker_cannot_do_is_said():
    def fail(voxels):
        if len(voxels) > spread.FEW + 2:
            raise CannotModel("No.")
        return LibratingBody([atoms], voxels)

    atoms = make_atoms()
    voxels = make_voxels(atoms, n=100)
    with pytest.raises(CannotModel, match="No."), spread.spread(make_run(2), fail, voxels) as model:
        model.evaluate(np.array([one.start for one in model.parameters]))
