"""
Dynamical diffraction against observed intensities: rocking curves of Bloch waves, fitted to frames of an experiment.

    I_calc(h) = c_f weight int_start^end <I_h(A(phi), k(phi), t)>_t dphi                    (numerics/frames.py)

with I_h of electron/bloch/ at thickness t, c_f the scale of the frame, < > the mean over the distribution of thickness.
The kinematical intensity that stands beside it is that of the same model where I_h is (pi U_h/K)^2 t sinc^2(pi s t)
integrated over the same interval: |U_h|^2 where the whole curve was seen.  The DYNAMICAL FACTOR of an observation is
I_calc/I_kin, on one scale for all, so that I_obs/factor is what an experiment without multiple scattering had given.

R1 = sum|F_obs - F_calc|/sum F_obs, F = sqrt(max(I, 0)), over the observations with I > 3 sigma (``observed``).

The modules, in the order in which data flow:

results        what a fit, a choice of the hand and their steps leave: dataclasses of arrays, for files and report
crystal        atoms -> U, by hand and setting, with what is refined of them
rocking        blocks of orientations, their frozen beams, and the weights of an observation's integral over them
curves         intensities of all observations and their derivatives, a block at a time
kinematical    the same, of single scattering
refinement     parameters, restraints, and stages of what frames share, by numerics/leastsquares.py, with esds
orientations   the tilts of every frame for itself
hands          both hands and all settings, by R1 and likelihood
starts         from which thickness a refinement starts
fitting        all of it, in order

Numpy, scipy and numba; Angstrom, 1/Angstrom, radians.
"""
