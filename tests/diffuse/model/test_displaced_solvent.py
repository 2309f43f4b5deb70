"""The solvent that atoms displace: limits, and against the flat mask of cctbx."""

from __future__ import annotations

import numpy as np
import pytest
from pair_sums import P212121, make_atoms, make_voxels

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.displaced_solvent import displace_solvent
from dials_postrefine.diffuse.model.rigid_body import RigidBody

HEAVY = np.array([True, True, False])


def test_no_density_and_no_contrast_are_limits():
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms)
    plain = RigidBody([atoms], voxels).evaluate(np.array([0.3]))[0]
    empty = displace_solvent(atoms, HEAVY, 0.5, 0.0, 46.0)
    np.testing.assert_allclose(RigidBody([empty], voxels).evaluate(np.array([0.3]))[0], plain, rtol=1e-9)
    blurred = displace_solvent(atoms, HEAVY, 0.5, 0.35, 1e7)
    np.testing.assert_allclose(blurred.factors(voxels.s**2), atoms.factors(voxels.s**2))
    all_of_it = displace_solvent(atoms, HEAVY, 1.0, 0.35, 46.0)
    np.testing.assert_allclose(all_of_it.factors(np.array([0.1])), atoms.factors(np.array([0.1])))


def test_the_displaced_volume_is_the_molecules():
    """f(0) of all atoms less that without solvent is -k_sol times the volume of a molecule; hydrogen has none."""
    atoms = make_atoms(group=P212121)
    changed = displace_solvent(atoms, HEAVY, 0.4, 0.35, 46.0)
    taken = (changed.factors(np.zeros(1)) - atoms.factors(np.zeros(1)))[:, 0]
    cell = np.linalg.det(atoms.orthogonal)
    assert taken[2] == 0.0
    assert (atoms.occupancy * taken[atoms.kind]).sum() == pytest.approx(-0.35 * 0.6 * cell / 4, rel=1e-12)


def test_hydrogen_alone_is_said():
    with pytest.raises(CannotModel, match="leave bulk_solvent out"):
        displace_solvent(make_atoms(), np.zeros(3, bool), 0.5, 0.35, 46.0)


def test_it_is_like_the_flat_mask():
    """A ball of atoms in a large cell: the sum over atoms is -F_mask of cctbx at low resolution."""
    pytest.importorskip("mmtbx.masks", reason="the mask is cctbx's")
    from cctbx import crystal, miller, xray
    from cctbx.array_family import flex

    from dials_postrefine.scattering.structure_factors import calculate_f_mask

    side, step = 60.0, 2.7
    axis = np.arange(-5, 6) * step
    xyz = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    xyz = xyz[(xyz**2 @ [1.0, 0.5, 1.6]) < 11.0**2] + 29.0
    symmetry = crystal.symmetry((side, side, side, 90, 90, 90), "P1")
    scatterers = flex.xray_scatterer([xray.scatterer("C", tuple(x / side), u=0.2) for x in xyz])
    structure = xray.structure(crystal_symmetry=symmetry, scatterers=scatterers)
    indices = symmetry.build_miller_set(False, d_min=9.0)
    f_mask, fraction = calculate_f_mask(structure, miller.set(symmetry, indices.indices()))
    v_0 = (1.0 - fraction) * side**3 / len(xyz)
    h = np.array(indices.indices())
    s_sq = (h**2).sum(axis=1) / side**2
    phases = np.exp(2j * np.pi * (h @ (xyz / side).T)).sum(axis=1)
    by_atoms = -v_0 * np.exp(-np.pi * v_0 ** (2.0 / 3.0) * s_sq) * phases
    f_mask = np.array(f_mask.data())
    assert np.corrcoef(by_atoms.real, f_mask.real)[0, 1] > 0.97
    assert (by_atoms @ f_mask.conj()).real / (np.abs(f_mask) ** 2).sum() == pytest.approx(1.0, abs=0.1)
