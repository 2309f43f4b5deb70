"""
Atoms that electrons scatter from, as numpy arrays: positions, displacements, and factors f(s^2) of atoms and ions.

    f(s) = C q/s^2 + sum_i a_i exp(-b_i s^2) + C sum_i c_i d_i phi(d_i s^2),      phi(x) = (1 - exp(-x))/x

s = sin(theta)/lambda = |g|/2, f in Angstrom for electrons at rest, C = 0.0239337 1/Angstrom.  Neutral atoms: q = 0 and
the Gaussians a, b of International Tables C, 2011, 4.3.2.2 (s < 2 1/A).  Ions: of charge q, either

- ``peng1998``: the Gaussians of Peng (1998), Acta Cryst. A54, 481 (peng1998.py); or
- ``mott_bethe``: C (Z - f_x)/s^2 with the X-ray factor f_x = sum c_i exp(-d_i s^2) + c of Waasmaier and Kirfel (1995),
  written so that nothing cancels as s -> 0: Z - f_x(0) is q, whatever the table's Gaussians add up to, and
  c_i (1 - exp(-d_i s^2))/s^2 = c_i d_i phi.

For cations both agree within 0.5 %, for some heavy ones within 1 % (Pd2+ 4 %); anions do less well, as a free one is
hardly bound: O2- by Waasmaier and Kirfel is within 2.5 % of Peng, but International Tables' O2- (1992, it1992) is wrong
by 3 to 25 % at s <= 0.3 1/A, where the charge is seen, and is not offered here.  An ion that the chosen source lacks is
taken from the other one, and if that lacks it is the neutral atom; the notes say so.

C q/s^2 has no value at s = 0, where the charges of a crystal cancel and no beam asks for U_0: it is set to zero there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.scattering.arrays import structure_arrays
from dials_postrefine.scattering.form_factors import (
    MOTT_BETHE,
    FormFactorChoice,
    choose_form_factors,
    element_of,
)
from dials_postrefine.scattering.peng1998 import IONS as PENG_1998

IONS = ("neutral", "peng1998", "mott_bethe")


@dataclass(frozen=True)
class ElectronAtoms:
    """
    The atoms of an asymmetric unit (n of them, m kinds, p operations) and their factors.

    Attributes
    ----------
    sites : ndarray, shape (n, 3)
        Fractional.
    b : ndarray, shape (n,)
        Isotropic B, Angstrom^2.
    u_star : ndarray, shape (n, 3, 3)
        Anisotropic displacements besides, U*, in reciprocal fractional coordinates.
    occupancy : ndarray, shape (n,)
        Of a site on a symmetry element the part that one operation makes.
    kind : ndarray of int, shape (n,)
    rotations, translations : ndarray, shape (p, 3, 3) and (p, 3)
    charge : ndarray, shape (m,)
        q.
    a, b_gaussian, c, d : ndarray, shape (m, 5)
        Of the factors (module docstring).
    core_a, core_b : ndarray, shape (m, 5)
        The Gaussians of the neutral atom, for absorption.
    notes : tuple of str
        What was replaced.
    """

    sites: np.ndarray
    b: np.ndarray
    u_star: np.ndarray
    occupancy: np.ndarray
    kind: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    charge: np.ndarray
    a: np.ndarray
    b_gaussian: np.ndarray
    c: np.ndarray
    d: np.ndarray
    core_a: np.ndarray
    core_b: np.ndarray
    notes: tuple[str, ...] = field(default=())

    def factors(self, s_sq: np.ndarray) -> np.ndarray:
        """f of each atom at s^2 (k,), shape (k, n), Angstrom."""
        return self._of_kinds(s_sq)[:, self.kind]

    def factor_slopes(self, s_sq: np.ndarray) -> np.ndarray:
        """df/d(s^2) of each atom, shape (k, n), Angstrom^3."""
        x = np.asarray(s_sq, dtype=float)[:, None, None]
        slope = -(self.a * self.b_gaussian * np.exp(-self.b_gaussian * x)).sum(axis=-1)
        slope += MOTT_BETHE * (self.c * self.d**2 * _phi_slope(self.d * x)).sum(axis=-1)
        return (slope - MOTT_BETHE * self.charge * _inverse(x[..., 0]) ** 2)[:, self.kind]

    def _of_kinds(self, s_sq: np.ndarray) -> np.ndarray:
        x = np.asarray(s_sq, dtype=float)[:, None, None]
        f = (self.a * np.exp(-self.b_gaussian * x)).sum(axis=-1)
        f += MOTT_BETHE * (self.c * self.d * _phi(self.d * x)).sum(axis=-1)
        return f + MOTT_BETHE * self.charge * _inverse(x[..., 0])


def electron_atoms(structure, ions: str = "neutral", d_min: float | None = None) -> ElectronAtoms:
    """
    The atoms of a structure.

    Parameters
    ----------
    structure : cctbx.xray.structure
    ions : str
        ``neutral`` for all atoms as neutral ones, or where the factors of those that have a charge are from.
    d_min : float or None
        Resolution (Angstrom), which the tables must reach.

    Returns
    -------
    ElectronAtoms

    Raises
    ------
    ValueError
        For an unknown element or source, or a resolution that the tables do not reach.
    """
    if ions not in IONS:
        raise ValueError(f"no factors of ions {ions}: it is one of {', '.join(IONS)}")
    scatterers = structure.scatterers()
    types = sorted({one.scattering_type for one in scatterers})
    neutral = choose_form_factors(types, FormFactorChoice("electron", d_min=d_min))
    arrays = structure_arrays(structure, neutral)
    isotropic = np.array([one.flags.use_u_iso() for one in scatterers])
    u_iso = np.where(isotropic, [one.u_iso for one in scatterers], 0.0)
    fractional = np.linalg.inv(arrays["orthogonal"])
    u = arrays["u"] - u_iso[:, None, None] * np.eye(3)
    factors, notes = _factors(types, ions, neutral)
    return ElectronAtoms(
        sites=arrays["sites"],
        b=8.0 * np.pi**2 * u_iso,
        u_star=fractional @ u @ fractional.T,
        occupancy=arrays["occupancy"],
        kind=arrays["kind"],
        rotations=arrays["rotations"],
        translations=arrays["translations"],
        notes=tuple(notes),
        **factors,
    )


def charge_of(scattering_type: str) -> int:
    """
    The charge in a scattering type: 2 of Fe2+, -1 of Cl1- or Cl-, 0 of Si.

    Parameters
    ----------
    scattering_type : str

    Returns
    -------
    int
        In elementary charges.
    """
    found = re.fullmatch(r"[A-Za-z]+(\d*)([+-])", scattering_type.strip())
    return 0 if found is None else int(found[1] or 1) * (1 if found[2] == "+" else -1)


def _factors(types: list[str], ions: str, neutral) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the factors of scattering types, and notes."""
    found = {name: np.zeros((len(types), 5)) for name in ("a", "b_gaussian", "c", "d", "core_a", "core_b")}
    charge, notes = np.zeros(len(types)), []
    for row, name in enumerate(types):
        gaussians = neutral.gaussians[name]
        core = np.array(gaussians.array_of_a()), np.array(gaussians.array_of_b())
        n = gaussians.n_terms()
        found["core_a"][row, :n], found["core_b"][row, :n] = core
        q = charge_of(name)
        source = _source(name, ions) if q and ions != "neutral" else "neutral"
        if source not in ("neutral", ions):
            notes.append(f"{name} is by {source}, as {ions} lacks it.")
        elif q and source == "neutral":
            notes.append(f"{name} is taken as the neutral atom.")
        if source == "neutral":
            found["a"][row, :n], found["b_gaussian"][row, :n] = core
            continue
        charge[row] = q
        first, second = ("a", "b_gaussian") if source == "peng1998" else ("c", "d")
        found[first][row], found[second][row] = _of_ion(name, source)
    return {**found, "charge": charge}, notes


