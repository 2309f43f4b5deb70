"""Groups of symmetry equivalents have the U of the atoms, whatever the origin; structure factors for X-rays."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx.xray", reason="structures are those of cctbx")

from dials_postrefine.electron.bloch.electrons import relativistic_mass, wavelength
from dials_postrefine.electron.bloch.potential import Scattering, coefficients
from dials_postrefine.electron.fine.crystal import Crystal
from dials_postrefine.electron.fine.factors import structure_factor
from dials_postrefine.electron.fine.groups import make_group, representative
from dials_postrefine.scattering.electron_atoms import electron_atoms

SILICON = {":1": (0.0, 0.0, 0.0), ":2": (0.125, 0.125, 0.125)}


def atoms_of(group, sites, a=5.43):
    from cctbx import crystal, xray
    from cctbx.array_family import flex

    symmetry = crystal.symmetry((a, a, a, 90, 90, 90), space_group_symbol=group)
    scatterers = [xray.scatterer(name, site, u=0.006) for name, site in sites]
    return electron_atoms(xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(scatterers)))


@pytest.mark.parametrize("hkl", [(1, 1, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("crystal", [":1", ":2", "zincblende"])
def test_a_group_has_the_phases_of_the_atoms(crystal, hkl):
    if crystal == "zincblende":
        atoms = atoms_of("F -4 3 m", [("Ga", (0, 0, 0)), ("As", (0.25, 0.25, 0.25))])
    else:
        atoms = atoms_of(f"F d -3 m {crystal}", [("Si", SILICON[crystal])])
    scattering, reciprocal = Scattering(relativistic_mass(2e5), wavelength(2e5)), np.eye(3) / 5.43
    first = np.array(representative(atoms, np.array(hkl)))
    u = coefficients(atoms, reciprocal, first[None], scattering)[0][0]
    group = make_group(atoms, first, u, abs(u), 1.0)
    expected = coefficients(atoms, reciprocal, group.hkl, scattering)[0]
    assert abs(u) * group.phase == pytest.approx(expected, abs=1e-12)
    assert len(group.hkl) == {(1, 1, 1): 8, (2, 2, 0): 12, (3, 1, 1): 24}[hkl]
    assert np.any(group.sense) == (crystal == "zincblende" and hkl != (2, 2, 0))


def test_the_structure_factor_for_x_rays_is_that_of_the_atoms():
    """By Mott and Bethe from ITC's electron factors: the X-ray table within a percent."""
    from cctbx.eltbx import xray_scattering

    atoms = atoms_of("F d -3 m :2", [("Si", SILICON[":2"])])
    scattering, reciprocal = Scattering(relativistic_mass(2e5), wavelength(2e5)), np.eye(3) / 5.43
    u = coefficients(atoms, reciprocal, np.array([[1, 1, 1]]), scattering)[0][0]
    group = make_group(atoms, np.array([1, 1, 1]), u, abs(u), 1.0)
    crystal = Crystal(atoms, ("Si",), reciprocal, scattering, (group,))
    found = structure_factor(crystal, group, np.array([14.0]), abs(u), 1e-5, abs(u))
    assert found.f_x == pytest.approx(xray_scattering.wk1995("Si").fetch().at_stol(found.s), rel=0.01)
    higher = structure_factor(crystal, group, np.array([14.0]), abs(u) + 1e-5, 1e-5, abs(u))
    assert found.f_x - higher.f_x == pytest.approx(found.f_x_esd)
