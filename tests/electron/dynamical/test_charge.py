"""Neutral atoms against ions: U111 of rock salts, and data of ions that both are refined against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quartz_frames import AS_GIVEN, data_of, frames_of, scattering

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="structures are those of cctbx")

from dials_postrefine.electron.bloch.potential import coefficients
from dials_postrefine.electron.dynamical.charge import compare_charges
from dials_postrefine.electron.dynamical.fitting import FitChoice, fit_dynamical
from dials_postrefine.electron.dynamical.refinement import DynamicalChoice, make_problem
from dials_postrefine.electron.dynamical.residuals import amplitude_residuals
from dials_postrefine.electron.dynamical.rocking import BeamLimits
from dials_postrefine.scattering.electron_atoms import electron_atoms

THICKNESS = 300.0


def rock_salt(cation: str, anion: str, a: float):
    from cctbx import crystal, xray

    symmetry = crystal.symmetry(unit_cell=(a, a, a, 90, 90, 90), space_group_symbol="F m -3 m")
    structure = xray.structure(crystal_symmetry=symmetry)
    for name, site in ((cation, (0.0, 0.0, 0.0)), (anion, (0.5, 0.5, 0.5))):
        structure.add_scatterer(xray.scatterer(name, site, u=0.005, scattering_type=name))
    return structure


@pytest.mark.parametrize("ions, a, change", [(("Mg2+", "O2-"), 4.212, 0.31), (("Na1+", "Cl1-"), 5.640, -0.13)])
def test_charge_changes_u111(ions, a, change):
    structure = rock_salt(*ions, a)
    hkl, reciprocal = np.array([[1, 1, 1]]), np.eye(3) / a
    u = [
        coefficients(electron_atoms(structure, one), reciprocal, hkl, scattering())[0]
        for one in ("neutral", "peng1998")
    ]
    assert (np.abs(u[1]) / np.abs(u[0]))[0] - 1.0 == pytest.approx(change, abs=0.015)


def test_data_of_ions_are_told_from_those_of_neutral_atoms():
    structure = rock_salt("Mg2+", "O2-", 4.212)
    atoms = {one: electron_atoms(structure, one) for one in ("neutral", "peng1998")}
    data = data_of(structure, frames_of(structure, n=170), 1.4)
    data = data.select(np.ptp(data.h % 2, axis=1) == 0)  # those that the F lattice has
    step = np.radians(0.12)
    choice = DynamicalChoice(BeamLimits(1.6, 0.01))
    problem = make_problem(data, atoms["peng1998"], scattering(), choice, AS_GIVEN).with_step(step)
    made = problem.curves_at(problem.start(THICKNESS)).intensity
    made *= 1e4 / made.mean()
    rng = np.random.default_rng(0)
    error = np.sqrt(made + 30.0**2 + (0.02 * made) ** 2)
    intensity = made + error * rng.normal(size=data.n)
    data = replace(data, intensity=intensity, variance=error**2, error_variance=error**2)
    how = FitChoice((), "as_given", thickness_start=280.0, g_max=1.6, s_max=0.01, step=float(step))
    fits = tuple(fit_dynamical(data, one, scattering(), how) for one in atoms.values())
    assert abs(fits[1].thickness.value - THICKNESS) < 4.0 * fits[1].thickness.esd < 0.2 * THICKNESS
    found = compare_charges(data, ("neutral atoms", "ions"), fits)
    assert found.comparison.total > 3.0 * found.comparison.deviation > 0.0
    assert fits[1].r1_dynamical < fits[0].r1_dynamical
    between = amplitude_residuals(fits[1].dynamical, fits[0].dynamical, np.zeros(data.n, int), 1)[0]
    assert 0.01 < between < 0.09
    # the shell of lowest resolution has most of it
    parts = [part.log_ratio for part in found.by_resolution]
    assert sum(parts) == pytest.approx(found.comparison.total) and parts[0] > 0.3 * sum(parts)