def _source(name: str, ions: str) -> str:
    """Where the factor of an ion is from."""
    for source in (ions, *(other for other in IONS[1:] if other != ions)):
        if _of_ion(name, source) is not None:
            return source
    return "neutral"


def _of_ion(name: str, source: str) -> np.ndarray | None:
    """The Gaussians (2, 5) of an ion, None where the source lacks it."""
    q = charge_of(name)
    label = f"{element_of(name)}{abs(q)}{'+' if q > 0 else '-'}"
    if source == "peng1998":
        return np.array(PENG_1998[label]) if label in PENG_1998 else None
    choice = FormFactorChoice("electron", ions=True, mott_bethe="all")
    factors = choose_form_factors([label], choice)
    if factors.notes:
        return None
    entry = factors.gaussians[label]
    return np.array([entry.array_of_a(), entry.array_of_b()])


def _inverse(s_sq: np.ndarray) -> np.ndarray:
    """1/s^2, 0 at s = 0."""
    return np.where(s_sq > 1e-14, 1.0 / np.where(s_sq > 1e-14, s_sq, 1.0), 0.0)


def _phi(x: np.ndarray) -> np.ndarray:
    """(1 - exp(-x))/x."""
    small = np.abs(x) < 1e-12
    return np.where(small, 1.0, -np.expm1(-x) / np.where(small, 1.0, x))


def _phi_slope(x: np.ndarray) -> np.ndarray:
    """The derivative of _phi: (exp(-x) (1 + x) - 1)/x^2, and its series where that cancels."""
    small = np.abs(x) < 1e-3
    exact = (np.exp(-x) * (1.0 + x) - 1.0) / np.where(small, 1.0, x) ** 2
    return np.where(small, -0.5 + x / 3.0 - x**2 / 8.0 + x**3 / 30.0, exact)
