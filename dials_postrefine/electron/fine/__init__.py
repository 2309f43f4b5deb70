"""
Fine refinement: structure factors of low order from convergent-beam patterns (CBED, LARBED), with esds.

    sum_d,p w_dp (c t_dp(x) + b_d - x_dp)^2 -> min,      w = 1/sigma^2

t is the intensity |psi_g|^2 of disk d at pixel p by Bloch waves (electron/bloch/), x what was measured.  The scale c
and the backgrounds b are linear and eliminated (variable projection); all others, x = (U_g, U'_g, thickness, ...), are
refined by Gauss-Newton with the derivatives of Daleckii and Krein, or, as published (Zuo and Spence 2017, Advanced
Transmission Electron Microscopy, ch. 13), by Nelder-Mead outside and Powell inside.

The data are those of numerics/disks.py.  The modules, in the order in which data flow:

detector       variance of counts (Zuo 2000), deconvolution (Lucy and Richardson)
groups         U_g of reflections that are symmetry equivalents, with phases
parameters     what can be refined, by name: values, units, ranges, which are free
crystal        U + iU' between beams, of atoms and of parameters, with derivatives
simulation     t of the disks at the pixels' wave vectors, with derivatives
pointspread    the Voigt point spread of a LARBED detector, with derivatives
model          parameters -> t of all disks
goodness       scale, backgrounds and goodness of fit of t and x: the metrics
refinement     Gauss-Newton, esds
simplex        Nelder-Mead and Powell
coarse         the start: orientation and thickness by correlation
sensitivity    how far the cut on the beams moves what was refined
factors        U_g as structure factors for electrons and for X-rays (Mott-Bethe)

Angstrom and 1/Angstrom; wave vectors are in the laboratory, the normal of the slab is +z.
"""
