"""
A refined structure as CIF: cell, symmetry, atoms with standard uncertainties, and how it was refined.

Of the inverted hand all atoms are at -r and the operations x -> R x - t, so that P 31 2 1 becomes P 32 2 1.  Atoms with
anisotropic displacements keep them, but for what was added to all B.  Lengths in Angstrom; U = B/(8 pi^2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cctbx import adptbx
from iotbx.cif import model
from libtbx.utils import format_float_with_standard_uncertainty

EIGHT_PI_SQ = 8.0 * np.pi**2
SITES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
U_EQ = "_atom_site_U_iso_or_equiv"
ANISO = ("11", "22", "33", "12", "13", "23")


def in_hand(structure, hand: int):
    """The structure (cctbx) as it is, or where hand is -1 inverted (module docstring)."""
    return structure.deep_copy_scatterers() if hand == 1 else structure.change_basis("-x,-y,-z")


def write_structure(
    path: str,
    structure,
    atoms,
    items: Mapping[str, Any],
) -> None:
    """
    Write a CIF.

    structure (cctbx), in its hand, gives cell, symmetry, names and displacements; atoms, a results.Structure, positions
    and B with their esds; items, further ones of the CIF by name.
    """
    block = structure.crystal_symmetry().as_cif_block(format="coreCIF")
    for name, value in items.items():
        block[name] = value
    scatterers = structure.scatterers()
    cell = structure.unit_cell()
    rows, aniso = [], []
    columns = (atoms.sites, atoms.sites_esd, atoms.b, atoms.b_esd)
    for number, (scatterer, site, site_esd, b, b_esd) in enumerate(zip(scatterers, *columns)):
        anisotropic = scatterer.flags.use_u_aniso()
        u, u_esd = b / EIGHT_PI_SQ, b_esd / EIGHT_PI_SQ
        if anisotropic:
            added = atoms.overall_b.value / EIGHT_PI_SQ
            u_star = scatterer.u_star
            if atoms.u_star.size:
                u_star = tuple(atoms.u_star[number][[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]])
            u_cif = np.array(adptbx.u_star_as_u_cif(cell, u_star))
            u_cif += added * np.array(adptbx.u_star_as_u_cif(cell, adptbx.u_iso_as_u_star(cell, 1.0)))
            u = adptbx.u_cart_as_u_iso(adptbx.u_cif_as_u_cart(cell, tuple(u_cif)))
            u_esd = atoms.overall_b.esd / EIGHT_PI_SQ
            aniso.append([scatterer.label, *(f"{one:.6f}" for one in u_cif)])
        rows.append(
            [
                scatterer.label,
                scatterer.scattering_type,
                *(with_esd(x, esd) for x, esd in zip(site, site_esd)),
                with_esd(u, u_esd),
                "Uani" if anisotropic else "Uiso",
                f"{scatterer.occupancy:.6g}",
            ]
        )
    header = ("_atom_site_label", "_atom_site_type_symbol", *SITES, U_EQ, "_atom_site_adp_type", "_atom_site_occupancy")
    block.add_loop(_loop(header, rows))
    if aniso:
        names = ("_atom_site_aniso_label", *(f"_atom_site_aniso_U_{ij}" for ij in ANISO))
        block.add_loop(_loop(names, aniso))
    with open(path, "w", encoding="utf-8") as file:
        model.cif({"dynamical": block}).show(out=file)


def with_esd(value: float, esd: float) -> str:
    """A number as 0.4698(3); as it is where its esd is none."""
    if not (np.isfinite(esd) and esd > 0.0):
        return f"{value:.6f}"
    return format_float_with_standard_uncertainty(float(value), float(esd))


def _loop(names, rows):
    return model.loop(header=names, data=[value for row in rows for value in row])
