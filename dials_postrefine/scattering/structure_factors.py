"""
Structure factors of the atoms and of the flat solvent mask.

    F_calc(h) = sum_j o_j f_j(s) T_j(h) exp(+2 pi i h.r_j),     T = exp(-B s^2) or exp(-2 pi^2 h^T U* h)
    F_mask(h) = V/n sum_grid m(r) exp(+2 pi i h.r),             m = 1 in the solvent, 0 elsewhere

over all atoms of the cell, h in the asymmetric unit or not; s = sin(theta)/lambda = d*/2.  Where electrons scatter by
Mott-Bethe (form_factors.py), its sum over these atoms is C/s^2 (F_Z - F_x), F_Z of point charges Z with the same T.

In: an xray.structure, its FormFactors, a miller.set; out: miller.arrays of the same set, complex, in the units of the
form factors (electrons; Angstrom; fm).  Direct summation is exact.  FFT: the atoms are sampled on a grid of d_min/4,
blurred so that aliasing is below 1e-10 and cut off at as much, the blur being taken off afterwards (Ten Eyck 1977;
Navaza 2002); it is within 1e-4 of the rms amplitude of the shell for the worst reflection, and 1e-5 for the mean one.
"""

from __future__ import annotations

from cctbx import maptbx, xray
from cctbx.array_family import flex
from cctbx.eltbx.xray_scattering import gaussian

from dials_postrefine.scattering.form_factors import MOTT_BETHE, FormFactors

DIRECT_UP_TO = 2.5e7  # atoms in the cell times reflections: what takes a second
FFT = {
    "grid_resolution_factor": 1.0 / 4.0,
    "quality_factor": 1e10,
    "wing_cutoff": 1e-10,
    "exp_table_one_over_step_size": 0,  # exact exponentials
}
SOLVENT_RADIUS = 1.11  # Angstrom, and the next: mmtbx's (Afonine, Grosse-Kunstleve and Adams 2005)
SHRINK_RADIUS = 0.9
MASK_STEP = 0.5  # Angstrom, and the next
MASK_D_MIN = 1.5


def calculate_f_calc(structure, factors: FormFactors, miller_set, algorithm: str = "auto"):
    """
    F_calc of the structure (module docstring).

    Parameters
    ----------
    structure : cctbx.xray.structure
    factors : FormFactors
        Of all its scattering types.
    miller_set : cctbx.miller.set
        Without 0,0,0.
    algorithm : str
        ``direct``, ``fft``, or ``auto``: direct where that takes no more than a second.

    Returns
    -------
    cctbx.miller.array of complex

    Raises
    ------
    ValueError
        For the FFT where an atom has a negative B, which it can't sample.
    """
    if algorithm == "auto":
        n_terms = structure.scatterers().size() * structure.space_group().order_z() * miller_set.size()
        algorithm = "direct" if n_terms <= DIRECT_UP_TO else "fft"
    scatterers = structure.scatterers()
    charged = flex.bool([scatterer.scattering_type in factors.nuclear_charge for scatterer in scatterers])
    f_calc = flex.complex_double(miller_set.size())
    if charged.count(False):
        gaussians, dispersion = factors.gaussians, factors.dispersion
        f_calc += _sum(structure.select(~charged), gaussians, dispersion, miller_set, algorithm)
    if charged.count(True):
        ions = structure.select(charged)
        points = {name: gaussian(charge) for name, charge in factors.nuclear_charge.items()}
        difference = _sum(ions, points, {}, miller_set, algorithm)
        difference -= _sum(ions, factors.gaussians, {}, miller_set, algorithm)
        s_sq = miller_set.d_star_sq().data() / 4.0
        f_calc += difference * (MOTT_BETHE / s_sq)
    return miller_set.array(data=f_calc)


def calculate_f_mask(structure, miller_set):
    """
    F_mask of the solvent around the structure's atoms (module docstring), hydrogen counting for none.

    Parameters
    ----------
    structure : cctbx.xray.structure
    miller_set : cctbx.miller.set

    Returns
    -------
    f_mask : cctbx.miller.array of complex
        Zero below d = 1.5 Angstrom, where that of a sharp mask would be noise.
    fraction : float
        Of the cell that is solvent.
    """
    from mmtbx.masks import atom_mask, vdw_radii_from_xray_structure

    atoms = structure.select((structure.scatterers().extract_occupancies() > 0.0) & ~structure.hd_selection())
    gridding = maptbx.crystal_gridding(
        unit_cell=structure.unit_cell(),
        step=MASK_STEP,
        symmetry_flags=maptbx.use_space_group_symmetry,
        space_group_info=structure.space_group_info(),
    )
    mask = atom_mask(
        unit_cell=structure.unit_cell(),
        space_group=structure.space_group(),
        gridding_n_real=gridding.n_real(),
        solvent_radius=SOLVENT_RADIUS,
        shrink_truncation_radius=SHRINK_RADIUS,
    )
    mask.compute(atoms.sites_frac(), vdw_radii_from_xray_structure(xray_structure=atoms))
    low = miller_set.d_spacings().data() >= MASK_D_MIN
    f_mask = flex.complex_double(miller_set.size())
    f_mask.set_selected(low, mask.structure_factors(miller_set.indices().select(low)))
    return miller_set.array(data=f_mask), mask.contact_surface_fraction


def _sum(structure, gaussians: dict, dispersion: dict, miller_set, algorithm: str):
    """The sum over the atoms, as flex.complex_double, with these factors by scattering type."""
    structure = structure.deep_copy_scatterers()
    for scatterer in structure.scatterers():
        scatterer.fp, scatterer.fdp = dispersion.get(scatterer.scattering_type, (0.0, 0.0))
        scatterer.flags.set_use_fp_fdp(bool(dispersion))
    structure.scattering_type_registry(custom_dict=gaussians)
    if algorithm == "direct":
        return xray.structure_factors.from_scatterers_direct(structure, miller_set).f_calc().data()
    if structure.is_positive_definite_u().count(False):
        raise ValueError("an atom has a negative B, or an anisotropic one that is not positive definite")
    calculate = xray.structure_factors.from_scatterers(miller_set=miller_set, **FFT)
    return calculate(structure, miller_set, algorithm="fft").f_calc().data()
