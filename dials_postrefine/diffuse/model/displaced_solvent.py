"""
Bulk solvent: atoms in a flat density of it scatter what they have more than what they displace.

The flat solvent of density k_sol fills what atoms leave, and but for the reflection 0,0,0 a mask m of the solvent is
-(1 - m), the space of the molecules taken out of solvent that is everywhere.  When atoms move the solvent fills what
they leave: the space moves WITH the atoms (it is their neighbours' motion, too, through V_ij); what the solvent does of
its own accord is isotropic and part of the background.  So that every model can have it, the space is a sum over atoms
that are no hydrogen, each a Gaussian of the same volume v_0 (Fraser, MacRae and Suzuki, J. Appl. Cryst. 1978, 11, 693),

    f(s) -> f(s) - k_sol v_0 exp(-pi v_0^(2/3) s^2) exp(-B_sol s^2/4),     sum_j o_j v_0 = (1 - solvent fraction) V/g

with the solvent's fraction of the cell V as cctbx's mask has it, and g operations.  Against the mask itself the sum
lacks its sharp edge.  s = 1/d.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.diffuse.model import CannotModel
from dials_postrefine.diffuse.model.atoms import Atoms


def displace_solvent(atoms: Atoms, heavy: np.ndarray, fraction: float, k_sol: float, b_sol: float) -> Atoms:
    """
    Atoms whose form factors lack what they displace (module docstring).

    Parameters
    ----------
    atoms : Atoms
    heavy : ndarray (m,) of bool
        Which types displace solvent.
    fraction : float
        Of the cell that is solvent.
    k_sol, b_sol : float
        Units of the form factors per Angstrom^3, and Angstrom^2.

    Returns
    -------
    Atoms

    Raises
    ------
    CannotModel
        Where no atom displaces solvent.
    """
    n = atoms.occupancy[heavy[atoms.kind]].sum()
    if not n > 0.0:
        raise CannotModel("No atom but hydrogen displaces solvent: leave bulk_solvent out.")
    cell = abs(np.linalg.det(atoms.orthogonal))
    v_0 = (1.0 - fraction) * cell / len(atoms.rotations) / n
    a = np.where(heavy, -k_sol * v_0, 0.0)[:, None]
    b = np.full_like(a, 4.0 * np.pi * v_0 ** (2.0 / 3.0) + b_sol)
    return replace(atoms, a=np.concatenate([atoms.a, a], axis=1), b=np.concatenate([atoms.b, b], axis=1))
