"""
From the pixels of a rotation series, or of stills, to a map of reciprocal space that can be trusted.

A pixel i of image m counts n_im photons, of which e_im I(h_im) are expected, with the exposure

    e_im = t_m k_m Omega_i P_i eps_i air_i                                                              (1)

(exposure time t, scale k of the image, solid angle Omega, polarisation P, efficiency eps of the sensor, transmission of
the air; no Lorentz factor, as I is the mean over the time in which the pixel sweeps its region of reciprocal space).
The estimate of a voxel v is a ratio of sums, which is unbiased at any count and lets maps be added:

    I_v = sum n / sum e,     sigma_v^2 = sum var(n) / (sum e)^2.                                        (2)

    geometry.py     pixel -> direction s1, exposure of (1)
    grid.py         voxel <-> address in the sums
    kernels.py      the compiled loops over pixels and voxels
    bragg.py        which pixels belong to Bragg peaks
    mapping.py      images -> sums
    scaling.py      the scale k_m of an image
    symmetry.py     operations on voxels
    merging.py      sums -> averaged map, isotropic part, statistics
    sections.py     planes of the map to look at

Nothing here knows files, DIALS' objects or parameters.  numba is imported with kernels.py, and by nothing else.
"""

from __future__ import annotations


class BadImage(Exception):
    """An image that can't be read, or used; the message says why."""
