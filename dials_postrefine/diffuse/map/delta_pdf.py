"""
The delta-PDF: the Fourier transform of the anisotropic part of a map,

    P(r) = int w(|s|) dI(s) cos(2 pi s.r) d^3 s,        w = cos^2(pi s d_min / 2),

in the units of the map times 1/Angstrom^3.  It is positive where pairs of atoms at r vary together, negative where
they vary against each other (Weber & Simonov, Z. Kristallogr. 2012, 227, 238).  w, Hann's window, takes off the ripples
of an edge at d_min.

The lattice of r is that of the inverse of the voxels: it repeats with the vectors of to_s^-1, the supercell n_a a,
n_b b, n_c c of a grid of fractional indices, and is divided into as many steps as the grid has voxels along each axis.

Voxels that were not observed, such as those of Bragg peaks, get the mean of those observed around them, with the
weights of a Gaussian of FILL_WIDTH voxels, and 0, the isotropic level, where there are none within FILL_REACH: so a
mask of Bragg peaks does not leave its own transform, peaks at the lattice translations.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.merging import Map

# Of the Gaussian that fills holes, and how far it goes, in voxels.
FILL_WIDTH, FILL_REACH = 0.6, 3


def fill_holes(values: np.ndarray) -> np.ndarray:
    """
    Values where there were none, from those around.

    Parameters
    ----------
    values : ndarray (n0, n1, n2)
        NaN where nothing was observed.

    Returns
    -------
    ndarray (n0, n1, n2)
        Those observed are as they were.
    """
    from scipy.ndimage import gaussian_filter

    observed = np.isfinite(values)
    how = {"sigma": FILL_WIDTH, "truncate": FILL_REACH / FILL_WIDTH, "mode": "constant"}
    weight = gaussian_filter(observed.astype(np.float32), **how)
    total = gaussian_filter(np.where(observed, values, 0.0).astype(np.float32), **how)
    near = weight > 1e-7
    around = np.divide(total, weight, out=np.zeros_like(total), where=near)
    return np.where(observed, values, around)


def delta_pdf(values: np.ndarray, grid: Grid) -> np.ndarray:
    """
    The transform of a map.

    Parameters
    ----------
    values : ndarray (n0, n1, n2)
        The anisotropic part on the box of the grid, NaN where it was not observed.
    grid : Grid

    Returns
    -------
    ndarray (n0, n1, n2)
        P at the parts i/n of the vectors of to_s^-1, from the origin on.
    """
    from scipy import fft

    filled = fill_holes(values)
    for i in range(grid.shape[0]):  # by planes, so that no coordinates of all voxels are held
        j, k = np.meshgrid(*(grid.low[a] + np.arange(grid.shape[a]) for a in (1, 2)), indexing="ij")
        s = np.sqrt(sum((row[0] * (i + grid.low[0]) + row[1] * j + row[2] * k) ** 2 for row in grid.to_s))
        filled[i] *= np.where(s * grid.d_min < 1.0, np.cos(0.5 * np.pi * s * grid.d_min) ** 2, 0.0)
    origin_first = np.roll(filled, tuple(int(n) for n in grid.low), axis=(0, 1, 2))
    half = fft.rfftn(origin_first).real * abs(np.linalg.det(grid.to_s))
    found = np.empty(grid.shape, half.dtype)
    n_half = half.shape[2]
    found[:, :, :n_half] = half
    turned = [-np.arange(n) % n for n in grid.shape[:2]]
    found[:, :, n_half:] = half[np.ix_(*turned, grid.shape[2] - np.arange(n_half, grid.shape[2]))]
    return found


def transform(merged: Map) -> np.ndarray:
    """
    The delta-PDF of a map.

    Parameters
    ----------
    merged : Map

    Returns
    -------
    ndarray (n0, n1, n2)
        As of delta_pdf; it takes some 20 bytes for each voxel of the box.
    """
    values = np.empty(merged.grid.shape, np.float32)
    for i in range(merged.grid.shape[0]):
        values[i] = merged.plane(i)["anisotropic"]
    return delta_pdf(values, merged.grid)
