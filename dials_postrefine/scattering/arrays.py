"""
An xray.structure as numpy arrays: for algorithms that know nothing of cctbx.

In: the structure, and its FormFactors without dispersion or Mott-Bethe; out: a dictionary of arrays by the names of the
fields of diffuse.model.atoms.Atoms, which it does not know.
"""

from __future__ import annotations

import numpy as np

from cctbx import adptbx

from dials_postrefine.scattering.form_factors import FormFactors


def structure_arrays(structure, factors: FormFactors) -> dict[str, np.ndarray]:
    """
    The arrays of a structure.

    Parameters
    ----------
    structure : cctbx.xray.structure
    factors : FormFactors
        Of all its scattering types; Gaussians alone are taken.

    Returns
    -------
    dict of ndarray
        orthogonal (3, 3), Angstrom; sites (n, 3) fractional; occupancy (n,), of a site on a symmetry element the part
        that one operation makes; u (n, 3, 3), Cartesian, Angstrom^2; kind (n,); a, b (m, 5) and c (m,) of the
        Gaussians; rotations (g, 3, 3) and translations (g, 3), the identity first.
    """
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    types = sorted({one.scattering_type for one in scatterers})
    gaussians = [factors.gaussians[name] for name in types]
    terms = max((len(one.array_of_a()) for one in gaussians), default=0)
    a, b = np.zeros((2, len(types), max(terms, 1)))
    for row, one in enumerate(gaussians):
        a[row, : one.n_terms()], b[row, : one.n_terms()] = one.array_of_a(), one.array_of_b()
    u = np.zeros((len(scatterers), 3, 3))
    for place, one in zip(u, scatterers):
        if one.flags.use_u_aniso():
            xx, yy, zz, xy, xz, yz = adptbx.u_star_as_u_cart(cell, one.u_star)
            place += [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        if one.flags.use_u_iso():
            place += one.u_iso * np.eye(3)
    operations = list(structure.space_group().all_ops())
    operations.sort(key=lambda one: not one.is_unit_mx())
    return {
        "orthogonal": np.array(cell.orthogonalization_matrix()).reshape(3, 3),
        "sites": np.array(structure.sites_frac()).reshape(-1, 3),
        "occupancy": _occupancies(structure),
        "u": u,
        "kind": np.array([types.index(one.scattering_type) for one in scatterers]),
        "a": a,
        "b": b,
        "c": np.array([one.c() for one in gaussians]),
        "rotations": np.array([one.r().as_double() for one in operations]).reshape(-1, 3, 3).round().astype(int),
        "translations": np.array([one.t().as_double() for one in operations]).reshape(-1, 3),
    }


def _occupancies(structure) -> np.ndarray:
    """Occupancies of which all operations together make what the site has."""
    order = structure.space_group().order_z()
    return np.array([one.occupancy * one.multiplicity() / order for one in structure.scatterers()])
