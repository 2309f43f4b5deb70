"""
Models of what moves in the crystal, fitted to a map of diffuse scattering.

Atoms i with positions r_i, displaced by Gaussian motions with covariances V_ij (3 x 3, Angstrom^2), scatter diffusely,
per cell (q = 2 pi s; Debye-Waller factors are those of the covariance, so no |F|^2 without them enters)

    I(q) = sum_ij E_i E_j^* [exp(q'V_ij q) - 1],      E_i = o_i f_i(q) exp(i q.r_i - q'V_ii q/2)             (1)

over the pairs of a copy (a molecule, a cell) or of the crystal.  A model says what V_ij is; (1) is evaluated exactly,
to all orders of the exponential.  With V_ii = u_i, the mean square displacements of the file (its B = 8 pi^2 u is all
of the motion, as Bragg's data have it), the parameters of a model are in V_ij, i != j, alone, and

    I(q) = sum_{i != j} E_i E_j^* [exp(q'V_ij q) - 1] + sum_i o_i^2 f_i^2 [1 - exp(-q'u_i q)]                 (2)

    uncorrelated   V_ij = 0
    rigid_body     V_ij = sigma^2, or a tensor U: the copy is displaced as a whole, e_i = u_i - sigma^2 on its own
                   and, where it librates, V_ij = U + L [(rho_i.rho_j) 1 - rho_j rho_i'], rho from the centroid,
                   or T, L and S of any form
    liquid_like    V_ij = sigma^2 Gamma(r_ij), inside a copy or across the cells of the crystal
    elastic        V_ij of a network of springs between neighbours, isotropic or 3 x 3
    covariance     V_ij as given, isotropic or 3 x 3; or L L' of low rank between groups, inferred

A map is fitted as  I_obs = k I + sum_m c_m phi_m(|s|),  phi_m smooth functions (background.py); k and c_m are linear.

    atoms.py        what scatters: arrays of an atomic model
    displaced_solvent.py    their form factors in bulk solvent
    amplitudes.py   partial structure factors of an FFT box, at fractional indices
    voxels.py       the voxels of a map that are fitted: indices, orbits, held-out ones
    background.py   the functions phi_m
    parameters.py   what a model is to the fit
    positive_tensors.py     elements of tensors that stay covariances in a fit
    kernels.py      how correlations fall with the distance
    uncorrelated.py, rigid_body.py, libration.py, tls.py, liquid_like.py, mixture.py, elastic.py,
                    given_covariance.py, group_covariance.py    I and its derivatives
    bodies.py       parts that move each on its own
    covariance.py, tensor_pairs.py    sums over pairs of groups, isotropic and 3 x 3
    springs.py      networks, and how far they let their nodes move
    groups.py       groups of atoms, of which covariances are inferred
    trajectory.py   covariances of frames
    own_displacements.py    V_ii of the model's own motion, in place of the file's
    spread.py       sums over pairs, voxels shared out among processes
    fitting.py      weighted least squares, with standard deviations
    agreement.py    correlation of the anisotropic part, by shell
    comparison.py   which model held-out voxels prefer
    fluctuations.py what a fitted model says of the atoms
    reindexing.py   which indexing of the map is the structure's

Sources: Moore, Structure 2009, 17, 1307; Clarage et al., Proteins 1992, 12, 145; Wall, Ealick and Gruner, PNAS 1997,
94, 6180; Bahar, Atilgan and Erman, Fold. Des. 1997, 2, 173.  Lengths are Angstrom, q and s 1/Angstrom,
intensities squared units of the form factors per cell.
"""

from __future__ import annotations


class CannotModel(ValueError):
    """Data or a structure that can't be used; the message is a sentence that says why."""
