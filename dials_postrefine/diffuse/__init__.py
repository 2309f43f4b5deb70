"""
From the pixels of a rotation series, or of stills, to a map of reciprocal space that can be trusted.

A pixel i of image m counts n_im photons, of which e_im I(h_im) are expected, with the exposure

    e_im = t_m k_m Omega_i P_i eps_i air_i                                                              (1)

(exposure time t, scale k of the image, solid angle Omega, polarisation P, efficiency eps of the sensor, transmission of
the air; no Lorentz factor, as I is the mean over the time in which the pixel sweeps its region of reciprocal space).
The estimate of a voxel v is a ratio of sums, which is unbiased at any count and lets maps be added:

    I_v = sum n / sum e,     sigma_v^2 = sum var(n) / (sum e)^2.                                        (2)

    map/series.py       the images of an experiment as arrays
    map/grid.py         voxel <-> address in the sums
    map/columns.py      the sums of a voxel
    map/records.py      what is kept beside them: settings, what each image gave, the crystal
    map/geometry.py     pixel -> direction s1, exposure of (1)
    map/bragg.py        which pixels belong to Bragg peaks
    map/bad_pixels.py   which pixels are wrong on most images
    map/kernels.py      compiled loops: pixel -> voxel, profile of an image, strong pixels
    map/gathering.py    compiled loops: pixels -> sums, outliers
    map/image.py        an image -> sums
    map/mapping.py      all images -> sums
    map/scaling.py      the scale k_m of an image
    map/rejection.py    whether outliers are to be rejected
    map/symmetry.py     operations on voxels
    map/blocks.py       sums of blocks of images, kept apart
    map/places.py       where those were measured
    map/terms.py        scale, absorption, detector and background as splines
    map/normal.py       compiled loop: their normal equations
    map/fitting_terms.py  which of them make symmetry equivalents agree
    map/equivalents.py  sums of blocks -> scaled sums
    map/diagnosis.py    how equivalents agree before and after
    map/orbits.py       compiled loops over voxels and their symmetry equivalents
    map/merging.py      sums -> averaged map, isotropic part, statistics
    map/absolute.py     the isotropic part and the atoms of a cell -> electrons^2
    map/delta_pdf.py    the Fourier transform of its anisotropic part
    map/sections.py     planes of the map to look at

    model/              models of motion that are fitted to a map: its __init__.py has the equations

Nothing here knows files, DIALS' objects or parameters.  In map/, numba is imported with map/compiled.py; series,
grid, columns and records do without.
"""

from __future__ import annotations


class BadImage(Exception):
    """An image that can't be read, or used; the message says why."""
