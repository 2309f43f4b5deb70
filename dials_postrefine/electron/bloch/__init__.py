"""
Dynamical diffraction of electrons by Bloch waves: from beams and Fourier coefficients of the potential to intensities.

    2 K s_g C_g + sum_h U_{g-h} C_h = 2 K gamma C_g,            2 K s_g = K^2 - |K + g|^2
    psi_g(t) = sum_j C_gj exp(2 pi i gamma_j t) (C^-1)_j0,      I_g = |psi_g|^2

of a parallel slab of thickness t, plane waves exp(+2 pi i k.r), K = 1/lambda in vacuum (Humphreys 1979, Rep. Prog.
Phys. 42, 1825; Zuo and Spence 2017, Advanced Transmission Electron Microscopy, ch. 5).  Where g has a component along
the normal n of the surfaces, or the beam is inclined to it, with g_n = g.n and K_n = K.n (both faces are parallel)

    m_g = (1 + g_n/K_n)^(-1/2),   M_gh = m_g (2 K s_g delta_gh + U_{g-h} + i U'_{g-h}) m_h,
    psi_g(t) = m_g [exp(i pi t M/K_n)]_g0 / m_0

so that sum_g |psi_g|^2/m_g^2 = 1 without absorption: what is conserved is the current through the surface, which is
sum I where g_n is none.

U_g = gamma_rel/(pi V) sum_j f_j(s) exp(-B_j s^2) exp(-2 pi i g.r_j) in 1/Angstrom^2, s = |g|/2, f_j in Angstrom for
electrons at rest and gamma_rel = 1 + E/(m c^2).  It is the CONJUGATE of what cctbx calls F(h), whose exponent is
+2 pi i h.r, times gamma_rel/(pi V): who conjugates one and not the other gets the other hand.  U_0 is left out of the
diagonal: it multiplies psi by a phase, and else only moves s_g by U_0 g_n/(2 K K_n), 1e-6 1/Angstrom or so (refraction
at inclined surfaces); U'_0 is in it.  U and U' are Hermitian each, U_{-g} = U_g*, also where there is no centre.

The modules, in the order in which data flow:

electrons      wavelength, K and gamma_rel of an energy
geometry       the crystal's reciprocal basis, the beam, the surface; s_g and m_g
absorption     f' of an Einstein crystal, from Gaussians
potential      U_g and U'_g of atoms, with derivatives; the table of them, by index
beams          which beams there are: by |g|, s_g and perturbation strength; a frozen list
structurematrix  M, for many orientations at once, and its derivatives
chebyshev      exp(i a M) of the incident beam by a series, for many a
propagation    psi of M by eigh, eig, that series or expm
intensities    I for many thicknesses, without eigenvectors where these are not needed
derivatives    of psi and I by whatever M depends on, and by t
convergence    whether the beams are enough, in a sentence where not

Numpy, scipy and numba; Angstrom and 1/Angstrom.
"""
