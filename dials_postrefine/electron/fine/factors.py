"""
U_g as structure factors, for electrons and for X-rays.

    F_e = U pi V/gamma_rel,      F_x = sum_j Z_j T_j exp(-2 pi i g.r_j) - F_e s^2/C,      C = 0.0239337 1/Angstrom

(Mott and Bethe; T_j = exp(-B_j s^2)), all along the phase of U, and per atom f_x = F_x/sum_j T_j exp(-2 pi i g.r_j)
where all atoms are of one element and the sum is not zero.  A small error of U is a much smaller one of F_x at low s:
its esd is that of U times pi V s^2/(gamma_rel C).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import Scattering, coefficients
from dials_postrefine.electron.fine.crystal import Crystal
from dials_postrefine.electron.fine.groups import ReflectionGroup
from dials_postrefine.scattering.form_factors import MOTT_BETHE


@dataclass(frozen=True)
class Factor:
    """A structure factor of a group: F_e (Angstrom), F_x and f_x (electrons), with esds; f_x may be NaN."""

    label: str
    s: float
    u: float
    u_esd: float
    u_atoms: float
    f_electron: float
    f_electron_esd: float
    f_xray: float
    f_xray_esd: float
    f_x: float
    f_x_esd: float


def structure_factor(
    crystal: Crystal, group: ReflectionGroup, charges: np.ndarray, u: float, esd: float, u_atoms: float
) -> Factor:
    """
    The structure factors of a group's U.

    Parameters
    ----------
    crystal : Crystal
    group : ReflectionGroup
    charges : ndarray, shape (m,)
        Z of each kind of atom.
    u, esd : float
        1/Angstrom^2.
    u_atoms : float
        U of the independent atoms.

    Returns
    -------
    Factor
    """
    hkl = group.hkl[:1]
    s_sq = float(np.sum((hkl @ crystal.reciprocal.T) ** 2) / 4.0)
    to_f = np.pi / (crystal.scattering.gamma_rel * abs(np.linalg.det(crystal.reciprocal)))
    to_x = to_f * s_sq / MOTT_BETHE
    nuclei = _sum_of(crystal, hkl, group, charges)
    atoms = _sum_of(crystal, hkl, group, np.ones(len(charges)))
    f_x, f_x_esd = float("nan"), float("nan")
    if len(set(charges.tolist())) == 1 and abs(atoms) > 1e-6:
        f_x, f_x_esd = (nuclei - u * to_x) / atoms, abs(esd * to_x / atoms)
    return Factor(
        group.label, s_sq**0.5, u, esd, u_atoms, u * to_f, esd * to_f, nuclei - u * to_x, esd * to_x, f_x, f_x_esd
    )


def _sum_of(crystal: Crystal, hkl: np.ndarray, group: ReflectionGroup, weights: np.ndarray) -> float:
    """sum_j w_j T_j exp(-2 pi i g.r_j) along the phase of the first of a group."""
    zero = np.zeros_like(crystal.atoms.a)
    a = zero.copy()
    a[:, 0] = weights
    atoms = replace(crystal.atoms, a=a, b_gaussian=zero, c=zero, d=zero, charge=np.zeros(len(weights)))
    volume = 1.0 / abs(np.linalg.det(crystal.reciprocal))
    plain = Scattering(np.pi * volume, crystal.scattering.wavelength)
    total = coefficients(atoms, crystal.reciprocal, hkl, plain)[0][0]
    return float(np.real(np.conj(group.phase[0]) * total))
